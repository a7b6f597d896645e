//! The ends of things: namespaces, nodes, owners.

use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};

use super::*;

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
    let events = cluster
        .client
        .list::<k8s_openapi::api::core::v1::Event>("ns")
        .await
        .unwrap()
        .0;
    assert!(events.is_empty(), "{events:?}");
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
