//! Which changes of the members are allowed: a pure plan.
//!
//! A change that would leave the cluster without a majority of members that are there is refused, unless it
//! takes out one that is not there.

use std::collections::BTreeSet;

use crate::store::raft::{Node, NodeId};

/// The members, as the leader sees them.
#[derive(Debug, Clone, Default)]
pub(super) struct Members {
    pub(super) voters: BTreeSet<NodeId>,
    pub(super) nodes: Vec<(NodeId, Node)>,
    /// Those that have been heard of a moment ago, the leader among them.
    pub(super) present: BTreeSet<NodeId>,
}

/// How far a learner may be behind to become a voter, in entries.
pub(super) const LAG: u64 = 1_000;

impl Members {
    fn has(&self, id: NodeId) -> bool {
        self.nodes.iter().any(|(known, _)| *known == id)
    }

    fn present_of(&self, voters: &BTreeSet<NodeId>) -> usize {
        voters.intersection(&self.present).count()
    }
}

fn majority(voters: &BTreeSet<NodeId>) -> usize {
    voters.len() / 2 + 1
}

/// # Errors
/// Why not, as a sentence.
pub(super) fn may_put(members: &Members, id: NodeId, node: &Node) -> Result<(), String> {
    if node.name.is_empty() || node.name.len() > 253 || node.name.contains(char::is_whitespace) {
        return Err(format!("{:?} is no name for a member", node.name));
    }
    if node.address.is_empty() && (members.nodes.len() > 1 || !members.has(id)) {
        return Err(format!(
            "member {} needs an address where the others reach it",
            node.name
        ));
    }
    for (other, known) in members.nodes.iter().filter(|(other, _)| *other != id) {
        if known.name == node.name {
            return Err(format!(
                "member {other} is called {} already; remove it first if this one is to replace it",
                node.name
            ));
        }
        if known.address == node.address && !node.address.is_empty() {
            return Err(format!(
                "member {other} ({}) is at {} already",
                known.name, node.address
            ));
        }
    }
    for (other, known) in &members.nodes {
        if *other != id && known.address.is_empty() {
            return Err(format!(
                "member {other} ({}) was started without --peer-address, where the others would reach it",
                known.name
            ));
        }
    }
    Ok(())
}

/// `behind`: how many entries the member lacks, where that is known.
///
/// # Errors
/// Why not yet, as a sentence.
pub(super) fn may_promote(
    members: &Members,
    id: NodeId,
    behind: Option<u64>,
) -> Result<(), String> {
    if !members.has(id) {
        return Err(format!("there is no member {id}"));
    }
    match behind {
        Some(behind) if behind <= LAG => {}
        Some(behind) => return Err(format!("member {id} is {behind} entries behind")),
        None => return Err(format!("member {id} has not answered yet")),
    }
    let mut voters = members.voters.clone();
    voters.insert(id);
    if members.present_of(&voters) < majority(&voters) {
        return Err(format!(
            "too many members are away for member {id} to vote: with it {} of {} are needed",
            majority(&voters),
            voters.len()
        ));
    }
    Ok(())
}

/// # Errors
/// Why not, as a sentence.
pub(super) fn may_remove(members: &Members, id: NodeId) -> Result<(), String> {
    if !members.has(id) {
        return Err(format!("there is no member {id}"));
    }
    let mut voters = members.voters.clone();
    voters.remove(&id);
    if voters.is_empty() {
        return Err(format!(
            "member {id} is the only one that votes; without it there is no cluster"
        ));
    }
    let left = members.present_of(&voters);
    if left < majority(&voters) {
        return Err(format!(
            "without member {id} {} of {} members are needed, but only {left} are there; remove those that \
             are away first",
            majority(&voters),
            voters.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn members(voters: &[NodeId], learners: &[NodeId], present: &[NodeId]) -> Members {
        let node = |id: &NodeId| {
            let node = Node {
                name: format!("c{id}"),
                address: format!("192.0.2.{id}:6444"),
                api_address: String::new(),
            };
            (*id, node)
        };
        Members {
            voters: voters.iter().copied().collect(),
            nodes: voters.iter().chain(learners).map(node).collect(),
            present: present.iter().copied().collect(),
        }
    }

    #[test]
    fn a_learner_votes_once_it_has_caught_up() {
        let group = members(&[1], &[2], &[1, 2]);
        assert!(may_promote(&group, 2, Some(LAG)).is_ok());
        assert!(may_promote(&group, 2, Some(LAG + 1)).is_err());
        assert!(may_promote(&group, 2, None).is_err());
        assert!(may_promote(&group, 3, Some(0)).is_err());
    }

    #[test]
    fn no_change_takes_the_majority_away() {
        // One of two is away: a third would make it two of three, which are there.
        assert!(may_promote(&members(&[1, 2], &[3], &[1, 3]), 3, Some(0)).is_ok());
        assert!(may_promote(&members(&[1], &[2], &[1]), 2, Some(0)).is_err());
        // Of three, one is away: it may go, another may not.
        let group = members(&[1, 2, 3], &[], &[1, 2]);
        assert!(may_remove(&group, 3).is_ok());
        assert!(
            may_remove(&group, 2)
                .unwrap_err()
                .contains("only 1 are there")
        );
        assert!(may_remove(&members(&[1], &[2], &[1, 2]), 1).is_err());
        assert!(may_remove(&members(&[1], &[2], &[1]), 2).is_ok());
    }

    #[test]
    fn names_and_addresses_are_unique() {
        let group = members(&[1, 2], &[], &[1, 2]);
        let node = |name: &str, address: &str| Node {
            name: name.to_owned(),
            address: address.to_owned(),
            api_address: String::new(),
        };
        assert!(may_put(&group, 3, &node("c3", "192.0.2.3:6444")).is_ok());
        assert!(may_put(&group, 2, &node("c2", "192.0.2.9:6444")).is_ok());
        for (name, address) in [
            ("c1", "192.0.2.3:6444"),
            ("c3", "192.0.2.1:6444"),
            ("c3", ""),
            ("", "192.0.2.3:6444"),
            ("a b", "192.0.2.3:6444"),
        ] {
            assert!(
                may_put(&group, 3, &node(name, address)).is_err(),
                "{name} {address}"
            );
        }
        let mut alone = members(&[1], &[], &[1]);
        alone.nodes[0].1.address.clear();
        let error = may_put(&alone, 2, &node("c2", "192.0.2.2:6444")).unwrap_err();
        assert!(error.contains("--peer-address"), "{error}");
    }
}
