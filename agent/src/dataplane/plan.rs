//! Services, EndpointSlices, this node and its pods' hostPorts in, ordered map operations out. Pure: no map, no clock.
//!
//! ```text
//!   follow         what is told of Services, EndpointSlices and this node
//!   host_ports fixtures   hostPorts of pods; keys that no Service decides
//!   place          one owner's keys: which backends they should have
//!   placer         which set that is, and what has gone
//!   endpoints      which endpoints of a port take traffic (policies, topology, terminating)
//!   claims         who may have a key
//!   spec slices    what is kept of a Service, of an EndpointSlice
//!   kernel         what the tables hold; undo; retired sets
//!   slots maglev   ranges of the slot table; Maglev tables
//! ```
//! The order of operations is what makes a change atomic: the slots and Maglev tables of every new set are written
//! where nothing points to, then each key is flipped to its new set by one update. What was flipped away from is
//! retired, and reused only after a grace period ([`Planner::reclaim`]). Either all keys of a Service port change or
//! none does: what finds no room keeps what it had, under a [`Problem`].
//!
//! Where Kubernetes leaves it open, or where this differs from kube-proxy:
//! - Several claims on one key (external IP, node port, hostPort): a ClusterIP wins over others, then the first claim
//!   stays for as long as it is made; over a restart, the one that the kernel has.
//! - `loadBalancerSourceRanges` of one family alone admit nobody of the other family.
//! - A port with more backends than [`Limits::backends`] gets the first ones, in order of their addresses.
//! - An endpoint without `nodeName` is on the node that has its address, or the range that it is in.
//! - A Service that goes leaves its backends [`GoneState::Unused`]: that its slices go too says nothing about the pods.

mod claims;
mod endpoints;
mod failures;
mod fixtures;
mod follow;
mod host_ports;
mod kernel;
mod maglev;
mod place;
mod placer;
mod slab;
mod slices;
mod slots;
mod spec;
mod types;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use agent_ebpf::layout::ServiceKey;

use self::claims::{Claimed, Claims};
use self::endpoints::Place;
pub(crate) use self::failures::Failures;
use self::fixtures::Fixture;
use self::kernel::Kernel;
pub(crate) use self::maglev::blocks as maglev_blocks;
use self::place::{OwnerState, ServiceState};
use self::slab::Slab;
use self::slices::{HintsPool, Slice};
use self::spec::{Ask, Rank, Spec};
pub use self::types::{
    AddressKind, Backend, Fixed, Found, Gone, GoneState, HostPort, Limits, Nonsense, Operation,
    Plan, Problem, Range,
};
use self::types::{OwnerId, usable};
use crate::cluster::{Batch, Event, ObjectName};

/// Keys are integers that operators choose; a fast hash with a seed of the process will do.
type Hashing = foldhash::fast::RandomState;

/// A slice and whose it is.
#[derive(Debug)]
struct Known {
    service: OwnerId,
    slice: Slice,
    /// The full batch that last named it.
    seen: u32,
}

#[derive(Debug)]
pub struct Planner {
    dsr: bool,
    place: Place,
    limits: Limits,
    owners: Slab<OwnerState>,
    services: HashMap<Arc<ObjectName>, OwnerId>,
    slices: Slab<Known>,
    slice_ids: HashMap<ObjectName, u32>,
    hints: HintsPool,
    /// Our own entries.
    fixed: Option<OwnerId>,
    /// Pods with hostPorts, by UID.
    pods: HashMap<String, OwnerId>,
    claims: Claims,
    kernel: Kernel,
    /// To be looked at in the next plan; each has its flag set.
    dirty: Vec<OwnerId>,
    /// Keys that somebody does not claim any more.
    released: Vec<ServiceKey>,
    /// Service numbers that nobody bears any more.
    numbers: Vec<u32>,
    /// Claims that were refused in this batch.
    refused: Vec<(ServiceKey, OwnerId)>,
    /// hostPorts that an earlier run left and no pod has claimed yet; this owner holds them meanwhile.
    orphans: HashSet<ServiceKey, Hashing>,
    orphanage: Option<OwnerId>,
    /// Service numbers that an earlier run gave, until the first full batch is applied.
    adopted: HashSet<u32, Hashing>,
    /// A full batch has been applied.
    is_synced: bool,
    /// There may be something in the tables that nothing refers to.
    sweep: bool,
    generation: u32,
    asks: Vec<Ask>,
}

impl Planner {
    /// `dsr`: other nodes send us packets for Services with client and Service address unchanged.
    pub fn new(node: impl Into<String>, dsr: bool, limits: Limits) -> Self {
        Self {
            dsr,
            place: Place {
                node: node.into(),
                ..Place::default()
            },
            limits,
            owners: Slab::default(),
            services: HashMap::new(),
            slices: Slab::default(),
            slice_ids: HashMap::new(),
            hints: HintsPool::default(),
            fixed: None,
            pods: HashMap::new(),
            claims: Claims::default(),
            kernel: Kernel::new(limits),
            dirty: Vec::new(),
            released: Vec::new(),
            numbers: Vec::new(),
            refused: Vec::new(),
            orphans: HashSet::default(),
            orphanage: None,
            adopted: HashSet::default(),
            is_synced: false,
            sweep: false,
            generation: 0,
            asks: Vec::new(),
        }
    }

    /// Takes over what the kernel has from an earlier run. A value that contradicts itself or another is not
    /// taken: it will be written anew.
    pub fn adopt(&mut self, found: &Found) {
        self.kernel.adopt(found);
        self.adopted
            .extend(found.services.iter().map(|(_, value)| value.service));
    }

    /// Whether a key has the backend, by the last plan.
    pub fn has(&self, key: &ServiceKey, backend: &Backend) -> bool {
        let value = self.kernel.entry(key);
        value.is_some_and(|value| {
            self.kernel
                .backends_of(value)
                .binary_search(backend)
                .is_ok()
        })
    }

    /// Keys in the service table.
    pub fn services(&self) -> usize {
        self.kernel.entries().len()
    }

    /// Seconds of ClientIP affinity, by [`ServiceValue::service`].
    pub fn affinities(&self) -> HashMap<u32, u32> {
        let values = self.kernel.entries().values();
        values
            .filter(|value| value.affinity != 0)
            .map(|value| (value.service, value.affinity))
            .collect()
    }

    /// Backends of all keys.
    pub fn backends(&self) -> usize {
        self.kernel
            .entries()
            .values()
            .map(|value| value.count as usize)
            .sum()
    }

    pub fn slots_used(&self) -> u32 {
        self.kernel.slots_used()
    }

    pub fn maglev_tables_used(&self) -> usize {
        self.kernel.tables_used()
    }

    pub fn source_ranges_used(&self) -> usize {
        self.kernel.ranges_used()
    }

    /// Lowest and highest port of a key that stands for all addresses of the node; none: the lowest is higher.
    pub fn node_ports(&self) -> (u16, u16) {
        self.kernel.node_ports()
    }

    /// Grows by one with every plan.
    pub fn epoch(&self) -> u64 {
        self.kernel.epoch
    }

    /// What plans up to `epoch` retired is out of every program's sight: the operations that give back what is not
    /// given back by forgetting.
    #[must_use]
    pub fn reclaim(&mut self, epoch: u64) -> Vec<Operation> {
        self.kernel.reclaim(epoch)
    }

    /// Whether there are changes that [`Self::retry`] should try again.
    pub fn is_pending(&self) -> bool {
        !self.dirty.is_empty() || !self.released.is_empty()
    }

    /// These operations of the last plan were not done; `Set`s that need one of them were not done either and are
    /// named too. What their keys had before stays, and is tried to change again.
    pub fn failed(&mut self, operations: &[Operation]) {
        let mut keys: HashSet<ServiceKey, Hashing> = HashSet::default();
        let mut all = false;
        for operation in operations {
            match operation {
                Operation::Set { key, .. } | Operation::Remove { key } => drop(keys.insert(*key)),
                Operation::Maglev { table, .. } => self.kernel.table_failed(*table),
                Operation::Admit { range } => {
                    self.kernel.range_failed(range, false);
                    all = true;
                }
                Operation::Unadmit { range } => {
                    self.kernel.range_failed(range, true);
                    all = true;
                    self.sweep = true;
                }
                Operation::RemoveMaglev { table } => {
                    self.kernel.table_left(*table);
                    self.sweep = true;
                }
                Operation::NodePorts { .. } => self.kernel.node_ports_failed(),
                // Nothing points there.
                Operation::Slots { .. } => {}
            }
        }
        self.kernel.undo(&keys);
        if all {
            // Rare, and simpler than knowing whose the range is.
            self.mark_all();
        }
        for key in keys {
            match self.claims.holder(&key) {
                Some(owner) => self.mark(owner),
                None => self.released.push(key),
            }
        }
    }

    /// Plans again what could not be planned, or not be done.
    pub fn retry(&mut self) -> Plan {
        self.plan(Plan::default())
    }

    /// Plans the batch's changes; the planner then takes them as done (see [`Self::failed`]).
    pub fn apply(&mut self, batch: &Batch) -> Plan {
        let mut plan = Plan::default();
        if batch.full {
            self.generation += 1;
        }
        let mut is_here = false;
        for event in &batch.events {
            match event {
                Event::ServiceSet(name, service) => self.set_service(name, service),
                Event::ServiceRemoved(name) => self.remove_service(name),
                Event::SliceSet(name, slice) => self.set_slice(name, slice, &mut plan),
                Event::SliceRemoved(name) => self.remove_slice(name),
                Event::NodeSet(name, node) if *name == self.place.node => {
                    is_here = true;
                    self.set_node(Some(node));
                }
                Event::NodeRemoved(name) if *name == self.place.node => self.set_node(None),
                Event::NodeSet(..) | Event::NodeRemoved(..) => {}
            }
        }
        if batch.full {
            if !is_here {
                self.set_node(None);
            }
            self.remove_unseen();
            self.services.shrink_to_fit();
            self.slice_ids.shrink_to_fit();
            self.claims.shrink();
        }
        let is_first = batch.full && !self.is_synced;
        if is_first {
            self.is_synced = true;
            self.sweep = true;
            self.mark_all();
            self.settle();
            self.release_unclaimed();
        }
        self.name_conflicts(&mut plan);
        let plan = self.plan(plan);
        if is_first {
            let value_of = |key| self.kernel.entry(key).map(|value| value.service);
            self.adopted = self.orphans.iter().filter_map(value_of).collect();
        }
        plan
    }

    /// An entry of our own, which nobody else can claim.
    pub fn fix(&mut self, fixed: Fixed) {
        let owner = match self.fixed {
            Some(owner) => owner,
            None => {
                let owner = OwnerId(self.owners.insert(OwnerState::fixed()));
                self.fixed = Some(owner);
                owner
            }
        };
        let fixture = Fixture::new(vec![fixed.key], fixed.backends, fixed.flags);
        if let Some(OwnerState::Fixed(state)) = self.owners.get_mut(owner.0) {
            state.fixtures.push(fixture);
        }
        self.claims.claim(fixed.key, owner, Rank::Own);
        self.mark(owner);
    }

    fn mark(&mut self, owner: OwnerId) {
        if let Some(state) = self.owners.get_mut(owner.0)
            && !std::mem::replace(state.is_dirty(), true)
        {
            self.dirty.push(owner);
        }
    }

    fn mark_all(&mut self) {
        for id in self.owners.ids() {
            self.mark(OwnerId(id));
        }
    }

    fn claim(&mut self, key: ServiceKey, owner: OwnerId, rank: Rank) {
        match self.claims.claim(key, owner, rank) {
            Claimed::Held => {}
            Claimed::Refused => self.refused.push((key, owner)),
            Claimed::Displaced(other) => {
                self.refused.push((key, other));
                self.mark(other);
            }
        }
    }

    fn release(&mut self, key: ServiceKey, owner: OwnerId) {
        match self.claims.release(&key, owner) {
            Some(next) => self.mark(next),
            None if self.claims.holder(&key).is_none() => self.released.push(key),
            None => {}
        }
    }

    fn service(&mut self, name: &ObjectName) -> OwnerId {
        if let Some(id) = self.services.get(name) {
            return *id;
        }
        let name = Arc::new(name.clone());
        let id = OwnerId(
            self.owners
                .insert(OwnerState::Service(ServiceState::new(Arc::clone(&name)))),
        );
        self.services.insert(name, id);
        id
    }

    fn service_state(&mut self, id: OwnerId) -> Option<&mut ServiceState> {
        match self.owners.get_mut(id.0) {
            Some(OwnerState::Service(state)) => Some(state),
            _ => None,
        }
    }

    fn asks(&self, spec: Option<&Spec>) -> Vec<Ask> {
        let mut asks = Vec::new();
        if let Some(spec) = spec {
            spec.asks(self.dsr, |address| self.place.is_own(address), &mut asks);
        }
        asks
    }

    /// The kernel knows which of several claims was first in the run before.
    fn settle(&mut self) {
        for (key, owners) in self.claims.contested() {
            let strongest = owners
                .iter()
                .filter_map(|owner| Some((self.evidence(&key, *owner)?, *owner)))
                .reduce(|best, other| if other.0 > best.0 { other } else { best });
            if let Some((_, owner)) = strongest
                && let Some(other) = self.claims.prefer(&key, owner)
            {
                self.refused.push((key, other));
            }
        }
    }

    fn name_conflicts(&mut self, plan: &mut Plan) {
        for (key, owner) in std::mem::take(&mut self.refused) {
            let Some(holder) = self.claims.holder(&key).filter(|holder| *holder != owner) else {
                continue;
            };
            if Some(holder) == self.fixed && self.is_dns_service(owner) {
                // What it asks for is answered on every node.
                continue;
            }
            if let (Some(refused), Some(holder)) = (self.name_of(owner), self.name_of(holder)) {
                plan.problems.push(Problem::Conflict {
                    key,
                    refused,
                    holder,
                });
            }
        }
    }

    /// The Service that says where cluster DNS is, and has no endpoints.
    fn is_dns_service(&self, owner: OwnerId) -> bool {
        matches!(self.owners.get(owner.0), Some(OwnerState::Service(state))
            if state.name.namespace == "kube-system" && state.name.name == "kube-dns")
    }

    fn name_of(&self, owner: OwnerId) -> Option<String> {
        match self.owners.get(owner.0)? {
            OwnerState::Service(state) => Some(format!(
                "Service {}/{}",
                state.name.namespace, state.name.name
            )),
            OwnerState::Fixed(_) if self.fixed == Some(owner) => Some("cluster DNS".to_owned()),
            OwnerState::Fixed(_) if self.orphanage == Some(owner) => {
                Some("a pod of an earlier run".to_owned())
            }
            OwnerState::Fixed(_) => {
                let uid = self.pods.iter().find(|(_, other)| **other == owner)?.0;
                Some(format!("pod {uid}"))
            }
        }
    }

    fn plan(&mut self, mut plan: Plan) -> Plan {
        self.kernel.begin();
        // Removals first: they make room.
        for key in std::mem::take(&mut self.released) {
            if self.claims.holder(&key).is_none() {
                self.remove_key(key, &mut plan);
            }
        }
        let mut placed: HashSet<u32, Hashing> = HashSet::default();
        for owner in std::mem::take(&mut self.dirty) {
            // Twice in the list when an owner went and another got its number.
            if placed.insert(owner.0) {
                self.place_owner(owner, &mut plan);
            }
        }
        for number in std::mem::take(&mut self.numbers) {
            self.kernel.admit(number, Vec::new());
        }
        if std::mem::take(&mut self.sweep) {
            self.kernel.sweep();
        }
        plan.operations = self.kernel.take_operations();
        plan
    }
}

#[cfg(test)]
mod tests;
