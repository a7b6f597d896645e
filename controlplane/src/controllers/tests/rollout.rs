//! Deployments and Services from object to Ready pods and endpoints.

use super::*;

fn complete(deployment: Option<&Deployment>) -> bool {
    let Some(deployment) = deployment else {
        return false;
    };
    let wanted = deployment.spec.as_ref().unwrap().replicas;
    let Some(status) = &deployment.status else {
        return false;
    };
    status.observed_generation == deployment.metadata.generation
        && status.updated_replicas == wanted
        && status.replicas == wanted
        && status.available_replicas == wanted
        && status.conditions.iter().flatten().any(|condition| {
            condition.type_ == "Progressing"
                && condition.reason.as_deref() == Some("NewReplicaSetAvailable")
        })
}

fn web(replicas: i32) -> Deployment {
    let mut web = deployment("web", replicas);
    web.metadata = ObjectMeta {
        namespace: Some("ns".into()),
        name: Some("web".into()),
        ..ObjectMeta::default()
    };
    web
}

async fn image(cluster: &Cluster, image: &str) {
    let patch = json!([{"name": "c", "image": image}]);
    let patch = json!({"spec": {"template": {"spec": {"containers": patch}}}});
    cluster
        .client
        .merge_patch::<Deployment>("ns", "web", "", &patch)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_becomes_pods_rolls_scales_and_is_undone() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    let deployments = cluster.cache.deployments.clone();
    cluster.client.create(&web(5)).await.unwrap();
    cluster.until(&deployments, "ns", "web", complete).await;
    let pods = cluster.cache.pods.list("ns");
    assert_eq!(pods.len(), 5);
    let on = |name: &str| {
        let here = |pod: &&Arc<Pod>| pod.spec.as_ref().unwrap().node_name.as_deref() == Some(name);
        pods.iter().filter(here).count()
    };
    assert!(
        on("n1") >= 2 && on("n2") >= 2,
        "spread: {} and {}",
        on("n1"),
        on("n2")
    );

    image(&cluster, "echo:2").await;
    cluster.until(&deployments, "ns", "web", complete).await;
    let sets = cluster.cache.replica_sets.list("ns");
    assert_eq!(sets.len(), 2);
    cluster
        .eventually("only pods of the second template", |cache| {
            let pods = cache.pods.list("ns");
            pods.len() == 5
                && pods.iter().all(|pod| {
                    pod.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("echo:2")
                })
        })
        .await;

    let patch = json!({"spec": {"replicas": 2}});
    cluster
        .client
        .merge_patch::<Deployment>("ns", "web", "", &patch)
        .await
        .unwrap();
    cluster.until(&deployments, "ns", "web", complete).await;

    image(&cluster, "echo:1").await;
    let web = cluster
        .until(&deployments, "ns", "web", |web| {
            complete(web)
                && web
                    .unwrap()
                    .metadata
                    .annotations
                    .as_ref()
                    .is_some_and(|annotations| {
                        annotations["deployment.kubernetes.io/revision"] == "3"
                    })
        })
        .await;
    assert_eq!(web.unwrap().spec.as_ref().unwrap().replicas, Some(2));
    assert_eq!(
        cluster.cache.replica_sets.list("ns").len(),
        2,
        "the old set is used again"
    );
    cluster
        .eventually("two pods", |cache| cache.pods.list("ns").len() == 2)
        .await;
    let events = cluster
        .client
        .list::<k8s_openapi::api::core::v1::Event>("ns")
        .await
        .unwrap()
        .0;
    for reason in [
        "ScalingReplicaSet",
        "SuccessfulCreate",
        "SuccessfulDelete",
        "Scheduled",
    ] {
        assert!(
            events
                .iter()
                .any(|event| event.reason.as_deref() == Some(reason)),
            "no event {reason}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_pod_is_created_twice() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.client.create(&web(40)).await.unwrap();
    cluster
        .until(&cluster.cache.deployments.clone(), "ns", "web", complete)
        .await;
    let sets = cluster.client.list::<ReplicaSet>("ns").await.unwrap().0;
    let pods = cluster.client.list::<Pod>("ns").await.unwrap().0;
    assert_eq!((sets.len(), pods.len()), (1, 40));
    let events = cluster
        .client
        .list::<k8s_openapi::api::core::v1::Event>("ns")
        .await
        .unwrap()
        .0;
    assert!(
        !events
            .iter()
            .any(|event| event.reason.as_deref() == Some("SuccessfulDelete"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_has_the_ready_pods_as_endpoints() {
    let cluster = Cluster::new(&["n1"]).await;
    cluster.client.create(&web(3)).await.unwrap();
    let service = Service {
        metadata: ObjectMeta {
            namespace: Some("ns".into()),
            name: Some("web".into()),
            ..ObjectMeta::default()
        },
        spec: Some(ServiceSpec {
            selector: Some(labels(&[("app", "web")])),
            ports: Some(vec![ServicePort {
                port: 80,
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    };
    cluster.client.create(&service).await.unwrap();
    let ready = |slices: &[Arc<EndpointSlice>]| {
        slices
            .iter()
            .flat_map(|slice| slice.endpoints.iter().flatten())
            .filter(|endpoint| endpoint.conditions.as_ref().unwrap().ready == Some(true))
            .count()
    };
    cluster
        .eventually("three endpoints", |cache| {
            ready(&cache.endpoint_slices.list("ns")) == 3
        })
        .await;
    let addresses = |endpoints: Option<&Endpoints>| {
        endpoints.map_or(0, |endpoints| {
            let subsets = endpoints.subsets.iter().flatten();
            subsets
                .flat_map(|subset| subset.addresses.iter().flatten())
                .count()
        })
    };
    let endpoints = cluster.cache.endpoints.clone();
    cluster
        .until(&endpoints, "ns", "web", |found| addresses(found) == 3)
        .await;
    let patch = json!({"spec": {"replicas": 1}});
    cluster
        .client
        .merge_patch::<Deployment>("ns", "web", "", &patch)
        .await
        .unwrap();
    cluster
        .eventually("one endpoint", |cache| {
            ready(&cache.endpoint_slices.list("ns")) == 1
        })
        .await;
    cluster
        .client
        .delete::<Service>("ns", "web", DeleteOptions::default())
        .await
        .unwrap();
    cluster
        .until(&endpoints, "ns", "web", |found| found.is_none())
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_fits_nowhere_says_why_and_is_placed_when_a_node_comes() {
    let cluster = Cluster::new(&[]).await;
    cluster.client.create(&web(1)).await.unwrap();
    cluster
        .eventually("an unschedulable pod", |cache| {
            cache.pods.list("ns").iter().any(|pod| {
                podstate::condition(pod, "PodScheduled").is_some_and(|condition| {
                    condition.reason.as_deref() == Some("Unschedulable")
                        && condition.message.as_deref()
                            == Some("no nodes available to schedule pods")
                })
            })
        })
        .await;
    cluster.client.create(&node("n1")).await.unwrap();
    cluster
        .until(&cluster.cache.deployments.clone(), "ns", "web", complete)
        .await;
}
