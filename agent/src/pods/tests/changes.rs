//! What is changed under a running pod, and what the node does to pods for its own sake.

use super::life::{World, one, phase_is};
use super::*;
use crate::pods::report::recorder::{container, is_ready};

const UID: &str = "uid-1";

fn resources(cpu: &str, restart: bool) -> serde_json::Value {
    let policy = if restart {
        "RestartContainer"
    } else {
        "NotRequired"
    };
    one(
        serde_json::json!({"containers": [{"name": "main", "image": "i:1",
        "resources": {"requests": {"cpu": cpu}},
        "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]}]}),
    )
}

fn has_condition(
    type_: &str,
    reason: Option<&str>,
) -> impl Fn(&k8s_openapi::api::core::v1::PodStatus) -> bool {
    let (type_, reason) = (type_.to_owned(), reason.map(str::to_owned));
    move |status| {
        let mut all = status.conditions.iter().flatten();
        all.any(|it| it.type_ == type_ && it.reason == reason && it.status == "True")
    }
}

fn in_force(cpu: &str) -> impl Fn(&k8s_openapi::api::core::v1::PodStatus) -> bool {
    let cpu = cpu.to_owned();
    move |status| {
        let known = container(status, "main").allocated_resources.as_ref();
        let resizing =
            |it: &k8s_openapi::api::core::v1::PodCondition| it.type_.starts_with("PodResize");
        known.is_some_and(|all| all["cpu"].0 == cpu)
            && !status.conditions.iter().flatten().any(resizing)
    }
}

#[tokio::test(start_paused = true)]
async fn resources_change_in_place_or_by_a_new_attempt() {
    for restart in [false, true] {
        let world = World::new();
        let pods = world.open().await;
        pods.set(pod(UID, resources("100m", restart))).await;
        world.recorder.status_when(UID, "ready", is_ready).await;
        pods.set(pod(UID, resources("200m", restart))).await;
        let status = world
            .recorder
            .status_when(UID, "resized", in_force("200m"))
            .await;
        let restarts = container(&status, "main").restart_count;
        assert_eq!(restarts, i32::from(restart));
        let resized = world.machine.lock().resized.clone();
        let own = resized
            .iter()
            .any(|(id, it)| !id.is_empty() && it.cpu_request_millis == Some(200));
        assert_eq!(own, !restart);
        assert!(resized.iter().any(|(id, _)| id.is_empty()), "the pod's own");
    }
}

#[tokio::test(start_paused = true)]
async fn resources_of_a_pod_as_a_whole_change_in_place() {
    let whole = |cpu: &str, generation: i64| {
        let spec = serde_json::json!({"resources": {"requests": {"cpu": cpu}}});
        let mut pod = pod(UID, one(spec));
        pod.metadata.generation = Some(generation);
        pod
    };
    let has = |cpu: &'static str| {
        move |status: &k8s_openapi::api::core::v1::PodStatus| {
            let requests = |it: &k8s_openapi::api::core::v1::ResourceRequirements| {
                it.requests.as_ref().map(|all| all["cpu"].0.clone())
            };
            let conditions = status.conditions.iter().flatten();
            status.resources.as_ref().and_then(requests).as_deref() == Some(cpu)
                && status
                    .allocated_resources
                    .as_ref()
                    .is_some_and(|all| all["cpu"].0 == cpu)
                && !conditions
                    .into_iter()
                    .any(|it| it.type_.starts_with("PodResize"))
        }
    };
    let world = World::new();
    let pods = world.open().await;
    pods.set(whole("100m", 1)).await;
    world.recorder.status_when(UID, "begun", has("100m")).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    assert!(world.machine.lock().resized.is_empty());
    pods.set(whole("200m", 2)).await;
    world
        .recorder
        .status_when(UID, "resized", has("200m"))
        .await;
    let resized = world.machine.lock().resized.clone();
    assert!(
        matches!(&resized[..], [(whose, to)] if whose.is_empty() && to.cpu_request_millis == Some(200)),
        "{resized:?}"
    );
    let messages = [
        ("ResizeStarted", "started"),
        ("ResizeCompleted", "completed"),
    ];
    for (reason, stage) in messages {
        let message = format!(
            "Pod resize {stage}: {{\"containers\":[{{\"name\":\"main\",\"resources\":{{}}}}],\"generation\":2}}"
        );
        assert!(
            world.recorder.events().contains(&(reason, message)),
            "{reason}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_node_cannot_give_is_said_and_what_runs_goes_on() {
    let world = World::new();
    let pods = world.open().await;
    pods.set(pod(UID, resources("100m", false))).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.set(pod(UID, resources("64", false))).await;
    let infeasible = has_condition("PodResizePending", Some("Infeasible"));
    let status = world.recorder.status_when(UID, "refusal", infeasible).await;
    assert!(is_ready(&status));
    let message = "Pod resize Infeasible: {\"containers\":[{\"name\":\"main\",\"resources\":{\"requests\":\
                   {\"cpu\":\"64\"}}}],\"generation\":0,\"error\":\"Node didn't have enough capacity: cpu, \
                   requested: 64000, capacity: 2000\"}";
    let event = ("ResizeInfeasible", message.to_owned());
    assert!(world.recorder.events().contains(&event));
    // The other pod has what this one wants, until it has gone.
    let mut other = pod("uid-2", resources("1500m", false));
    other.metadata.name = Some("other".to_owned());
    pods.set(other.clone()).await;
    world.recorder.status_when("uid-2", "ready", is_ready).await;
    pods.set(pod(UID, resources("1", false))).await;
    let deferred = has_condition("PodResizePending", Some("Deferred"));
    world.recorder.status_when(UID, "wait", deferred).await;
    pods.set(deleted(&other, 1)).await;
    world
        .recorder
        .status_when(UID, "resized", in_force("1"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn an_evicted_pod_fails_and_says_why() {
    let world = World::new();
    let pods = world.open().await;
    pods.set(pod(UID, one(serde_json::json!({})))).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.evict(
        UID,
        "The node was low on resource: memory. ".to_owned(),
        None,
    )
    .await;
    let status = world
        .recorder
        .status_when(UID, "the end", phase_is("Failed"))
        .await;
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert!(has_condition(
        "DisruptionTarget",
        Some("TerminationByKubelet")
    )(&status));
    assert!(world.reasons().contains(&"Evicted"));
    assert!(world.machine.is_clean());
}

#[tokio::test(start_paused = true)]
async fn a_short_node_takes_no_new_pods_but_those_that_it_needs() {
    let world = World::new();
    let pods = world.open().await;
    pods.set_pressure(Pressure {
        disk: true,
        ..Pressure::default()
    });
    pods.set(pod(UID, one(serde_json::json!({})))).await;
    let status = world
        .recorder
        .status_when(UID, "refusal", phase_is("Failed"))
        .await;
    assert_eq!(status.reason.as_deref(), Some("Evicted"));
    assert!(world.created().is_empty());
    let mut needed = pod("uid-2", one(serde_json::json!({"priority": 2_000_001_000})));
    needed.metadata.name = Some("needed".to_owned());
    pods.set(needed).await;
    world.recorder.status_when("uid-2", "ready", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn unsafe_system_controls_are_refused() {
    let world = World::new();
    let pods = world.open().await;
    let sysctls = serde_json::json!([{"name": "kernel.msgmax", "value": "1"}]);
    let spec = one(serde_json::json!({"securityContext": {"sysctls": sysctls}}));
    pods.set(pod(UID, spec)).await;
    let status = world
        .recorder
        .status_when(UID, "refusal", phase_is("Failed"))
        .await;
    assert_eq!(status.reason.as_deref(), Some("SysctlForbidden"));
    assert!(world.machine.is_clean() && world.created().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_port_of_the_node_is_for_one_pod() {
    let world = World::new();
    let pods = world.open().await;
    let wants = |name: &str, uid: &str, bound: bool| {
        let ports = serde_json::json!([{"containerPort": 80, "hostPort": 8080}]);
        let spec =
            serde_json::json!({"containers": [{"name": "main", "image": "i:1", "ports": ports}]});
        let mut pod = pod(uid, spec);
        pod.metadata.name = Some(name.to_owned());
        if bound {
            let status =
                serde_json::json!({"conditions": [{"type": "PodScheduled", "status": "True"}]});
            pod.status = serde_json::from_value(status).unwrap();
        }
        pod
    };
    let first = wants("first", UID, false);
    pods.set(first.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.set(wants("second", "uid-2", false)).await;
    let status = world
        .recorder
        .status_when("uid-2", "refusal", phase_is("Failed"))
        .await;
    assert_eq!(status.reason.as_deref(), Some("NodePorts"));
    // The scheduler knows of an end before the node has seen it through.
    pods.set(wants("third", "uid-3", true)).await;
    world.recorder.status_when("uid-3", "ready", is_ready).await;
    pods.set(deleted(&first, 1)).await;
    world.recorder.terminated_when(UID).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_can_be_a_volume() {
    let world = World::new();
    let pods = world.open().await;
    let spec = one(serde_json::json!({
        "volumes": [{"name": "data", "image": {"reference": "data:1"}}],
        "containers": [{"name": "main", "image": "i:1",
            "volumeMounts": [{"name": "data", "mountPath": "/data"}]}]}));
    let asked = pod(UID, spec);
    pods.set(asked.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    let mounts = world.machine.lock().mounts.clone();
    assert!(
        mounts.iter().any(|dir| dir.ends_with("volumes/data")),
        "{mounts:?}"
    );
    pods.set(deleted(&asked, 1)).await;
    world.recorder.terminated_when(UID).await;
    assert!(world.machine.is_clean());
}
