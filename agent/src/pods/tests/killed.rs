//! The agent is killed at every step of a pod's start and of its end, before the step and after it: afterwards the
//! pod is as asked or cleanly absent.

use std::time::Duration;

use super::life::{World, one};
use super::*;
use crate::pods::machine::fake::Moment;
use crate::pods::report::recorder::is_ready;

pub(super) const UID: &str = "uid-1";

/// More steps than any of the pods here has.
pub(super) const MOST_STEPS: u32 = 200;

pub(super) fn with_everything() -> Pod {
    let hook = |word: &str| serde_json::json!({"exec": {"command": [word]}});
    pod(
        UID,
        one(serde_json::json!({
            "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "image", "image": {"reference": "data:1"}}],
            "initContainers": [
                {"name": "side", "image": "i:1", "restartPolicy": "Always"},
                {"name": "init", "image": "i:1"}],
            "containers": [
                {"name": "main", "image": "i:1",
                    "lifecycle": {"postStart": hook("begin"), "preStop": hook("end")},
                    "readinessProbe": hook("ready"),
                    "volumeMounts": [{"name": "image", "mountPath": "/i"}]},
                {"name": "other", "image": "i:1"}],
        })),
    )
}

/// Until the pod is so far, or the agent is dead.
async fn until(world: &World, far_enough: impl Fn() -> bool) {
    for _ in 0..20_000 {
        if far_enough() || world.machine.has_died() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!(
        "neither there nor dead; events: {:#?}",
        world.recorder.events()
    );
}

/// Whether there was such a step.
async fn dies_at(step: u32, moment: Moment, ending: bool) -> bool {
    let world = World::new();
    world.program("init", super::life::ends(30, 0));
    let ready = || world.recorder.statuses(UID).last().is_some_and(is_ready);
    let gone = || world.recorder.is_terminated(UID);
    let asked = with_everything();
    let mut pods = world.open().await;
    if !ending {
        world.machine.die_at(step, moment);
    }
    pods.set(asked.clone()).await;
    until(&world, ready).await;
    let mut died = world.machine.has_died();
    if died {
        pods.kill();
        tokio::task::yield_now().await;
        world.machine.live_on();
        pods = world.open().await;
        pods.set(asked.clone()).await;
        world
            .recorder
            .status_when(UID, "ready again", is_ready)
            .await;
    }
    if ending {
        world.machine.die_at(step, moment);
    } else {
        world.machine.live_on();
    }
    pods.set(deleted(&asked, 5)).await;
    if ending {
        until(&world, gone).await;
        died = world.machine.has_died();
        if died {
            pods.kill();
            tokio::task::yield_now().await;
            world.machine.live_on();
            pods = world.open().await;
            pods.set(deleted(&asked, 5)).await;
        }
    }
    world.recorder.terminated_when(UID).await;
    assert!(
        world.machine.is_clean(),
        "step {step}, {moment:?}: something is left"
    );
    let data = world.settings.data_dir.join("pods").join(UID);
    assert!(
        !data.exists(),
        "step {step}, {moment:?}: its directory is left"
    );
    died
}

#[tokio::test(start_paused = true)]
async fn a_pod_survives_the_death_of_the_agent_at_every_step() {
    for ending in [false, true] {
        let mut steps = 0;
        while dies_at(steps + 1, Moment::Before, ending).await {
            steps += 1;
            assert!(steps < MOST_STEPS, "the walk has no end");
        }
        assert!(steps > 10, "only {steps} steps");
        for step in 1..=steps {
            dies_at(step, Moment::After, ending).await;
        }
    }
}
