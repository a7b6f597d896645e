//! Which revision each connected node has applied in its kernel maps and DNS.
//!
//! Pod termination will wait here until the nodes have let go of an endpoint. Kept in memory only: after a
//! restart every node says it again with its first batch.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub(crate) struct Applied {
    nodes: Arc<watch::Sender<HashMap<String, u64>>>,
}

impl Default for Applied {
    fn default() -> Self {
        Self {
            nodes: Arc::new(watch::Sender::new(HashMap::new())),
        }
    }
}

impl Applied {
    /// A node's revision only moves forward while it is connected.
    pub(super) fn record(&self, node: &str, revision: u64) {
        self.nodes.send_if_modified(|nodes| {
            let known = nodes.entry(node.to_owned()).or_default();
            let newer = revision > *known;
            *known = revision.max(*known);
            newer
        });
    }

    /// A node that is not connected is waited for by nobody.
    pub(super) fn forget(&self, node: &str) {
        self.nodes
            .send_if_modified(|nodes| nodes.remove(node).is_some());
    }

    #[cfg(test)]
    pub(super) fn revisions(&self) -> HashMap<String, u64> {
        self.nodes.borrow().clone()
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
        let all = nodes.wait_for(|nodes| nodes.values().all(|applied| *applied >= revision));
        matches!(tokio::time::timeout(timeout, all).await, Ok(Ok(_)))
    }
}
