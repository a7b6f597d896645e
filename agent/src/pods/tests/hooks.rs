//! Hooks, and sidecars in their order, under a clock that is moved on.

use std::time::Duration;

use tokio::time::Instant;

use super::life::{World, ends, one, phase_is};
use super::*;
use crate::pods::machine::fake::Program;
use crate::pods::report::recorder::{container, is_ready, waits_for};

const UID: &str = "uid-1";

fn with_hooks(hooks: serde_json::Value) -> serde_json::Value {
    one(serde_json::json!({"containers": [
        {"name": "main", "image": "i:1", "lifecycle": hooks},
        {"name": "other", "image": "i:1"},
    ]}))
}

fn exec_takes(seconds: u64, exec_code: i32) -> Program {
    Program {
        exec_code,
        exec_takes: Duration::from_secs(seconds),
        ..Program::default()
    }
}

fn signals(world: &World) -> Vec<(String, i32)> {
    world.machine.lock().signals.clone()
}

#[tokio::test(start_paused = true)]
async fn others_wait_for_the_hook_of_a_container_and_so_does_its_state() {
    let world = World::new();
    world.program("main", exec_takes(20, 0));
    let pods = world.open().await;
    let hooks = serde_json::json!({"postStart": {"exec": {"command": ["hook"]}}});
    pods.set(pod(UID, with_hooks(hooks))).await;
    tokio::time::sleep(Duration::from_secs(15)).await;
    assert_eq!(world.created(), ["main 0"]);
    let status = world.recorder.statuses(UID).pop().unwrap();
    assert!(waits_for(&status, "main", "ContainerCreating"));
    let since = Instant::now();
    world.recorder.status_when(UID, "ready", is_ready).await;
    assert!(since.elapsed() < Duration::from_secs(6));
    assert_eq!(world.created(), ["main 0", "other 0"]);
}

#[tokio::test(start_paused = true)]
async fn a_container_whose_hook_fails_is_ended_and_begun_again() {
    let world = World::new();
    world.program("main", exec_takes(0, 1));
    let pods = world.open().await;
    let hooks = serde_json::json!({"postStart": {"exec": {"command": ["hook"]}}});
    pods.set(pod(UID, with_hooks(hooks))).await;
    let begun_again = |status: &k8s_openapi::api::core::v1::PodStatus| {
        container(status, "main").restart_count == 1
    };
    world.recorder.status_when(UID, "again", begun_again).await;
    let events = world.recorder.events();
    let said = |reason: &str, message: &str| {
        assert!(
            events.iter().any(|it| it.0 == reason && it.1 == message),
            "{events:?}"
        );
    };
    said("FailedPostStartHook", "PostStartHook failed");
    said("Killing", "FailedPostStartHook");
}

#[tokio::test(start_paused = true)]
async fn the_signal_comes_after_the_pre_stop_hook_or_when_the_time_is_over() {
    for (takes, after) in [(7, 7), (50, 30)] {
        let world = World::new();
        world.program("main", exec_takes(takes, 0));
        let pods = world.open().await;
        let hooks = serde_json::json!({"preStop": {"exec": {"command": ["hook"]}}});
        let asked = pod(UID, with_hooks(hooks));
        pods.set(asked.clone()).await;
        world.recorder.status_when(UID, "ready", is_ready).await;
        let since = Instant::now();
        pods.set(deleted(&asked, 30)).await;
        tokio::time::sleep(Duration::from_secs(after - 1)).await;
        assert_eq!(signals(&world), [("uid-1_other_0".to_owned(), 15)]);
        world.recorder.terminated_when(UID).await;
        assert_eq!(signals(&world)[1], ("uid-1_main_0".to_owned(), 15));
        assert_eq!(since.elapsed().as_secs(), after);
        assert!(world.machine.is_clean());
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_may_just_sleep() {
    let world = World::new();
    let pods = world.open().await;
    let asked = pod(
        UID,
        with_hooks(serde_json::json!({"preStop": {"sleep": {"seconds": 4}}})),
    );
    pods.set(asked.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    let since = Instant::now();
    pods.set(deleted(&asked, 30)).await;
    world.recorder.terminated_when(UID).await;
    assert_eq!(since.elapsed().as_secs(), 4);
}

/// A new agent runs the hook again: it may not have done its work.
#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_in_a_hook_loses_nothing() {
    let world = World::new();
    world.program("main", exec_takes(5, 0));
    let pods = world.open().await;
    let asked = pod(
        UID,
        with_hooks(serde_json::json!({
            "postStart": {"exec": {"command": ["begin"]}},
            "preStop": {"exec": {"command": ["end"]}},
        })),
    );
    pods.set(asked.clone()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    pods.leave_running().await;
    let pods = world.open().await;
    pods.set(asked.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.set(deleted(&asked, 30)).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    pods.leave_running().await;
    let _pods = world.open().await;
    world.recorder.terminated_when(UID).await;
    let commands = world.machine.lock().commands.clone();
    let commands: Vec<&str> = commands.iter().map(|(_, word)| word.as_str()).collect();
    assert_eq!(commands, ["begin", "begin", "end", "end"]);
    assert!(world.machine.is_clean());
}

#[tokio::test(start_paused = true)]
async fn sidecars_begin_in_order_and_end_in_the_other() {
    let world = World::new();
    world.program(
        "slow",
        Program {
            ignores_signals: true,
            ..Program::default()
        },
    );
    let pods = world.open().await;
    let asked = pod(
        UID,
        one(serde_json::json!({
            "initContainers": [
                {"name": "a", "image": "i:1", "restartPolicy": "Always",
                    "startupProbe": {"exec": {"command": ["up"]}}},
                {"name": "b", "image": "i:1", "restartPolicy": "Always",
                    "readinessProbe": {"exec": {"command": ["ready"]}}},
            ],
            "containers": [{"name": "slow", "image": "i:1"}, {"name": "quick", "image": "i:1"}],
        })),
    );
    pods.set(asked.clone()).await;
    let status = world.recorder.status_when(UID, "ready", is_ready).await;
    assert_eq!(world.created(), ["a 0", "b 0", "slow 0", "quick 0"]);
    assert_eq!(container(&status, "a").started, Some(true));
    pods.set(deleted(&asked, 10)).await;
    world.recorder.terminated_when(UID).await;
    let order: Vec<(String, i32)> = signals(&world)
        .into_iter()
        .map(|(id, signal)| (id.split('_').nth(1).unwrap().to_owned(), signal))
        .collect();
    let mut first: Vec<_> = order[..2].to_vec();
    first.sort();
    assert_eq!(first, [("quick".to_owned(), 15), ("slow".to_owned(), 15)]);
    // The time was over before it was their turn: they are told all the same, and not later.
    let mut rest: Vec<_> = order[2..].to_vec();
    rest.sort();
    let told = |name: &str, signal| (name.to_owned(), signal);
    assert_eq!(rest, [told("a", 15), told("b", 15), told("slow", 9)]);
}

#[tokio::test(start_paused = true)]
async fn sidecars_do_not_keep_a_pod_from_being_done() {
    let world = World::new();
    world.program("main", ends(5_000, 0));
    let pods = world.open().await;
    let asked = pod(
        UID,
        one(serde_json::json!({
            "restartPolicy": "Never",
            "initContainers": [
                {"name": "a", "image": "i:1", "restartPolicy": "Always"},
                {"name": "b", "image": "i:1", "restartPolicy": "Always"}],
        })),
    );
    pods.set(asked).await;
    world
        .recorder
        .status_when(UID, "success", phase_is("Succeeded"))
        .await;
    let told: Vec<String> = signals(&world).into_iter().map(|(id, _)| id).collect();
    assert_eq!(told, ["uid-1_b_0", "uid-1_a_0"]);
}

#[tokio::test(start_paused = true)]
async fn an_ephemeral_container_is_begun_when_it_is_added_and_ends_with_the_pod() {
    let world = World::new();
    let pods = world.open().await;
    let asked = pod(UID, one(serde_json::json!({})));
    pods.set(asked.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    let added = pod(
        UID,
        one(serde_json::json!({"ephemeralContainers": [
            {"name": "look", "image": "i:1", "targetContainerName": "main"}]})),
    );
    pods.set(added.clone()).await;
    let runs = |status: &k8s_openapi::api::core::v1::PodStatus| {
        status.ephemeral_container_statuses.is_some()
            && container(status, "look")
                .state
                .as_ref()
                .unwrap()
                .running
                .is_some()
    };
    let status = world.recorder.status_when(UID, "it runs", runs).await;
    assert!(is_ready(&status));
    assert_eq!(world.created(), ["main 0", "look 0"]);
    pods.set(deleted(&added, 5)).await;
    world.recorder.terminated_when(UID).await;
    assert!(world.machine.is_clean());
}
