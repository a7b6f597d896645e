//! The parts of batches: what all nodes get (made once and shared) and what one node gets. Pure.

use std::sync::Arc;

use proto::node::v1::{
    Batch, EndpointSliceChange, NodeChange, ObjectChange, PodChange, ServiceChange,
};

/// Cluster-wide changes in one message at most.
const SHARED: usize = 200;
/// Bytes of pods and objects in one message, unless a single one is larger.
const OWN: usize = 1 << 20;

/// What is the same for every node.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Shared {
    pub(super) services: Vec<ServiceChange>,
    pub(super) endpoint_slices: Vec<EndpointSliceChange>,
    pub(super) nodes: Vec<NodeChange>,
}

impl Shared {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty() && self.endpoint_slices.is_empty() && self.nodes.is_empty()
    }
}

/// What is for one node alone.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Own {
    pub(super) pods: Vec<PodChange>,
    pub(super) objects: Vec<ObjectChange>,
}

impl Own {
    pub(super) fn is_empty(&self) -> bool {
        self.pods.is_empty() && self.objects.is_empty()
    }
}

/// All messages of one full state or one delta, made when the stream has room for them.
#[derive(Debug, Clone)]
pub(super) struct Parcel {
    pub(super) full: bool,
    /// The state is complete up to here once the parcel is applied, and was up to `since` before.
    pub(super) revision: u64,
    pub(super) since: u64,
    pub(super) shared: Arc<Shared>,
    pub(super) own: Own,
}

impl Parcel {
    /// In the order in which a node needs them: what pods refer to before the pods.
    pub(super) fn batches(self) -> Vec<Batch> {
        let mut batches = Vec::new();
        let shared = &self.shared;
        for services in shared.services.chunks(SHARED) {
            batches.push(Batch {
                services: services.to_vec(),
                ..Batch::default()
            });
        }
        for slices in shared.endpoint_slices.chunks(SHARED) {
            batches.push(Batch {
                endpoint_slices: slices.to_vec(),
                ..Batch::default()
            });
        }
        for nodes in shared.nodes.chunks(SHARED) {
            batches.push(Batch {
                nodes: nodes.to_vec(),
                ..Batch::default()
            });
        }
        for objects in by_size(self.own.objects, |object| object.object_json.len()) {
            batches.push(Batch {
                objects,
                ..Batch::default()
            });
        }
        for pods in by_size(self.own.pods, |pod| pod.pod_json.len()) {
            batches.push(Batch {
                pods,
                ..Batch::default()
            });
        }
        if batches.len() > 1 && !self.full {
            batches = merge_small(batches);
        }
        if batches.is_empty() {
            batches.push(Batch::default());
        }
        let last = batches.len() - 1;
        for (position, batch) in batches.iter_mut().enumerate() {
            batch.full = self.full;
            batch.last = position == last;
            // Only with the last one is the revision reached.
            batch.revision = if position == last {
                self.revision
            } else {
                self.since
            };
        }
        batches
    }
}

fn by_size<T>(items: Vec<T>, size: impl Fn(&T) -> usize) -> Vec<Vec<T>> {
    let mut chunks: Vec<Vec<T>> = Vec::new();
    let mut used = 0;
    for item in items {
        let bytes = size(&item);
        match chunks.last_mut() {
            Some(chunk) if used + bytes <= OWN => chunk.push(item),
            _ => {
                used = 0;
                chunks.push(vec![item]);
            }
        }
        used += bytes;
    }
    chunks
}

/// A usual delta is a handful of changes of several kinds: one message, so that it is applied as one.
fn merge_small(batches: Vec<Batch>) -> Vec<Batch> {
    let small = |batch: &Batch| {
        batch.services.len() + batch.endpoint_slices.len() + batch.nodes.len() < SHARED
            && batch
                .objects
                .iter()
                .map(|object| object.object_json.len())
                .sum::<usize>()
                + batch
                    .pods
                    .iter()
                    .map(|pod| pod.pod_json.len())
                    .sum::<usize>()
                < OWN / 4
    };
    if !batches.iter().all(small) {
        return batches;
    }
    let mut one = Batch::default();
    for batch in batches {
        one.services.extend(batch.services);
        one.endpoint_slices.extend(batch.endpoint_slices);
        one.nodes.extend(batch.nodes);
        one.objects.extend(batch.objects);
        one.pods.extend(batch.pods);
    }
    vec![one]
}
