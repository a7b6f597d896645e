//! Services, EndpointSlices and this node as they are told of: what is kept of them, and whose keys are to be looked at.

use std::sync::Arc;

use agent_ebpf::address::{Address, Net};

use super::place::OwnerState;
use super::slices::Slice;
use super::spec::Spec;
use super::{Known, OwnerId, Plan, Planner};
use crate::cluster::{EndpointSlice, Node, ObjectName, Service};

impl Planner {
    pub(super) fn set_service(&mut self, name: &ObjectName, service: &Service) {
        let id = self.service(name);
        let generation = self.generation;
        let spec = Spec::new(service);
        let Some(state) = self.service_state(id) else {
            return;
        };
        state.seen = generation;
        if state.spec.as_ref() != Some(&spec) {
            self.respecify(id, Some(spec));
        }
    }

    pub(super) fn remove_service(&mut self, name: &ObjectName) {
        if let Some(id) = self.services.get(name).copied() {
            self.respecify(id, None);
            self.forget_if_empty(id);
        }
    }

    pub(super) fn respecify(&mut self, id: OwnerId, spec: Option<Spec>) {
        let Some(state) = self.service_state(id) else {
            return;
        };
        let before = state.spec.take();
        let old = self.asks(before.as_ref());
        let new = self.asks(spec.as_ref());
        let mut numbers = Vec::new();
        if let Some(state) = self.service_state(id) {
            numbers = state.respecify(before, spec);
        }
        self.numbers.append(&mut numbers);
        // Both are in the order of their keys.
        let (mut old, mut new) = (old.into_iter().peekable(), new.into_iter().peekable());
        loop {
            match (old.peek().copied(), new.peek().copied()) {
                (None, None) => break,
                (Some(gone), other) if other.is_none_or(|other| gone.key < other.key) => {
                    old.next();
                    self.release(gone.key, id);
                }
                (Some(kept), Some(other)) if kept.key == other.key => {
                    old.next();
                    new.next();
                    if kept.rank != other.rank
                        && let Some(affected) = self.claims.rerank(kept.key, id, other.rank)
                    {
                        self.mark(affected);
                    }
                }
                (_, Some(ask)) => {
                    new.next();
                    self.claim(ask.key, id, ask.rank);
                }
                (Some(_), None) => break,
            }
        }
        self.mark(id);
    }

    pub(super) fn set_slice(&mut self, name: &ObjectName, slice: &EndpointSlice, plan: &mut Plan) {
        let service = self.service(&ObjectName {
            namespace: name.namespace.clone(),
            name: slice.service.clone(),
        });
        let (compact, left_out) = Slice::new(slice, &self.place.node, &mut self.hints);
        let generation = self.generation;
        if let Some(id) = self.slice_ids.get(name).copied()
            && let Some(known) = self.slices.get_mut(id)
        {
            known.seen = generation;
            if known.service == service {
                if known.slice != compact {
                    let before = std::mem::replace(&mut known.slice, compact);
                    if let Some(state) = self.service_state(service) {
                        state.was.push(before);
                    }
                    self.mark(service);
                    plan.left_out(name, left_out);
                }
                return;
            }
            self.remove_slice(name);
        }
        plan.left_out(name, left_out);
        let id = self.slices.insert(Known {
            service,
            slice: compact,
            seen: generation,
        });
        self.slice_ids.insert(name.clone(), id);
        if let Some(state) = self.service_state(service) {
            state.slices.push(id);
        }
        self.mark(service);
    }

    pub(super) fn remove_slice(&mut self, name: &ObjectName) {
        let Some(id) = self.slice_ids.remove(name) else {
            return;
        };
        let Some(known) = self.slices.remove(id) else {
            return;
        };
        if let Some(state) = self.service_state(known.service) {
            state.slices.retain(|other| *other != id);
            state.was.push(known.slice);
        }
        self.mark(known.service);
        self.forget_if_empty(known.service);
    }

    /// Without a Service object and without slices there is nothing to remember a name for.
    pub(super) fn forget_if_empty(&mut self, id: OwnerId) {
        if let Some(state) = self.service_state(id)
            && state.spec.is_none()
            && state.slices.is_empty()
        {
            let name = Arc::clone(&state.name);
            self.services.remove(&*name);
            self.owners.remove(id.0);
        }
    }

    /// A full batch did not name these.
    pub(super) fn remove_unseen(&mut self) {
        let generation = self.generation;
        let slices: Vec<ObjectName> = self
            .slice_ids
            .iter()
            .filter(|(_, id)| {
                self.slices
                    .get(**id)
                    .is_none_or(|known| known.seen != generation)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in slices {
            self.remove_slice(&name);
        }
        let services: Vec<Arc<ObjectName>> = self
            .services
            .iter()
            .filter(|(_, id)| match self.owners.get(id.0) {
                Some(OwnerState::Service(state)) => {
                    state.spec.is_some() && state.seen != generation
                }
                _ => false,
            })
            .map(|(name, _)| Arc::clone(name))
            .collect();
        for name in services {
            self.remove_service(&name);
        }
    }

    pub(super) fn set_node(&mut self, node: Option<&Node>) {
        let ranges = node.map_or(&[][..], |node| &node.pod_cidrs);
        let ranges: Vec<Net> = ranges
            .iter()
            .map(|range| Net::new(range.network(), range.prefix_len()))
            .collect();
        if ranges != self.place.ranges {
            self.place.ranges = ranges;
            self.mark_all();
        }
        let zone = node.and_then(|node| node.zone.clone());
        if zone != self.place.zone {
            self.place.zone = zone;
            let hinted: Vec<OwnerId> = self
                .slices
                .iter()
                .filter(|(_, known)| known.slice.has_hints())
                .map(|(_, known)| known.service)
                .collect();
            for id in hinted {
                self.mark(id);
            }
        }
    }

    /// The node's own addresses, on any interface: to be followed by [`Self::retry`].
    pub fn set_own(&mut self, mut own: Vec<Address>) {
        own.sort_unstable();
        if own != self.place.own {
            self.place.own = own;
            self.mark_all();
        }
    }
}
