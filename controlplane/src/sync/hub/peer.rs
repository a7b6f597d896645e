//! What the hub knows of one connected node: its pods, what they refer to, and the way to its stream.

use std::collections::{BTreeSet, HashMap};

use tokio::sync::mpsc;

use super::super::batch::Parcel;
use super::super::references::Reference;
use crate::cache::ObjectKey;

#[derive(Debug)]
pub(super) struct Peer {
    parcels: mpsc::Sender<Parcel>,
    pods: HashMap<ObjectKey, BTreeSet<Reference>>,
    /// How many of the pods refer to each object.
    counts: HashMap<Reference, usize>,
    /// It missed something because its stream was full.
    pub(super) lagging: bool,
}

impl Peer {
    pub(super) fn new(parcels: mpsc::Sender<Parcel>) -> Self {
        Self {
            parcels,
            pods: HashMap::new(),
            counts: HashMap::new(),
            lagging: false,
        }
    }

    pub(super) fn references(&self) -> impl Iterator<Item = &Reference> {
        self.counts.keys()
    }

    /// Forgets all pods; returns what they referred to.
    pub(super) fn clear(&mut self) -> Vec<Reference> {
        self.pods.clear();
        self.counts
            .drain()
            .map(|(reference, _)| reference)
            .collect()
    }

    pub(super) fn pods_with(&self, reference: &Reference) -> Vec<ObjectKey> {
        self.pods
            .iter()
            .filter(|(_, references)| references.contains(reference))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// Takes in a pod; returns the references that the node has now and had not, and the reverse. What
    /// a pod that has ended refers to stays until the pod is gone.
    pub(super) fn put(
        &mut self,
        key: &ObjectKey,
        references: BTreeSet<Reference>,
    ) -> (Vec<Reference>, Vec<Reference>) {
        let old = self
            .pods
            .insert(key.clone(), references.clone())
            .unwrap_or_default();
        let mut gained = Vec::new();
        for reference in references.difference(&old) {
            let count = self.counts.entry(reference.clone()).or_default();
            *count += 1;
            if *count == 1 {
                gained.push(reference.clone());
            }
        }
        let lost = self.drop_all(old.difference(&references));
        (gained, lost)
    }

    /// Returns the references that the node has no more.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> Vec<Reference> {
        let old = self.pods.remove(key).unwrap_or_default();
        self.drop_all(old.iter())
    }

    fn drop_all<'a>(&mut self, references: impl Iterator<Item = &'a Reference>) -> Vec<Reference> {
        let mut lost = Vec::new();
        for reference in references {
            if let Some(count) = self.counts.get_mut(reference) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(reference);
                    lost.push(reference.clone());
                }
            }
        }
        lost
    }

    pub(super) fn is_closed(&self) -> bool {
        self.parcels.is_closed()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.parcels.capacity() == self.parcels.max_capacity()
    }

    /// A delta; lost when the stream is full, which then needs a full state.
    pub(super) fn send(&mut self, parcel: Parcel) {
        if !self.lagging && self.parcels.try_send(parcel).is_err() {
            self.lagging = true;
        }
    }

    pub(super) fn send_full(&mut self, parcel: Parcel) {
        self.lagging = self.parcels.try_send(parcel).is_err();
    }
}
