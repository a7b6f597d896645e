//! The next steps of a pod, from what is wanted and what is: pure, with the clock as data.
//!
//! Nothing is done here and nothing is remembered here. The worker executes the actions, notes what came of
//! them in the record, and asks again. What must never happen (two live attempts of one container, a pod
//! that does not end) is decided here and tested here.
//!
//! `plan/ending` has the end of attempts, `plan/transient` what else plans are made from.

use jiff::Timestamp;

use super::record::{Attempt, AttemptState, ContainerRecord, PostStart, Record};
use super::wanted::{Wanted, WantedContainer};
use ending::{Ending, end_all, end_at_once};

mod ending;
mod transient;

pub(crate) use transient::{
    HookKind, ImageState, Leaving, Transient, TransientContainer, Trouble, Unhealthy,
};

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
    /// Run a hook of an attempt; what comes of it comes later.
    Hook(String, HookKind),
    /// An attempt is to end, in the time that it has.
    Stop {
        container: String,
        grace_seconds: i64,
        cause: StopCause,
    },
    /// The signal that ends its program.
    Signal(String),
    /// SIGKILL.
    Kill(String),
    /// All containers are to begin anew.
    RestartAll,
    /// They have ended: forget how they stood.
    BeginAnew,
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
    /// Its `postStart` hook failed.
    HookFailed,
    /// Its resources changed, and it wants to begin anew with them.
    Resized,
    /// All containers begin anew.
    AllRestart,
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
        end_all(&mut plan, wanted, record, transient, now, grace_seconds);
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
    if record.restarting_all {
        restart_all(&mut plan, wanted, record, now);
        return plan;
    }
    let progress = progress(wanted, record, transient);
    if progress != Progress::Done && wanted.lasting().any(|it| restarts_all(it, record)) {
        plan.push(Action::RestartAll);
        return plan;
    }
    match progress {
        Progress::Done => {
            let grace_seconds = wanted.grace_seconds;
            end_all(&mut plan, wanted, record, transient, now, grace_seconds);
            return plan;
        }
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
            let mut held = false;
            for container in &wanted.main {
                if !held || record.attempt(&container.name).is_some() {
                    step(&mut plan, container, wanted, record, transient, now);
                }
                held |= holds_others(container, record, transient);
            }
        }
    }
    for container in &wanted.ephemeral {
        step(&mut plan, container, wanted, record, transient, now);
    }
    plan
}

/// Whether the container ended so that all begin anew.
fn restarts_all(container: &WantedContainer, record: &Record) -> bool {
    let known = record.container(&container.name);
    let ended = known.and_then(ContainerRecord::ended);
    ended.is_some_and(|ended| container.restarts.all_after(ended.exit_code))
}

/// What runs ends at once, without hooks; then the one that asked for it waits its time, and all others with it.
fn restart_all(plan: &mut Plan, wanted: &Wanted, record: &Record, now: Timestamp) {
    let mut live = false;
    for container in wanted.lasting() {
        let attempt = record.attempt(&container.name);
        if let Some(attempt) = attempt.filter(|attempt| attempt.is_live()) {
            live = true;
            end_at_once(plan, &container.name, attempt, now);
        }
    }
    if live {
        return;
    }
    let asking = wanted.lasting().filter(|it| restarts_all(it, record));
    let until = asking.filter_map(|container| {
        let known = record.container(&container.name)?;
        known.crash.until(known.ended()?.noticed_at.min(now))
    });
    match until.max() {
        Some(until) if now < until => plan.wake_at(until),
        _ => plan.push(Action::BeginAnew),
    }
}

/// Containers begin in order, and each waits for the `postStart` hooks of those before it.
fn holds_others(container: &WantedContainer, record: &Record, transient: &Transient) -> bool {
    if !container.post_start {
        return false;
    }
    match record.attempt(&container.name) {
        Some(attempt) => {
            let first = record.container(&container.name).map_or(0, |it| it.first);
            attempt.number == first && attempt.is_live() && attempt.post_start == PostStart::Due
        }
        None => transient.containers.get(&container.name).is_none_or(|it| {
            it.trouble.is_none() && !matches!(it.image, ImageState::Failed { .. })
        }),
    }
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

pub(crate) fn progress(wanted: &Wanted, record: &Record, transient: &Transient) -> Progress {
    // Once a main container was tried, init containers are history.
    let begun = wanted
        .main
        .iter()
        .any(|container| record.attempt(&container.name).is_some());
    if !begun {
        for (index, container) in wanted.init.iter().enumerate() {
            let ended = record
                .container(&container.name)
                .and_then(ContainerRecord::ended);
            let passed = match ended {
                _ if container.sidecar => is_up(container, record, transient),
                Some(ended) if ended.exit_code == 0 => true,
                Some(ended) if !container.restarts.after(ended.exit_code) => {
                    return Progress::Done;
                }
                _ => false,
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
            .is_some_and(|ended| !container.restarts.after(ended.exit_code))
    };
    if wanted.main.iter().all(ended_for_good) {
        Progress::Done
    } else {
        Progress::Main
    }
}

/// What comes after a sidecar begins when it runs, has done its `postStart` hook and passed its startup probe.
fn is_up(container: &WantedContainer, record: &Record, transient: &Transient) -> bool {
    let Some(attempt) = record.attempt(&container.name) else {
        return false;
    };
    let started = || {
        let state = transient.containers.get(&container.name);
        state.is_some_and(|state| state.started == Some(true))
    };
    matches!(attempt.state, AttemptState::Running { .. })
        && (!container.post_start || attempt.post_start == PostStart::Done)
        && (!container.startup_probe || started())
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
    let failed = record.failed.as_ref()?;
    Some(failed.grace_seconds.unwrap_or(wanted.grace_seconds))
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
        None => {
            let first = known.map_or(0, |known| known.first);
            begin(plan, name, first, state, transient, now);
        }
        Some(attempt) => match &attempt.state {
            AttemptState::Creating => {}
            AttemptState::Created => {
                if transient.prepared {
                    plan.push(Action::Launch(name.clone()));
                }
            }
            AttemptState::Running { .. } => match why_end(attempt, state, wanted) {
                Some((grace_seconds, cause)) => {
                    let ending = Ending {
                        name,
                        attempt,
                        grace_seconds,
                        cause,
                        is_its_turn: true,
                    };
                    ending.step(plan, wanted, transient, now);
                }
                None if container.post_start
                    && attempt.post_start == PostStart::Due
                    && state.hook.is_none() =>
                {
                    plan.push(Action::Hook(name.clone(), HookKind::PostStart));
                }
                None => {}
            },
            AttemptState::Ended(ended) => {
                if !container.restarts.after(ended.exit_code) {
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

/// Why an attempt of a pod that goes on is to end, and in how many seconds.
fn why_end(
    attempt: &Attempt,
    state: &TransientContainer,
    wanted: &Wanted,
) -> Option<(i64, StopCause)> {
    if let Some(unhealthy) = &state.unhealthy {
        let grace = unhealthy.grace_seconds.unwrap_or(wanted.grace_seconds);
        return Some((grace, StopCause::Unhealthy));
    }
    if attempt.post_start == PostStart::Failed {
        return Some((wanted.grace_seconds, StopCause::HookFailed));
    }
    if state.outdated {
        return Some((wanted.grace_seconds, StopCause::Resized));
    }
    let asked = attempt.kill.is_some();
    asked.then_some((wanted.grace_seconds, StopCause::Unhealthy))
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
