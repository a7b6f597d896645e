//! Node sync over real gRPC on loopback, on a real store, and its pure parts.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, PodCondition, PodSpec, PodStatus, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use prost::Message as _;
use proto::node::v1::node_sync_client::NodeSyncClient;
use proto::node::v1::{
    AppliedRevision, Batch, DataPlaneMode, Hello, LeaseRenewal, PodStatus as PodReport,
    PodTerminated, StreamData, StreamOpen, StreamRequest,
};
use serde_json::json;
use tokio::net::TcpListener;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::controllers::tests::{Cluster, node};
use crate::registry::Binding;

mod leaving;
mod pure;
mod slow;
mod streams;

/// The server side with one listener per user, as TLS would tell them apart.
struct Server {
    cluster: std::sync::Arc<Cluster>,
    router: axum::Router,
    applied: Applied,
    streams: NodeStreams,
    metrics: SyncMetrics,
}

impl Server {
    async fn new() -> Self {
        Self::with(Limits::default()).await
    }

    async fn with(limits: Limits) -> Self {
        let cluster = Cluster::bare().await;
        cluster.namespace("ns").await;
        Self::on(cluster.into(), limits)
    }

    fn on(cluster: std::sync::Arc<Cluster>, limits: Limits) -> Self {
        let streams = NodeStreams::default();
        let metrics = SyncMetrics::default();
        let (router, applied) = service(
            &cluster.client,
            &cluster.cache,
            &streams,
            limits,
            &metrics,
            None,
            &cluster.shutdown,
        );
        Self {
            cluster,
            router,
            applied,
            streams,
            metrics,
        }
    }

    /// Another one, on the same store, that knows nothing of what this one did.
    fn again(&self, limits: Limits) -> Self {
        Self::on(std::sync::Arc::clone(&self.cluster), limits)
    }

    /// Waits until what the nodes have acknowledged is as wanted.
    async fn applied(&self, wanted: impl Fn(&Applied) -> bool) {
        let mut changes = self.applied.changes();
        let reached = async {
            while !wanted(&self.applied) {
                changes.changed().await.unwrap();
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(20), reached);
        reached.await.expect("acknowledged in time");
    }

    async fn client(&self, user: Option<User>) -> NodeSyncClient<Channel> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = match user {
            Some(user) => self.router.clone().layer(axum::Extension(user)),
            None => self.router.clone(),
        };
        tokio::spawn(async move { axum::serve(listener, router).await });
        NodeSyncClient::connect(format!("http://{address}"))
            .await
            .unwrap()
    }

    async fn agent(&self, name: &str) -> Agent {
        let mut client = self.client(Some(user(name))).await;
        let (up, receiver) = mpsc::channel(16);
        up.send(hello(name)).await.unwrap();
        let down = client
            .sync(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        Agent { up, down }
    }

    async fn pod(&self, name: &str, spec: PodSpec) -> Pod {
        let pod = Pod {
            metadata: ObjectMeta {
                namespace: Some("ns".into()),
                name: Some(name.into()),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
            status: None,
        };
        self.cluster.client.create(&pod).await.unwrap()
    }

    async fn bind(&self, pod: &Pod, node: &str) {
        let binding = Binding {
            namespace: "ns".into(),
            pod: pod.metadata.name.clone().unwrap(),
            uid: pod.metadata.uid.clone().unwrap(),
            node: node.into(),
        };
        for result in self.cluster.client.bind(&[binding]).await {
            result.unwrap();
        }
    }
}

struct Agent {
    up: mpsc::Sender<NodeMessage>,
    down: Streaming<ControlMessage>,
}

impl Agent {
    async fn send(&self, message: Up) {
        self.up
            .send(NodeMessage {
                message: Some(message),
            })
            .await
            .unwrap();
    }

    async fn message(&mut self) -> Down {
        let next = tokio::time::timeout(Duration::from_secs(20), self.down.message());
        next.await
            .expect("a message in time")
            .unwrap()
            .unwrap()
            .message
            .unwrap()
    }

    async fn batch(&mut self) -> Batch {
        loop {
            if let Down::Batch(batch) = self.message().await {
                return decoded(&batch);
            }
        }
    }

    /// All batches until one is as wanted, that one included.
    async fn until(&mut self, wanted: impl Fn(&Batch) -> bool) -> Vec<Batch> {
        let mut seen = Vec::new();
        loop {
            let batch = self.batch().await;
            let found = wanted(&batch);
            seen.push(batch);
            if found {
                return seen;
            }
        }
    }
}

fn decoded(bytes: &[u8]) -> Batch {
    Batch::decode(bytes).unwrap()
}

fn user(node: &str) -> User {
    User {
        name: format!("system:node:{node}"),
        groups: vec!["system:nodes".into()],
        ..User::default()
    }
}

fn hello(name: &str) -> NodeMessage {
    NodeMessage {
        message: Some(Up::Hello(Hello {
            node_name: name.into(),
            node_json: serde_json::to_vec(&node(name)).unwrap().into(),
            agent_version: "test".into(),
            data_plane: Some(DataPlaneMode {
                routing: "native".into(),
                north_south: "dsr".into(),
                xdp: "off".into(),
            }),
        })),
    }
}

fn spec(value: serde_json::Value) -> PodSpec {
    serde_json::from_value(value).unwrap()
}

fn plain() -> PodSpec {
    spec(json!({"containers": [{"name": "c", "image": "echo:1"}]}))
}

/// The objects that the batches leave the node with.
fn objects(batches: &[Batch]) -> BTreeMap<(String, String), bool> {
    let mut all = BTreeMap::new();
    for object in batches.iter().flat_map(|batch| &batch.objects) {
        let key = (object.kind.clone(), object.name.clone());
        all.insert(key, !object.object_json.is_empty());
    }
    all
}

fn has_pod(batch: &Batch, name: &str) -> bool {
    batch
        .pods
        .iter()
        .any(|pod| pod.name == name && !pod.pod_json.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_registers_and_gets_the_full_state() {
    let server = Server::new().await;
    let mut agent = server.agent("n1").await;
    let full = agent.until(|batch| batch.last).await;
    assert!(full.iter().all(|batch| batch.full));
    let services: Vec<_> = full.iter().flat_map(|batch| &batch.services).collect();
    assert!(services.iter().any(|service| service.name == "kubernetes"));
    let nodes: Vec<_> = full.iter().flat_map(|batch| &batch.nodes).collect();
    assert_eq!(nodes.len(), 1);
    let stored = server
        .cluster
        .client
        .get::<Node>("", "n1")
        .await
        .unwrap()
        .unwrap();
    let capacity = stored.status.unwrap().capacity.unwrap();
    assert_eq!(capacity["cpu"].0, "8");
    let lease = server
        .cluster
        .client
        .get::<Lease>("kube-node-lease", "n1")
        .await
        .unwrap();
    let renewed = |lease: Option<&Lease>| lease.and_then(|lease| lease.spec.clone()?.renew_time);
    let first = renewed(lease.as_ref()).unwrap();
    agent
        .send(Up::LeaseRenewal(LeaseRenewal {
            duration_seconds: 40,
        }))
        .await;
    let leases = server.cluster.cache.leases.clone();
    server
        .cluster
        .until(&leases, "kube-node-lease", "n1", |lease| {
            renewed(lease).is_some_and(|at| at > first)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_gets_its_pods_with_what_they_refer_to_and_nothing_else() {
    let server = Server::new().await;
    let client = &server.cluster.client;
    for name in ["used", "unused"] {
        let metadata = ObjectMeta {
            namespace: Some("ns".into()),
            name: Some(name.into()),
            ..ObjectMeta::default()
        };
        client
            .create(&ConfigMap {
                metadata: metadata.clone(),
                ..ConfigMap::default()
            })
            .await
            .unwrap();
        client
            .create(&Secret {
                metadata,
                ..Secret::default()
            })
            .await
            .unwrap();
    }
    let mut one = server.agent("n1").await;
    let mut other = server.agent("n2").await;
    one.until(|batch| batch.last).await;
    other.until(|batch| batch.last).await;
    let pod = server
        .pod(
            "p",
            spec(json!({
                "containers": [{
                    "name": "c", "image": "echo:1",
                    "envFrom": [{"configMapRef": {"name": "used"}}],
                    "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "missing", "key": "k"}}}],
                }],
                "volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "used"}}]}}],
            })),
        )
        .await;
    server.bind(&pod, "n1").await;
    let seen = one.until(|batch| has_pod(batch, "p")).await;
    let key = |kind: &str, name: &str| (kind.to_owned(), name.to_owned());
    let expected: BTreeMap<_, _> = [
        (key("ConfigMap", "used"), true),
        (key("Secret", "used"), true),
        (key("Secret", "missing"), false),
        (key("ServiceAccount", "default"), false),
    ]
    .into();
    assert_eq!(objects(&seen), expected);

    // A change of what it refers to comes; of others it does not. What was missing comes when it is made.
    let patch = json!({"data": {"k": "v"}});
    client
        .merge_patch::<ConfigMap>("ns", "unused", "", &patch)
        .await
        .unwrap();
    client
        .merge_patch::<ConfigMap>("ns", "used", "", &patch)
        .await
        .unwrap();
    let missing = ObjectMeta {
        namespace: Some("ns".into()),
        name: Some("missing".into()),
        ..ObjectMeta::default()
    };
    client
        .create(&Secret {
            metadata: missing,
            ..Secret::default()
        })
        .await
        .unwrap();
    let seen = one
        .until(|batch| batch.objects.iter().any(|object| object.name == "missing"))
        .await;
    let expected: BTreeMap<_, _> = [
        (key("ConfigMap", "used"), true),
        (key("Secret", "missing"), true),
    ]
    .into();
    assert_eq!(objects(&seen), expected);

    // The other node has seen nothing of all this: its next change is its own pod.
    let own = server.pod("q", plain()).await;
    server.bind(&own, "n2").await;
    let seen = other.until(|batch| has_pod(batch, "q")).await;
    assert!(!seen.iter().any(|batch| has_pod(batch, "p")));
    let only_account: BTreeMap<_, _> = [(key("ServiceAccount", "default"), false)].into();
    assert_eq!(objects(&seen), only_account);
}

#[tokio::test(flavor = "multi_thread")]
async fn reports_reach_the_pod_and_its_end_removes_it() {
    let server = Server::new().await;
    let mut agent = server.agent("n1").await;
    let pod = server.pod("p", plain()).await;
    server.bind(&pod, "n1").await;
    agent.until(|batch| has_pod(batch, "p")).await;
    let uid = pod.metadata.uid.clone().unwrap();
    let report = |uid: &str, phase: &str| {
        Up::PodStatus(PodReport {
            namespace: "ns".into(),
            name: "p".into(),
            uid: uid.into(),
            status_json: serde_json::to_vec(&PodStatus {
                phase: Some(phase.into()),
                conditions: Some(vec![PodCondition {
                    type_: "Ready".into(),
                    status: "True".into(),
                    ..PodCondition::default()
                }]),
                ..PodStatus::default()
            })
            .unwrap()
            .into(),
            ..PodReport::default()
        })
    };
    agent.send(report("another pod", "Failed")).await;
    agent.send(report(&uid, "Running")).await;
    let pods = server.cluster.cache.pods.clone();
    let running = server
        .cluster
        .until(&pods, "ns", "p", |pod| {
            pod.is_some_and(|pod| pod.status.as_ref().unwrap().phase.as_deref() == Some("Running"))
        })
        .await
        .unwrap();
    let status = running.status.as_ref().unwrap();
    let kinds: Vec<_> = status
        .conditions
        .iter()
        .flatten()
        .map(|condition| condition.type_.as_str())
        .collect();
    assert_eq!(
        kinds,
        ["PodScheduled", "Ready"],
        "the scheduler's condition stays"
    );
    let options = crate::registry::DeleteOptions::default();
    server
        .cluster
        .client
        .delete::<Pod>("ns", "p", options)
        .await
        .unwrap();
    agent
        .until(|batch| {
            batch.pods.iter().any(|change| {
                let pod: Pod = serde_json::from_slice(&change.pod_json).unwrap();
                pod.metadata.deletion_timestamp.is_some()
            })
        })
        .await;
    let ended = PodTerminated {
        namespace: "ns".into(),
        name: "p".into(),
        uid: uid.clone(),
    };
    agent.send(Up::PodTerminated(ended)).await;
    let gone = agent
        .until(|batch| batch.pods.iter().any(|pod| pod.pod_json.is_empty()))
        .await;
    assert_eq!(gone.last().unwrap().pods[0].uid, uid);
    assert!(
        server
            .cluster
            .client
            .get::<Pod>("ns", "p")
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_no_say_in_the_pods_of_another() {
    let server = Server::new().await;
    let mut one = server.agent("n1").await;
    let mut other = server.agent("n2").await;
    let pod = server.pod("p", plain()).await;
    server.bind(&pod, "n1").await;
    one.until(|batch| has_pod(batch, "p")).await;
    other.until(|batch| batch.last).await;
    let uid = pod.metadata.uid.clone().unwrap();
    let ended = PodTerminated {
        namespace: "ns".into(),
        name: "p".into(),
        uid,
    };
    other.send(Up::PodTerminated(ended)).await;
    // Reports are taken in order: once this one is recorded, the earlier was looked at.
    let own = server.pod("q", plain()).await;
    server.bind(&own, "n2").await;
    other.until(|batch| has_pod(batch, "q")).await;
    let ended = PodTerminated {
        namespace: "ns".into(),
        name: "q".into(),
        uid: own.metadata.uid.clone().unwrap(),
    };
    other.send(Up::PodTerminated(ended)).await;
    other
        .until(|batch| batch.pods.iter().any(|pod| pod.pod_json.is_empty()))
        .await;
    assert!(
        server
            .cluster
            .client
            .get::<Pod>("ns", "p")
            .await
            .unwrap()
            .is_some()
    );
}
