//! Members come and go at run time. Only the leader changes the group; the others pass the wish on.
//!
//! A new member is a learner until it has caught up, so that it costs no majority while it copies. A member
//! that is removed finds out by itself (`report.rs`), also when it was away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ChangeMembershipError, ClientWriteError, RaftError};
use proto::raft::v1 as pb;
use tokio::sync::watch;

use super::{Group, Miss, ServerMetrics, plan};
use crate::store::raft::{LogId, Membership, Node, NodeId};
use crate::store::{StoreError, codec};

/// A change takes two entries.
const PATIENCE: Duration = Duration::from_secs(20);

/// What is to become of the group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Change {
    /// Adds a learner, or notes a member's new name and addresses.
    Put(NodeId, Node),
    Promote(NodeId),
    Remove(NodeId),
}

impl Change {
    fn to_pb(&self) -> pb::ChangeRequest {
        use pb::change_request::Change;
        let change = match self {
            Self::Put(id, node) => Change::Put(codec::member_to_pb(*id, node)),
            Self::Promote(id) => Change::Promote(*id),
            Self::Remove(id) => Change::Remove(*id),
        };
        pb::ChangeRequest {
            change: Some(change),
        }
    }

    pub(in crate::store) fn from_pb(request: pb::ChangeRequest) -> Option<Self> {
        use pb::change_request::Change;
        Some(match request.change? {
            Change::Put(member) => {
                let (id, node) = codec::member_from_pb(member);
                Self::Put(id, node)
            }
            Change::Promote(id) => Self::Promote(id),
            Change::Remove(id) => Self::Remove(id),
        })
    }
}

impl Group {
    /// Returns when a majority has it; the place of the change in the log.
    pub(in crate::store) async fn change(&self, change: &Change) -> Result<u64, StoreError> {
        let request = pb::peer_request::Request::Change(change.to_pb());
        let mut search = self.search();
        loop {
            let attempt = match search.leader().await? {
                None => self.change_here(change).await,
                // What is so already is not changed again.
                Some(peer) => match self.ask(&peer, request.clone(), PATIENCE).await {
                    Ok(pb::peer_response::Response::Change(answer)) => Ok(answer.index),
                    Ok(_) => Err(Miss::NotLeader("it answers something else".to_owned())),
                    Err(miss) => Err(miss),
                },
            };
            if let Some(index) = search.judge(attempt)? {
                return Ok(index);
            }
        }
    }

    /// Only the leader can.
    pub(in crate::store) async fn change_here(&self, change: &Change) -> Result<u64, Miss> {
        self.stays()?;
        let members = self.seen_members();
        let invalid = |why| Miss::Final(StoreError::InvalidChange(why));
        let known = |id: &NodeId| members.nodes.iter().find(|(other, _)| other == id);
        let (changes, retain) = match change {
            Change::Put(id, node) => {
                plan::may_put(&members, *id, node).map_err(invalid)?;
                let nodes = BTreeMap::from([(*id, node.clone())]);
                match known(id) {
                    Some((_, same)) if same == node => return self.confirmed().await,
                    Some(_) => (ChangeMembers::SetNodes(nodes), true),
                    None => (ChangeMembers::AddNodes(nodes), true),
                }
            }
            Change::Promote(id) if members.voters.contains(id) => return self.confirmed().await,
            Change::Promote(id) => {
                plan::may_promote(&members, *id, self.behind(*id)).map_err(invalid)?;
                (ChangeMembers::AddVoterIds(BTreeSet::from([*id])), true)
            }
            Change::Remove(id) => {
                plan::may_remove(&members, *id).map_err(invalid)?;
                let gone = BTreeSet::from([*id]);
                match members.voters.contains(id) {
                    true => (ChangeMembers::RemoveVoters(gone), false),
                    false => (ChangeMembers::RemoveNodes(gone), false),
                }
            }
        };
        tracing::info!(?change, "the members change");
        let changed = self.raft.change_membership(changes, retain);
        let unknown = || "the change was not confirmed in time".to_owned();
        match tokio::time::timeout(PATIENCE, changed).await {
            Ok(Ok(response)) => Ok(response.log_id.index),
            Ok(Err(error)) => Err(failed(error)),
            Err(_) => Err(Miss::Final(StoreError::OutcomeUnknown(unknown()))),
        }
    }

    /// Waits until a majority has the members as this leader sees them: a change that is only written here may
    /// be undone by the next leader. The place of the last change.
    async fn confirmed(&self) -> Result<u64, Miss> {
        let wait = confirmed(
            self.own.id,
            self.changed_at(),
            self.server.clone(),
            self.state.applied_index(),
            || *self.state.summary().membership.log_id(),
        );
        let unknown = || "a change that is under way was not confirmed in time".to_owned();
        tokio::time::timeout(PATIENCE, wait)
            .await
            .unwrap_or_else(|_| Err(Miss::Final(StoreError::OutcomeUnknown(unknown()))))
    }

    fn changed_at(&self) -> Option<LogId> {
        *self.server.borrow().membership_config.log_id()
    }

    /// How many entries of ours the member lacks.
    fn behind(&self, id: NodeId) -> Option<u64> {
        let metrics = self.raft.metrics().borrow().clone();
        let matched = *metrics.replication?.get(&id)?;
        let last = metrics.last_log_index.unwrap_or(0);
        Some(last.saturating_sub(matched?.index))
    }

    fn seen_members(&self) -> plan::Members {
        let server = self.server.borrow();
        let membership: &Membership = server.membership_config.membership();
        let mut present = self.reports.present();
        present.insert(self.own.id);
        plan::Members {
            voters: membership.voter_ids().collect(),
            nodes: membership
                .nodes()
                .map(|(id, node)| (*id, node.clone()))
                .collect(),
            present,
        }
    }
}

/// Waits until the change at this place is applied. `newest` is the last change that is.
///
/// What Raft says of itself comes after what it does: something else, of another leader, may be applied at that place
/// while Raft still says that this member leads.
async fn confirmed(
    own: NodeId,
    at: Option<LogId>,
    mut server: watch::Receiver<ServerMetrics>,
    mut applied: watch::Receiver<u64>,
    newest: impl Fn() -> Option<LogId>,
) -> Result<u64, Miss> {
    let index = at.map_or(0, |id| id.index);
    let replaced = server.wait_for(|server| {
        server.current_leader != Some(own) || server.membership_config.log_id() != &at
    });
    let changed = || Err(Miss::NotLeader("the members change".to_owned()));
    tokio::select! {
        biased;
        _ = replaced => return changed(),
        applied = applied.wait_for(|applied| *applied >= index) => if applied.is_err() {
            return Err(Miss::Final(StoreError::Closed));
        },
    }
    match newest() == at {
        true => Ok(index),
        false => changed(),
    }
}

fn failed(error: RaftError<NodeId, ClientWriteError<NodeId, Node>>) -> Miss {
    match error {
        RaftError::APIError(ClientWriteError::ForwardToLeader(to)) => {
            // The change, if it began, is found by whoever leads now when it is asked again.
            Miss::NotLeader(format!("leader: {:?}", to.leader_id))
        }
        RaftError::APIError(ClientWriteError::ChangeMembershipError(
            ChangeMembershipError::InProgress(_),
        )) => Miss::NotLeader("another change of the members is under way".to_owned()),
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => {
            Miss::Final(StoreError::InvalidChange(error.to_string()))
        }
        RaftError::Fatal(fatal) => Miss::Final(crate::store::proposals::fatal_error(&fatal)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Arc;

    use futures::FutureExt as _;
    use openraft::{CommittedLeaderId, StoredMembership};

    use super::*;

    fn at(term: u64, leader: NodeId, index: u64) -> LogId {
        LogId::new(CommittedLeaderId::new(term, leader), index)
    }

    /// As Raft says it of itself.
    fn seen(leader: NodeId, change: LogId) -> ServerMetrics {
        let members = StoredMembership::new(Some(change), Membership::default());
        ServerMetrics {
            current_leader: Some(leader),
            membership_config: Arc::new(members),
            ..ServerMetrics::default()
        }
    }

    #[tokio::test]
    async fn a_change_is_done_when_it_is_applied_and_not_something_else_at_its_place() {
        let (mine, others) = (at(3, 1, 105), at(4, 5, 105));
        let asked = |server: &watch::Sender<_>, applied: u64, newest: LogId| {
            let applied = watch::Sender::new(applied).subscribe();
            let asked = confirmed(1, Some(mine), server.subscribe(), applied, move || {
                Some(newest)
            });
            asked.now_or_never()
        };
        let server = watch::Sender::new(seen(1, mine));
        assert!(matches!(asked(&server, 105, mine), Some(Ok(105))));
        for newest in [others, at(2, 1, 90), at(4, 5, 106)] {
            let answer = asked(&server, 106, newest);
            assert!(matches!(answer, Some(Err(Miss::NotLeader(_)))), "{newest}");
        }
        for now in [seen(5, mine), seen(1, others)] {
            server.send_replace(now);
            let answer = asked(&server, 90, at(2, 1, 90));
            assert!(matches!(answer, Some(Err(Miss::NotLeader(_)))));
        }
    }
}
