//! The planner against a plain reference model, and one by one what Kubernetes says of Services.
#![allow(clippy::unwrap_used)]

mod generate;
mod host_ports;
mod maps;
mod model;
mod nonsense;
mod properties;
mod restart;
mod scale;
mod services;
mod topology;

use std::net::IpAddr;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{PROTOCOL_TCP, SCOPE_INSIDE, SCOPE_OUTSIDE};

use self::maps::{Look, Maps};
use super::*;
use crate::cluster::{Endpoint, EndpointPort, EndpointSlice, Node, Protocol, Service, ServicePort};

const HERE: &str = "here";

fn name(name: &str) -> ObjectName {
    ObjectName {
        namespace: "default".to_owned(),
        name: name.to_owned(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn key(address: &str, port: u16, scope: u8) -> ServiceKey {
    ServiceKey {
        address: ip(address).into(),
        port: port.to_be(),
        protocol: PROTOCOL_TCP,
        scope,
    }
}

fn inside(address: &str, port: u16) -> ServiceKey {
    key(address, port, SCOPE_INSIDE)
}

fn outside(address: &str, port: u16) -> ServiceKey {
    key(address, port, SCOPE_OUTSIDE)
}

/// The key of a port of the node, IPv4.
fn node_port(port: u16, scope: u8) -> ServiceKey {
    key("0.0.0.0", port, scope)
}

fn backend(address: &str) -> Backend {
    Backend {
        address: ip(address).into(),
        port: 8080,
    }
}

fn port(number: u16) -> ServicePort {
    ServicePort {
        name: String::new(),
        protocol: Protocol::Tcp,
        port: number,
        node_port: None,
    }
}

/// ClusterIP 10.96.0.1, TCP 80.
fn service() -> Service {
    Service {
        cluster_ips: vec![ip("10.96.0.1")],
        ports: vec![port(80)],
        ..Service::default()
    }
}

/// Ready, on another node.
fn endpoint(address: &str) -> Endpoint {
    Endpoint {
        addresses: vec![ip(address)],
        ready: true,
        serving: true,
        node: Some("there".to_owned()),
        ..Endpoint::default()
    }
}

fn local(address: &str) -> Endpoint {
    Endpoint {
        node: Some(HERE.to_owned()),
        ..endpoint(address)
    }
}

fn draining(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        ready: false,
        serving: true,
        terminating: true,
        ..endpoint
    }
}

fn unready(endpoint: Endpoint) -> Endpoint {
    Endpoint {
        ready: false,
        serving: false,
        ..endpoint
    }
}

fn slice(endpoints: impl IntoIterator<Item = Endpoint>) -> EndpointSlice {
    EndpointSlice {
        service: "web".to_owned(),
        ports: vec![EndpointPort {
            name: String::new(),
            protocol: Protocol::Tcp,
            port: 8080,
        }],
        endpoints: endpoints.into_iter().collect(),
    }
}

/// A planner is told of a batch; the node has the addresses that it says it has.
fn tell(planner: &mut Planner, batch: &Batch) -> Plan {
    let mut own = batch.full.then(Vec::new);
    for event in &batch.events {
        match event {
            Event::NodeSet(name, node) if name == HERE => own = Some(node.internal_ips.clone()),
            Event::NodeRemoved(name) if name == HERE => own = Some(Vec::new()),
            _ => {}
        }
    }
    if let Some(own) = own {
        planner.set_own(own.into_iter().map(Address::from).collect());
    }
    planner.apply(batch)
}

/// A planner and the maps that it plans for, with the Service `web` and its slice `web-1`.
struct Bench {
    planner: Planner,
    maps: Maps,
    plan: Plan,
}

impl Bench {
    fn new() -> Self {
        Self::with(false, Limits::default())
    }

    fn with(dsr: bool, limits: Limits) -> Self {
        let mut bench = Self {
            planner: Planner::new(HERE, dsr, limits),
            maps: Maps::default(),
            plan: Plan::default(),
        };
        bench.apply(true, Vec::new());
        bench
    }

    fn run(&mut self, plan: Plan) {
        self.maps.run(&plan);
        self.plan = plan;
    }

    fn apply(&mut self, full: bool, events: Vec<Event>) {
        let batch = Batch {
            revision: 1,
            full,
            events,
        };
        let plan = tell(&mut self.planner, &batch);
        self.run(plan);
    }

    fn service(&mut self, service: Service) {
        self.apply(false, vec![Event::ServiceSet(name("web"), service)]);
    }

    fn endpoints(&mut self, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.apply(
            false,
            vec![Event::SliceSet(name("web-1"), slice(endpoints))],
        );
    }

    /// This node, in a zone.
    fn node(&mut self, zone: &str) {
        let node = Node {
            zone: Some(zone.to_owned()),
            internal_ips: vec![ip("192.0.2.1")],
            ..Node::default()
        };
        self.apply(false, vec![Event::NodeSet(HERE.to_owned(), node)]);
    }

    fn host_ports(&mut self, uid: &str, ports: &[HostPort]) -> Vec<Problem> {
        let problems = self.planner.host_ports(uid, ports);
        let plan = self.planner.retry();
        self.run(plan);
        problems
    }

    /// Whatever was retired goes.
    fn rest(&mut self) {
        for operation in self.planner.reclaim(self.planner.epoch()) {
            self.maps.execute(&operation);
        }
    }

    fn look(&self, key: ServiceKey) -> Look {
        self.maps
            .look(&key)
            .unwrap_or_else(|| panic!("{key:?} is not there"))
    }

    /// Addresses that a key leads to; nothing if it is not there.
    fn at(&self, key: ServiceKey) -> Option<Vec<String>> {
        let look = self.maps.look(&key)?;
        Some(
            look.backends
                .iter()
                .map(|backend| IpAddr::from(backend.address).to_string())
                .collect(),
        )
    }

    fn gone(&self) -> Vec<(ServiceKey, String, GoneState)> {
        let mut gone: Vec<_> = self
            .plan
            .gone
            .iter()
            .map(|gone| {
                (
                    gone.key,
                    IpAddr::from(gone.backend.address).to_string(),
                    gone.state,
                )
            })
            .collect();
        gone.sort();
        gone
    }
}

fn some<const N: usize>(addresses: [&str; N]) -> Option<Vec<String>> {
    Some(addresses.map(str::to_owned).to_vec())
}
