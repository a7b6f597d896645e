//! Addresses of a lab, and what `ip` is told in each of its namespaces. Pure.
//!
//! ```text
//!   outside (router, client: 203.0.113.1) ──┐
//!   controller-1 ───────────────────────────┼── bridge in `fabric`
//!   node-1 … node-N ────────────────────────┘
//! ```

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::place::OUTSIDE;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Families {
    V4,
    V6,
    Dual,
}

impl Families {
    pub(super) fn v4(self) -> bool {
        self != Self::V6
    }

    pub(super) fn v6(self) -> bool {
        self != Self::V4
    }

    /// Arguments of every role.
    pub(super) fn cluster_arguments(self) -> Vec<String> {
        let mut arguments = Vec::new();
        if self.v4() {
            arguments.push("--service-cidr=10.96.0.0/16".to_owned());
            arguments.push("--pod-cidr=10.244.0.0/16".to_owned());
        }
        if self.v6() {
            arguments.push("--service-cidr=fd00:10:96::/112".to_owned());
            arguments.push("--pod-cidr=fd00:10:244::/56".to_owned());
        }
        arguments
    }

    /// Where cluster names are asked for.
    pub(super) fn cluster_dns(self) -> &'static str {
        if self.v4() {
            "10.96.0.10"
        } else {
            "fd00:10:96::a"
        }
    }

    fn choose(self, v4: Ipv4Addr, v6: Ipv6Addr) -> Vec<IpAddr> {
        let v4 = self.v4().then_some(IpAddr::V4(v4));
        v4.into_iter()
            .chain(self.v6().then_some(IpAddr::V6(v6)))
            .collect()
    }

    /// Addresses on the fabric.
    pub(super) fn fabric(self, host: Host) -> Vec<IpAddr> {
        let number = host.number();
        // The digits of both are the same to the eye: 192.168.144.11, fd00:144::11.
        let digits = u16::from_str_radix(&number.to_string(), 16).unwrap_or(u16::MAX);
        self.choose(
            Ipv4Addr::new(192, 168, 144, number),
            Ipv6Addr::new(0xfd00, 0x144, 0, 0, 0, 0, 0, digits),
        )
    }

    /// Addresses of the client behind the router, in no network that a node is in.
    pub(super) fn client(self) -> Vec<IpAddr> {
        self.choose(
            Ipv4Addr::new(203, 0, 113, 1),
            Ipv6Addr::new(0x2001, 0xdb8, 0x113, 0, 0, 0, 0, 1),
        )
    }

    /// Networks for LoadBalancer addresses and externalIPs: the router sends them to all nodes.
    pub(super) fn load_balancers(self) -> Vec<&'static str> {
        let v4 = self.v4().then_some("198.51.100.0/24");
        v4.into_iter()
            .chain(self.v6().then_some("2001:db8:51::/64"))
            .collect()
    }
}

/// One that has an address on the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Host {
    Outside,
    Controller(u8),
    Node(u8),
}

/// Nodes are numbered from 1 and never more than this.
pub(super) const MOST_NODES: u8 = 200;

impl Host {
    pub(super) fn name(self) -> String {
        match self {
            Self::Outside => OUTSIDE.to_owned(),
            Self::Controller(number) => format!("controller-{number}"),
            Self::Node(number) => format!("node-{number}"),
        }
    }

    /// The last part of its addresses.
    fn number(self) -> u8 {
        match self {
            Self::Outside => 1,
            Self::Controller(number) => 1 + number,
            Self::Node(number) => 10 + number,
        }
    }

    /// Zones of two, so that same zone and same node are not the same.
    pub(super) fn zone(self) -> &'static str {
        match self {
            Self::Node(number) if number % 2 == 0 => "zone-b",
            _ => "zone-a",
        }
    }
}

/// In `fabric`, once.
pub(super) fn bridge(mtu: u16) -> String {
    format!(
        "link set lo up\n\
         link add bridge0 mtu {mtu} type bridge stp_state 0 mcast_snooping 0\n\
         link set bridge0 addrgenmode none\n\
         link set bridge0 up\n"
    )
}

/// In `fabric`, for each host.
pub(super) fn cable(host: Host, mtu: u16, netns: &Path) -> String {
    let name = host.name();
    format!(
        "link add {name} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
         link set {name} addrgenmode none\n\
         link set {name} master bridge0\n\
         link set {name} up\n",
        netns.display()
    )
}

/// In the host's own namespace.
pub(super) fn addresses(host: Host, families: Families) -> String {
    let mut script = "link set lo up\nlink set eth0 up\n".to_owned();
    for address in families.fabric(host) {
        let suffix = if address.is_ipv4() {
            "/24"
        } else {
            "/64 nodad"
        };
        let _ = writeln!(script, "address add {address}{suffix} dev eth0");
    }
    let gateways = families.fabric(Host::Outside);
    if host == Host::Outside {
        for address in families.client() {
            let length = if address.is_ipv4() {
                "/32"
            } else {
                "/128 nodad"
            };
            let _ = writeln!(script, "address add {address}{length} dev lo");
        }
    } else {
        for gateway in gateways {
            let all = if gateway.is_ipv4() {
                "0.0.0.0/0"
            } else {
                "::/0"
            };
            let _ = writeln!(script, "route add {all} via {gateway}");
        }
    }
    script
}

/// In `outside`: the ways to LoadBalancer addresses, over all nodes.
pub(super) fn load_balancer_routes(families: Families, nodes: &[Host]) -> String {
    let mut script = String::new();
    for network in families.load_balancers() {
        if nodes.is_empty() {
            continue;
        }
        let _ = write!(script, "route replace {network}");
        for node in nodes {
            for address in families.fabric(*node) {
                if address.is_ipv6() == network.contains(':') {
                    let _ = write!(script, " nexthop via {address}");
                }
            }
        }
        script.push('\n');
    }
    script
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_hosts_share_an_address() {
        let controllers = (1..=9).map(Host::Controller);
        let hosts = controllers.chain((1..=MOST_NODES).map(Host::Node));
        let mut seen = BTreeSet::new();
        for host in hosts.chain([Host::Outside]) {
            for address in Families::Dual.fabric(host) {
                assert!(seen.insert(address), "{host:?} {address}");
            }
        }
    }

    #[test]
    fn families_are_kept_apart() {
        let node = Host::Node(1);
        assert_eq!(
            addresses(node, Families::V4),
            "link set lo up\nlink set eth0 up\naddress add 192.168.144.11/24 dev eth0\n\
             route add 0.0.0.0/0 via 192.168.144.1\n"
        );
        assert_eq!(
            addresses(node, Families::V6),
            "link set lo up\nlink set eth0 up\naddress add fd00:144::11/64 nodad dev eth0\n\
             route add ::/0 via fd00:144::1\n"
        );
        assert_eq!(
            load_balancer_routes(Families::Dual, &[Host::Node(1), Host::Node(2)]),
            "route replace 198.51.100.0/24 nexthop via 192.168.144.11 nexthop via 192.168.144.12\n\
             route replace 2001:db8:51::/64 nexthop via fd00:144::11 nexthop via fd00:144::12\n"
        );
        assert_eq!(load_balancer_routes(Families::Dual, &[]), "");
    }

    #[test]
    fn zones_are_shared_by_some_nodes_and_not_by_all() {
        let zones: Vec<&str> = (1..=3).map(|number| Host::Node(number).zone()).collect();
        assert_eq!(zones, ["zone-a", "zone-b", "zone-a"]);
    }
}
