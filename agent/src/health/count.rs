//! Which Services are asked about on which port, and how many endpoints they have on this node. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::cluster::{Batch, Endpoint, EndpointSlice, Event, Node, ObjectName, Service};

/// What is to be answered on a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) service: ObjectName,
    /// Ready, on this node; one with several ports or addresses of both families counts for each address.
    pub(super) endpoints: usize,
}

#[derive(Debug)]
pub(super) struct Counts {
    node: String,
    /// Of Services that are asked about.
    ports: BTreeMap<ObjectName, u16>,
    /// Ready endpoints that may be on this node, by slice; slices without any are left out.
    ready: BTreeMap<ObjectName, Ready>,
    /// Of this node: its own addresses and its pods' ranges.
    ranges: Vec<IpNet>,
}

/// A slice's addresses of ready endpoints.
#[derive(Debug)]
struct Ready {
    service: ObjectName,
    /// Of those that name this node.
    here: BTreeSet<IpAddr>,
    /// Of those that name none: they are where their addresses are.
    somewhere: BTreeSet<IpAddr>,
}

impl Counts {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            ports: BTreeMap::new(),
            ready: BTreeMap::new(),
            ranges: Vec::new(),
        }
    }

    pub(super) fn apply(&mut self, batch: &Batch) {
        if batch.full {
            self.ports.clear();
            self.ready.clear();
            self.ranges.clear();
        }
        for event in &batch.events {
            match event {
                Event::ServiceSet(name, service) => {
                    match port(service) {
                        Some(port) => self.ports.insert(name.clone(), port),
                        None => self.ports.remove(name),
                    };
                }
                Event::ServiceRemoved(name) => {
                    self.ports.remove(name);
                }
                Event::SliceSet(name, slice) => {
                    let service = ObjectName {
                        namespace: name.namespace.clone(),
                        name: slice.service.clone(),
                    };
                    match self.ready_in(service, slice) {
                        Some(ready) => self.ready.insert(name.clone(), ready),
                        None => self.ready.remove(name),
                    };
                }
                Event::SliceRemoved(name) => {
                    self.ready.remove(name);
                }
                Event::NodeSet(name, node) if *name == self.node => self.ranges = ranges(node),
                Event::NodeRemoved(name) if *name == self.node => self.ranges.clear(),
                Event::NodeSet(..) | Event::NodeRemoved(..) => {}
            }
        }
    }

    fn ready_in(&self, service: ObjectName, slice: &EndpointSlice) -> Option<Ready> {
        let addresses = |is_meant: &dyn Fn(&Endpoint) -> bool| -> BTreeSet<IpAddr> {
            let ready = slice.endpoints.iter().filter(|endpoint| endpoint.ready);
            ready
                .filter(|endpoint| is_meant(endpoint))
                .flat_map(|endpoint| endpoint.addresses.iter().copied())
                .collect()
        };
        let here = addresses(&|endpoint| endpoint.node.as_ref() == Some(&self.node));
        let somewhere = addresses(&|endpoint| endpoint.node.is_none());
        (!here.is_empty() || !somewhere.is_empty()).then_some(Ready {
            service,
            here,
            somewhere,
        })
    }

    /// By port; of two Services that name the same one, the first by name has it.
    pub(super) fn checks(&self) -> BTreeMap<u16, Check> {
        let mut checks = BTreeMap::new();
        for (service, port) in &self.ports {
            checks.entry(*port).or_insert_with(|| Check {
                service: service.clone(),
                endpoints: self.endpoints(service),
            });
        }
        checks
    }

    fn endpoints(&self, service: &ObjectName) -> usize {
        let slices = self.ready.values().filter(|it| it.service == *service);
        let is_ours = |address: &&IpAddr| self.ranges.iter().any(|range| range.contains(*address));
        let addresses: BTreeSet<_> = slices
            .flat_map(|it| it.here.iter().chain(it.somewhere.iter().filter(is_ours)))
            .collect();
        addresses.len()
    }
}

fn ranges(node: &Node) -> Vec<IpNet> {
    let own = node.internal_ips.iter().copied().map(IpNet::from);
    own.chain(node.pod_cidrs.iter().copied()).collect()
}

fn port(service: &Service) -> Option<u16> {
    service
        .health_check_node_port
        .filter(|port| *port != 0 && service.external_traffic_local)
}
