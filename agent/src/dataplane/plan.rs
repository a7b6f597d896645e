//! Services and EndpointSlices in, ordered map operations out. Pure: no map, no clock.
//!
//! The order of operations is what makes a change atomic: the slots of every new set are written to ranges
//! that nothing points to, then each service is flipped to its new range by one update. A range that was
//! flipped away from is retired, and reused only after a grace period ([`Planner::reclaim`]).

mod endpoints;
mod slots;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{SCOPE_INSIDE, SERVICE_HOST_PORT, ServiceKey, ServiceValue, Slot};

pub use self::endpoints::Backend;
use self::endpoints::{Rank, backends, keys, port_of};
use self::slots::SlotSpace;
use crate::cluster::{Batch, EndpointSlice, Event, ObjectName, Protocol, Service};

/// One change of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Slots that nothing points to yet.
    Slots {
        base: u32,
        slots: Vec<Slot>,
    },
    /// From here on the service has these backends.
    Set {
        key: ServiceKey,
        value: ServiceValue,
    },
    Remove {
        key: ServiceKey,
    },
}

/// Something that could not be planned; the rest goes on, and what was before stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("no room for {wanted} backends of {key:?} in the slot table ({used} of {size} in use)")]
    Slots {
        key: ServiceKey,
        wanted: usize,
        used: u32,
        size: u32,
    },
    #[error("no room for {key:?} in the service table ({size} in use)")]
    Services { key: ServiceKey, size: usize },
}

/// A backend that new connections to a key are not sent to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gone {
    pub key: ServiceKey,
    pub backend: Backend,
    pub state: GoneState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GoneState {
    /// Not picked any more, but there: UDP state is to go, TCP connections live on.
    Unused,
    /// In no slice of the Service any more: TCP connections are to be closed as well.
    Removed,
}

/// A port of the node that leads to one of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// None, or unspecified: every address of the node.
    pub host_ip: Option<IpAddr>,
    /// Host order, as `container_port`.
    pub port: u16,
    pub protocol: Protocol,
    /// The pod's.
    pub addresses: Vec<IpAddr>,
    pub container_port: u16,
}

/// What to do for a batch, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub operations: Vec<Operation>,
    /// Backends that a service had and has no more: their sockets are to be closed.
    pub gone: Vec<Gone>,
    pub problems: Vec<Problem>,
}

/// A service as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    value: ServiceValue,
    backends: Box<[Backend]>,
}

/// An entry that is there regardless of the cluster's Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    pub key: ServiceKey,
    pub backends: Vec<Backend>,
    pub flags: u32,
}

#[derive(Debug)]
pub struct Planner {
    node: String,
    services: HashMap<ObjectName, Service>,
    slices: HashMap<ObjectName, EndpointSlice>,
    slices_of: HashMap<ObjectName, BTreeSet<ObjectName>>,
    claims: HashMap<ServiceKey, BTreeSet<(Rank, ObjectName)>>,
    fixed: BTreeMap<ServiceKey, Fixed>,
    pods: HashMap<String, Vec<ServiceKey>>,
    entries: HashMap<ServiceKey, Entry>,
    /// Keys to look at again: their change could not be planned or not be executed.
    pending: BTreeSet<ServiceKey>,
    space: SlotSpace,
    max_services: usize,
    epoch: u64,
    next_set: u32,
    next_service: u32,
}

impl Planner {
    pub fn new(node: impl Into<String>, max_services: usize, max_slots: u32) -> Self {
        Self {
            node: node.into(),
            services: HashMap::new(),
            slices: HashMap::new(),
            slices_of: HashMap::new(),
            claims: HashMap::new(),
            fixed: BTreeMap::new(),
            pods: HashMap::new(),
            entries: HashMap::new(),
            pending: BTreeSet::new(),
            space: SlotSpace::new(max_slots),
            max_services,
            epoch: 0,
            next_set: 1,
            next_service: 1,
        }
    }

    /// Takes over what the kernel has from an earlier run. A value that contradicts itself or another is not
    /// taken: its key is reported as missing, so that it will be written anew.
    pub fn adopt(&mut self, found: impl Iterator<Item = (ServiceKey, ServiceValue, Vec<Slot>)>) {
        for (key, value, slots) in found {
            self.next_set = self.next_set.max(value.set.wrapping_add(1)).max(1);
            self.next_service = self.next_service.max(value.service.wrapping_add(1)).max(1);
            let sound = slots.len() == value.count as usize
                && slots.iter().all(|slot| slot.set == value.set)
                && self.space.claim(value.base, value.count);
            let backends = slots
                .iter()
                .map(|slot| Backend {
                    address: slot.address,
                    port: u16::from_be(slot.port),
                })
                .collect();
            let value = if sound {
                value
            } else {
                self.pending.insert(key);
                // Owns no slots, and equals no wanted set.
                ServiceValue {
                    base: 0,
                    count: 0,
                    set: 0,
                    ..value
                }
            };
            self.entries.insert(key, Entry { value, backends });
        }
    }

    /// An entry of our own, which Services cannot claim.
    pub fn fix(&mut self, fixed: Fixed) {
        self.pending.insert(fixed.key);
        self.fixed.insert(fixed.key, fixed);
    }

    /// The ports of the node that lead to a pod, instead of those that did.
    pub fn host_ports(&mut self, uid: &str, ports: &[HostPort]) {
        for key in self.pods.remove(uid).unwrap_or_default() {
            self.fixed.remove(&key);
            self.pending.insert(key);
        }
        let mut keys = Vec::new();
        for port in ports {
            for address in port.addresses.iter().copied().map(Address::from) {
                let any = if address.is_v4() {
                    Address::ANY_V4
                } else {
                    Address::ANY_V6
                };
                let host = port
                    .host_ip
                    .map(Address::from)
                    .filter(|ip| !ip.is_unspecified());
                let key = ServiceKey {
                    address: host.unwrap_or(any),
                    port: port.port.to_be(),
                    protocol: endpoints::number(port.protocol),
                    scope: SCOPE_INSIDE,
                };
                if key.address.is_v4() != address.is_v4() || self.fixed.contains_key(&key) {
                    continue;
                }
                keys.push(key);
                let backends = vec![Backend {
                    address,
                    port: port.container_port,
                }];
                self.fix(Fixed {
                    key,
                    backends,
                    flags: SERVICE_HOST_PORT,
                });
            }
        }
        if !keys.is_empty() {
            self.pods.insert(uid.to_owned(), keys);
        }
    }

    pub fn services(&self) -> usize {
        self.entries.len()
    }

    /// Seconds of ClientIP affinity, by [`ServiceValue::service`].
    pub fn affinities(&self) -> HashMap<u32, u32> {
        let values = self.entries.values().map(|entry| entry.value);
        values
            .filter(|value| value.affinity != 0)
            .map(|value| (value.service, value.affinity))
            .collect()
    }

    pub fn backends(&self) -> usize {
        self.entries
            .values()
            .map(|entry| entry.backends.len())
            .sum()
    }

    pub fn slots_used(&self) -> u32 {
        self.space.used()
    }

    /// Grows by one with every plan.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Ranges retired by plans up to `epoch` are out of every program's sight.
    pub fn reclaim(&mut self, epoch: u64) {
        self.space.reclaim(epoch);
    }

    /// Whether there are changes that [`Self::retry`] should try again.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// The kernel did not take these keys' last operation: nothing is known about them any more.
    pub fn failed(&mut self, keys: impl IntoIterator<Item = ServiceKey>) {
        for key in keys {
            if let Some(entry) = self.entries.get_mut(&key) {
                self.space
                    .retire(self.epoch, entry.value.base, entry.value.count);
                entry.value.count = 0;
                entry.value.set = 0;
            }
            self.pending.insert(key);
        }
    }

    pub fn retry(&mut self) -> Plan {
        let dirty = std::mem::take(&mut self.pending);
        self.plan(dirty)
    }

    /// Plans the batch's changes; the planner then takes them as done.
    pub fn apply(&mut self, batch: &Batch) -> Plan {
        let mut dirty = std::mem::take(&mut self.pending);
        if batch.full {
            dirty.extend(self.entries.keys().copied());
            self.services.clear();
            self.slices.clear();
            self.slices_of.clear();
            self.claims.clear();
        }
        for event in &batch.events {
            match event {
                Event::ServiceSet(name, service) => self.set_service(name, service, &mut dirty),
                Event::ServiceRemoved(name) => self.remove_service(name, &mut dirty),
                Event::SliceSet(name, slice) => self.set_slice(name, slice, &mut dirty),
                Event::SliceRemoved(name) => self.remove_slice(name, &mut dirty),
                Event::NodeSet(..) | Event::NodeRemoved(..) => {}
            }
        }
        self.plan(dirty)
    }

    fn set_service(
        &mut self,
        name: &ObjectName,
        service: &Service,
        dirty: &mut BTreeSet<ServiceKey>,
    ) {
        self.remove_service(name, dirty);
        for (key, rank) in keys(service) {
            self.claims
                .entry(key)
                .or_default()
                .insert((rank, name.clone()));
            dirty.insert(key);
        }
        self.services.insert(name.clone(), service.clone());
    }

    fn remove_service(&mut self, name: &ObjectName, dirty: &mut BTreeSet<ServiceKey>) {
        let Some(service) = self.services.remove(name) else {
            return;
        };
        for (key, rank) in keys(&service) {
            if let Some(claims) = self.claims.get_mut(&key) {
                claims.remove(&(rank, name.clone()));
                if claims.is_empty() {
                    self.claims.remove(&key);
                }
            }
            dirty.insert(key);
        }
    }

    fn set_slice(
        &mut self,
        name: &ObjectName,
        slice: &EndpointSlice,
        dirty: &mut BTreeSet<ServiceKey>,
    ) {
        self.remove_slice(name, dirty);
        let service = ObjectName {
            namespace: name.namespace.clone(),
            name: slice.service.clone(),
        };
        self.dirty_service(&service, dirty);
        self.slices_of
            .entry(service)
            .or_default()
            .insert(name.clone());
        self.slices.insert(name.clone(), slice.clone());
    }

    fn remove_slice(&mut self, name: &ObjectName, dirty: &mut BTreeSet<ServiceKey>) {
        let Some(slice) = self.slices.remove(name) else {
            return;
        };
        let service = ObjectName {
            namespace: name.namespace.clone(),
            name: slice.service,
        };
        if let Some(names) = self.slices_of.get_mut(&service) {
            names.remove(name);
            if names.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        self.dirty_service(&service, dirty);
    }

    fn dirty_service(&self, name: &ObjectName, dirty: &mut BTreeSet<ServiceKey>) {
        if let Some(service) = self.services.get(name) {
            dirty.extend(keys(service).into_iter().map(|(key, _)| key));
        }
    }

    /// Backends, affinity and flags that a key should have; nothing if it should not be there.
    fn wanted(&self, key: &ServiceKey) -> Option<(Vec<Backend>, u32, u32)> {
        if let Some(fixed) = self.fixed.get(key) {
            return Some((fixed.backends.clone(), 0, fixed.flags));
        }
        let (rank, name) = self.claims.get(key)?.first()?;
        let service = self.services.get(name)?;
        let port = port_of(service, key)?;
        let slices = self
            .slices_of
            .get(name)
            .into_iter()
            .flatten()
            .filter_map(|slice| self.slices.get(slice));
        let local = (*rank == Rank::Cluster && service.internal_traffic_local)
            .then_some(self.node.as_str());
        let backends = backends(service, port, slices, key.address.is_v4(), local);
        Some((backends, service.session_affinity.unwrap_or(0), 0))
    }

    fn plan(&mut self, dirty: BTreeSet<ServiceKey>) -> Plan {
        self.epoch += 1;
        let mut plan = Plan::default();
        let mut sets = Vec::new();
        let mut wanted_keys = Vec::new();
        // Removals first: they make room.
        for key in dirty {
            match self.wanted(&key) {
                Some(wanted) => wanted_keys.push((key, wanted)),
                None => self.remove(key, &mut plan),
            }
        }
        for (key, wanted) in wanted_keys {
            self.set(key, wanted, &mut plan, &mut sets);
        }
        // Slots of all sets lie before the first flip; removals touch no slot.
        plan.operations.extend(sets);
        plan
    }

    fn remove(&mut self, key: ServiceKey, plan: &mut Plan) {
        if let Some(entry) = self.entries.remove(&key) {
            self.space
                .retire(self.epoch, entry.value.base, entry.value.count);
            let state = GoneState::Unused;
            plan.gone.extend(entry.backends.iter().map(|backend| Gone {
                key,
                backend: *backend,
                state,
            }));
            plan.operations.push(Operation::Remove { key });
        }
    }

    fn set(
        &mut self,
        key: ServiceKey,
        (backends, affinity, flags): (Vec<Backend>, u32, u32),
        plan: &mut Plan,
        sets: &mut Vec<Operation>,
    ) {
        let old = self.entries.get(&key);
        let count = backends.len() as u32;
        if let Some(old) = old
            && old.value.set != 0
            && *old.backends == *backends
        {
            let value = ServiceValue {
                affinity,
                flags,
                maglev: 0,
                padding: 0,
                ..old.value
            };
            if value != old.value {
                sets.push(Operation::Set { key, value });
                self.entries.insert(
                    key,
                    Entry {
                        value,
                        backends: backends.into(),
                    },
                );
            }
            return;
        }
        if old.is_none() && self.entries.len() >= self.max_services {
            self.pending.insert(key);
            plan.problems.push(Problem::Services {
                key,
                size: self.max_services,
            });
            return;
        }
        let Some(base) = self.space.allocate(count) else {
            self.pending.insert(key);
            plan.problems.push(Problem::Slots {
                key,
                wanted: backends.len(),
                used: self.space.used(),
                size: self.space.size(),
            });
            return;
        };
        let set = self.next_set;
        self.next_set = self.next_set.checked_add(1).unwrap_or(1);
        let service = old.map_or(self.next_service, |old| old.value.service);
        if old.is_none() {
            self.next_service = self.next_service.checked_add(1).unwrap_or(1);
        }
        let value = ServiceValue {
            base,
            count,
            set,
            service,
            affinity,
            flags,
            maglev: 0,
            padding: 0,
        };
        if count > 0 {
            let slots = backends
                .iter()
                .map(|backend| Slot {
                    address: backend.address,
                    port: backend.port.to_be(),
                    flags: 0,
                    set,
                })
                .collect();
            plan.operations.push(Operation::Slots { base, slots });
        }
        sets.push(Operation::Set { key, value });
        let entry = Entry {
            value,
            backends: backends.into(),
        };
        if let Some(old) = self.entries.insert(key, entry) {
            self.space
                .retire(self.epoch, old.value.base, old.value.count);
            let now = &self.entries[&key].backends;
            let name = self
                .claims
                .get(&key)
                .and_then(|claims| claims.first())
                .map(|(_, name)| name);
            let slices = name
                .and_then(|name| self.slices_of.get(name))
                .into_iter()
                .flatten();
            let there: BTreeSet<IpAddr> = slices
                .filter_map(|slice| self.slices.get(slice))
                .flat_map(|slice| {
                    slice
                        .endpoints
                        .iter()
                        .flat_map(|endpoint| endpoint.addresses.iter().copied())
                })
                .collect();
            plan.gone.extend(
                old.backends
                    .iter()
                    .filter(|backend| !now.contains(backend))
                    .map(|backend| Gone {
                        key,
                        backend: *backend,
                        state: if there.contains(&IpAddr::from(backend.address)) {
                            GoneState::Unused
                        } else {
                            GoneState::Removed
                        },
                    }),
            );
        }
    }
}

#[cfg(test)]
mod tests;
