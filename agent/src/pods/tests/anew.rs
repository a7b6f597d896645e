//! All containers of a pod begin anew because one of them asks for it.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
use tokio::time::Instant;

use super::life::{World, ends, phase_is};
use super::*;
use crate::pods::machine::fake::Program;
use crate::pods::report::recorder::{container, is_ready};

const UID: &str = "uid-1";

fn restarting(status: &PodStatus) -> Option<(&str, &str)> {
    let mut conditions = status.conditions.iter().flatten();
    let found = conditions.find(|it| it.type_ == "AllContainersRestarting")?;
    Some((&found.status, found.reason.as_deref().unwrap_or("")))
}

fn restarts(status: &PodStatus) -> Vec<i32> {
    let init = status.init_container_statuses.iter().flatten();
    init.chain(status.container_statuses.iter().flatten())
        .map(|it| it.restart_count)
        .collect()
}

fn last_end(status: &ContainerStatus) -> Option<(i32, &str)> {
    let last = status.last_state.as_ref()?.terminated.as_ref()?;
    Some((last.exit_code, last.reason.as_deref()?))
}

fn asked() -> Pod {
    pod(
        UID,
        serde_json::json!({
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 30,
            "initContainers": [
                {"name": "setup", "image": "i:1"},
                {"name": "watch", "image": "i:1", "restartPolicy": "Always", "restartPolicyRules": [
                    {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [88]}}]},
            ],
            "containers": [
                {"name": "main", "image": "i:1", "lifecycle": {"preStop": {"exec": {"command": ["x"]}}}},
                {"name": "done", "image": "i:1"},
            ],
        }),
    )
}

#[tokio::test(start_paused = true)]
async fn what_runs_is_killed_and_all_begin_again_in_order() {
    let world = World::new();
    world.program("setup", ends(100, 0));
    world.program("watch", ends(5_000, 88));
    world.program("done", ends(1_000, 3));
    let deaf = Program {
        ignores_signals: true,
        ..Program::default()
    };
    world.program("main", deaf);
    let pods = world.open().await;
    pods.set(asked()).await;
    let anew = |status: &PodStatus| restarts(status) == [1, 1, 1, 1];
    let status = world.recorder.status_when(UID, "begun anew", anew).await;
    assert_eq!(restarting(&status), Some(("False", "")));
    let before = world.recorder.statuses(UID);
    let asked_for = before
        .iter()
        .find(|status| restarting(status).is_some_and(|(status, _)| status == "True"))
        .expect("the condition is told");
    let why = Some(("True", "RestartAllContainersStarted"));
    assert_eq!(restarting(asked_for), why);
    assert_eq!(asked_for.phase.as_deref(), Some("Running"));
    for name in ["setup", "watch"] {
        let all = status.init_container_statuses.iter().flatten();
        let one = all.clone().find(|it| it.name == name).unwrap();
        assert_eq!(last_end(one), Some((137, "RestartingAllContainers")));
    }
    for name in ["main", "done"] {
        let one = container(&status, name);
        assert_eq!(last_end(one), Some((137, "RestartingAllContainers")));
    }
    world.program("watch", Program::default());
    let running = |status: &PodStatus| {
        let state = container(status, "done").state.as_ref();
        phase_is("Running")(status) && anew(status) && state.is_some_and(|it| it.running.is_some())
    };
    world.recorder.status_when(UID, "running", running).await;
    let initialized = |status: &PodStatus| {
        let mut conditions = status.conditions.iter().flatten();
        conditions.any(|it| it.type_ == "Initialized" && it.status == "True")
    };
    let statuses = world.recorder.statuses(UID);
    let first = statuses.iter().position(initialized).unwrap();
    assert!(statuses[first..].iter().all(initialized));
    assert!(world.machine.lock().commands.is_empty(), "no hook is run");
    assert!(world.machine.lock().signals.iter().all(|it| it.1 == 9));
    assert_eq!(
        world.created(),
        [
            "setup 0", "watch 0", "main 0", "done 0", "setup 1", "watch 1", "main 1", "done 1"
        ]
    );
    pods.set(deleted(&asked(), 1)).await;
    world.recorder.terminated_when(UID).await;
    assert!(world.machine.is_clean());
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_it_again_and_again_waits_longer_each_time() {
    let world = World::new();
    world.program("setup", ends(100, 0));
    world.program("watch", ends(1_000, 88));
    let pods = world.open().await;
    pods.set(asked()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    let begun = Instant::now();
    let third = |status: &PodStatus| restarts(status) == [3, 3, 3, 3];
    world.recorder.status_when(UID, "third", third).await;
    let took = begun.elapsed();
    // At once, after 10 and after 20 seconds.
    let around = Duration::from_secs(30)..Duration::from_secs(40);
    assert!(around.contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_is_killed_amid_it_leaves_it_to_the_next() {
    let world = World::new();
    world.program("setup", ends(100, 0));
    world.program("watch", ends(5_000, 88));
    let pods = world.open().await;
    pods.set(asked()).await;
    // The second time it waits amid it.
    let waits = |status: &PodStatus| {
        restarts(status) == [1, 1, 1, 1] && restarting(status).is_some_and(|it| it.0 == "True")
    };
    world.recorder.status_when(UID, "restarting", waits).await;
    pods.kill();
    tokio::task::yield_now().await;
    world.program("watch", Program::default());
    let pods = world.open().await;
    pods.set(asked()).await;
    let up = |status: &PodStatus| restarts(status) == [2, 2, 2, 2] && is_ready(status);
    world.recorder.status_when(UID, "up again", up).await;
}
