//! Cuts pod ranges for nodes out of the cluster's ranges: /24 for IPv4, /64 for IPv6. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use k8s_openapi::api::core::v1::Node;

const V4_LENGTH: u8 = 24;
const V6_LENGTH: u8 = 64;

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

fn overlaps(one: &IpNet, other: &IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first free range in each of the cluster's ranges; `None` when one of them is used up.
pub(super) fn allocate(cluster: &[IpNet], used: &[IpNet]) -> Option<Vec<IpNet>> {
    cluster
        .iter()
        .map(|range| first_free(range, used))
        .collect()
}

fn first_free(cluster: &IpNet, used: &[IpNet]) -> Option<IpNet> {
    let length = match cluster {
        IpNet::V4(_) => V4_LENGTH,
        IpNet::V6(_) => V6_LENGTH,
    }
    .max(cluster.prefix_len());
    let mut candidate = nth(cluster, length, 0)?;
    let mut number: u128 = 0;
    let last = 1_u128
        .checked_shl(u32::from(length - cluster.prefix_len()))
        .unwrap_or(u128::MAX);
    // Each turn passes at least one used range, so the loop ends after as many turns.
    while let Some(taken) = used.iter().find(|taken| overlaps(taken, &candidate)) {
        let past = index_after(cluster, length, taken);
        number = past.max(number + 1);
        if number >= last {
            return None;
        }
        candidate = nth(cluster, length, number)?;
    }
    Some(candidate)
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

/// Number of the first range that begins after `taken` ends.
fn index_after(cluster: &IpNet, length: u8, taken: &IpNet) -> u128 {
    let offset = bits(taken.broadcast()).saturating_sub(bits(cluster.network()));
    (offset >> shift(cluster, length)).saturating_add(1)
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
