//! Which revision each connected node has applied in its kernel maps and DNS.
//!
//! Pod termination will wait here until the nodes have let go of an endpoint. Kept in memory only: after a
//! restart every node says it again with its first batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// What one node has applied, as told on one of its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Told {
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

    #[cfg(test)]
    pub(super) fn revisions(&self) -> HashMap<String, u64> {
        let nodes = self.nodes.borrow();
        nodes
            .iter()
            .map(|(node, told)| (node.clone(), told.revision))
            .collect()
    }

    /// Waits until all connected nodes have applied `revision`; false after `timeout`.
    #[cfg_attr(
        not(test),
        expect(
            dead_code,
            reason = "the seam for pod termination, which does not wait yet"
        )
    )]
    pub(crate) async fn wait_for(&self, revision: u64, timeout: Duration) -> bool {
        let mut nodes = self.nodes.subscribe();
        let all = nodes.wait_for(|nodes| nodes.values().all(|told| told.revision >= revision));
        matches!(tokio::time::timeout(timeout, all).await, Ok(Ok(_)))
    }
}
