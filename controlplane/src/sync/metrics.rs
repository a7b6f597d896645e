//! What node sync counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByNode {
    node: String,
}

/// Cheap to clone; all clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct SyncMetrics {
    connected: Gauge,
    batches: Counter,
    resyncs: Counter,
    applied: Family<ByNode, Gauge>,
}

impl SyncMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "waggle_sync_connected_nodes",
            "Nodes that hold a sync stream",
            self.connected.clone(),
        );
        registry.register(
            "waggle_sync_batches",
            "Batches of changes put on node streams",
            self.batches.clone(),
        );
        registry.register(
            "waggle_sync_resyncs",
            "Full states sent because a node was too slow for the changes",
            self.resyncs.clone(),
        );
        registry.register(
            "waggle_sync_applied_revision",
            "Store revision that a connected node's kernel maps and DNS hold",
            self.applied.clone(),
        );
    }

    /// Counts a node as connected until the result is dropped.
    pub(super) fn connected(&self) -> Connected {
        self.connected.inc();
        Connected(self.connected.clone())
    }

    pub(super) fn applied(&self, node: &str, revision: u64) {
        let node = node.to_owned();
        let revision = i64::try_from(revision).unwrap_or(i64::MAX);
        self.applied.get_or_create(&ByNode { node }).set(revision);
    }

    pub(super) fn gone(&self, node: &str) {
        let node = node.to_owned();
        self.applied.remove(&ByNode { node });
    }

    pub(super) fn batch(&self) {
        self.batches.inc();
    }

    pub(super) fn resync(&self) {
        self.resyncs.inc();
    }
}

#[derive(Debug)]
pub(super) struct Connected(Gauge);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.dec();
    }
}
