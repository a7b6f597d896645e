//! Where objects live in the store: `/objects/<group>/<plural>/[<namespace>/]<name>`, with `core` for the
//! core group. The version of the API is not part of the key: an object is stored once.

use crate::kinds::{Kind, Scope};

/// Everything of the kind, in all namespaces when `namespace` is empty.
pub(crate) fn prefix(kind: &Kind<'_>, namespace: &str) -> String {
    // Another served version, perhaps of another group, of what is stored once.
    let kind = kind.strategy.stored().unwrap_or(kind);
    let mut prefix = group(kind.group);
    prefix.push_str(kind.plural);
    prefix.push('/');
    if !namespace.is_empty() && kind.scope != Scope::Cluster {
        prefix.push_str(namespace);
        prefix.push('/');
    }
    prefix
}

/// Where all objects of a group are, of whatever kind.
pub(crate) fn group(group: &str) -> String {
    let group = if group.is_empty() { "core" } else { group };
    format!("/objects/{group}/")
}

pub(crate) fn object(kind: &Kind<'_>, namespace: &str, name: &str) -> String {
    let mut key = prefix(kind, namespace);
    key.push_str(name);
    key
}

/// Namespace and name that a key stands for.
pub(crate) fn parse<'a>(kind: &Kind<'_>, key: &'a str) -> Option<(&'a str, &'a str)> {
    let rest = key.strip_prefix(prefix(kind, "").as_str())?;
    match kind.scope {
        Scope::Cluster => Some(("", rest)),
        Scope::Namespaced => rest.split_once('/'),
    }
}

/// One address out of the Service ranges, owned by the Service it names.
pub(crate) fn cluster_ip(address: std::net::IpAddr) -> String {
    format!("{CLUSTER_IPS}{address}")
}

pub(crate) fn node_port(port: u16) -> String {
    format!("{NODE_PORTS}{port}")
}

pub(crate) const CLUSTER_IPS: &str = "/allocations/cluster-ips/";
/// Moved on by every write that gives a node pod ranges.
pub(crate) const NODE_RANGES: &str = "/allocations/node-ranges";
pub(crate) const NODE_PORTS: &str = "/allocations/node-ports/";
