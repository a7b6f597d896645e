//! Addresses of nodes. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

/// The InternalIPs, in one form each.
pub(super) fn internal(node: &Node) -> BTreeSet<IpAddr> {
    let addresses = node.status.iter().flat_map(|status| &status.addresses);
    addresses
        .flatten()
        .filter(|address| address.type_ == "InternalIP")
        .filter_map(|address| address.address.parse().ok())
        .collect()
}

/// A sentence for each address that another node has too.
pub(super) fn duplicates(node: &Node, all: &[Arc<Node>]) -> Vec<String> {
    let mine = internal(node);
    let mut found = Vec::new();
    for other in all {
        if other.metadata.name == node.metadata.name {
            continue;
        }
        let name = other.metadata.name.as_deref().unwrap_or_default();
        for address in internal(other).intersection(&mine) {
            found.push(format!(
                "Address {address} is reported by node {name} as well: traffic to either may reach the other"
            ));
        }
    }
    found
}
