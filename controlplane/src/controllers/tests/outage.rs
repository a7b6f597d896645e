//! Nodes that fall silent, one and all.

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use super::*;

/// Shorter than anything that is waited for here.
const GRACE: Duration = Duration::from_secs(2);

/// Beats for the nodes, which say that they are ready, for as long as the task lives.
fn living(cluster: &Cluster, nodes: &'static [&'static str]) -> tokio::task::JoinHandle<()> {
    let (client, cache) = (cluster.client.clone(), cluster.cache.clone());
    let lease = |name: &str| Lease {
        metadata: ObjectMeta {
            name: Some(name.into()),
            namespace: Some("kube-node-lease".into()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            renew_time: Some(MicroTime(Timestamp::now())),
            ..LeaseSpec::default()
        }),
    };
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(GRACE / 5);
        loop {
            tick.tick().await;
            for name in nodes {
                let mut beat = lease(name);
                // One that the cache does not have yet beats the next time.
                let _ = match cache.leases.get("kube-node-lease", name) {
                    Some(last) => {
                        let version = last.metadata.resource_version.clone();
                        beat.metadata.resource_version = version;
                        client.update(&beat).await
                    }
                    None => client.create(&beat).await,
                };
                let Some(seen) = cache.nodes.get("", name) else {
                    continue;
                };
                let mut node = seen.as_ref().clone();
                node.status = super::node(name).status;
                if !is_ready(&seen) {
                    let _ = client.update_status(&node).await;
                }
            }
        }
    })
}

fn is_ready(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|it| it.conditions.iter().flatten());
    let mut conditions = conditions.filter(|condition| condition.type_ == "Ready");
    conditions.any(|condition| condition.status == "True")
}

fn effects(node: &Node) -> Vec<&str> {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints.map(|taint| taint.effect.as_str()).collect()
}

fn closed_alone(node: Option<&Node>) -> bool {
    node.is_some_and(|node| effects(node) == ["NoSchedule"])
}

fn emptied(node: Option<&Node>) -> bool {
    node.is_some_and(|node| effects(node) == ["NoSchedule", "NoExecute"])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_unreachable_and_its_pods_are_replaced_elsewhere() {
    let cluster = Cluster::with_grace(&["n1", "n2"], GRACE).await;
    let first = living(&cluster, &["n1"]);
    let _second = living(&cluster, &["n2"]);
    let mut web = deployment("web", 4);
    web.metadata.namespace = Some("ns".into());
    // Not the five minutes of the default.
    let spec = web.spec.as_mut().unwrap().template.spec.as_mut().unwrap();
    spec.tolerations = Some(vec![k8s_openapi::api::core::v1::Toleration {
        key: Some("node.kubernetes.io/unreachable".into()),
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        toleration_seconds: Some(1),
        value: None,
    }]);
    cluster.client.create(&web).await.unwrap();
    let ready_on = |cache: &Cache, node: &str| {
        let pods = cache.pods.list("ns");
        let there = |pod: &&Arc<Pod>| {
            podstate::is_ready(pod) && pod.spec.as_ref().unwrap().node_name.as_deref() == Some(node)
        };
        pods.iter().filter(there).count()
    };
    cluster
        .eventually("pods on both nodes", |cache| {
            let (first, second) = (ready_on(cache, "n1"), ready_on(cache, "n2"));
            first > 0 && second > 0 && first + second == 4
        })
        .await;
    first.abort();
    cluster
        .eventually("all of them on the other node", |cache| {
            ready_on(cache, "n2") == 4 && cache.pods.list("ns").len() == 4
        })
        .await;
    assert!(emptied(cluster.cache.nodes.get("", "n1").as_deref()));
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_nodes_fall_silent_no_pod_is_driven_away_until_some_are_back() {
    let cluster = Cluster::with_grace(&["n1", "n2", "n3"], GRACE).await;
    for name in ["n1", "n2", "n3"] {
        cluster
            .until(&cluster.cache.nodes, "", name, closed_alone)
            .await;
    }
    // Two are back: the third gets as long as it may be silent, and is given up then.
    let back = std::time::Instant::now();
    let alive = living(&cluster, &["n1", "n2"]);
    for name in ["n1", "n2"] {
        cluster
            .until(&cluster.cache.nodes, "", name, |node| {
                node.is_some_and(|node| is_ready(node) && effects(node).is_empty())
            })
            .await;
    }
    cluster.until(&cluster.cache.nodes, "", "n3", emptied).await;
    assert!(back.elapsed() >= GRACE, "{:?}", back.elapsed());
    // And when those fall silent as well, it is called off.
    alive.abort();
    for name in ["n1", "n2", "n3"] {
        cluster
            .until(&cluster.cache.nodes, "", name, closed_alone)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_silent_nodes_one_is_emptied_first() {
    let cluster = Cluster::with_grace(&["n1", "n2", "n3", "n4"], GRACE).await;
    let _alive = living(&cluster, &["n1", "n2"]);
    let of = |name: &str| cluster.cache.nodes.get("", name);
    cluster
        .eventually("one is emptied, the other closed", |_| {
            let (third, fourth) = (of("n3"), of("n4"));
            let (third, fourth) = (third.as_deref(), fourth.as_deref());
            (emptied(third) && closed_alone(fourth)) || (closed_alone(third) && emptied(fourth))
        })
        .await;
    cluster
        .eventually("both are emptied", |_| {
            emptied(of("n3").as_deref()) && emptied(of("n4").as_deref())
        })
        .await;
}
