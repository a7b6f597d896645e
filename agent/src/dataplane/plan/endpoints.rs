//! What a Service's port stands for: keys and backends, as Kubernetes defines them. No state.

use std::net::IpAddr;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP, SCOPE_INSIDE, ServiceKey};

use crate::cluster::{Endpoint, EndpointSlice, Protocol, Service, ServicePort, ServiceType};

/// One address and port that traffic can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub address: Address,
    /// Host order.
    pub port: u16,
}

/// Which claim on a key is honoured when several Services make one: a ClusterIP before an external address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rank {
    Cluster,
    External,
}

pub(crate) fn number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => PROTOCOL_TCP,
        Protocol::Udp => PROTOCOL_UDP,
        Protocol::Sctp => PROTOCOL_SCTP,
    }
}

/// An address that a Service or an endpoint may have. Hand-made objects can say anything.
fn usable(address: IpAddr) -> bool {
    let address = address.to_canonical();
    !address.is_unspecified()
        && !address.is_loopback()
        && !address.is_multicast()
        && address != IpAddr::V4(std::net::Ipv4Addr::BROADCAST)
}

/// Every key that a Service asks for.
pub(crate) fn keys(service: &Service) -> Vec<(ServiceKey, Rank)> {
    if service.headless || service.service_type == ServiceType::ExternalName {
        return Vec::new();
    }
    let cluster = service.cluster_ips.iter().map(|ip| (*ip, Rank::Cluster));
    let external = service
        .external_ips
        .iter()
        .chain(&service.load_balancer_ips)
        .map(|ip| (*ip, Rank::External));
    let mut keys = Vec::new();
    for (ip, rank) in cluster.chain(external).filter(|(ip, _)| usable(*ip)) {
        for port in service.ports.iter().filter(|port| port.port != 0) {
            keys.push((
                ServiceKey {
                    address: Address::from(ip),
                    port: port.port.to_be(),
                    protocol: number(port.protocol),
                    scope: SCOPE_INSIDE,
                },
                rank,
            ));
        }
    }
    keys.sort_unstable();
    keys.dedup_by_key(|(key, _)| *key);
    keys
}

/// The port of a Service that a key is for.
pub(crate) fn port_of<'a>(service: &'a Service, key: &ServiceKey) -> Option<&'a ServicePort> {
    service
        .ports
        .iter()
        .find(|port| port.port.to_be() == key.port && number(port.protocol) == key.protocol)
}

fn is_ready(service: &Service, endpoint: &Endpoint) -> bool {
    endpoint.ready || service.publish_not_ready_addresses
}

/// Backends of one port in one family, in order and without duplicates: the ready ones; if there is none,
/// those that are terminating but still serve.
pub(crate) fn backends<'a>(
    service: &Service,
    port: &ServicePort,
    slices: impl Iterator<Item = &'a EndpointSlice> + Clone,
    v4: bool,
    local_to: Option<&str>,
) -> Vec<Backend> {
    let candidates = slices.flat_map(move |slice| {
        let target = slice
            .ports
            .iter()
            .find(|other| other.name == port.name && other.protocol == port.protocol)
            .map(|other| other.port)
            .filter(|number| *number != 0);
        let endpoints = target.map(|_| slice.endpoints.iter()).into_iter().flatten();
        endpoints.map(move |endpoint| (endpoint, target.unwrap_or_default()))
    });
    let pick = |wanted: &dyn Fn(&Endpoint) -> bool| {
        let mut found: Vec<Backend> = candidates
            .clone()
            .filter(|(endpoint, _)| {
                local_to.is_none_or(|node| endpoint.node.as_deref() == Some(node))
                    && wanted(endpoint)
            })
            .filter_map(|(endpoint, port)| {
                let address = endpoint
                    .addresses
                    .iter()
                    .find(|ip| usable(**ip) && ip.to_canonical().is_ipv4() == v4)?;
                Some(Backend {
                    address: Address::from(*address),
                    port,
                })
            })
            .collect();
        found.sort_unstable();
        found.dedup();
        found
    };
    let ready = pick(&|endpoint| is_ready(service, endpoint));
    if !ready.is_empty() {
        return ready;
    }
    pick(&|endpoint| endpoint.serving && endpoint.terminating)
}
