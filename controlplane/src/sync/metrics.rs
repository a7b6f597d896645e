//! What node sync counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::hold::Outcome;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByNode {
    node: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByOutcome {
    outcome: &'static str,
}

/// Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub(crate) struct SyncMetrics {
    connected: Gauge,
    batches: Counter,
    resyncs: Counter,
    applied: Family<ByNode, Gauge>,
    held: Gauge,
    terminations: Family<ByOutcome, Counter>,
    termination_wait: Histogram,
}

impl Default for SyncMetrics {
    fn default() -> Self {
        Self {
            connected: Gauge::default(),
            batches: Counter::default(),
            resyncs: Counter::default(),
            applied: Family::default(),
            held: Gauge::default(),
            terminations: Family::default(),
            termination_wait: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
        }
    }
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
        registry.register(
            "waggle_sync_held_terminations",
            "Pods whose deletion waits until the nodes have let go of their endpoints",
            self.held.clone(),
        );
        registry.register(
            "waggle_sync_terminations",
            "Pods whose node was told of their deletion: unlisted in any EndpointSlice, acknowledged by all \
             nodes, or timed_out before that",
            self.terminations.clone(),
        );
        registry.register(
            "waggle_sync_termination_wait_seconds",
            "How long pods ran on after their deletion was asked for, until their node was told",
            self.termination_wait.clone(),
        );
    }

    pub(super) fn held(&self, pods: usize) {
        self.held.set(i64::try_from(pods).unwrap_or(i64::MAX));
    }

    pub(super) fn released(&self, outcome: Outcome, after: Duration) {
        let outcome = match outcome {
            Outcome::Unlisted => "unlisted",
            Outcome::Acknowledged => "acknowledged",
            Outcome::TimedOut => "timed_out",
        };
        self.terminations
            .get_or_create(&ByOutcome { outcome })
            .inc();
        self.termination_wait.observe(after.as_secs_f64());
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
