//! Whoever takes a step of a pod's life panics there, the worker or a task of it, before the step and after it: the pod
//! becomes what was asked for all the same, and ends cleanly.

use super::killed::{MOST_STEPS, UID, with_everything};
use super::life::World;
use super::*;
use crate::pods::machine::fake::Moment;
use crate::pods::report::recorder::is_ready;

/// Whether there was such a step.
async fn panics_at(step: u32, moment: Moment) -> bool {
    let world = World::new();
    world.program("init", super::life::ends(30, 0));
    let asked = with_everything();
    let pods = world.open().await;
    world.machine.panic_at(step, moment);
    pods.set(asked.clone()).await;
    world.recorder.status_when(UID, "ready", is_ready).await;
    pods.set(deleted(&asked, 5)).await;
    world.recorder.terminated_when(UID).await;
    let (data, panicked) = (&world.settings.data_dir, world.machine.has_panicked());
    let step = format!("step {step}, {moment:?}");
    assert!(world.machine.is_clean(), "{step}: something is left");
    assert!(!data.join("pods").join(UID).exists(), "{step}: files");
    assert_eq!(world.reasons().contains(&"FailedSync"), panicked, "{step}");
    panicked
}

#[tokio::test(start_paused = true)]
async fn a_pod_survives_a_panic_of_its_worker_at_every_step() {
    let mut steps = 0;
    while panics_at(steps + 1, Moment::Before).await {
        steps += 1;
        assert!(steps < MOST_STEPS, "the walk has no end");
    }
    assert!(steps > 20, "only {steps} steps");
    for step in 1..=steps {
        panics_at(step, Moment::After).await;
    }
}
