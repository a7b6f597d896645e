//! Carries out plans on programs that behave as a course of events says.

use super::*;

/// What a program does each time it is started; the last one again and again.
#[derive(Debug, Clone)]
pub(super) struct Program {
    /// Exit code of each run; `None` runs on.
    pub(super) runs: Vec<Option<i32>>,
    pub(super) listens: bool,
    /// So many pulls fail before one works.
    pub(super) failing_pulls: usize,
    /// So many tries to prepare an attempt are refused.
    pub(super) refusals: usize,
}

pub(super) fn program() -> impl Strategy<Value = Program> {
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
pub(super) struct Course {
    pub(super) policy: RestartPolicy,
    pub(super) init: Vec<(bool, Program)>,
    pub(super) main: Vec<Program>,
    /// All containers have hooks, and these outcomes of `postStart` in turn.
    pub(super) hooks: Option<Vec<bool>>,
    pub(super) failing_prepares: usize,
    /// Deleted after so many steps, with this grace.
    pub(super) deleted: Option<(usize, i64)>,
    /// Exit code 1 has all containers begin anew.
    pub(super) restarts_all: bool,
    /// The agent leaves after so many steps.
    pub(super) leaves: Option<usize>,
    pub(super) unhealthy_at: Option<usize>,
}

pub(super) fn course() -> impl Strategy<Value = Course> {
    (
        prop_oneof![
            Just(RestartPolicy::Always),
            Just(RestartPolicy::OnFailure),
            Just(RestartPolicy::Never)
        ],
        prop::collection::vec((any::<bool>(), program()), 0..3),
        prop::collection::vec(program(), 1..3),
        prop::option::of(prop::collection::vec(any::<bool>(), 1..4)),
        0..3usize,
        prop::option::of((0..30usize, 0..40i64)),
        prop::option::of(0..60usize),
        (prop::option::of(0..30usize), any::<bool>()),
    )
        .prop_map(
            |(policy, init, main, hooks, failing_prepares, deleted, leaves, other)| Course {
                policy,
                init,
                main,
                hooks,
                failing_prepares,
                deleted,
                restarts_all: other.1,
                leaves,
                unhealthy_at: other.0,
            },
        )
}

/// Carries out plans as a worker does, on programs as the course says.
pub(super) struct World {
    pub(super) wanted: Wanted,
    pub(super) programs: BTreeMap<String, Program>,
    pub(super) record: Record,
    pub(super) transient: Transient,
    pub(super) now: Timestamp,
    pub(super) failing_prepares: usize,
    pub(super) hooks: Vec<bool>,
    pub(super) finished: bool,
    pub(super) starts: Vec<String>,
}

impl World {
    pub(super) fn new(course: &Course) -> Self {
        let mut programs = BTreeMap::new();
        let rule = RestartRule {
            codes: vec![1],
            within: true,
            all: true,
        };
        let rules: Vec<RestartRule> = course.restarts_all.then_some(rule).into_iter().collect();
        let mut list = |prefix: &str, all: Vec<(bool, Program)>| {
            all.into_iter()
                .enumerate()
                .map(|(index, (sidecar, program))| {
                    let name = format!("{prefix}{index}");
                    programs.insert(name.clone(), program);
                    let policy = match course.policy {
                        _ if sidecar => RestartPolicy::Always,
                        RestartPolicy::Always if prefix == "init" => RestartPolicy::OnFailure,
                        policy => policy,
                    };
                    WantedContainer {
                        name,
                        sidecar,
                        post_start: course.hooks.is_some() && (sidecar || prefix == "main"),
                        pre_stop: course.hooks.is_some() && (sidecar || prefix == "main"),
                        restarts: Restarts {
                            policy,
                            rules: rules.clone(),
                        },
                        ..wanted_container(policy)
                    }
                })
                .collect::<Vec<_>>()
        };
        let init = list("init", course.init.clone());
        let main = course.main.iter().cloned().map(|program| (false, program));
        let main = list("main", main.collect());
        Self {
            wanted: Wanted {
                init,
                main,
                ephemeral: Vec::new(),
                grace_seconds: 30,
                active_deadline: None,
            },
            programs,
            record: Record::new(start()),
            transient: Transient::default(),
            now: start(),
            failing_prepares: course.failing_prepares,
            hooks: course.hooks.clone().unwrap_or_default(),
            finished: false,
            starts: Vec::new(),
        }
    }

    pub(super) fn attempt(&mut self, name: &str) -> &mut Attempt {
        let known = self.record.containers.get_mut(name).unwrap();
        known.attempt.as_mut().unwrap()
    }

    pub(super) fn end(&mut self, name: &str, exit_code: i32) {
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
        state.hook = None;
        state.pre_stop_done = false;
    }

    pub(super) fn live(&self) -> Vec<String> {
        let all = self.record.containers.iter();
        all.filter(|(_, known)| known.attempt.as_ref().is_some_and(Attempt::is_live))
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Programs that end by themselves do so.
    pub(super) fn run_programs(&mut self) {
        for name in self.live() {
            let number = self.attempt(&name).number as usize;
            let runs = &self.programs[&name].runs;
            let run = runs.get(number).or(runs.last()).copied().flatten();
            if let Some(code) = run {
                self.end(&name, code);
            }
        }
    }

    pub(super) fn act(&mut self, action: Action) {
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
                    signalled: false,
                    forced: None,
                });
            }
            Action::Hook(name, kind) => self.hook(name, kind),
            Action::Signal(name) => {
                self.check_turn(&name);
                let kill = self.attempt(&name).kill.as_mut().unwrap();
                assert!(!kill.signalled);
                kill.signalled = true;
                if self.programs[&name].listens {
                    self.end(&name, 143);
                }
            }
            Action::Kill(name) => {
                let deadline = self.attempt(&name).kill.unwrap().deadline;
                assert!(self.now >= deadline || self.record.restarting_all);
                self.end(&name, 137);
            }
            Action::RestartAll => {
                assert!(!self.record.restarting_all);
                self.record.restarting_all = true;
            }
            Action::BeginAnew => {
                assert!(self.live().is_empty(), "begun anew beside what runs");
                assert!(self.record.restarting_all);
                self.record.begin_anew(&self.wanted, self.now);
            }
            Action::Fail { reason, message } => {
                self.record.failed = Some(PodFailure {
                    reason,
                    message,
                    disrupts: false,
                    refused: false,
                    grace_seconds: None,
                });
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

    /// Hooks take no time here; those that fail end their attempt.
    pub(super) fn hook(&mut self, name: String, kind: HookKind) {
        assert!(self.record.attempt(&name).unwrap().is_live());
        match kind {
            HookKind::PostStart => {
                let well = self.hooks.pop().unwrap_or(true);
                let attempt = self.attempt(&name);
                assert_eq!(attempt.post_start, PostStart::Due);
                attempt.post_start = if well {
                    PostStart::Done
                } else {
                    PostStart::Failed
                };
            }
            HookKind::PreStop => {
                let state = self.transient.containers.entry(name).or_default();
                assert!(!state.pre_stop_done);
                state.pre_stop_done = true;
            }
        }
    }

    /// Whom others still use is told last, unless the time is over.
    pub(super) fn check_turn(&mut self, name: &str) {
        let deadline = self.attempt(name).kill.unwrap().deadline;
        let place = self.wanted.init.iter().position(|it| it.name == name);
        let ending = self.record.terminating.is_some() || self.transient.leaving.is_some();
        if let Some(place) = place
            && self.wanted.init[place].sidecar
            && ending
            && self.now < deadline
        {
            let live = self.live();
            let later = self.wanted.init[place + 1..]
                .iter()
                .chain(&self.wanted.main);
            let used: Vec<_> = later.filter(|it| live.contains(&it.name)).collect();
            assert!(used.is_empty(), "{name} ends before {used:?}");
        }
    }

    pub(super) fn start(&mut self, name: String, number: u32) {
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
            assert_eq!(number, known.first);
        }
        known.attempt = Some(Attempt {
            number,
            id: format!("{name} {number}"),
            state: AttemptState::Running { started_at: now },
            kill: None,
            stop_signal: None,
            post_start: PostStart::Due,
        });
        let state = self.transient.containers.get_mut(&name).unwrap();
        state.image = ImageState::Unknown;
        state.trouble = None;
        self.starts.push(name);
    }

    /// One round; returns whether anything is still to come.
    pub(super) fn round(&mut self) -> bool {
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

    pub(super) fn terminate(&mut self, grace_seconds: i64) {
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
