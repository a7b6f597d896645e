//! Cuts pod ranges for nodes out of the cluster's ranges. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

pub(super) fn ranges_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else {
        return Vec::new();
    };
    let listed = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr);
    listed.filter_map(|range| range.parse().ok()).collect()
}

pub(super) fn with_ranges(node: &Node, ranges: &[IpNet]) -> Node {
    let mut changed = node.clone();
    let spec = changed.spec.get_or_insert_default();
    spec.pod_cidr = ranges.first().map(ToString::to_string);
    spec.pod_cidrs = Some(ranges.iter().map(ToString::to_string).collect());
    changed
}

/// Merge patch that gives the node the ranges, and no other node of its name.
pub(super) fn patch(node: &Node, ranges: &[IpNet]) -> Value {
    json!({
        "metadata": {"uid": node.metadata.uid},
        "spec": {"podCIDR": ranges.first(), "podCIDRs": ranges},
    })
}

/// What nodes' ranges are cut from, and how large each is.
#[derive(Debug, Clone)]
pub(crate) struct PodRanges {
    cluster: Vec<IpNet>,
    v4_length: u8,
    v6_length: u8,
}

impl PodRanges {
    /// `cluster`: at most one range of each family. The lengths are prefix lengths.
    pub(crate) fn new(cluster: Vec<IpNet>, v4_length: u8, v6_length: u8) -> Self {
        Self {
            cluster,
            v4_length,
            v6_length,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.cluster.is_empty()
    }

    /// The first free range in each of the cluster's ranges; `None` when one of them is used up.
    pub(super) fn allocate(&self, used: &[IpNet]) -> Option<Vec<IpNet>> {
        self.free(used).next()
    }

    /// One free range in each of the cluster's ranges after the other, until one of those is used up.
    pub(super) fn free(&self, used: &[IpNet]) -> impl Iterator<Item = Vec<IpNet>> + use<> {
        let free = |range: &IpNet| {
            let length = match range {
                IpNet::V4(_) => self.v4_length,
                IpNet::V6(_) => self.v6_length,
            };
            Free::new(range, length.max(range.prefix_len()), used)
        };
        let mut all: Vec<Free> = self.cluster.iter().map(free).collect();
        std::iter::from_fn(move || all.iter_mut().map(Iterator::next).collect())
    }
}

/// Free parts of one range, in order.
struct Free {
    cluster: IpNet,
    length: u8,
    total: u128,
    /// First and last number of what is taken, sorted.
    taken: std::vec::IntoIter<(u128, u128)>,
    /// Everything before it is taken or was given.
    next: u128,
}

impl Free {
    fn new(cluster: &IpNet, length: u8, used: &[IpNet]) -> Self {
        let total = 1_u128
            .checked_shl(u32::from(length - cluster.prefix_len()))
            .unwrap_or(u128::MAX);
        let mut taken: Vec<(u128, u128)> = used
            .iter()
            .filter_map(|range| numbers(cluster, length, range))
            .collect();
        taken.sort_unstable();
        Self {
            cluster: *cluster,
            length,
            total,
            taken: taken.into_iter(),
            next: 0,
        }
    }
}

impl Iterator for Free {
    type Item = IpNet;

    fn next(&mut self) -> Option<IpNet> {
        while let Some((first, last)) = self.taken.as_slice().first().copied()
            && first <= self.next
        {
            self.next = self.next.max(last + 1);
            self.taken.next();
        }
        let found = (self.next < self.total)
            .then(|| nth(&self.cluster, self.length, self.next))
            .flatten();
        self.next = self.next.saturating_add(1);
        found
    }
}

/// The numbers of the first and the last range that `taken` touches; `None` when it lies outside.
fn numbers(cluster: &IpNet, length: u8, taken: &IpNet) -> Option<(u128, u128)> {
    if cluster.max_prefix_len() != taken.max_prefix_len() {
        return None;
    }
    let (start, end) = (bits(cluster.network()), bits(cluster.broadcast()));
    let (first, last) = (bits(taken.network()), bits(taken.broadcast()));
    if last < start || first > end {
        return None;
    }
    let shift = shift(cluster, length);
    let number = |address: u128| (address.clamp(start, end) - start) >> shift;
    Some((number(first), number(last)))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn shift(cluster: &IpNet, length: u8) -> u32 {
    u32::from(cluster.max_prefix_len() - length)
}

fn nth(cluster: &IpNet, length: u8, number: u128) -> Option<IpNet> {
    let address =
        bits(cluster.network()).checked_add(number.checked_shl(shift(cluster, length))?)?;
    Some(match cluster {
        IpNet::V4(_) => {
            let address = Ipv4Addr::from(u32::try_from(address).ok()?);
            IpNet::V4(Ipv4Net::new(address, length).ok()?)
        }
        IpNet::V6(_) => IpNet::V6(Ipv6Net::new(Ipv6Addr::from(address), length).ok()?),
    })
}
