//! The next steps of a pod, from what is wanted and what is: pure, with the clock as data.
//!
//! Nothing is done here and nothing is remembered here. The worker executes the actions, notes what came of
//! them in the record, and asks again. What must never happen (two live attempts of one container, a pod
//! that does not end) is decided here and tested here.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::record::{Attempt, AttemptState, ContainerRecord, Record};
use super::status::container_id;
use super::wanted::{Wanted, WantedContainer};

/// SIGKILL is sent again after this long: the first one may have met a runtime that was not listening.
const KILL_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(5);

/// What is known in this agent's lifetime only.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Transient {
    /// Volumes, network and supervisor are there.
    pub(crate) prepared: bool,
    /// Not before this may preparing be tried again.
    pub(crate) prepare_again: Option<Timestamp>,
    pub(crate) containers: BTreeMap<String, TransientContainer>,
    /// The agent stops and takes the pod with it: end it as if deleted, but keep it in the books.
    pub(crate) leaving: Option<Leaving>,
    /// Not before this may releasing be tried again.
    pub(crate) release_again: Option<Timestamp>,
}

impl Transient {
    /// For an agent that takes over from another: what the probes said last of containers that run on stays true until
    /// they are asked again. Otherwise every start of an agent would take its pods out of their Services.
    pub(crate) fn taken_over(record: &Record) -> Self {
        let mut transient = Self::default();
        let reported = record.reported.iter();
        let statuses = reported.flat_map(|status| status.container_statuses.iter().flatten());
        for status in statuses {
            let attempt = record
                .container(&status.name)
                .filter(|known| known.running_since().is_some())
                .and_then(|known| known.attempt.as_ref());
            if attempt.is_some_and(|it| status.container_id == Some(container_id(&it.id))) {
                let container = TransientContainer {
                    ready: status.ready.then_some(true),
                    started: status.started.filter(|started| *started),
                    ..TransientContainer::default()
                };
                transient.containers.insert(status.name.clone(), container);
            }
        }
        transient
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Leaving {
    pub(crate) grace_seconds: i64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct TransientContainer {
    pub(crate) image: ImageState,
    /// Why the last try to make an attempt came to nothing.
    pub(crate) trouble: Option<Trouble>,
    /// What the probes say of the current attempt; `None` while they have not spoken.
    pub(crate) ready: Option<bool>,
    pub(crate) started: Option<bool>,
    /// Liveness or startup probe gave up on the current attempt.
    pub(crate) unhealthy: Option<Unhealthy>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unhealthy {
    /// The probe's own grace period.
    pub(crate) grace_seconds: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) enum ImageState {
    #[default]
    Unknown,
    Pulling,
    Present,
    Failed {
        reason: String,
        message: String,
        at: Timestamp,
        again: Timestamp,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// Not before this is it tried again (or when an object changed).
    pub(crate) again: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    /// Volumes, network, supervisor. Idempotent.
    Prepare,
    /// Begin to get the image; the outcome comes later.
    Pull(String),
    /// Create and start a new attempt with this number.
    Start { container: String, number: u32 },
    /// Start what was created.
    Launch(String),
    /// First signal to an attempt, with the time that it has.
    Stop {
        container: String,
        grace_seconds: i64,
        cause: StopCause,
    },
    /// SIGKILL.
    Kill(String),
    /// Fail the pod as a whole.
    Fail { reason: String, message: String },
    /// Give back everything outside the pod's directory.
    Release,
    /// The pod has ended and was asked to: tell, and forget it.
    Finish,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopCause {
    PodEnds,
    Unhealthy,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Plan {
    pub(crate) actions: Vec<Action>,
    /// Ask again then, if nothing happens before.
    pub(crate) wake: Option<Timestamp>,
}

impl Plan {
    fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    fn wake_at(&mut self, when: Timestamp) {
        self.wake = Some(self.wake.map_or(when, |earlier| earlier.min(when)));
    }
}

/// The next steps.
pub(crate) fn plan(
    wanted: &Wanted,
    record: &Record,
    transient: &Transient,
    now: Timestamp,
) -> Plan {
    let mut plan = Plan::default();
    if let Some(grace_seconds) = end_grace(wanted, record, transient) {
        end_all(&mut plan, record, transient, now, grace_seconds);
        return plan;
    }
    if record.released {
        return plan;
    }
    if let Some(deadline) = wanted.active_deadline {
        let deadline = record.start_time + deadline;
        if now >= deadline {
            plan.push(Action::Fail {
                reason: "DeadlineExceeded".to_owned(),
                message: "Pod was active on the node longer than the specified deadline".to_owned(),
            });
            return plan;
        }
        plan.wake_at(deadline);
    }
    match progress(wanted, record) {
        Progress::Done => end_all(&mut plan, record, transient, now, wanted.grace_seconds),
        Progress::Init(index) => {
            prepare(&mut plan, transient, now);
            for container in &wanted.init[..index] {
                if container.sidecar {
                    step(&mut plan, container, wanted, record, transient, now);
                }
            }
            step(
                &mut plan,
                &wanted.init[index],
                wanted,
                record,
                transient,
                now,
            );
        }
        Progress::Main => {
            prepare(&mut plan, transient, now);
            for container in wanted.init.iter().filter(|container| container.sidecar) {
                step(&mut plan, container, wanted, record, transient, now);
            }
            for container in &wanted.main {
                step(&mut plan, container, wanted, record, transient, now);
            }
        }
    }
    plan
}

/// Where a pod stands that is not being ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// This init container is the one to run.
    Init(usize),
    Main,
    /// Nothing will run any more.
    Done,
}

pub(crate) fn progress(wanted: &Wanted, record: &Record) -> Progress {
    // Once a main container was tried, init containers are history.
    let begun = wanted
        .main
        .iter()
        .any(|container| record.attempt(&container.name).is_some());
    if !begun {
        for (index, container) in wanted.init.iter().enumerate() {
            let known = record.container(&container.name);
            let passed = if container.sidecar {
                known.is_some_and(|known| known.running_since().is_some())
            } else {
                match known.and_then(ContainerRecord::ended) {
                    Some(ended)
                        if ended.exit_code != 0
                            && !wanted.policy(&container.name).restarts(ended.exit_code) =>
                    {
                        return Progress::Done;
                    }
                    Some(ended) => ended.exit_code == 0,
                    None => false,
                }
            };
            if !passed {
                return Progress::Init(index);
            }
        }
    }
    let ended_for_good = |container: &WantedContainer| {
        record
            .container(&container.name)
            .and_then(ContainerRecord::ended)
            .is_some_and(|ended| !wanted.restart_policy.restarts(ended.exit_code))
    };
    if wanted.main.iter().all(ended_for_good) {
        Progress::Done
    } else {
        Progress::Main
    }
}

/// The grace period, when everything is to end.
fn end_grace(wanted: &Wanted, record: &Record, transient: &Transient) -> Option<i64> {
    if let Some(leaving) = transient.leaving {
        let asked = record
            .terminating
            .map_or(wanted.grace_seconds, |terminating| {
                terminating.grace_seconds
            });
        return Some(asked.min(leaving.grace_seconds));
    }
    if let Some(terminating) = record.terminating {
        return Some(terminating.grace_seconds);
    }
    record.failed.as_ref().map(|_| wanted.grace_seconds)
}

fn prepare(plan: &mut Plan, transient: &Transient, now: Timestamp) {
    if transient.prepared {
        return;
    }
    match transient.prepare_again {
        Some(again) if now < again => plan.wake_at(again),
        _ => plan.push(Action::Prepare),
    }
}

/// Ends what runs, then releases, then finishes.
fn end_all(
    plan: &mut Plan,
    record: &Record,
    transient: &Transient,
    now: Timestamp,
    grace_seconds: i64,
) {
    let mut live = false;
    for (name, container) in &record.containers {
        if let Some(attempt) = container
            .attempt
            .as_ref()
            .filter(|attempt| attempt.is_live())
        {
            live = true;
            end_attempt(plan, name, attempt, now, grace_seconds, StopCause::PodEnds);
        }
    }
    if live {
        return;
    }
    if record.prepared {
        match transient.release_again {
            Some(again) if now < again => plan.wake_at(again),
            _ => plan.push(Action::Release),
        }
    } else if !record.released && transient.leaving.is_none() {
        // Nothing was ever made outside the directory, but the record does not say so yet.
        plan.push(Action::Release);
    } else if record.terminating.is_some() || transient.leaving.is_some() {
        plan.push(Action::Finish);
    }
}

fn end_attempt(
    plan: &mut Plan,
    name: &str,
    attempt: &Attempt,
    now: Timestamp,
    grace_seconds: i64,
    cause: StopCause,
) {
    let Some(kill) = attempt.kill else {
        // A program that was never started has nothing to say to a signal.
        let grace_seconds = match attempt.state {
            AttemptState::Running { .. } => grace_seconds,
            _ => 0,
        };
        plan.push(Action::Stop {
            container: name.to_owned(),
            grace_seconds,
            cause,
        });
        return;
    };
    match kill.forced {
        None => {
            if now >= kill.deadline {
                plan.push(Action::Kill(name.to_owned()));
            } else {
                plan.wake_at(kill.deadline);
            }
        }
        Some(forced) if now >= forced + KILL_AGAIN_AFTER => {
            plan.push(Action::Kill(name.to_owned()));
        }
        Some(forced) => plan.wake_at(forced + KILL_AGAIN_AFTER),
    }
}

/// The next step of one container of a pod that is to run.
fn step(
    plan: &mut Plan,
    container: &WantedContainer,
    wanted: &Wanted,
    record: &Record,
    transient: &Transient,
    now: Timestamp,
) {
    let name = &container.name;
    let known = record.container(name);
    let unknown = TransientContainer::default();
    let state = transient.containers.get(name).unwrap_or(&unknown);
    match known.and_then(|known| known.attempt.as_ref()) {
        None => begin(plan, name, 0, state, transient, now),
        Some(attempt) => match &attempt.state {
            AttemptState::Creating => {}
            AttemptState::Created => {
                if transient.prepared {
                    plan.push(Action::Launch(name.clone()));
                }
            }
            AttemptState::Running { .. } => {
                if let Some(unhealthy) = &state.unhealthy {
                    let grace = unhealthy.grace_seconds.unwrap_or(wanted.grace_seconds);
                    end_attempt(plan, name, attempt, now, grace, StopCause::Unhealthy);
                } else if attempt.kill.is_some() {
                    end_attempt(
                        plan,
                        name,
                        attempt,
                        now,
                        wanted.grace_seconds,
                        StopCause::Unhealthy,
                    );
                }
            }
            AttemptState::Ended(ended) => {
                if !wanted.policy(name).restarts(ended.exit_code) {
                    return;
                }
                let crash = known.map(|known| known.crash).unwrap_or_default();
                match crash.until(ended.noticed_at.min(now)) {
                    Some(until) if now < until => plan.wake_at(until),
                    _ => begin(plan, name, attempt.number + 1, state, transient, now),
                }
            }
        },
    }
}

/// Towards a new attempt: image, then start.
fn begin(
    plan: &mut Plan,
    name: &str,
    number: u32,
    state: &TransientContainer,
    transient: &Transient,
    now: Timestamp,
) {
    match &state.image {
        ImageState::Unknown => plan.push(Action::Pull(name.to_owned())),
        ImageState::Pulling => {}
        ImageState::Failed { again, .. } if now < *again => plan.wake_at(*again),
        ImageState::Failed { .. } => plan.push(Action::Pull(name.to_owned())),
        ImageState::Present => {
            if !transient.prepared {
                return;
            }
            match &state.trouble {
                Some(trouble) if now < trouble.again => plan.wake_at(trouble.again),
                _ => plan.push(Action::Start {
                    container: name.to_owned(),
                    number,
                }),
            }
        }
    }
}

#[cfg(test)]
mod tests;
