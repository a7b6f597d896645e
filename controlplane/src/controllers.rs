//! The controller manager: each controller is a pure plan and a thin loop.
//!
//! Runs on the Raft leader only; the composition root starts and stops it. Every controller reads the
//! shared [`Cache`] and writes through [`Client`].

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Queue};
use crate::registry::{ApiError, Client};

mod deployment;
mod endpointslice;
mod expectations;
#[cfg(test)]
pub(crate) mod fixtures;
mod metrics;
mod owner;
mod podstate;
mod replicaset;
mod selector;
mod worker;

pub(crate) use metrics::ControllerMetrics;

/// What the controllers must be told about the cluster.
#[derive(Debug, Clone)]
pub(crate) struct ControllersConfig {
    /// The cluster CA, for the ConfigMap `kube-root-ca.crt` in every namespace.
    pub(crate) ca_pem: String,
    /// Ranges that node pod ranges are cut from.
    pub(crate) pod_cidrs: Vec<ipnet::IpNet>,
}

/// Runs all controllers until `shutdown`. Call it while this member leads.
pub(crate) async fn run(
    client: Client,
    cache: Cache,
    config: ControllersConfig,
    metrics: ControllerMetrics,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = run_all(client, cache, config, metrics) => {}
        () = shutdown.cancelled() => {}
    }
}

async fn run_all(
    client: Client,
    cache: Cache,
    config: ControllersConfig,
    metrics: ControllerMetrics,
) {
    cache.synced().await;
    let _ = &config;
    tokio::join!(
        async {
            let queue = Queue::default();
            let _subscriptions = deployment::subscribe(&cache, &queue);
            let controller = deployment::Controller::new(&client, &cache);
            let metrics = metrics.clone();
            worker::work(deployment::NAME, queue, 8, metrics, |key| {
                controller.reconcile(key)
            })
            .await;
        },
        async {
            let queue = Queue::default();
            let _subscriptions = replicaset::subscribe(&cache, &queue);
            let controller = replicaset::Controller::new(&client, &cache);
            let metrics = metrics.clone();
            worker::work(replicaset::NAME, queue, 8, metrics, |key| {
                controller.reconcile(key)
            })
            .await;
        },
        async {
            let queue = Queue::default();
            let _subscriptions = endpointslice::subscribe(&cache, &queue);
            let controller = endpointslice::Controller::new(&client, &cache);
            let metrics = metrics.clone();
            worker::work(endpointslice::NAME, queue, 8, metrics, |key| {
                controller.reconcile(key)
            })
            .await;
        },
    );
}

/// An error of a controller's own, in the form of those that the registry gives.
fn context_error(message: &str) -> ApiError {
    ApiError {
        status: Box::new(Status {
            status: Some("Failure".to_owned()),
            code: Some(500),
            reason: Some("InternalError".to_owned()),
            message: Some(message.to_owned()),
            ..Status::default()
        }),
    }
}

/// The composition root spawns these.
#[cfg(test)]
#[allow(dead_code)]
fn tasks_can_be_spawned(client: Client, cache: Cache, config: ControllersConfig) {
    fn spawnable(_: impl Future<Output = ()> + Send + 'static) {}
    let shutdown = CancellationToken::new();
    let metrics = crate::scheduler::SchedulerMetrics::default();
    spawnable(crate::scheduler::run(
        client.clone(),
        cache.clone(),
        metrics,
        shutdown.clone(),
    ));
    spawnable(run(
        client,
        cache,
        config,
        ControllerMetrics::default(),
        shutdown,
    ));
}
