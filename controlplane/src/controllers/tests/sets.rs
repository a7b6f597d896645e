//! StatefulSets, DaemonSets and ReplicationControllers.

use k8s_openapi::api::apps::v1::{
    ControllerRevision, DaemonSet, DaemonSetSpec, StatefulSet, StatefulSetSpec,
};
use k8s_openapi::api::core::v1::{ReplicationController, ReplicationControllerSpec};

use super::*;
use crate::controllers::fixtures::{selector, template};

fn named(name: &str) -> ObjectMeta {
    ObjectMeta {
        namespace: Some("ns".into()),
        name: Some(name.into()),
        ..ObjectMeta::default()
    }
}

fn pod_names(cache: &Cache) -> Vec<String> {
    let pods = cache.pods.list("ns");
    pods.iter()
        .filter_map(|pod| pod.metadata.name.clone())
        .collect()
}

fn image_of(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0]
        .image
        .as_deref()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stateful_set_keeps_names_through_updates_and_scaling() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    let set = StatefulSet {
        metadata: named("db"),
        spec: Some(StatefulSetSpec {
            replicas: Some(3),
            selector: selector(),
            service_name: Some("db".into()),
            template: template(),
            ..StatefulSetSpec::default()
        }),
        status: None,
    };
    cluster.client.create(&set).await.unwrap();
    let sets = cluster.cache.stateful_sets.clone();
    let ready = |image: &'static str, count: usize| {
        move |cache: &Cache| {
            let pods = cache.pods.list("ns");
            pods.len() == count
                && pods
                    .iter()
                    .all(|pod| podstate::is_ready(pod) && image_of(pod) == image)
        }
    };
    cluster.eventually("three pods", ready("echo:1", 3)).await;
    assert_eq!(pod_names(&cluster.cache), ["db-0", "db-1", "db-2"]);
    let update =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "echo:2"}]}}}});
    cluster
        .client
        .merge_patch::<StatefulSet>("ns", "db", "", &update)
        .await
        .unwrap();
    cluster
        .eventually("the new image", ready("echo:2", 3))
        .await;
    let done = cluster
        .until(&sets, "ns", "db", |set| {
            let status = set.unwrap().status.as_ref().unwrap();
            status.current_revision == status.update_revision && status.ready_replicas == Some(3)
        })
        .await
        .unwrap();
    assert_eq!(done.status.as_ref().unwrap().updated_replicas, Some(3));
    let (revisions, _) = cluster
        .client
        .list::<ControllerRevision>("ns")
        .await
        .unwrap();
    assert_eq!(revisions.len(), 2);
    // Back to the first by its own data, as a rollback does it.
    let first = revisions.iter().find(|one| one.revision == 1).unwrap();
    let data = first.data.as_ref().unwrap().0.clone();
    // As it was written: clients compare bytes.
    let made = data.pointer("/spec/template/metadata/creationTimestamp");
    assert_eq!(made, Some(&serde_json::Value::Null));
    cluster
        .client
        .strategic_patch::<StatefulSet>("ns", "db", &data)
        .await
        .unwrap();
    cluster
        .eventually("the old image", ready("echo:1", 3))
        .await;
    let (revisions, _) = cluster
        .client
        .list::<ControllerRevision>("ns")
        .await
        .unwrap();
    let mut numbers: Vec<i64> = revisions.iter().map(|one| one.revision).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [2, 3]);
    let scale = json!({"spec": {"replicas": 1}});
    cluster
        .client
        .merge_patch::<StatefulSet>("ns", "db", "", &scale)
        .await
        .unwrap();
    cluster.eventually("one pod", ready("echo:1", 1)).await;
    assert_eq!(pod_names(&cluster.cache), ["db-0"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_are_made_for_pods_and_go_as_the_policy_says() {
    use k8s_openapi::api::core::v1::{
        PersistentVolumeClaim, PersistentVolumeClaimSpec, VolumeResourceRequirements,
    };
    let cluster = Cluster::new(&["n1"]).await;
    let claim = PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some("data".into()),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeClaimSpec {
            access_modes: Some(vec!["ReadWriteOnce".into()]),
            storage_class_name: Some(String::new()),
            resources: Some(VolumeResourceRequirements {
                requests: Some([("storage".to_owned(), Quantity("1Gi".into()))].into()),
                limits: None,
            }),
            ..PersistentVolumeClaimSpec::default()
        }),
        status: None,
    };
    let set = StatefulSet {
        metadata: named("db"),
        spec: Some(StatefulSetSpec {
            replicas: Some(2),
            selector: selector(),
            template: template(),
            pod_management_policy: Some("Parallel".into()),
            volume_claim_templates: Some(vec![claim]),
            ..StatefulSetSpec::default()
        }),
        status: None,
    };
    cluster.client.create(&set).await.unwrap();
    let names = |cache: &Cache| -> Vec<String> {
        let claims = cache.claims.list("ns");
        claims
            .iter()
            .filter_map(|claim| claim.metadata.name.clone())
            .collect()
    };
    cluster
        .eventually("two claims", |cache| {
            names(cache) == ["data-db-0", "data-db-1"]
        })
        .await;
    let policy =
        json!({"spec": {"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"}}});
    cluster
        .client
        .merge_patch::<StatefulSet>("ns", "db", "", &policy)
        .await
        .unwrap();
    cluster
        .eventually("claims that are owned", |cache| {
            let claims = cache.claims.list("ns");
            claims
                .iter()
                .all(|claim| claim.metadata.owner_references.iter().flatten().count() == 1)
        })
        .await;
    let options = DeleteOptions {
        propagation: Some("Background".into()),
        ..DeleteOptions::default()
    };
    cluster
        .client
        .delete::<StatefulSet>("ns", "db", options)
        .await
        .unwrap();
    cluster
        .eventually("nothing is left", |cache| {
            cache.pods.list("ns").is_empty()
                && cache
                    .claims
                    .list("ns")
                    .iter()
                    .all(|claim| claim.metadata.deletion_timestamp.is_some())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_set_follows_nodes_and_its_template() {
    let cluster = Cluster::new(&["n1", "n2"]).await;
    let set = DaemonSet {
        metadata: named("agent"),
        spec: Some(DaemonSetSpec {
            selector: selector(),
            template: template(),
            ..DaemonSetSpec::default()
        }),
        status: None,
    };
    cluster.client.create(&set).await.unwrap();
    let on = |nodes: &'static [&'static str], image: &'static str| {
        move |cache: &Cache| {
            let pods = cache.pods.list("ns");
            let mut found: Vec<_> = pods
                .iter()
                .filter(|pod| podstate::is_ready(pod) && image_of(pod) == image)
                .filter_map(|pod| pod.spec.as_ref()?.node_name.clone())
                .collect();
            found.sort();
            found == nodes && pods.len() == nodes.len()
        }
    };
    cluster
        .eventually("a pod per node", on(&["n1", "n2"], "echo:1"))
        .await;
    cluster.client.create(&node("n3")).await.unwrap();
    cluster
        .eventually("a third", on(&["n1", "n2", "n3"], "echo:1"))
        .await;
    let update =
        json!({"spec": {"template": {"spec": {"containers": [{"name": "c", "image": "echo:2"}]}}}});
    let changed = cluster
        .client
        .merge_patch::<DaemonSet>("ns", "agent", "", &update)
        .await
        .unwrap();
    let generation =
        &changed.metadata.annotations.unwrap()["deprecated.daemonset.template.generation"];
    assert_eq!(generation, "2");
    cluster
        .eventually("the new image", on(&["n1", "n2", "n3"], "echo:2"))
        .await;
    let sets = cluster.cache.daemon_sets.clone();
    cluster
        .until(&sets, "ns", "agent", |set| {
            let status = set.unwrap().status.as_ref().unwrap();
            status.updated_number_scheduled == Some(3) && status.number_available == Some(3)
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replication_controller_adopts_and_releases() {
    let cluster = Cluster::new(&["n1"]).await;
    let stray = Pod {
        metadata: ObjectMeta {
            labels: Some(labels(&[("app", "web")])),
            ..named("stray")
        },
        spec: template().spec,
        status: None,
    };
    cluster.client.create(&stray).await.unwrap();
    let owner = ReplicationController {
        metadata: named("rc"),
        spec: Some(ReplicationControllerSpec {
            replicas: Some(2),
            template: Some(template()),
            ..ReplicationControllerSpec::default()
        }),
        status: None,
    };
    cluster.client.create(&owner).await.unwrap();
    let controllers = cluster.cache.replication_controllers.clone();
    let ready = |count: i32| {
        move |owner: Option<&ReplicationController>| {
            let status = owner.and_then(|owner| owner.status.as_ref());
            status.is_some_and(|status| status.ready_replicas == Some(count))
        }
    };
    cluster.until(&controllers, "ns", "rc", ready(2)).await;
    let names = pod_names(&cluster.cache);
    assert!(
        names.len() == 2 && names.contains(&"stray".to_owned()),
        "{names:?}"
    );
    let other = json!({"metadata": {"labels": {"app": "other"}}});
    cluster
        .client
        .merge_patch::<Pod>("ns", "stray", "", &other)
        .await
        .unwrap();
    cluster
        .eventually("a third pod and the stray alone", |cache| {
            let stray = cache.pods.get("ns", "stray").unwrap();
            let alone = stray
                .metadata
                .owner_references
                .as_deref()
                .unwrap_or_default()
                .is_empty();
            alone && cache.pods.list("ns").len() == 3
        })
        .await;
}
