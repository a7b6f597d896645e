//! Counters about pods and containers.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Clones count into the same numbers.
#[derive(Debug, Clone, Default)]
pub(crate) struct PodMetrics {
    pub(crate) pods: Gauge,
    pub(crate) containers_started: Counter,
    pub(crate) container_start_errors: Counter,
    pub(crate) pull_errors: Counter,
    pub(crate) prepare_errors: Counter,
    pub(crate) probe_failures: Counter,
    pub(crate) worker_panics: Counter,
}

impl PodMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("pods", "Pods that this node has", self.pods.clone());
        registry.register(
            "containers_started",
            "Containers started",
            self.containers_started.clone(),
        );
        registry.register(
            "container_start_errors",
            "Containers that could not be created or started",
            self.container_start_errors.clone(),
        );
        registry.register(
            "image_pull_errors",
            "Images that could not be had",
            self.pull_errors.clone(),
        );
        registry.register(
            "pod_prepare_errors",
            "Failures to make a pod's volumes, network or supervisor",
            self.prepare_errors.clone(),
        );
        registry.register(
            "probe_failures",
            "Probes that failed",
            self.probe_failures.clone(),
        );
        registry.register(
            "pod_worker_panics",
            "Panics after which a pod's worker began again",
            self.worker_panics.clone(),
        );
    }
}
