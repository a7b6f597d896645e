//! All controllers and the scheduler on a real store, with a node that only pretends to run pods.
#![allow(clippy::unwrap_used)]

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{
    Endpoints, Node, NodeCondition, NodeStatus, Pod, PodCondition, PodIP, Service, ServicePort,
    ServiceSpec,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::fixtures::{deployment, labels};
use super::{ControllerMetrics, ControllersConfig, NodeEviction, PodRanges, podstate};
use crate::cache::{Cache, Informer, Queue};
use crate::registry::{Client, DeleteOptions, Object, Registry, ServiceRanges};
use crate::scheduler::SchedulerMetrics;
use crate::store::{Store, StoreConfig};

mod batch;
mod lifecycle;
mod outage;
mod rollout;
mod sets;

const LIMIT: Duration = Duration::from_secs(30);

/// A control plane without API server.
pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) cache: Cache,
    pub(crate) shutdown: CancellationToken,
    tasks: JoinSet<()>,
    _directory: TempDir,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

impl Cluster {
    /// Store, registry and cache; nothing that decides.
    pub(crate) async fn bare() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = StoreConfig::alone(directory.path().to_owned(), 1);
        let store = Store::open(config).await.unwrap();
        let ranges = ServiceRanges {
            cidrs: vec!["10.96.0.0/16".parse().unwrap()],
            node_ports: 30000..=32767,
        };
        let (registry, recorder) = Registry::new(store, ranges);
        registry
            .bootstrap("10.96.0.10".parse().unwrap(), &[])
            .await
            .unwrap();
        let client = registry.client("test");
        let shutdown = CancellationToken::new();
        let cache = Cache::start(&client, &shutdown);
        let mut tasks = JoinSet::new();
        tasks.spawn(recorder.run());
        cache.synced().await;
        Self {
            client,
            cache,
            shutdown,
            tasks,
            _directory: directory,
        }
    }

    /// With controllers, scheduler, and the nodes, which run pods.
    pub(crate) async fn new(nodes: &[&str]) -> Self {
        Self::with_grace(nodes, Duration::from_secs(40)).await
    }

    /// Nodes that are silent for `node_grace` are unreachable, and these are: nobody beats for them.
    pub(crate) async fn with_grace(nodes: &[&str], node_grace: Duration) -> Self {
        let mut cluster = Self::bare().await;
        let config = ControllersConfig {
            node_grace,
            node_eviction: NodeEviction::default(),
            ca_pem: "CA".to_owned(),
            pod_ranges: PodRanges::new(vec!["10.244.0.0/16".parse().unwrap()], 24, 64),
            usage: crate::usage::UsageBook::default(),
            extensions: None,
        };
        cluster.tasks.spawn(super::run(
            cluster.client.clone(),
            cluster.cache.clone(),
            config,
            ControllerMetrics::default(),
            cluster.shutdown.clone(),
        ));
        cluster.tasks.spawn(crate::scheduler::run(
            cluster.client.clone(),
            cluster.cache.clone(),
            SchedulerMetrics::default(),
            cluster.shutdown.clone(),
        ));
        for name in nodes {
            cluster.client.create(&node(name)).await.unwrap();
        }
        let (client, cache) = (cluster.client.clone(), cluster.cache.clone());
        cluster.tasks.spawn(run_pods(client, cache));
        cluster.namespace("ns").await;
        cluster
    }

    pub(crate) async fn namespace(&self, name: &str) {
        let namespace = k8s_openapi::api::core::v1::Namespace {
            metadata: ObjectMeta {
                name: Some(name.into()),
                ..ObjectMeta::default()
            },
            ..Default::default()
        };
        self.client.create(&namespace).await.unwrap();
    }

    /// Waits until the object is as it should be, or is gone where `wanted` accepts `None`.
    pub(crate) async fn until<K: Object + std::fmt::Debug>(
        &self,
        informer: &Informer<K>,
        namespace: &str,
        name: &str,
        wanted: impl Fn(Option<&K>) -> bool,
    ) -> Option<Arc<K>> {
        let mut advanced = self.cache.advanced();
        let reached = async {
            loop {
                let object = informer.get(namespace, name);
                if wanted(object.as_deref()) {
                    return object;
                }
                advanced.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(LIMIT, reached).await {
            Ok(object) => object,
            Err(_) => panic!(
                "{} {namespace}/{name} is {:#?}",
                K::KIND,
                informer.get(namespace, name)
            ),
        }
    }

    /// Waits until what is asked for holds of the whole cache.
    pub(crate) async fn eventually(&self, what: &str, wanted: impl Fn(&Cache) -> bool) {
        let mut advanced = self.cache.advanced();
        let reached = async {
            while !wanted(&self.cache) {
                advanced.changed().await.unwrap();
            }
        };
        assert!(
            tokio::time::timeout(LIMIT, reached).await.is_ok(),
            "never: {what}"
        );
    }
}

pub(crate) fn node(name: &str) -> Node {
    let quantity = |text: &str| Quantity(text.to_owned());
    Node {
        metadata: ObjectMeta {
            name: Some(name.into()),
            labels: Some(labels(&[("kubernetes.io/hostname", name)])),
            ..ObjectMeta::default()
        },
        spec: None,
        status: Some(NodeStatus {
            capacity: Some(
                [
                    ("cpu".to_owned(), quantity("8")),
                    ("memory".to_owned(), quantity("8Gi")),
                    ("pods".to_owned(), quantity("110")),
                ]
                .into(),
            ),
            conditions: Some(vec![NodeCondition {
                type_: "Ready".into(),
                status: "True".into(),
                last_heartbeat_time: Some(Time(Timestamp::now())),
                last_transition_time: Some(Time(Timestamp::now())),
                ..NodeCondition::default()
            }]),
            ..NodeStatus::default()
        }),
    }
}

/// Every bound pod is Ready with an address at once, or has ended if its image says so; every deleted one ends.
async fn run_pods(client: Client, cache: Cache) {
    let queue = Queue::default();
    let _subscription = {
        let queue = queue.clone();
        cache
            .pods
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let next_address = AtomicU32::new(u32::from(Ipv4Addr::new(10, 244, 0, 10)));
    loop {
        let key = queue.next().await;
        if let Some(pod) = cache.pods.get_key(&key)
            && !run_pod(&client, &pod, &next_address).await
        {
            queue.retry(key.clone());
        }
        queue.done(&key);
    }
}

async fn run_pod(client: &Client, pod: &Pod, next_address: &AtomicU32) -> bool {
    let (namespace, name) = (
        pod.metadata.namespace.as_deref().unwrap(),
        pod.metadata.name.as_deref().unwrap(),
    );
    if pod.spec.as_ref().unwrap().node_name.is_none() {
        return true;
    }
    if podstate::is_terminating(pod) {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: pod.metadata.uid.clone(),
            ..DeleteOptions::default()
        };
        return client.delete::<Pod>(namespace, name, options).await.is_ok();
    }
    let image = pod.spec.as_ref().unwrap().containers[0].image.as_deref();
    if podstate::is_ready(pod) || podstate::is_finished(pod) || image == Some("broken") {
        return true;
    }
    if let Some(phase) = match image {
        Some("done") => Some("Succeeded"),
        Some("fails") => Some("Failed"),
        _ => None,
    } {
        let mut ended = pod.clone();
        ended.status.get_or_insert_default().phase = Some(phase.into());
        return client.update_status(&ended).await.is_ok();
    }
    let mut running = pod.clone();
    let status = running.status.get_or_insert_default();
    let address = Ipv4Addr::from(next_address.fetch_add(1, Ordering::Relaxed)).to_string();
    status.phase = Some("Running".into());
    status.pod_ip = Some(address.clone());
    status.pod_ips = Some(vec![PodIP { ip: address }]);
    status
        .conditions
        .get_or_insert_default()
        .push(PodCondition {
            type_: "Ready".into(),
            status: "True".into(),
            last_transition_time: Some(Time(Timestamp::now())),
            ..PodCondition::default()
        });
    client.update_status(&running).await.is_ok()
}
