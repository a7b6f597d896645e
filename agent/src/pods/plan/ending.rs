//! The end of attempts: hook, turn, signal, SIGKILL. Pure.

use jiff::{SignedDuration, Timestamp};

use super::{Action, HookKind, Plan, StopCause, Transient, TransientContainer};
use crate::pods::record::{Attempt, AttemptState, Record};
use crate::pods::wanted::{Wanted, WantedContainer};

/// SIGKILL is sent again after this long: the first one may have met a runtime that was not listening.
pub(super) const KILL_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(5);

/// Ends what runs, then releases, then finishes.
pub(super) fn end_all(
    plan: &mut Plan,
    wanted: &Wanted,
    record: &Record,
    transient: &Transient,
    now: Timestamp,
    grace_seconds: i64,
) {
    let mut live = false;
    for (name, container) in &record.containers {
        if let Some(attempt) = container.attempt.as_ref().filter(|it| it.is_live()) {
            live = true;
            let ending = Ending {
                name,
                attempt,
                grace_seconds,
                cause: StopCause::PodEnds,
                is_its_turn: is_its_turn(wanted, record, name),
            };
            ending.step(plan, wanted, transient, now);
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

/// Whatever was said to it before.
pub(super) fn end_at_once(plan: &mut Plan, name: &str, attempt: &Attempt, now: Timestamp) {
    match attempt.kill.map(|kill| kill.forced) {
        None => plan.push(Action::Stop {
            container: name.to_owned(),
            grace_seconds: 0,
            cause: StopCause::AllRestart,
        }),
        Some(Some(forced)) if now < forced + KILL_AGAIN_AFTER => {
            plan.wake_at(forced + KILL_AGAIN_AFTER);
        }
        Some(_) => plan.push(Action::Kill(name.to_owned())),
    }
}

/// A sidecar ends after the containers that it is there for: the main ones, and the init containers and sidecars
/// that began after it.
fn is_its_turn(wanted: &Wanted, record: &Record, name: &str) -> bool {
    let place = wanted
        .init
        .iter()
        .position(|container| container.name == name);
    let Some(place) = place.filter(|place| wanted.init[*place].sidecar) else {
        return true;
    };
    let live = |container: &WantedContainer| {
        let attempt = record.attempt(&container.name);
        attempt.is_some_and(Attempt::is_live)
    };
    !wanted.init[place + 1..]
        .iter()
        .chain(&wanted.main)
        .any(live)
}

/// An attempt that is to end.
pub(super) struct Ending<'a> {
    pub(super) name: &'a str,
    pub(super) attempt: &'a Attempt,
    pub(super) grace_seconds: i64,
    pub(super) cause: StopCause,
    pub(super) is_its_turn: bool,
}

impl Ending<'_> {
    pub(super) fn step(
        &self,
        plan: &mut Plan,
        wanted: &Wanted,
        transient: &Transient,
        now: Timestamp,
    ) {
        let name = || self.name.to_owned();
        let Some(kill) = self.attempt.kill else {
            // A program that was never started has nothing to say to a signal.
            let grace_seconds = match self.attempt.state {
                AttemptState::Running { .. } => self.grace_seconds,
                _ => 0,
            };
            let cause = self.cause;
            return plan.push(Action::Stop {
                container: name(),
                grace_seconds,
                cause,
            });
        };
        match kill.forced {
            Some(forced) if now >= forced + KILL_AGAIN_AFTER => plan.push(Action::Kill(name())),
            Some(forced) => plan.wake_at(forced + KILL_AGAIN_AFTER),
            None if kill.signalled && now >= kill.deadline => plan.push(Action::Kill(name())),
            None if kill.signalled => plan.wake_at(kill.deadline),
            None => self.before_signal(plan, wanted, transient, now, kill.deadline),
        }
    }

    /// The hook has the grace period, and so has waiting; both take from what the program gets afterwards.
    fn before_signal(
        &self,
        plan: &mut Plan,
        wanted: &Wanted,
        transient: &Transient,
        now: Timestamp,
        deadline: Timestamp,
    ) {
        let unknown = TransientContainer::default();
        let state = transient.containers.get(self.name).unwrap_or(&unknown);
        let has_hook = wanted.container(self.name).is_some_and(|it| it.pre_stop);
        if now >= deadline {
            plan.push(Action::Signal(self.name.to_owned()));
        } else if state.hook == Some(HookKind::PreStop) {
            plan.wake_at(deadline);
        } else if has_hook && !state.pre_stop_done {
            plan.push(Action::Hook(self.name.to_owned(), HookKind::PreStop));
        } else if self.is_its_turn {
            plan.push(Action::Signal(self.name.to_owned()));
        } else {
            plan.wake_at(deadline);
        }
    }
}
