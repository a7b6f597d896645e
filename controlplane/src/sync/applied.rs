//! Which revision each connected node has applied in its kernel maps and DNS.
//!
//! The hub reads here whether the nodes have let go of an endpoint before its pod is stopped, and
//! `waggle cluster status` how far each node is. Kept in memory only: after a restart every node says it
//! again with its first batch.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

/// What one node has applied, as told on one of its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Told {
    stream: u64,
    revision: u64,
}

/// Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    nodes: Arc<watch::Sender<HashMap<String, Told>>>,
    streams: Arc<AtomicU64>,
}

impl Default for Applied {
    fn default() -> Self {
        Self {
            nodes: Arc::new(watch::Sender::new(HashMap::new())),
            streams: Arc::default(),
        }
    }
}

/// A node's stream. When it is dropped nobody waits for the node any more, unless another stream of the same
/// node has taken over.
#[derive(Debug)]
pub(super) struct Connection {
    applied: Applied,
    node: String,
    stream: u64,
}

impl Connection {
    /// A node's revision only moves forward while it is connected.
    pub(super) fn record(&self, revision: u64) {
        self.applied.nodes.send_if_modified(|nodes| {
            let told = nodes.get_mut(&self.node);
            match told.filter(|told| told.stream == self.stream && told.revision < revision) {
                Some(told) => {
                    told.revision = revision;
                    true
                }
                None => false,
            }
        });
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.applied.nodes.send_if_modified(|nodes| {
            let mine = nodes
                .get(&self.node)
                .is_some_and(|told| told.stream == self.stream);
            mine && nodes.remove(&self.node).is_some()
        });
    }
}

impl Applied {
    pub(super) fn connect(&self, node: &str) -> Connection {
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let revision = 0;
        self.nodes.send_modify(|nodes| {
            nodes.insert(node.to_owned(), Told { stream, revision });
        });
        Connection {
            applied: self.clone(),
            node: node.to_owned(),
            stream,
        }
    }

    /// By node; 0 for one that has said nothing yet.
    pub(crate) fn revisions(&self) -> BTreeMap<String, u64> {
        let nodes = self.nodes.borrow();
        nodes
            .iter()
            .map(|(node, told)| (node.clone(), told.revision))
            .collect()
    }

    /// The least that a connected node has applied; `u64::MAX` when none is connected.
    pub(super) fn least(&self) -> u64 {
        let nodes = self.nodes.borrow();
        let revisions = nodes.values().map(|told| told.revision);
        revisions.min().unwrap_or(u64::MAX)
    }

    /// Told of every change.
    pub(super) fn changes(&self) -> watch::Receiver<HashMap<String, Told>> {
        self.nodes.subscribe()
    }
}
