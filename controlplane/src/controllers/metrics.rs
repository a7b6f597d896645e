//! What the controllers count: queue depth, reconcile durations and errors.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByController {
    controller: &'static str,
}

/// Cheap to clone; all clones count together.
#[derive(Debug, Clone)]
pub(crate) struct ControllerMetrics {
    depth: Family<ByController, Gauge>,
    errors: Family<ByController, Counter>,
    durations: Family<ByController, Histogram, fn() -> Histogram>,
}

impl Default for ControllerMetrics {
    fn default() -> Self {
        Self {
            depth: Family::default(),
            errors: Family::default(),
            durations: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.000_1, 4.0, 9))
            }),
        }
    }
}

impl ControllerMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register(
            "waggle_controller_queue_depth",
            "Keys that wait to be reconciled",
            self.depth.clone(),
        );
        registry.register(
            "waggle_controller_reconcile_errors",
            "Reconciles that failed and will be retried",
            self.errors.clone(),
        );
        registry.register(
            "waggle_controller_reconcile_seconds",
            "Duration of a reconcile",
            self.durations.clone(),
        );
    }

    pub(super) fn queue_depth(&self, controller: &'static str, depth: usize) {
        self.depth
            .get_or_create(&ByController { controller })
            .set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    pub(super) fn reconciled(&self, controller: &'static str, took: Duration, ok: bool) {
        let labels = ByController { controller };
        self.durations
            .get_or_create(&labels)
            .observe(took.as_secs_f64());
        if !ok {
            self.errors.get_or_create(&labels).inc();
        }
    }
}
