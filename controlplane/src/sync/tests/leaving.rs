//! Pods are stopped when the nodes have let go of their endpoints: over real streams, with nodes that
//! acknowledge late, never, or vanish.

use k8s_openapi::api::core::v1::Service as CoreService;
use k8s_openapi::api::discovery::v1::EndpointSlice;

use super::*;
use crate::registry::DeleteOptions;

const LONG: Duration = Duration::from_secs(600);

fn limits(wait: Duration) -> Limits {
    let drain = Duration::ZERO;
    Limits { wait, drain }
}

fn of<K: serde::de::DeserializeOwned>(value: serde_json::Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A ready pod `p` on n1 behind the Service `s`, and two nodes that know all of it.
struct Scene {
    server: Server,
    home: Agent,
    other: Agent,
    pod: Pod,
    slice: EndpointSlice,
}

impl Scene {
    async fn new(wait: Duration) -> Self {
        let server = Server::with(limits(wait)).await;
        let client = &server.cluster.client;
        client
            .create::<CoreService>(&of(json!({
                "metadata": {"namespace": "ns", "name": "s"},
                "spec": {"selector": {"app": "s"}, "ports": [{"port": 80}]},
            })))
            .await
            .unwrap();
        let mut home = server.agent("n1").await;
        let mut other = server.agent("n2").await;
        let pod: Pod = of(json!({
            "metadata": {"namespace": "ns", "name": "p", "labels": {"app": "s"}},
            "spec": plain(),
        }));
        let pod = client.create(&pod).await.unwrap();
        server.bind(&pod, "n1").await;
        let slice: EndpointSlice = of(json!({
            "metadata": {"namespace": "ns", "name": "s-1", "labels": {
                "kubernetes.io/service-name": "s",
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io"}},
            "addressType": "IPv4",
            "ports": [{"name": "", "port": 80, "protocol": "TCP"}],
            "endpoints": [{
                "addresses": ["10.244.0.9"], "nodeName": "n1",
                "conditions": {"ready": true, "serving": true, "terminating": false},
                "targetRef": {"kind": "Pod", "namespace": "ns", "name": "p", "uid": pod.metadata.uid}}],
        }));
        let slice = client.create(&slice).await.unwrap();
        for agent in [&mut home, &mut other] {
            let seen = agent
                .until(|batch| {
                    batch
                        .endpoint_slices
                        .iter()
                        .any(|slice| slice.name == "s-1")
                })
                .await;
            agent.acknowledge(seen.last().unwrap().revision).await;
        }
        Self {
            server,
            home,
            other,
            pod,
            slice,
        }
    }

    async fn delete(&self, grace: Option<i64>) {
        let options = DeleteOptions {
            grace_period_seconds: grace,
            ..DeleteOptions::default()
        };
        let client = &self.server.cluster.client;
        client.delete::<Pod>("ns", "p", options).await.unwrap();
    }

    /// What the EndpointSlice controller does; both nodes get it. Returns its revision.
    async fn close(&mut self) -> u64 {
        let mut slice = self.slice.clone();
        let endpoints = slice.endpoints.as_mut().unwrap();
        let conditions = endpoints[0].conditions.as_mut().unwrap();
        conditions.ready = Some(false);
        conditions.terminating = Some(true);
        let client = &self.server.cluster.client;
        let slice = client.update(&slice).await.unwrap();
        let wanted = slice.metadata.resource_version.unwrap().parse().unwrap();
        let knows = |batch: &Batch| batch.revision >= wanted;
        for agent in [&mut self.home, &mut self.other] {
            for batch in agent.until(knows).await {
                assert!(!is_told(&batch), "told before anybody has acknowledged");
            }
        }
        wanted
    }

    /// Everything the home node gets until it is told to stop the pod.
    async fn told(&mut self) -> Vec<Batch> {
        self.home.until(is_told).await
    }
}

impl Agent {
    async fn acknowledge(&self, revision: u64) {
        self.send(Up::Applied(AppliedRevision { revision })).await;
    }
}

fn is_told(batch: &Batch) -> bool {
    batch.pods.iter().any(|change| {
        let pod: Option<Pod> = serde_json::from_slice(&change.pod_json).ok();
        !change.held && pod.is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_is_stopped_only_after_every_connected_node_has_acknowledged() {
    let mut scene = Scene::new(LONG).await;
    scene.delete(None).await;
    let revision = scene.close().await;
    scene.home.acknowledge(revision).await;
    scene
        .server
        .applied(|applied| applied.revisions()["n1"] == revision)
        .await;
    // Something else that n1 gets shows that it was not told meanwhile.
    let own = scene.server.pod("q", plain()).await;
    scene.server.bind(&own, "n1").await;
    for batch in scene.home.until(|batch| has_pod(batch, "q")).await {
        assert!(!is_told(&batch), "the other node still sends it requests");
    }
    scene.other.acknowledge(revision).await;
    scene.told().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_never_acknowledges_delays_a_pod_for_so_long_and_is_counted() {
    let mut scene = Scene::new(Duration::from_secs(1)).await;
    scene.delete(None).await;
    let revision = scene.close().await;
    scene.home.acknowledge(revision).await;
    scene.told().await;
    assert!(scene.server.applied.revisions()["n2"] < revision);
    let mut text = String::new();
    let mut registry = prometheus_client::registry::Registry::default();
    scene.server.metrics.register(&mut registry);
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let counted = "waggle_sync_terminations_total{outcome=\"timed_out\"} 1";
    assert!(text.contains(counted), "{text}");
    assert!(text.contains("waggle_sync_held_terminations 0"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_vanishes_is_not_waited_for() {
    let mut scene = Scene::new(LONG).await;
    scene.delete(None).await;
    let revision = scene.close().await;
    scene.home.acknowledge(revision).await;
    let Scene {
        server: _server,
        mut home,
        other,
        ..
    } = scene;
    drop(other);
    home.until(is_told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_deleted_by_force_or_stands_in_no_slice_is_not_delayed() {
    let mut scene = Scene::new(LONG).await;
    let own = scene.server.pod("q", plain()).await;
    scene.server.bind(&own, "n1").await;
    scene.home.until(|batch| has_pod(batch, "q")).await;
    let client = &scene.server.cluster.client;
    let usual = DeleteOptions::default();
    client.delete::<Pod>("ns", "q", usual).await.unwrap();
    scene.told().await;
    scene.delete(Some(0)).await;
    let seen = scene
        .home
        .until(|batch| batch.pods.iter().any(|pod| pod.name == "p"))
        .await;
    let gone = &seen.last().unwrap().pods[0];
    assert!(gone.pod_json.is_empty());
    assert_eq!(Some(&gone.uid), scene.pod.metadata.uid.as_ref());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_connects_anew_keeps_a_held_pod_until_it_is_told() {
    let mut scene = Scene::new(LONG).await;
    scene.delete(None).await;
    let revision = scene.close().await;
    scene.home.acknowledge(revision).await;
    scene.home = scene.server.agent("n1").await;
    let full = scene.home.until(|batch| batch.last).await;
    let of_pod: Vec<_> = full.iter().flat_map(|batch| &batch.pods).collect();
    assert!(of_pod.len() == 1 && of_pod[0].held, "{of_pod:?}");
    scene.other.acknowledge(revision).await;
    scene
        .server
        .applied(|applied| applied.revisions()["n2"] == revision)
        .await;
    // Its kernel may hold anything until it says so: it is waited for like any other.
    scene.home.acknowledge(revision).await;
    scene.told().await;
    // From now on it is told at once.
    scene.home = scene.server.agent("n1").await;
    let full = scene.home.until(|batch| batch.last).await;
    assert!(full.iter().any(is_told));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_starts_anew_tells_the_node_in_the_end() {
    let mut scene = Scene::new(LONG).await;
    scene.delete(None).await;
    let revision = scene.close().await;
    // The same store and cache, as the next leader or the restarted member has them.
    let next = scene.server.again(limits(LONG));
    let mut home = next.agent("n1").await;
    let full = home.until(|batch| batch.last).await;
    assert!(
        full.iter()
            .any(|batch| batch.pods.iter().any(|pod| pod.held))
    );
    home.acknowledge(full.last().unwrap().revision.max(revision))
        .await;
    next.applied(|applied| applied.least() >= revision).await;
    // n2 was ready and is not back yet: its kernel may still send requests here.
    let own = next.pod("q", plain()).await;
    next.bind(&own, "n1").await;
    for batch in home.until(|batch| has_pod(batch, "q")).await {
        assert!(!is_told(&batch));
    }
    let mut other = next.agent("n2").await;
    let full = other.until(|batch| batch.last).await;
    other.acknowledge(full.last().unwrap().revision).await;
    home.until(is_told).await;
}
