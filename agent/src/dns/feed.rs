//! Keeps the zone true to the cluster's events: works out which Services a batch touches and replaces the
//! names of those alone. Pure.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ipnet::IpNet;

use super::zone::Zone;
use super::zone::service::{ServiceFacts, ServiceNames, SliceFacts};
use crate::cluster::{Batch, Event, ObjectName};

/// The cluster as far as names need it. Owned by one task.
#[derive(Debug)]
pub(crate) struct Feed {
    zone: Zone,
    services: HashMap<Arc<ObjectName>, ServiceFacts>,
    slices: HashMap<Arc<ObjectName>, SliceFacts>,
    /// Slices of a Service.
    slices_of: HashMap<Arc<ObjectName>, Vec<Arc<ObjectName>>>,
    nodes: HashMap<String, Vec<IpNet>>,
}

impl Feed {
    pub(crate) fn new(zone: Zone) -> Self {
        Self {
            zone,
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            nodes: HashMap::new(),
        }
    }

    /// Applies a whole batch and returns the zone as it is then.
    pub(crate) fn apply(&mut self, batch: &Batch) -> Arc<Zone> {
        let mut touched = HashSet::new();
        let nodes_before = batch.full || batch.events.iter().any(is_about_node);
        if batch.full {
            self.drop_missing(batch, &mut touched);
        }
        for event in &batch.events {
            self.event(event, &mut touched);
        }
        for object in &touched {
            let names = self.services.get(object).map(|service| {
                let slices = self.slices_of.get(object).into_iter().flatten();
                let slices = slices.filter_map(|name| self.slices.get(name));
                ServiceNames::new(object.clone(), service, slices)
            });
            self.zone.set_service(object, names);
        }
        if nodes_before {
            let cidrs = self.nodes.values().flatten().map(IpNet::trunc).collect();
            self.zone.set_pod_cidrs(cidrs);
        }
        self.zone.set_revision(batch.revision);
        Arc::new(self.zone.clone())
    }

    /// What a full batch does not name is gone.
    fn drop_missing(&mut self, batch: &Batch, touched: &mut HashSet<Arc<ObjectName>>) {
        let (mut services, mut slices, mut nodes) =
            (HashSet::new(), HashSet::new(), HashSet::new());
        for event in &batch.events {
            match event {
                Event::ServiceSet(name, _) => drop(services.insert(name)),
                Event::SliceSet(name, _) => drop(slices.insert(name)),
                Event::NodeSet(name, _) => drop(nodes.insert(name)),
                _ => {}
            }
        }
        let gone = |name: &&Arc<ObjectName>| !services.contains(name.as_ref());
        let gone: Vec<Arc<ObjectName>> = self.services.keys().filter(gone).cloned().collect();
        for name in gone {
            self.services.remove(&name);
            touched.insert(name);
        }
        let gone = |name: &&Arc<ObjectName>| !slices.contains(name.as_ref());
        let gone: Vec<Arc<ObjectName>> = self.slices.keys().filter(gone).cloned().collect();
        for name in &gone {
            self.remove_slice(name, touched);
        }
        self.nodes.retain(|name, _| nodes.contains(name));
    }

    fn event(&mut self, event: &Event, touched: &mut HashSet<Arc<ObjectName>>) {
        match event {
            Event::ServiceSet(name, service) => {
                let name = Arc::new(name.clone());
                self.services
                    .insert(name.clone(), ServiceFacts::new(service));
                touched.insert(name);
            }
            Event::ServiceRemoved(name) => {
                self.services.remove(name);
                touched.insert(Arc::new(name.clone()));
            }
            Event::SliceSet(name, slice) => {
                self.remove_slice(name, touched);
                let service = Arc::new(ObjectName {
                    namespace: name.namespace.clone(),
                    name: slice.service.clone(),
                });
                let name = Arc::new(name.clone());
                let facts = SliceFacts::new(service.clone(), slice);
                self.slices.insert(name.clone(), facts);
                self.slices_of
                    .entry(service.clone())
                    .or_default()
                    .push(name);
                touched.insert(service);
            }
            Event::SliceRemoved(name) => self.remove_slice(name, touched),
            Event::NodeSet(name, node) => {
                self.nodes.insert(name.clone(), node.pod_cidrs.clone());
            }
            Event::NodeRemoved(name) => {
                self.nodes.remove(name);
            }
        }
    }

    fn remove_slice(&mut self, name: &ObjectName, touched: &mut HashSet<Arc<ObjectName>>) {
        let Some(slice) = self.slices.remove(name) else {
            return;
        };
        if let Some(slices) = self.slices_of.get_mut(&slice.service) {
            slices.retain(|other| **other != *name);
            if slices.is_empty() {
                self.slices_of.remove(&slice.service);
            }
        }
        touched.insert(slice.service);
    }
}

fn is_about_node(event: &Event) -> bool {
    matches!(event, Event::NodeSet(..) | Event::NodeRemoved(_))
}
