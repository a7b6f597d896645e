//! The controller manager: each controller is a pure plan and a thin loop.
//!
//! Runs on the Raft leader only; the composition root starts and stops it. Every controller reads the
//! shared [`Cache`] and writes through [`Client`].

use std::time::Duration;

use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::ReplicationController;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Queue};
use crate::extension::Extensions;
use crate::registry::{ApiError, Client};
use crate::usage::UsageBook;

mod aggregation;
mod autoscale;
pub(crate) mod availability;
mod collector;
pub(crate) mod credentials;
mod cronjob;
mod daemonset;
mod definitions;
mod deployment;
mod disruption;
mod disruption_target;
mod endpointslice;
mod expectations;
#[cfg(test)]
pub(crate) mod fixtures;
mod job;
mod metrics;
mod namespace;
mod node;
mod owner;
mod podcontrol;
mod podgc;
mod podstate;
mod policies;
mod quota;
mod replicaset;
mod revisions;
mod selector;
mod serviceaccount;
mod statefulset;
#[cfg(test)]
pub(crate) mod tests;
mod volumes;
mod worker;

/// How often the allocations of Services are compared with the Services.
const REPAIR: Duration = Duration::from_secs(600);

pub(crate) use metrics::ControllerMetrics;
pub use node::NodeEviction;
pub(crate) use node::PodRanges;
pub(crate) use volumes::{LOCAL, LOCAL_FINALIZER};

/// What the controllers must be told about the cluster.
#[derive(Debug, Clone)]
pub(crate) struct ControllersConfig {
    /// The cluster CA, for the ConfigMap `kube-root-ca.crt` in every namespace.
    pub(crate) ca_pem: String,
    pub(crate) pod_ranges: PodRanges,
    /// A node that is not heard of for this long is unreachable.
    pub(crate) node_grace: Duration,
    pub(crate) node_eviction: NodeEviction,
    /// What pods use, as their nodes report it.
    pub(crate) usage: UsageBook,
    /// The way to servers that measure other things, if there is one.
    pub(crate) extensions: Option<Extensions>,
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
    // A queue with its subscriptions, and a worker that calls the controller.
    macro_rules! controller {
        ($module:path, $parallel:expr, $controller:expr) => {
            async {
                use $module as this;
                let queue = Queue::default();
                let _subscriptions = this::subscribe(&cache, &queue);
                let controller = $controller;
                let metrics = metrics.clone();
                let reconcile = |key| controller.reconcile(key);
                worker::work(this::NAME, queue, $parallel, metrics, reconcile).await;
            }
        };
    }
    tokio::join!(
        controller!(cronjob, 4, cronjob::Controller::new(&client, &cache)),
        controller!(daemonset, 4, daemonset::Controller::new(&client, &cache)),
        controller!(deployment, 8, deployment::Controller::new(&client, &cache)),
        controller!(
            statefulset,
            8,
            statefulset::Controller::new(&client, &cache)
        ),
        replicated::<ReplicaSet>(&client, &cache, &metrics),
        replicated::<ReplicationController>(&client, &cache, &metrics),
        controller!(
            endpointslice,
            8,
            endpointslice::Controller::new(&client, &cache)
        ),
        controller!(job, 8, job::Controller::new(&client, &cache)),
        controller!(
            job::orphans,
            4,
            job::orphans::Controller::new(&client, &cache)
        ),
        controller!(job::ttl, 2, job::ttl::Controller::new(&client, &cache)),
        controller!(
            autoscale,
            4,
            autoscale::Controller::new(&client, &cache, &config.usage, config.extensions.as_ref())
        ),
        controller!(disruption, 2, disruption::Controller::new(&client, &cache)),
        controller!(
            disruption::stale,
            1,
            disruption::stale::Controller::new(&client, &cache)
        ),
        controller!(namespace, 2, namespace::Controller::new(&client, &cache)),
        controller!(volumes, 4, volumes::Controller::new(&client, &cache)),
        controller!(
            serviceaccount,
            2,
            serviceaccount::Controller::new(&client, &cache, &config.ca_pem)
        ),
        controller!(
            aggregation,
            1,
            aggregation::Controller::new(&client, &cache)
        ),
        controller!(
            node,
            // Thousands of nodes may come together.
            64,
            node::Controller::new(
                &client,
                &cache,
                &config.pod_ranges,
                config.node_grace,
                config.node_eviction
            )
        ),
        controller!(
            node::eviction,
            4,
            node::eviction::Controller::new(&client, &cache)
        ),
        async {
            let queue = Queue::default();
            let (controller, feed) = collector::Controller::new(&client, &queue);
            let metrics = metrics.clone();
            let reconcile = |key| controller.reconcile(key);
            tokio::join!(
                worker::work(collector::NAME, queue, 8, metrics, reconcile),
                feed
            );
        },
        async {
            let queue = Queue::default();
            let controller = definitions::Controller::new(&client, &queue);
            let metrics = metrics.clone();
            let reconcile = |key| controller.reconcile(key);
            tokio::join!(
                worker::work(definitions::NAME, queue.clone(), 4, metrics, reconcile),
                definitions::follow(&client, &queue)
            );
        },
        async {
            let queue = Queue::default();
            let controller = quota::Controller::new(&client);
            let metrics = metrics.clone();
            let reconcile = |key| controller.reconcile(key);
            tokio::join!(
                worker::work(quota::NAME, queue.clone(), 4, metrics, reconcile),
                quota::follow(&client, &queue)
            );
        },
        async {
            let queue = Queue::default();
            let controller = policies::Controller::new(&client);
            let metrics = metrics.clone();
            let reconcile = |key| controller.reconcile(key);
            tokio::join!(
                worker::work(policies::NAME, queue.clone(), 1, metrics, reconcile),
                policies::follow(&client, &queue)
            );
        },
        podgc::run(client.clone(), cache.clone()),
        repair(&client),
    );
}

async fn replicated<K: replicaset::Replicated>(
    client: &Client,
    cache: &Cache,
    metrics: &ControllerMetrics,
) {
    let queue = Queue::default();
    let _subscriptions = replicaset::subscribe::<K>(cache, &queue);
    let controller = replicaset::Controller::<K>::new(client, cache);
    let reconcile = |key| controller.reconcile(key);
    worker::work(K::name(), queue, 8, metrics.clone(), reconcile).await;
}

/// Allocations of Services that belong to nobody are looked for now and then.
async fn repair(client: &Client) {
    let mut tick = tokio::time::interval(REPAIR);
    loop {
        tick.tick().await;
        if let Err(error) = client.registry().repair_allocations().await {
            tracing::debug!(%error, "allocations were not looked at");
        }
    }
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
