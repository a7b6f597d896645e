//! Which Services are asked about on which port, and how many endpoints they have on this node. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cluster::{Batch, EndpointSlice, Event, ObjectName, Service};

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
    /// Addresses of ready endpoints on this node, by slice; slices without any are left out.
    ready: BTreeMap<ObjectName, (ObjectName, BTreeSet<IpAddr>)>,
}

impl Counts {
    pub(super) fn new(node: String) -> Self {
        Self {
            node,
            ports: BTreeMap::new(),
            ready: BTreeMap::new(),
        }
    }

    pub(super) fn apply(&mut self, batch: &Batch) {
        if batch.full {
            self.ports.clear();
            self.ready.clear();
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
                    let ready = self.ready_in(slice);
                    if ready.is_empty() {
                        self.ready.remove(name);
                    } else {
                        let service = ObjectName {
                            namespace: name.namespace.clone(),
                            name: slice.service.clone(),
                        };
                        self.ready.insert(name.clone(), (service, ready));
                    }
                }
                Event::SliceRemoved(name) => {
                    self.ready.remove(name);
                }
                Event::NodeSet(..) | Event::NodeRemoved(..) => {}
            }
        }
    }

    fn ready_in(&self, slice: &EndpointSlice) -> BTreeSet<IpAddr> {
        slice
            .endpoints
            .iter()
            .filter(|endpoint| endpoint.ready && endpoint.node.as_ref() == Some(&self.node))
            .flat_map(|endpoint| endpoint.addresses.iter().copied())
            .collect()
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
        let slices = self.ready.values().filter(|(of, _)| of == service);
        let addresses: BTreeSet<_> = slices.flat_map(|(_, addresses)| addresses).collect();
        addresses.len()
    }
}

fn port(service: &Service) -> Option<u16> {
    service
        .health_check_node_port
        .filter(|port| *port != 0 && service.external_traffic_local)
}
