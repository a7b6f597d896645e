//! The parts of batches: what all nodes get (made once and shared) and what one node gets. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::node::v1::{
    Batch, EndpointSliceChange, NodeChange, ObjectChange, PodChange, ServiceChange,
};

/// Cluster-wide changes in one message at most.
const SHARED: usize = 200;
/// Bytes of pods and objects in one message, unless a single one is larger.
const OWN: usize = 1 << 20;

/// What is the same for every node: encoded, and nothing else of it. Of the full state of a large cluster several versions
/// are under way while nodes come.
#[derive(Debug, Default, Clone, PartialEq)]
pub(super) struct Shared {
    parts: Vec<Part>,
}

/// Changes of one kind, encoded as a `Batch` that holds nothing else. Encoded messages are merged by putting
/// one after the other.
#[derive(Debug, Clone, PartialEq)]
struct Part {
    bytes: Bytes,
    changes: usize,
}

impl Part {
    fn new(batch: &Batch) -> Self {
        Self {
            bytes: batch.encode_to_vec().into(),
            changes: batch.services.len() + batch.endpoint_slices.len() + batch.nodes.len(),
        }
    }

    fn is_small(&self) -> bool {
        self.changes < SHARED && self.bytes.len() < OWN / 4
    }
}

impl Shared {
    pub(super) fn services(services: impl IntoIterator<Item = ServiceChange>) -> Self {
        Self::in_parts(services, |services| Batch {
            services,
            ..Batch::default()
        })
    }

    pub(super) fn endpoint_slices(
        endpoint_slices: impl IntoIterator<Item = EndpointSliceChange>,
    ) -> Self {
        Self::in_parts(endpoint_slices, |endpoint_slices| Batch {
            endpoint_slices,
            ..Batch::default()
        })
    }

    pub(super) fn nodes(nodes: impl IntoIterator<Item = NodeChange>) -> Self {
        Self::in_parts(nodes, |nodes| Batch {
            nodes,
            ..Batch::default()
        })
    }

    /// One after the other; what is encoded is shared, not copied.
    pub(super) fn join<'a>(all: impl IntoIterator<Item = &'a Self>) -> Self {
        let parts = all.into_iter().flat_map(|shared| &shared.parts);
        Self {
            parts: parts.cloned().collect(),
        }
    }

    /// As many of the changes at a time as one message has.
    fn in_parts<T>(changes: impl IntoIterator<Item = T>, batch: impl Fn(Vec<T>) -> Batch) -> Self {
        let mut changes = changes.into_iter().peekable();
        let mut parts = Vec::new();
        while changes.peek().is_some() {
            parts.push(Part::new(&batch(changes.by_ref().take(SHARED).collect())));
        }
        Self { parts }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
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

/// One `Batch`, encoded.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) revision: u64,
    /// One after the other they are the batch.
    pub(super) parts: Vec<Bytes>,
}

/// A message that is not put together yet: until then it has nothing that is its own, so that the full states of
/// thousands of nodes can wait at the same time.
#[derive(Debug, Clone)]
pub(super) struct Draft {
    parts: Vec<Part>,
    header: Batch,
}

impl Draft {
    pub(super) fn encode(self) -> Message {
        let mut parts: Vec<Bytes> = self.parts.into_iter().map(|part| part.bytes).collect();
        parts.push(self.header.encode_to_vec().into());
        Message {
            revision: self.header.revision,
            parts,
        }
    }
}

impl Parcel {
    /// In the order in which a node needs them: what pods refer to before the pods.
    pub(super) fn drafts(self) -> VecDeque<Draft> {
        let mut parts = self.shared.parts.clone();
        for objects in by_size(self.own.objects, |object| object.object_json.len()) {
            parts.push(Part::new(&Batch {
                objects,
                ..Batch::default()
            }));
        }
        for pods in by_size(self.own.pods, |pod| pod.pod_json.len()) {
            parts.push(Part::new(&Batch {
                pods,
                ..Batch::default()
            }));
        }
        // A usual delta is a handful of changes of several kinds: one message, so that it is applied as one.
        let one = parts.is_empty() || (!self.full && parts.iter().all(Part::is_small));
        let groups: Vec<Vec<Part>> = if one {
            vec![parts]
        } else {
            parts.into_iter().map(|part| vec![part]).collect()
        };
        let last = groups.len() - 1;
        let draft = |(position, parts): (usize, Vec<Part>)| Draft {
            parts,
            header: Batch {
                full: self.full,
                last: position == last,
                // Only with the last one is the revision reached.
                revision: if position == last {
                    self.revision
                } else {
                    self.since
                },
                ..Batch::default()
            },
        };
        groups.into_iter().enumerate().map(draft).collect()
    }

    #[cfg(test)]
    pub(super) fn messages(self) -> Vec<Message> {
        self.drafts().into_iter().map(Draft::encode).collect()
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
