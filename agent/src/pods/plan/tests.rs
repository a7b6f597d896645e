//! Any pod, any course of events: what must never happen does not, and every course comes to rest.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::ending::KILL_AGAIN_AFTER;
use super::*;
use crate::pods::record::{Ended, Kill, PodFailure, Terminating};
use crate::pods::status::container_id;
use crate::pods::wanted::{RestartPolicy, RestartRule, Restarts};
use jiff::SignedDuration;
use std::collections::BTreeMap;

fn start() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

mod world;
use world::*;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The assertions of [`World`] hold on every way; and what was asked to end, ends.
    #[test]
    fn every_course_comes_to_rest(course in course()) {
        let mut world = World::new(&course);
        let mut rested = false;
        for step in 0..400 {
            if course.deleted.is_some_and(|(at, _)| at == step) {
                world.terminate(course.deleted.unwrap().1);
            }
            if course.leaves == Some(step) {
                world.transient.leaving = Some(Leaving { grace_seconds: 5 });
            }
            if course.unhealthy_at == Some(step)
                && let Some(name) = world.live().first().cloned()
            {
                let state = world.transient.containers.entry(name).or_default();
                state.unhealthy = Some(Unhealthy { grace_seconds: None });
            }
            if world.finished {
                break;
            }
            if step % 3 == 0 {
                world.run_programs();
            }
            let more = world.round();
            let to_come = [course.deleted.map(|d| d.0), course.leaves, course.unhealthy_at];
            if !more && to_come.into_iter().flatten().all(|at| at < step) {
                let before = world.live().len();
                world.run_programs();
                if world.live().len() == before {
                    rested = true;
                    break;
                }
            }
        }
        if course.deleted.is_some() || course.leaves.is_some() {
            prop_assert!(world.finished, "asked to end and did not");
            return Ok(());
        }
        let keeps_failing = world
            .record
            .containers
            .iter()
            .any(|(name, known)| known.ended().is_some()
                || known.first > 0
                || world.programs[name].runs.last().unwrap().is_some());
        if rested {
            let phase = crate::pods::status::phase(&world.wanted, &world.record, &world.transient);
            prop_assert_ne!(phase, "Unknown");
            if world.record.released {
                prop_assert!(["Succeeded", "Failed"].contains(&phase));
            } else {
                prop_assert!(!world.live().is_empty(), "at rest with nothing running: {}", phase);
            }
        } else {
            // Only what ends again and again has no rest.
            prop_assert!(keeps_failing);
        }
    }

    /// Back-off keeps a program that fails at once from being started often.
    #[test]
    fn restarts_are_bounded(policy_always in any::<bool>(), restarts_all in any::<bool>()) {
        let policy = if policy_always { RestartPolicy::Always } else { RestartPolicy::OnFailure };
        let program = Program { runs: vec![Some(1)], listens: true, failing_pulls: 0, refusals: 0 };
        let mut world = World::new(&Course {
            policy, init: Vec::new(), main: vec![program], hooks: None, failing_prepares: 0,
            deleted: None, restarts_all, leaves: None, unhealthy_at: None,
        });
        let hour = start() + seconds(3600);
        while world.now < hour {
            world.run_programs();
            if !world.round() {
                break;
            }
        }
        // 0, then after 0, 10, 20, 40, 80, 160 and every 300 seconds.
        prop_assert!((14..=18).contains(&world.starts.len()), "{}", world.starts.len());
    }
}

fn wanted_container(policy: RestartPolicy) -> WantedContainer {
    WantedContainer {
        name: "a".to_owned(),
        sidecar: false,
        restarts: Restarts::plain(policy),
        startup_probe: false,
        post_start: false,
        pre_stop: false,
    }
}

#[test]
fn a_pod_that_never_began_ends_at_once() {
    let mut world = World::new(&Course {
        policy: RestartPolicy::Always,
        init: Vec::new(),
        main: vec![Program {
            runs: vec![None],
            listens: true,
            failing_pulls: 0,
            refusals: 0,
        }],
        hooks: None,
        failing_prepares: 0,
        deleted: None,
        restarts_all: false,
        leaves: None,
        unhealthy_at: None,
    });
    world.terminate(30);
    while !world.finished {
        assert!(world.round());
    }
    assert_eq!(world.now, start());
}

#[test]
fn sigkill_is_sent_again_to_what_does_not_end() {
    let wanted = Wanted {
        init: Vec::new(),
        main: vec![wanted_container(RestartPolicy::Always)],
        ephemeral: Vec::new(),
        grace_seconds: 30,
        active_deadline: None,
    };
    let mut record = Record::new(start());
    record.prepared = true;
    record.terminating = Some(Terminating {
        since: start(),
        grace_seconds: 1,
        gone: false,
    });
    let known = record.containers.entry("a".to_owned()).or_default();
    known.attempt = Some(Attempt {
        number: 0,
        id: "a".to_owned(),
        state: AttemptState::Running {
            started_at: start(),
        },
        kill: Some(Kill {
            deadline: start(),
            signalled: true,
            forced: Some(start()),
        }),
        stop_signal: None,
        post_start: PostStart::Due,
    });
    let transient = Transient::default();
    let waits = plan(&wanted, &record, &transient, start() + seconds(1));
    assert_eq!(waits.actions, []);
    assert_eq!(waits.wake, Some(start() + KILL_AGAIN_AFTER));
    let again = plan(&wanted, &record, &transient, start() + KILL_AGAIN_AFTER);
    assert_eq!(again.actions, [Action::Kill("a".to_owned())]);
}

#[test]
fn what_probes_said_of_a_container_that_runs_on_is_taken_over() {
    use k8s_openapi::api::core::v1::{ContainerStatus, PodStatus};
    let taken = |reported_id: &str, state: AttemptState, ready: bool| {
        let mut record = Record::new(start());
        let attempt = Attempt {
            number: 0,
            id: "one".to_owned(),
            state,
            kill: None,
            stop_signal: None,
            post_start: PostStart::Due,
        };
        let known = ContainerRecord {
            attempt: Some(attempt),
            ..ContainerRecord::default()
        };
        record.containers.insert("web".to_owned(), known);
        record.reported = Some(PodStatus {
            container_statuses: Some(vec![ContainerStatus {
                name: "web".to_owned(),
                container_id: Some(container_id(reported_id)),
                ready,
                started: Some(true),
                ..ContainerStatus::default()
            }]),
            ..PodStatus::default()
        });
        let transient = Transient::taken_over(&record);
        transient
            .containers
            .get("web")
            .map(|container| (container.ready, container.started))
    };
    let running = AttemptState::Running {
        started_at: start(),
    };
    assert_eq!(
        taken("one", running.clone(), true),
        Some((Some(true), Some(true)))
    );
    assert_eq!(
        taken("one", running.clone(), false),
        Some((None, Some(true)))
    );
    assert_eq!(taken("before", running, true), None);
    assert_eq!(taken("one", AttemptState::Created, true), None);
}
