//! The ends of things: namespaces, nodes, owners.

use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;

use super::*;
use crate::cache::ObjectKey;
use crate::controllers::node::eviction;
use crate::controllers::worker::Next;

fn web(replicas: i32) -> Deployment {
    let mut web = deployment("web", replicas);
    web.metadata = ObjectMeta {
        namespace: Some("ns".into()),
        name: Some("web".into()),
        ..ObjectMeta::default()
    };
    web
}

async fn running(cluster: &Cluster, pods: usize) {
    cluster
        .eventually("ready pods", |cache| {
            let all = cache.pods.list("ns");
            all.len() == pods && all.iter().all(|pod| podstate::is_ready(pod))
        })
        .await;
}

async fn delete_web(cluster: &Cluster, propagation: &str) {
    let options = DeleteOptions {
        propagation: Some(propagation.into()),
        ..DeleteOptions::default()
    };
    cluster
        .client
        .delete::<Deployment>("ns", "web", options)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deployment_owns_goes_with_it() {
    for propagation in ["Background", "Foreground"] {
        let cluster = Cluster::new(&["n1"]).await;
        cluster.client.create(&web(3)).await.unwrap();
        running(&cluster, 3).await;
        delete_web(&cluster, propagation).await;
        cluster
            .eventually("nothing left", |cache| {
                cache.deployments.list("ns").is_empty()
                    && cache.replica_sets.list("ns").is_empty()
                    && cache.pods.list("ns").is_empty()
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orphans_stay_and_are_adopted_again() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.client.create(&web(2)).await.unwrap();
    running(&cluster, 2).await;
    delete_web(&cluster, "Orphan").await;
    cluster
        .eventually("the set without owner", |cache| {
            cache.deployments.list("ns").is_empty()
                && cache.replica_sets.list("ns").iter().all(|set| {
                    set.metadata
                        .owner_references
                        .as_deref()
                        .unwrap_or_default()
                        .is_empty()
                })
        })
        .await;
    assert_eq!(cluster.cache.pods.list("ns").len(), 2);
    cluster.client.create(&web(2)).await.unwrap();
    cluster
        .eventually("the set adopted", |cache| {
            let sets = cache.replica_sets.list("ns");
            sets.len() == 1 && sets[0].metadata.owner_references.iter().flatten().count() == 1
        })
        .await;
    assert_eq!(cluster.cache.pods.list("ns").len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_takes_all_its_content_with_it() {
    let cluster = Cluster::new(&["n1"]).await;
    let accounts = cluster.cache.service_accounts.clone();
    cluster
        .until(
            &accounts,
            "ns",
            "default",
            |found: Option<&ServiceAccount>| found.is_some(),
        )
        .await;
    let maps = cluster.cache.config_maps.clone();
    let ca = cluster
        .until(
            &maps,
            "ns",
            "kube-root-ca.crt",
            |found: Option<&ConfigMap>| found.is_some(),
        )
        .await;
    assert_eq!(ca.unwrap().data.as_ref().unwrap()["ca.crt"], "CA");
    cluster.client.create(&web(3)).await.unwrap();
    running(&cluster, 3).await;
    cluster
        .client
        .delete::<Namespace>("", "ns", DeleteOptions::default())
        .await
        .unwrap();
    let namespaces = cluster.cache.namespaces.clone();
    cluster
        .until(&namespaces, "", "ns", |found| found.is_none())
        .await;
    assert!(cluster.client.list::<Pod>("ns").await.unwrap().0.is_empty());
    assert!(
        cluster
            .client
            .list::<ConfigMap>("ns")
            .await
            .unwrap()
            .0
            .is_empty()
    );
    let events = cluster.client.list::<Event>("ns").await.unwrap().0;
    assert!(events.is_empty(), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_loses_its_pods_before_anything_else() {
    let cluster = Cluster::new(&["n1"]).await;
    let mut held: Pod = super::super::fixtures::pod("held", None, None);
    held.metadata.uid = None;
    held.metadata.finalizers = Some(vec!["example.com/hold".into()]);
    cluster.client.create(&held).await.unwrap();
    let policy: NetworkPolicy = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "alone"}, "spec": {"podSelector": {}}}))
    .unwrap();
    cluster.client.create(&policy).await.unwrap();
    running(&cluster, 1).await;
    cluster
        .client
        .delete::<Namespace>("", "ns", DeleteOptions::default())
        .await
        .unwrap();
    let namespaces = cluster.cache.namespaces.clone();
    cluster
        .until(&namespaces, "", "ns", |found| {
            let status = found.and_then(|found| found.status.as_ref());
            let conditions = status.and_then(|status| status.conditions.as_ref());
            conditions.into_iter().flatten().any(|condition| {
                condition.message.as_deref()
                    == Some("Some resources are remaining: pods. has 1 resource instances")
            })
        })
        .await;
    let policies = cluster.client.list::<NetworkPolicy>("ns").await.unwrap().0;
    assert!(policies[0].metadata.deletion_timestamp.is_none());
    let released = json!({"metadata": {"finalizers": null}});
    cluster
        .client
        .merge_patch::<Pod>("ns", "held", "", &released)
        .await
        .unwrap();
    cluster
        .until(&namespaces, "", "ns", |found| found.is_none())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_node_gets_a_pod_range_of_its_own() {
    let cluster = Cluster::new(&["n1", "n2", "n3", "n4"]).await;
    cluster
        .eventually("ranges", |cache| {
            let nodes = cache.nodes.list("");
            let mut ranges: Vec<_> = nodes
                .iter()
                .filter_map(|node| node.spec.as_ref()?.pod_cidr.clone())
                .collect();
            ranges.sort();
            ranges
                == [
                    "10.244.0.0/24",
                    "10.244.1.0/24",
                    "10.244.2.0/24",
                    "10.244.3.0/24",
                ]
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_follow_the_zone_of_their_node() {
    let cluster = Cluster::new(&["n1"]).await;
    let service: Service = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80}]},
    }))
    .unwrap();
    cluster.client.create(&service).await.unwrap();
    cluster.client.create(&web(1)).await.unwrap();
    let zone_is = |cache: &crate::cache::Cache, wanted: Option<&str>| {
        let slices = cache
            .endpoint_slices
            .indexed(crate::cache::BY_SERVICE, "ns/web");
        let mut endpoints = slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten());
        endpoints
            .next()
            .is_some_and(|endpoint| endpoint.zone.as_deref() == wanted)
    };
    cluster
        .eventually("an endpoint without zone", |cache| zone_is(cache, None))
        .await;
    let patch = json!({"metadata": {"labels": {"topology.kubernetes.io/zone": "z"}}});
    cluster
        .client
        .merge_patch::<Node>("", "n1", "", &patch)
        .await
        .unwrap();
    cluster
        .eventually("the zone in the endpoint", |cache| {
            zone_is(cache, Some("z"))
        })
        .await;
}

/// Until there is such an event.
async fn told(cluster: &Cluster, about: &str, message: &str) {
    let wanted = async {
        loop {
            let (events, _) = cluster.client.list::<Event>("").await.unwrap();
            let found = events.iter().any(|event| {
                event.involved_object.name.as_deref() == Some(about)
                    && event.message.as_deref() == Some(message)
            });
            if found {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(std::time::Duration::from_secs(30), wanted).await;
    waited.unwrap_or_else(|_| panic!("no event about {about}: {message}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_nodes_is_told() {
    let cluster = Cluster::new(&["n1"]).await;
    told(
        &cluster,
        "n1",
        "Node n1 event: Registered Node n1 in Controller",
    )
    .await;
    let change = async |spec: serde_json::Value| {
        let patch = json!({"spec": spec});
        let patched = cluster.client.merge_patch::<Node>("", "n1", "", &patch);
        patched.await.unwrap();
    };
    change(json!({"unschedulable": true})).await;
    told(&cluster, "n1", "Node n1 status is now: NodeNotSchedulable").await;
    change(json!({"unschedulable": null})).await;
    told(&cluster, "n1", "Node n1 status is now: NodeSchedulable").await;
    let options = DeleteOptions::default();
    let deleted = cluster.client.delete::<Node>("", "n1", options);
    deleted.await.unwrap();
    told(
        &cluster,
        "n1",
        "Node n1 event: Removing Node n1 from Controller",
    )
    .await;
}

/// The only controller here is the one that is asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_need_not_go_after_all_is_told_so() {
    let cluster = Cluster::bare().await;
    cluster.namespace("ns").await;
    let mut tainted = node("n1");
    tainted.spec = serde_json::from_value(json!({
        "taints": [{"key": "k", "effect": "NoExecute"}],
    }))
    .unwrap();
    cluster.client.create(&tainted).await.unwrap();
    let patient: Pod = serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "patient"},
        "spec": {
            "nodeName": "n1",
            "containers": [{"name": "c", "image": "i"}],
            "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 600}],
        },
    }))
    .unwrap();
    let patient = cluster.client.create(&patient).await.unwrap();
    cluster
        .eventually("node and pod", |cache| {
            cache.nodes.get("", "n1").is_some() && cache.pods.get("ns", "patient").is_some()
        })
        .await;
    let controller = eviction::Controller::new(&cluster.client, &cluster.cache);
    let key = ObjectKey::of(&patient);
    let next = controller.reconcile(key.clone()).await.unwrap();
    assert!(matches!(next, Next::After(_)));
    let patch = json!({"spec": {"taints": null}});
    cluster
        .client
        .merge_patch::<Node>("", "n1", "", &patch)
        .await
        .unwrap();
    cluster
        .eventually("no taint", |cache| {
            let node = cache.nodes.get("", "n1");
            node.is_some_and(|node| {
                let spec = node.spec.as_ref();
                spec.is_none_or(|spec| spec.taints.is_none())
            })
        })
        .await;
    controller.reconcile(key).await.unwrap();
    told(&cluster, "patient", "Cancelling deletion of Pod ns/patient").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_in_another_namespace_is_none() {
    let cluster = Cluster::new(&[]).await;
    cluster.namespace("other").await;
    let map = |namespace: &str, name: &str, owners: serde_json::Value| -> ConfigMap {
        serde_json::from_value(json!({
            "metadata": {"namespace": namespace, "name": name, "ownerReferences": owners}}))
        .unwrap()
    };
    let owner = map("other", "owner", json!([]));
    let owner = cluster.client.create(&owner).await.unwrap();
    let uid = owner.metadata.uid.unwrap();
    let owners = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid}]);
    cluster
        .client
        .create(&map("ns", "child", owners))
        .await
        .unwrap();
    told(
        &cluster,
        "child",
        &format!(
            "ownerRef [v1/ConfigMap, namespace: ns, name: owner, uid: {uid}] does not exist in namespace \"ns\""
        ),
    )
    .await;
    let maps = cluster.cache.config_maps.clone();
    cluster
        .until(&maps, "ns", "child", |found: Option<&ConfigMap>| {
            found.is_none()
        })
        .await;
    let owner = cluster.client.get::<ConfigMap>("other", "owner").await;
    assert!(owner.unwrap().is_some());
}
