//! Which pods and nodes are reached through which other node: nodes in, table entries and routes out. Pure.
//!
//! Two nodes may not have one address, nor ranges of pods that overlap: packets would go to whichever was told
//! last. What was there first stays, also over a restart, where the table in the kernel says what was first.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{REMOTE_NODE, Remote};
use ipnet::IpNet;

use crate::cluster::{Batch, Event, Node};

/// A node, or a part of it, that is not taken into account; the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum NodeProblem {
    #[error("pod range {range} of node {node} overlaps {with} of node {other}")]
    Overlap {
        node: String,
        range: IpNet,
        other: String,
        with: IpNet,
    },
    #[error("pod range {range} of node {node} is not in the cluster's")]
    OutsideCluster { node: String, range: IpNet },
    #[error("address {address} of node {node} is node {other}'s")]
    DuplicateAddress {
        node: String,
        address: IpAddr,
        other: String,
    },
    #[error("address {address} of node {node} cannot be another node's")]
    BadAddress { node: String, address: IpAddr },
    #[error("node {node} has no address of a family that this node has one of")]
    Unreachable { node: String },
    #[error("no room for node {node} in the table of other nodes ({size} entries)")]
    Full { node: String, size: usize },
}

impl NodeProblem {
    /// For `/metrics`.
    pub(crate) const KINDS: [&'static str; 6] = [
        "overlap",
        "outside_cluster",
        "duplicate_address",
        "bad_address",
        "unreachable",
        "table_full",
    ];

    pub(crate) fn kind(&self) -> &'static str {
        let index = match self {
            Self::Overlap { .. } => 0,
            Self::OutsideCluster { .. } => 1,
            Self::DuplicateAddress { .. } => 2,
            Self::BadAddress { .. } => 3,
            Self::Unreachable { .. } => 4,
            Self::Full { .. } => 5,
        };
        Self::KINDS[index]
    }
}

/// What the plan must know of the node that it is for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Vantage {
    /// All addresses of the node.
    pub(crate) locals: BTreeSet<IpAddr>,
    /// Ends of its tunnels.
    pub(crate) v4: bool,
    pub(crate) v6: bool,
    /// Networks that it is connected to.
    pub(crate) links: Vec<IpNet>,
}

/// How everything of other nodes is reached.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct NodePlan {
    pub(crate) remotes: BTreeMap<IpNet, Remote>,
    /// Pod ranges of nodes on a shared link, by the address that they are routed to natively.
    pub(crate) gateways: BTreeMap<IpNet, IpAddr>,
    pub(crate) problems: BTreeSet<NodeProblem>,
}

/// Whose an entry in force is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Holder {
    Node(String),
    /// From an earlier life: known by its end of the tunnel only.
    End(Remote),
}

#[derive(Debug)]
struct Known {
    node: Node,
    /// Order of arrival.
    since: u64,
}

#[derive(Debug)]
pub(crate) struct Nodes {
    own: String,
    cluster: Vec<IpNet>,
    known: BTreeMap<String, Known>,
    holders: BTreeMap<IpNet, Holder>,
    /// A full state was seen: what it did not name is gone.
    synced: bool,
    arrivals: u64,
    size: usize,
}

fn host_range(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// First and last address.
fn bounds(range: &IpNet) -> (u128, u128) {
    match range {
        IpNet::V4(range) => (
            u32::from(range.network()).into(),
            u32::from(range.broadcast()).into(),
        ),
        IpNet::V6(range) => (range.network().into(), range.broadcast().into()),
    }
}

/// Ranges that do not overlap, by family and first address.
#[derive(Default)]
struct Taken(BTreeMap<(bool, u128), (IpNet, String)>);

impl Taken {
    /// The range that is in the way of another.
    fn conflict(&self, range: &IpNet) -> Option<&(IpNet, String)> {
        let v6 = range.addr().is_ipv6();
        let (first, last) = bounds(range);
        let (_, found) = self.0.range((v6, 0)..=(v6, last)).next_back()?;
        (bounds(&found.0).1 >= first).then_some(found)
    }

    fn insert(&mut self, range: IpNet, node: &str) {
        let key = (range.addr().is_ipv6(), bounds(&range).0);
        self.0.insert(key, (range, node.to_owned()));
    }
}

impl Nodes {
    /// `size`: entries that the table holds.
    pub(crate) fn new(own: impl Into<String>, cluster: Vec<IpNet>, size: usize) -> Self {
        Self {
            own: own.into(),
            cluster,
            known: BTreeMap::new(),
            holders: BTreeMap::new(),
            synced: false,
            arrivals: 0,
            size,
        }
    }

    /// What an earlier life left in force; it stays so until a full state says otherwise.
    pub(crate) fn adopt(&mut self, entries: impl Iterator<Item = (IpNet, Remote)>) {
        for (range, remote) in entries {
            self.holders.insert(range, Holder::End(remote));
        }
    }

    /// Whether what is not planned may be taken away.
    pub(crate) fn is_synced(&self) -> bool {
        self.synced
    }

    /// Whether anything about nodes changed.
    pub(crate) fn apply(&mut self, batch: &Batch) -> bool {
        let mut changed = false;
        if batch.full {
            let named: BTreeSet<&String> = batch
                .events
                .iter()
                .filter_map(|event| match event {
                    Event::NodeSet(name, _) => Some(name),
                    _ => None,
                })
                .collect();
            let before = self.known.len();
            self.known.retain(|name, _| named.contains(name));
            changed = !self.synced || self.known.len() != before;
            self.synced = true;
        }
        for event in &batch.events {
            match event {
                Event::NodeSet(name, node) => changed |= self.set(name, node),
                Event::NodeRemoved(name) => changed |= self.known.remove(name).is_some(),
                _ => {}
            }
        }
        changed
    }

    fn set(&mut self, name: &str, node: &Node) -> bool {
        if let Some(known) = self.known.get_mut(name) {
            let same = known.node.internal_ips == node.internal_ips
                && known.node.pod_cidrs == node.pod_cidrs;
            known.node = node.clone();
            return !same;
        }
        self.arrivals += 1;
        let since = self.arrivals;
        let known = Known {
            node: node.clone(),
            since,
        };
        self.known.insert(name.to_owned(), known);
        true
    }

    /// Whether the node has had the range already.
    fn holds(&self, name: &str, known: &Known, range: &IpNet) -> bool {
        match self.holders.get(range) {
            Some(Holder::Node(holder)) => holder == name,
            Some(Holder::End(remote)) => known
                .node
                .internal_ips
                .iter()
                .any(|address| Address::from(*address) == remote.node),
            None => false,
        }
    }

    /// Claims in the order in which they are heard: this node's own, what is held already, then as nodes came.
    fn claims<'a>(
        &'a self,
        of: impl Fn(&'a Node) -> Vec<IpNet>,
    ) -> impl Iterator<Item = (&'a str, IpNet)> {
        let mut claims: Vec<_> = self
            .known
            .iter()
            .flat_map(|(name, known)| {
                let ranges = of(&known.node).into_iter();
                ranges.map(move |range| {
                    let range = range.trunc();
                    let held = self.holds(name, known, &range);
                    (
                        (*name != self.own, !held, known.since),
                        name.as_str(),
                        range,
                    )
                })
            })
            .collect();
        claims.sort();
        claims.into_iter().map(|(_, name, range)| (name, range))
    }

    fn is_own(&self, name: &str) -> bool {
        name == self.own
    }

    /// Addresses of other nodes that are good, by node.
    fn addresses(
        &self,
        here: &Vantage,
        problems: &mut BTreeSet<NodeProblem>,
    ) -> BTreeMap<&str, Vec<IpAddr>> {
        let mut taken: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let mut good: BTreeMap<&str, Vec<IpAddr>> = BTreeMap::new();
        let addresses = |node: &Node| node.internal_ips.iter().copied().map(host_range).collect();
        for (name, range) in self.claims(addresses) {
            let (node, address) = (name.to_owned(), range.addr());
            if self.is_own(name) {
                taken.insert(address, name);
                continue;
            }
            let in_pods = self.cluster.iter().any(|pods| pods.contains(&address));
            if in_pods || !is_usable(&address) || here.locals.contains(&address) {
                problems.insert(NodeProblem::BadAddress { node, address });
                continue;
            }
            match taken.get(&address) {
                Some(other) if *other != name => {
                    let other = (*other).to_owned();
                    problems.insert(NodeProblem::DuplicateAddress {
                        node,
                        address,
                        other,
                    });
                }
                Some(_) => {}
                None => {
                    taken.insert(address, name);
                    good.entry(name).or_default().push(address);
                }
            }
        }
        good
    }

    /// What shall be in force, seen from `here`.
    pub(crate) fn plan(&mut self, here: &Vantage) -> NodePlan {
        let mut plan = NodePlan::default();
        let mut holders = BTreeMap::new();
        let mut taken = Taken::default();
        let addresses = self.addresses(here, &mut plan.problems);
        let mut ends: BTreeMap<&str, Address> = BTreeMap::new();
        for name in self.known.keys().filter(|name| !self.is_own(name)) {
            let good = addresses.get(name.as_str()).map_or(&[][..], Vec::as_slice);
            let Some(end) = end(here, good) else {
                let node = name.clone();
                plan.problems.insert(NodeProblem::Unreachable { node });
                continue;
            };
            ends.insert(name, end);
            for address in good {
                let remote = Remote {
                    node: end,
                    flags: REMOTE_NODE,
                    padding: 0,
                };
                plan.remotes.insert(host_range(*address), remote);
                holders.insert(host_range(*address), Holder::Node(name.clone()));
            }
        }
        for (name, range) in self.claims(|node| node.pod_cidrs.clone()) {
            let node = name.to_owned();
            if !self.cluster.iter().any(|pods| pods.contains(&range)) {
                plan.problems
                    .insert(NodeProblem::OutsideCluster { node, range });
                continue;
            }
            if let Some((with, other)) = taken.conflict(&range) {
                if other != name || *with != range {
                    let (other, with) = (other.clone(), *with);
                    plan.problems.insert(NodeProblem::Overlap {
                        node,
                        range,
                        other,
                        with,
                    });
                }
                continue;
            }
            // A node that cannot be reached keeps its claim: its pods are where they were.
            taken.insert(range, name);
            holders.insert(range, Holder::Node(node));
            let Some(end) = ends.get(name) else {
                continue;
            };
            let remote = Remote {
                node: *end,
                flags: 0,
                padding: 0,
            };
            plan.remotes.insert(range, remote);
            let gateway = addresses[name]
                .iter()
                .find(|address| address.is_ipv4() == range.addr().is_ipv4())
                .filter(|address| here.links.iter().any(|link| link.contains(*address)));
            if let Some(gateway) = gateway {
                plan.gateways.insert(range, *gateway);
            }
        }
        if !self.synced {
            self.keep_adopted(&mut plan, &mut holders, &taken);
        }
        self.cut(&mut plan);
        self.holders = holders;
        plan
    }

    /// Before the first full state, what nobody has spoken of yet stays.
    fn keep_adopted(
        &self,
        plan: &mut NodePlan,
        holders: &mut BTreeMap<IpNet, Holder>,
        taken: &Taken,
    ) {
        for (range, holder) in &self.holders {
            if let Holder::End(remote) = holder
                && !plan.remotes.contains_key(range)
                && taken.conflict(range).is_none()
            {
                plan.remotes.insert(*range, *remote);
                holders.insert(*range, holder.clone());
            }
        }
    }

    /// No more than the table holds.
    fn cut(&self, plan: &mut NodePlan) {
        while plan.remotes.len() > self.size {
            if let Some((range, remote)) = plan.remotes.pop_last() {
                plan.gateways.remove(&range);
                let node = IpAddr::from(remote.node).to_string();
                let size = self.size;
                plan.problems.insert(NodeProblem::Full { node, size });
            }
        }
    }
}

/// Which of a node's addresses is its end of the tunnel. Both nodes must come to the same family: IPv4 where both
/// have it.
fn end(here: &Vantage, addresses: &[IpAddr]) -> Option<Address> {
    let of = |v4: bool| addresses.iter().find(|address| address.is_ipv4() == v4);
    let v4 = of(true).filter(|_| here.v4);
    let v6 = of(false).filter(|_| here.v6);
    v4.or(v6).map(|address| Address::from(*address))
}

/// Whether packets can be sent to it from elsewhere.
fn is_usable(address: &IpAddr) -> bool {
    let link_local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_broadcast(),
        IpAddr::V6(address) => (address.segments()[0] & 0xffc0) == 0xfe80,
    };
    !address.is_loopback() && !address.is_unspecified() && !address.is_multicast() && !link_local
}

#[cfg(test)]
mod tests;
