//! What Kubernetes says of Services, as plainly as possible: everything is computed from scratch.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{
    SCOPE_INSIDE, SCOPE_LOCAL, SCOPE_OUTSIDE, SERVICE_FOREIGN, SERVICE_HOST_PORT, SERVICE_LOCAL,
    SERVICE_SOURCE_RANGES, ServiceKey,
};

use super::super::Range;
use super::maps::Look;
use super::*;

/// Who asks for a key.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Claimant {
    Service(ObjectName),
    Pod(String),
}

/// One wish of a claimant.
#[derive(Debug, Clone)]
struct Wish {
    is_cluster_ip: bool,
    look: Look,
}

#[derive(Debug, Default, Clone)]
pub(super) struct Model {
    pub(super) dsr: bool,
    pub(super) services: BTreeMap<ObjectName, Service>,
    pub(super) slices: BTreeMap<ObjectName, EndpointSlice>,
    pub(super) node: Option<Node>,
    pub(super) pods: BTreeMap<String, Vec<HostPort>>,
    /// When each claim that is made now was first made.
    claims: BTreeMap<(ServiceKey, Claimant), u64>,
    clock: u64,
}

impl Model {
    pub(super) fn new(dsr: bool) -> Self {
        Self {
            dsr,
            ..Self::default()
        }
    }

    pub(super) fn apply(&mut self, batch: &Batch) {
        if batch.full {
            self.slices.clear();
            self.node = None;
        }
        let mut named = BTreeSet::new();
        for event in &batch.events {
            match event.clone() {
                Event::ServiceSet(name, service) => {
                    named.insert(name.clone());
                    self.services.insert(name, service);
                }
                Event::ServiceRemoved(name) => drop(self.services.remove(&name)),
                Event::SliceSet(name, slice) => drop(self.slices.insert(name, slice)),
                Event::SliceRemoved(name) => drop(self.slices.remove(&name)),
                Event::NodeSet(name, node) if name == HERE => self.node = Some(node),
                Event::NodeRemoved(name) if name == HERE => self.node = None,
                _ => {}
            }
            self.note_claims();
        }
        if batch.full {
            self.services.retain(|name, _| named.contains(name));
            self.note_claims();
        }
    }

    pub(super) fn host_ports(&mut self, uid: &str, ports: &[HostPort]) {
        self.pods.remove(uid);
        if !ports.is_empty() {
            self.pods.insert(uid.to_owned(), ports.to_vec());
        }
        self.note_claims();
    }

    fn note_claims(&mut self) {
        let now: BTreeSet<(ServiceKey, Claimant)> = self.wishes().into_keys().collect();
        self.claims.retain(|claim, _| now.contains(claim));
        for claim in now {
            self.clock += 1;
            self.claims.entry(claim).or_insert(self.clock);
        }
    }

    /// Losers' claims are as old as they are told again; winners stay. Claims that cannot be told apart may have
    /// changed places: who won is the planner's to say.
    pub(super) fn restart(
        &mut self,
        order: &[Claimant],
        winner_of: impl Fn(&ServiceKey) -> Claimant,
    ) {
        let wishes = self.wishes();
        let place = |claimant: &Claimant| order.iter().position(|other| other == claimant).unwrap();
        for (key, before) in self.winners() {
            let now = winner_of(&key);
            let (was, is) = (&wishes[&(key, before)], &wishes[&(key, now.clone())]);
            assert_eq!((&was.look, was.is_cluster_ip), (&is.look, is.is_cluster_ip));
            for claim in self
                .claims
                .iter_mut()
                .filter(|((other, _), _)| *other == key)
            {
                *claim.1 = self.clock + 1 + place(&claim.0.1) as u64;
                if claim.0.1 == now {
                    *claim.1 = 0;
                }
            }
        }
        self.clock += 1 + order.len() as u64;
    }

    pub(super) fn is_contested(&self, key: &ServiceKey) -> bool {
        self.claims.keys().filter(|(other, _)| other == key).count() > 1
    }

    fn winners(&self) -> BTreeMap<ServiceKey, Claimant> {
        let wishes = self.wishes();
        let mut winners: BTreeMap<ServiceKey, (bool, u64, Claimant)> = BTreeMap::new();
        for (claim, wish) in &wishes {
            let candidate = (!wish.is_cluster_ip, self.claims[claim], claim.1.clone());
            let winner = winners.entry(claim.0).or_insert_with(|| candidate.clone());
            *winner = winner.clone().min(candidate);
        }
        winners
            .into_iter()
            .map(|(key, (_, _, claimant))| (key, claimant))
            .collect()
    }

    /// Every key, who has it and what is behind it.
    pub(super) fn expected(&self) -> BTreeMap<ServiceKey, Look> {
        let wishes = self.wishes();
        self.winners()
            .into_iter()
            .map(|(key, winner)| (key, wishes[&(key, winner)].look.clone()))
            .collect()
    }

    /// Whose port a key is, and the endpoints behind it, whatever their state.
    pub(super) fn known(
        &self,
        key: &ServiceKey,
    ) -> Option<((Claimant, String), BTreeSet<Backend>)> {
        let winner = self.winners().get(key)?.clone();
        let Claimant::Service(name) = &winner else {
            return Some(((winner, String::new()), BTreeSet::new()));
        };
        let service = &self.services[name];
        let is_wildcard = key.address == Address::ANY_V4 || key.address == Address::ANY_V6;
        let port = service.ports.iter().find(|port| {
            let number = if is_wildcard {
                port.node_port
            } else {
                Some(port.port)
            };
            number.map(u16::to_be) == Some(key.port) && number_of(port.protocol) == key.protocol
        })?;
        let all = self.endpoints(name, port, key.address.is_v4());
        Some((
            (winner.clone(), port.name.clone()),
            all.into_iter().map(|(backend, _)| backend).collect(),
        ))
    }

    fn wishes(&self) -> BTreeMap<(ServiceKey, Claimant), Wish> {
        let mut wishes = BTreeMap::new();
        for (name, service) in &self.services {
            for port in &service.ports {
                self.port_wishes(name, service, port, &mut |key, wish: Wish| {
                    let claim = (key, Claimant::Service(name.clone()));
                    let other: Option<&Wish> = wishes.get(&claim);
                    if let Some(other) =
                        other.filter(|other| other.is_cluster_ip || !wish.is_cluster_ip)
                    {
                        let mut merged = other.clone();
                        if !other.is_cluster_ip {
                            merged.look.flags |= wish.look.flags;
                            merged.look.ranges.extend(wish.look.ranges);
                        }
                        wishes.insert(claim, merged);
                    } else {
                        wishes.insert(claim, wish);
                    }
                });
            }
        }
        for (uid, ports) in &self.pods {
            for port in ports {
                for address in &port.addresses {
                    for scope in [SCOPE_INSIDE, SCOPE_OUTSIDE] {
                        let host = port.host_ip.unwrap_or(if address.is_ipv4() {
                            ip("0.0.0.0")
                        } else {
                            ip("::")
                        });
                        if host.is_ipv4() != address.is_ipv4()
                            || (host.is_loopback() && scope == SCOPE_OUTSIDE)
                        {
                            continue;
                        }
                        let key = ServiceKey {
                            address: host.into(),
                            port: port.port.to_be(),
                            protocol: number_of(port.protocol),
                            scope,
                        };
                        let backend = Backend {
                            address: (*address).into(),
                            port: port.container_port,
                        };
                        let look = Look {
                            backends: BTreeSet::from([backend]),
                            has_table: false,
                            affinity: 0,
                            flags: SERVICE_HOST_PORT,
                            ranges: BTreeSet::new(),
                        };
                        let wish = Wish {
                            is_cluster_ip: false,
                            look,
                        };
                        wishes
                            .entry((key, Claimant::Pod(uid.clone())))
                            .or_insert(wish);
                    }
                }
            }
        }
        wishes
    }

    fn port_wishes(
        &self,
        name: &ObjectName,
        service: &Service,
        port: &ServicePort,
        add: &mut dyn FnMut(ServiceKey, Wish),
    ) {
        if service.headless {
            return;
        }
        let has_family = |v4: bool| service.cluster_ips.iter().any(|ip| ip.is_ipv4() == v4);
        let mut wish = |address: IpAddr,
                        number: u16,
                        scope: u8,
                        is_cluster_ip: bool,
                        is_local: bool,
                        flags: u32| {
            if !has_family(address.is_ipv4()) {
                return;
            }
            let backends = self.picked(name, service, port, address.is_ipv4(), is_local);
            let ranges = if flags & SERVICE_SOURCE_RANGES == 0 {
                &[][..]
            } else {
                &service.load_balancer_source_ranges
            };
            let look = Look {
                has_table: scope != SCOPE_INSIDE && backends.len() > 1,
                backends,
                affinity: service.session_affinity.unwrap_or(0),
                flags,
                ranges: ranges
                    .iter()
                    .filter(|range| range.addr().is_ipv4() == address.is_ipv4())
                    .map(|range| Range::new(0, *range))
                    .map(|range| (range.address, range.prefix))
                    .collect(),
            };
            let key = ServiceKey {
                address: address.into(),
                port: number.to_be(),
                protocol: number_of(port.protocol),
                scope,
            };
            add(
                key,
                Wish {
                    is_cluster_ip,
                    look,
                },
            );
        };
        for address in &service.cluster_ips {
            wish(
                *address,
                port.port,
                SCOPE_INSIDE,
                true,
                service.internal_traffic_local,
                0,
            );
        }
        let mut external = |address: IpAddr, number: u16, flags: u32| {
            let outside = if service.external_traffic_local {
                SERVICE_LOCAL
            } else {
                0
            };
            wish(address, number, SCOPE_INSIDE, false, false, flags);
            wish(
                address,
                number,
                SCOPE_OUTSIDE,
                false,
                service.external_traffic_local,
                flags | outside,
            );
            if self.dsr {
                let flags = flags & !SERVICE_SOURCE_RANGES | SERVICE_LOCAL;
                wish(address, number, SCOPE_LOCAL, false, true, flags);
            }
        };
        let foreign = |address: &IpAddr| match &self.node {
            Some(node) if node.internal_ips.contains(address) => 0,
            _ => SERVICE_FOREIGN,
        };
        for address in &service.external_ips {
            external(*address, port.port, foreign(address));
        }
        let filter = if service.load_balancer_source_ranges.is_empty() {
            0
        } else {
            SERVICE_SOURCE_RANGES
        };
        for address in &service.load_balancer_ips {
            external(*address, port.port, foreign(address) | filter);
        }
        if let Some(number) = port.node_port {
            external(ip("0.0.0.0"), number, 0);
            external(ip("::"), number, 0);
        }
    }

    fn endpoints(
        &self,
        name: &ObjectName,
        port: &ServicePort,
        v4: bool,
    ) -> Vec<(Backend, Endpoint)> {
        let mut all = Vec::new();
        for (slice_name, slice) in &self.slices {
            if slice_name.namespace != name.namespace || slice.service != name.name {
                continue;
            }
            for target in &slice.ports {
                if target.name != port.name || target.protocol != port.protocol {
                    continue;
                }
                for endpoint in slice
                    .endpoints
                    .iter()
                    .filter(|endpoint| endpoint.addresses[0].is_ipv4() == v4)
                {
                    let backend = Backend {
                        address: endpoint.addresses[0].into(),
                        port: target.port,
                    };
                    all.push((backend, endpoint.clone()));
                }
            }
        }
        all
    }

    fn picked(
        &self,
        name: &ObjectName,
        service: &Service,
        port: &ServicePort,
        v4: bool,
        is_local: bool,
    ) -> BTreeSet<Backend> {
        let mut all = self.endpoints(name, port, v4);
        if is_local {
            all.retain(|(_, endpoint)| match (&endpoint.node, &self.node) {
                (Some(name), _) => name == HERE,
                (None, None) => false,
                (None, Some(node)) => {
                    let address = &endpoint.addresses[0];
                    let mut ranges = node.pod_cidrs.iter();
                    node.internal_ips.contains(address)
                        || ranges.any(|range| range.contains(address))
                }
            });
        }
        let mut ready: Vec<(Backend, Endpoint)> = all
            .iter()
            .filter(|(_, endpoint)| endpoint.ready || service.publish_not_ready_addresses)
            .cloned()
            .collect();
        if !is_local {
            let here = HERE.to_owned();
            let zone = self.node.as_ref().and_then(|node| node.zone.clone());
            let by_node = |endpoint: &Endpoint| endpoint.hints_nodes.contains(&here);
            let by_zone = |endpoint: &Endpoint| {
                zone.as_ref()
                    .is_some_and(|zone| endpoint.hints_zones.contains(zone))
            };
            if ready
                .iter()
                .all(|(_, endpoint)| !endpoint.hints_nodes.is_empty())
                && ready.iter().any(|(_, endpoint)| by_node(endpoint))
            {
                ready.retain(|(_, endpoint)| by_node(endpoint));
            } else if ready
                .iter()
                .all(|(_, endpoint)| !endpoint.hints_zones.is_empty())
                && ready.iter().any(|(_, endpoint)| by_zone(endpoint))
            {
                ready.retain(|(_, endpoint)| by_zone(endpoint));
            }
        }
        if ready.is_empty() {
            all.retain(|(_, endpoint)| endpoint.serving && endpoint.terminating);
            ready = all;
        }
        ready.into_iter().map(|(backend, _)| backend).collect()
    }

    /// Everything there is, as a full batch says it.
    pub(super) fn full(&self) -> Batch {
        let services = self
            .services
            .iter()
            .map(|(name, service)| Event::ServiceSet(name.clone(), service.clone()));
        let slices = self
            .slices
            .iter()
            .map(|(name, slice)| Event::SliceSet(name.clone(), slice.clone()));
        let node = self
            .node
            .iter()
            .map(|node| Event::NodeSet(HERE.to_owned(), node.clone()));
        Batch {
            revision: 0,
            full: true,
            events: services.chain(slices).chain(node).collect(),
        }
    }
}

fn number_of(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => 6,
        Protocol::Udp => 17,
        Protocol::Sctp => 132,
    }
}
