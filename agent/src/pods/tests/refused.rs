//! What a node does not begin, and what it ends because its machine goes down.

use std::time::Duration;

use k8s_openapi::api::core::v1::PodStatus;

use super::life::{World, one, phase_is};
use super::*;
use crate::cluster::ObjectName;
use crate::pods::report::recorder::is_ready;

const UID: &str = "uid-1";

fn asks(cpu: &str) -> serde_json::Value {
    one(serde_json::json!({"containers": [
        {"name": "main", "image": "i:1", "resources": {"requests": {"cpu": cpu}}}]}))
}

fn scheduled(mut pod: Pod) -> Pod {
    let status = serde_json::json!({"conditions": [{"type": "PodScheduled", "status": "True"}]});
    pod.status = serde_json::from_value(status).unwrap();
    pod
}

/// Reason and message of a pod that was refused, of whose containers nothing is said.
fn refusal(status: &PodStatus) -> (&str, &str) {
    assert_eq!(status.container_statuses, None);
    (
        status.reason.as_deref().unwrap(),
        status.message.as_deref().unwrap(),
    )
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_names_its_node_gets_no_more_than_there_is() {
    let world = World::new();
    let pods = world.open().await;
    pods.set(pod(UID, asks("1500m"))).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.set(pod("uid-2", asks("600m"))).await;
    let failed = phase_is("Failed");
    let status = world.recorder.status_when("uid-2", "refusal", failed).await;
    assert_eq!(
        refusal(&status),
        (
            "OutOfcpu",
            "Pod was rejected: Node didn't have enough resource: cpu, requested: 600, used: 1500, \
             capacity: 2000"
        )
    );
    // The scheduler knows better what there is, and a pod that has ended has nothing any more.
    pods.set(scheduled(pod("uid-3", asks("600m")))).await;
    world.recorder.status_when("uid-3", "ready", is_ready).await;
    for uid in [UID, "uid-3"] {
        pods.evict(uid, "why".to_owned(), None).await;
        let failed = phase_is("Failed");
        world.recorder.status_when(uid, "its end", failed).await;
    }
    pods.set(pod("uid-4", asks("2"))).await;
    world.recorder.status_when("uid-4", "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_names_its_node_gets_no_more_of_the_disk_than_there_is() {
    let world = World::new();
    let pods = world.open().await;
    let asks = |size: &str| {
        let requests = serde_json::json!({"requests": {"ephemeral-storage": size}});
        let container = |name: &str, resources: &serde_json::Value| serde_json::json!({"name": name, "image": "i:1", "resources": resources});
        one(serde_json::json!({
            "initContainers": [container("first", &requests)],
            "containers": [container("main", &requests), container("other", &serde_json::json!({}))]}))
    };
    world.program("first", super::life::ends(10, 0));
    pods.set(pod(UID, asks("60Gi"))).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.set(pod("uid-2", asks("40Gi"))).await;
    let failed = phase_is("Failed");
    let status = world.recorder.status_when("uid-2", "refusal", failed).await;
    assert_eq!(
        refusal(&status),
        (
            "OutOfephemeral-storage",
            "Pod was rejected: Node didn't have enough resource: ephemeral-storage, requested: \
             42949672960, used: 64424509440, capacity: 96636764160"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_goes_down_takes_its_pods_with_it_and_no_new_ones() {
    let world = World::new();
    let stubborn = crate::pods::machine::fake::Program {
        ignores_signals: true,
        ..Default::default()
    };
    world.program("main", stubborn);
    let pods = world.open().await;
    pods.set(pod(UID, one(serde_json::json!({})))).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.set_shutting_down(true);
    let begun = tokio::time::Instant::now();
    pods.shut_down(UID, Duration::from_secs(7)).await;
    let failed = phase_is("Failed");
    let status = world.recorder.status_when(UID, "its end", failed).await;
    assert_eq!(begun.elapsed().as_secs(), 7);
    assert_eq!(status.reason.as_deref(), Some("Terminated"));
    let message = "Pod was terminated in response to imminent node shutdown.";
    assert_eq!(status.message.as_deref(), Some(message));
    let mut conditions = status.conditions.iter().flatten();
    let target = conditions.find(|it| it.type_ == "DisruptionTarget");
    let reason = target.and_then(|it| it.reason.as_deref());
    assert_eq!(reason, Some("TerminationByKubelet"));
    pods.set(pod("uid-2", one(serde_json::json!({})))).await;
    let failed = phase_is("Failed");
    let status = world.recorder.status_when("uid-2", "refusal", failed).await;
    assert_eq!(
        refusal(&status),
        (
            "NodeShutdown",
            "Pod was rejected as the node is shutting down."
        )
    );
    pods.set_shutting_down(false);
    pods.set(pod("uid-3", one(serde_json::json!({})))).await;
    world.recorder.status_when("uid-3", "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_whose_volumes_are_missing_has_no_network_and_one_without_pull_secrets_says_so() {
    let world = World::new();
    for name in ["settings", "key"] {
        let name = ObjectName {
            namespace: "default".to_owned(),
            name: name.to_owned(),
        };
        world.objects.set_config_map(name.clone(), None);
        world.objects.set_secret(name, None);
    }
    let pods = world.open().await;
    let volumes = serde_json::json!([{"name": "v", "configMap": {"name": "settings"}}]);
    let spec = one(serde_json::json!({"volumes": volumes, "imagePullSecrets": [{"name": "key"}]}));
    pods.set(pod(UID, spec)).await;
    let waiting = |status: &PodStatus| status.phase.as_deref() == Some("Pending");
    world.recorder.status_when(UID, "waiting", waiting).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = world.recorder.statuses(UID).pop().unwrap();
    assert_eq!(status.pod_ip, None);
    let mut conditions = status.conditions.iter().flatten();
    let sandbox = conditions.find(|it| it.type_ == "PodReadyToStartContainers");
    assert_eq!(sandbox.unwrap().status, "False");
    let reasons = world.reasons();
    for reason in ["FailedMount", "FailedToRetrieveImagePullSecret"] {
        assert!(reasons.contains(&reason), "{reasons:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_is_not_for_this_node_does_not_begin_and_one_that_runs_goes_on() {
    let world = World::new();
    let pods = world.open().await;
    let misplaced = || Refused::misplaced("NodeAffinity").unwrap();
    let asked = || pod(UID, one(serde_json::json!({})));
    pods.set_refused(asked(), misplaced()).await;
    let failed = phase_is("Failed");
    let status = world.recorder.status_when(UID, "refusal", failed).await;
    assert_eq!(
        refusal(&status),
        (
            "NodeAffinity",
            "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node \
             affinity/selector"
        )
    );
    assert_eq!(world.reasons(), ["NodeAffinity"]);
    assert!(world.created().is_empty());
    let other = || pod("uid-2", one(serde_json::json!({})));
    pods.set(other()).await;
    world.recorder.status_when("uid-2", "ready", is_ready).await;
    pods.set_refused(other(), misplaced()).await;
    pods.set_refused(asked(), misplaced()).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let status = world.recorder.statuses("uid-2").pop().unwrap();
    assert!(is_ready(&status));
    assert_eq!(world.reasons().len(), 4);
    assert_eq!(Refused::misplaced("unheard of"), None);
}
