//! What the planner keeps of a Service, and the keys that it asks for.

use std::net::IpAddr;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{
    PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, SCOPE_INSIDE, SCOPE_LOCAL, SCOPE_OUTSIDE,
    SERVICE_FOREIGN, SERVICE_LOCAL, SERVICE_SOURCE_RANGES, ServiceKey,
};
use ipnet::IpNet;

use super::{Range, usable};
use crate::cluster::{Protocol, Service, ServiceType};

pub(crate) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
        Protocol::Sctp => PROTOCOL_SCTP,
    }
}

/// Which claim on a key is honoured when there are several; among equals the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    /// Our own: the cluster DNS address.
    Own,
    Cluster,
    /// External addresses, node ports, hostPorts.
    External,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Cluster,
    External,
    LoadBalancer,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) name: Box<str>,
    /// IP protocol number.
    pub(crate) protocol: u8,
    /// Host order, as the next.
    pub(crate) port: u16,
    node_port: Option<u16>,
}

impl Port {
    /// What a port is known by when its Service changes.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.name == other.name && self.protocol == other.protocol
    }
}

/// Keys of one port and family that have the same backends: those that take endpoints of the whole cluster, and those
/// that take this node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) v4: bool,
    pub(crate) local: bool,
}

impl Group {
    pub(crate) const ALL: [Self; 4] = [
        Self {
            v4: true,
            local: false,
        },
        Self {
            v4: true,
            local: true,
        },
        Self {
            v4: false,
            local: false,
        },
        Self {
            v4: false,
            local: true,
        },
    ];

    pub(crate) fn index(self) -> usize {
        usize::from(!self.v4) * 2 + usize::from(self.local)
    }
}

/// A key that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) key: ServiceKey,
    pub(crate) rank: Rank,
    /// Index of the Service's port.
    pub(crate) port: u16,
    pub(crate) group: Group,
    pub(crate) flags: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Spec {
    addresses: Box<[(Address, Kind)]>,
    pub(crate) ports: Box<[Port]>,
    ranges: Box<[IpNet]>,
    /// Seconds; 0 for none.
    pub(crate) affinity: u32,
    internal_local: bool,
    external_local: bool,
    pub(crate) publish_not_ready: bool,
    v4: bool,
    v6: bool,
}

impl Spec {
    pub(crate) fn new(service: &Service) -> Self {
        if service.headless || service.service_type == ServiceType::ExternalName {
            return Self::default();
        }
        let families = |ip: &&IpAddr| ip.to_canonical().is_ipv4();
        let v4 = service.cluster_ips.iter().any(|ip| families(&ip));
        let v6 = service.cluster_ips.iter().any(|ip| !families(&ip));
        // An address of a family that the Service does not have is nobody's.
        let addresses = [
            (&service.cluster_ips, Kind::Cluster),
            (&service.external_ips, Kind::External),
            (&service.load_balancer_ips, Kind::LoadBalancer),
        ]
        .into_iter()
        .flat_map(|(ips, kind)| ips.iter().map(move |ip| (ip, kind)))
        .filter(|(ip, _)| usable(**ip).is_ok() && if families(ip) { v4 } else { v6 })
        .map(|(ip, kind)| (Address::from(ip.to_canonical()), kind))
        .collect();
        let mut ranges: Vec<IpNet> = service
            .load_balancer_source_ranges
            .iter()
            .map(IpNet::trunc)
            .collect();
        ranges.sort_unstable();
        ranges.dedup();
        Self {
            addresses,
            ports: service
                .ports
                .iter()
                .filter(|port| port.port != 0)
                .map(|port| Port {
                    name: port.name.as_str().into(),
                    protocol: number(port.protocol),
                    port: port.port,
                    node_port: port.node_port.filter(|port| *port != 0),
                })
                .collect(),
            ranges: ranges.into(),
            affinity: service.session_affinity.unwrap_or(0),
            internal_local: service.internal_traffic_local,
            external_local: service.external_traffic_local,
            publish_not_ready: service.publish_not_ready_addresses,
            v4,
            v6,
        }
    }

    /// The ranges of a family, for the Service's number. A Service with ranges of one family alone admits nobody of the
    /// other: "these and no others" is what it says.
    pub(crate) fn ranges(&self, v4: bool, service: u32) -> impl Iterator<Item = Range> {
        let family = move |range: &&IpNet| matches!(range, IpNet::V4(_)) == v4;
        self.ranges
            .iter()
            .filter(family)
            .map(move |range| Range::new(service, *range))
    }

    /// All keys, in order, each once. `dsr`: scope LOCAL as well; `is_own`: the node's own addresses.
    pub(crate) fn asks(&self, dsr: bool, is_own: impl Fn(&Address) -> bool, into: &mut Vec<Ask>) {
        into.clear();
        for (index, port) in self.ports.iter().enumerate() {
            let ask =
                |address: Address, number: u16, scope: u8, rank: Rank, local: bool, flags: u32| {
                    Ask {
                        key: ServiceKey {
                            address,
                            port: number.to_be(),
                            protocol: port.protocol,
                            scope,
                        },
                        rank,
                        port: index as u16,
                        group: Group {
                            v4: address.is_v4(),
                            local,
                        },
                        flags,
                    }
                };
            let mut external = |address: Address, number: u16, flags: u32| {
                let outside = if self.external_local {
                    SERVICE_LOCAL
                } else {
                    0
                };
                // Clients inside the cluster are not what the external policy is about.
                into.push(ask(
                    address,
                    number,
                    SCOPE_INSIDE,
                    Rank::External,
                    false,
                    flags,
                ));
                into.push(ask(
                    address,
                    number,
                    SCOPE_OUTSIDE,
                    Rank::External,
                    self.external_local,
                    flags | outside,
                ));
                if dsr {
                    // Who is let in was decided by the node that the packet came to.
                    let flags = (flags | SERVICE_LOCAL) & !SERVICE_SOURCE_RANGES;
                    into.push(ask(
                        address,
                        number,
                        SCOPE_LOCAL,
                        Rank::External,
                        true,
                        flags,
                    ));
                }
            };
            for (address, kind) in &self.addresses {
                let foreign = if is_own(address) { 0 } else { SERVICE_FOREIGN };
                match kind {
                    Kind::Cluster => {}
                    Kind::External => external(*address, port.port, foreign),
                    Kind::LoadBalancer if self.ranges.is_empty() => {
                        external(*address, port.port, foreign)
                    }
                    Kind::LoadBalancer => {
                        external(*address, port.port, foreign | SERVICE_SOURCE_RANGES)
                    }
                }
            }
            if let Some(number) = port.node_port {
                if self.v4 {
                    external(Address::ANY_V4, number, 0);
                }
                if self.v6 {
                    external(Address::ANY_V6, number, 0);
                }
            }
            for (address, _) in self
                .addresses
                .iter()
                .filter(|(_, kind)| *kind == Kind::Cluster)
            {
                into.push(ask(
                    *address,
                    port.port,
                    SCOPE_INSIDE,
                    Rank::Cluster,
                    self.internal_local,
                    0,
                ));
            }
        }
        // An address that is named twice has the better claim and the stricter flags.
        into.sort_unstable_by_key(|ask| (ask.key, ask.rank, ask.port));
        into.dedup_by(|later, first| {
            let is_same = later.key == first.key;
            if is_same && later.rank == first.rank {
                first.flags |= later.flags;
            }
            is_same
        });
    }
}
