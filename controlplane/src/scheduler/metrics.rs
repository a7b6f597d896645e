//! What the scheduler counts.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByQueue {
    queue: &'static str,
}

/// Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub(crate) struct SchedulerMetrics {
    attempts: Family<ByResult, Counter>,
    pending: Family<ByQueue, Gauge>,
    decision: Histogram,
    victims: Counter,
}

impl Default for SchedulerMetrics {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            pending: Family::default(),
            decision: Histogram::new(exponential_buckets(0.000_001, 4.0, 10)),
            victims: Counter::default(),
        }
    }
}

impl SchedulerMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "waggle_scheduler_attempts",
            "Attempts to schedule a pod by result",
            self.attempts.clone(),
        );
        registry.register(
            "waggle_scheduler_pending_pods",
            "Pods without a node: ready to be tried, or waiting",
            self.pending.clone(),
        );
        registry.register(
            "waggle_scheduler_decision_seconds",
            "Time to decide for one pod, the mean of a batch",
            self.decision.clone(),
        );
        registry.register(
            "waggle_scheduler_preemption_victims",
            "Pods that were put out to make room for others",
            self.victims.clone(),
        );
    }

    pub(super) fn preempted(&self, pods: usize) {
        self.victims.inc_by(pods as u64);
    }

    pub(super) fn attempt(&self, result: &'static str) {
        self.attempts.get_or_create(&ByResult { result }).inc();
    }

    pub(super) fn depths(&self, ready: usize, waiting: usize) {
        for (queue, depth) in [("active", ready), ("waiting", waiting)] {
            let depth = i64::try_from(depth).unwrap_or(i64::MAX);
            self.pending.get_or_create(&ByQueue { queue }).set(depth);
        }
    }

    pub(super) fn decided(&self, took: Duration, pods: usize) {
        let pods = u32::try_from(pods).unwrap_or(u32::MAX).max(1);
        self.decision.observe((took / pods).as_secs_f64());
    }
}
