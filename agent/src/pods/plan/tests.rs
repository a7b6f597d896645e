//! Any pod, any course of events: what must never happen does not, and every course comes to rest.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::pods::record::{Ended, Kill, PodFailure, Terminating};
use crate::pods::wanted::RestartPolicy;

fn start() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn seconds(count: i64) -> SignedDuration {
    SignedDuration::from_secs(count)
}

/// What a program does each time it is started; the last one again and again.
#[derive(Debug, Clone)]
struct Program {
    /// Exit code of each run; `None` runs on.
    runs: Vec<Option<i32>>,
    listens: bool,
    /// So many pulls fail before one works.
    failing_pulls: usize,
    /// So many tries to prepare an attempt are refused.
    refusals: usize,
}

fn program() -> impl Strategy<Value = Program> {
    (
        prop::collection::vec(prop::option::of(0..2i32), 1..4),
        any::<bool>(),
        0..3usize,
        0..3usize,
    )
        .prop_map(|(runs, listens, failing_pulls, refusals)| Program {
            runs,
            listens,
            failing_pulls,
            refusals,
        })
}

#[derive(Debug, Clone)]
struct Course {
    policy: RestartPolicy,
    init: Vec<(bool, Program)>,
    main: Vec<Program>,
    failing_prepares: usize,
    /// Deleted after so many steps, with this grace.
    deleted: Option<(usize, i64)>,
    /// The agent leaves after so many steps.
    leaves: Option<usize>,
    unhealthy_at: Option<usize>,
}

fn course() -> impl Strategy<Value = Course> {
    (
        prop_oneof![
            Just(RestartPolicy::Always),
            Just(RestartPolicy::OnFailure),
            Just(RestartPolicy::Never)
        ],
        prop::collection::vec((any::<bool>(), program()), 0..3),
        prop::collection::vec(program(), 1..3),
        0..3usize,
        prop::option::of((0..30usize, 0..40i64)),
        prop::option::of(0..60usize),
        prop::option::of(0..30usize),
    )
        .prop_map(
            |(policy, init, main, failing_prepares, deleted, leaves, unhealthy_at)| Course {
                policy,
                init,
                main,
                failing_prepares,
                deleted,
                leaves,
                unhealthy_at,
            },
        )
}

/// Carries out plans as a worker does, on programs as the course says.
struct World {
    wanted: Wanted,
    programs: BTreeMap<String, Program>,
    record: Record,
    transient: Transient,
    now: Timestamp,
    failing_prepares: usize,
    finished: bool,
    starts: Vec<String>,
}

impl World {
    fn new(course: &Course) -> Self {
        let mut programs = BTreeMap::new();
        let mut list = |prefix: &str, all: Vec<(bool, Program)>| {
            all.into_iter()
                .enumerate()
                .map(|(index, (sidecar, program))| {
                    let name = format!("{prefix}{index}");
                    programs.insert(name.clone(), program);
                    WantedContainer { name, sidecar }
                })
                .collect::<Vec<_>>()
        };
        let init = list("init", course.init.clone());
        let main = course.main.iter().cloned().map(|program| (false, program));
        let main = list("main", main.collect());
        Self {
            wanted: Wanted {
                restart_policy: course.policy,
                init,
                main,
                grace_seconds: 30,
                active_deadline: None,
            },
            programs,
            record: Record::new(start()),
            transient: Transient::default(),
            now: start(),
            failing_prepares: course.failing_prepares,
            finished: false,
            starts: Vec::new(),
        }
    }

    fn attempt(&mut self, name: &str) -> &mut Attempt {
        let known = self.record.containers.get_mut(name).unwrap();
        known.attempt.as_mut().unwrap()
    }

    fn end(&mut self, name: &str, exit_code: i32) {
        let now = self.now;
        let attempt = self.attempt(name);
        attempt.state = AttemptState::Ended(Ended {
            id: attempt.id.clone(),
            number: attempt.number,
            exit_code,
            signal: None,
            reason: String::new(),
            message: None,
            started_at: Some(now),
            finished_at: now,
            noticed_at: now,
        });
        let state = self
            .transient
            .containers
            .entry(name.to_owned())
            .or_default();
        state.unhealthy = None;
    }

    fn live(&self) -> Vec<String> {
        let all = self.record.containers.iter();
        all.filter(|(_, known)| known.attempt.as_ref().is_some_and(Attempt::is_live))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Programs that end by themselves do so.
    fn run_programs(&mut self) {
        for name in self.live() {
            let number = self.attempt(&name).number as usize;
            let runs = &self.programs[&name].runs;
            let run = runs.get(number).or(runs.last()).copied().flatten();
            if let Some(code) = run {
                self.end(&name, code);
            }
        }
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Prepare => {
                assert!(!self.transient.prepared);
                self.record.prepared = true;
                if self.failing_prepares > 0 {
                    self.failing_prepares -= 1;
                    self.transient.prepare_again = Some(self.now + seconds(1));
                } else {
                    self.transient.prepared = true;
                }
            }
            Action::Pull(name) => {
                let program = self.programs.get_mut(&name).unwrap();
                let fails = program.failing_pulls > 0;
                program.failing_pulls = program.failing_pulls.saturating_sub(1);
                let again = self.now + seconds(10);
                let state = self.transient.containers.entry(name).or_default();
                assert_ne!(state.image, ImageState::Pulling);
                state.image = if fails {
                    ImageState::Failed {
                        reason: "ErrImagePull".to_owned(),
                        message: String::new(),
                        at: self.now,
                        again,
                    }
                } else {
                    ImageState::Present
                };
            }
            Action::Start { container, number } => self.start(container, number),
            Action::Launch(name) => {
                let now = self.now;
                self.attempt(&name).state = AttemptState::Running { started_at: now };
            }
            Action::Stop {
                container,
                grace_seconds,
                ..
            } => {
                assert!(self.record.attempt(&container).unwrap().is_live());
                let deadline = self.now + seconds(grace_seconds);
                self.attempt(&container).kill = Some(Kill {
                    deadline,
                    forced: None,
                });
                if self.programs[&container].listens {
                    self.end(&container, 143);
                }
            }
            Action::Kill(name) => {
                let deadline = self.attempt(&name).kill.unwrap().deadline;
                assert!(self.now >= deadline);
                self.end(&name, 137);
            }
            Action::Fail { reason, message } => {
                self.record.failed = Some(PodFailure { reason, message });
            }
            Action::Release => {
                assert!(self.live().is_empty(), "released under running containers");
                self.record.prepared = false;
                self.transient.prepared = false;
                self.record.released |= self.transient.leaving.is_none();
            }
            Action::Finish => {
                assert!(self.live().is_empty() && !self.record.prepared);
                assert!(self.record.terminating.is_some() || self.transient.leaving.is_some());
                self.finished = true;
            }
        }
    }

    fn start(&mut self, name: String, number: u32) {
        assert!(
            self.transient.prepared,
            "{name} started before its pod is prepared"
        );
        assert!(!self.record.released);
        let ending = self.record.terminating.is_some() || self.transient.leaving.is_some();
        assert!(!ending, "{name} started while its pod ends");
        if name.starts_with("main") {
            for init in &self.wanted.init {
                let known = self.record.container(&init.name).unwrap();
                let passed = known.ended().is_some_and(|ended| ended.exit_code == 0);
                assert!(init.sidecar || passed, "{name} before {}", init.name);
            }
        }
        let program = self.programs.get_mut(&name).unwrap();
        if program.refusals > 0 {
            program.refusals -= 1;
            let again = self.now + seconds(10);
            let state = self.transient.containers.get_mut(&name).unwrap();
            state.trouble = Some(Trouble {
                reason: "CreateContainerConfigError".to_owned(),
                message: String::new(),
                again,
            });
            return;
        }
        let now = self.now;
        let known = self.record.containers.entry(name.clone()).or_default();
        if let Some(attempt) = &known.attempt {
            assert!(!attempt.is_live(), "two live attempts of {name}");
            assert_eq!(attempt.number + 1, number);
            known.last = known.ended().cloned();
            known.crash.step(now);
        } else {
            assert_eq!(number, 0);
        }
        known.attempt = Some(Attempt {
            number,
            id: format!("{name} {number}"),
            state: AttemptState::Running { started_at: now },
            kill: None,
            stop_signal: None,
        });
        let state = self.transient.containers.get_mut(&name).unwrap();
        state.image = ImageState::Unknown;
        state.trouble = None;
        self.starts.push(name);
    }

    /// One round; returns whether anything is still to come.
    fn round(&mut self) -> bool {
        let plan = plan(&self.wanted, &self.record, &self.transient, self.now);
        if let Some(wake) = plan.wake {
            assert!(
                wake > self.now || !plan.actions.is_empty(),
                "wakes in the past"
            );
        }
        let acted = !plan.actions.is_empty();
        for action in plan.actions {
            self.act(action);
        }
        if acted {
            return true;
        }
        match plan.wake {
            Some(wake) => {
                self.now = wake;
                true
            }
            None => false,
        }
    }

    fn terminate(&mut self, grace_seconds: i64) {
        self.record.terminating = Some(Terminating {
            since: self.now,
            grace_seconds,
            gone: false,
        });
        let latest = self.now + seconds(grace_seconds);
        for known in self.record.containers.values_mut() {
            if let Some(kill) = known.attempt.as_mut().and_then(|a| a.kill.as_mut()) {
                kill.deadline = kill.deadline.min(latest);
            }
        }
    }
}

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
                || world.programs[name].runs.last().unwrap().is_some());
        if rested {
            let phase = crate::pods::status::phase(&world.wanted, &world.record);
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
    fn restarts_are_bounded(policy_always in any::<bool>()) {
        let policy = if policy_always { RestartPolicy::Always } else { RestartPolicy::OnFailure };
        let program = Program { runs: vec![Some(1)], listens: true, failing_pulls: 0, refusals: 0 };
        let mut world = World::new(&Course {
            policy, init: Vec::new(), main: vec![program], failing_prepares: 0,
            deleted: None, leaves: None, unhealthy_at: None,
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
        failing_prepares: 0,
        deleted: None,
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
        restart_policy: RestartPolicy::Always,
        init: Vec::new(),
        main: vec![WantedContainer {
            name: "a".to_owned(),
            sidecar: false,
        }],
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
            forced: Some(start()),
        }),
        stop_signal: None,
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
