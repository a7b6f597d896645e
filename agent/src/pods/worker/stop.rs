//! Attempts end: the signal, SIGKILL when the time is over.

use jiff::SignedDuration;

use super::Worker;
use crate::pods::machine::{Machine, PodSandbox};
use crate::pods::plan::StopCause;
use crate::pods::record::{Attempt, AttemptState, Kill};
use crate::pods::report::EventType;
use crate::pods::wanted::clamp_grace;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// However long its hook took, and however long it waited for its turn: a program has this long to end.
const AT_LEAST: SignedDuration = SignedDuration::from_secs(2);

impl<M: Machine> Worker<M> {
    pub(super) async fn stop(&mut self, name: &str, grace_seconds: i64, cause: StopCause) {
        let now = self.now();
        let message = self.why_stopped(name, cause);
        self.abort_hook(name);
        let Some(attempt) = self.attempt_mut(name) else {
            return;
        };
        let running = matches!(attempt.state, AttemptState::Running { .. });
        let forced = !running || grace_seconds == 0;
        attempt.kill = Some(Kill {
            deadline: now + SignedDuration::from_secs(clamp_grace(grace_seconds)),
            signalled: forced,
            forced: forced.then_some(now),
        });
        let id = attempt.id.clone();
        if running {
            self.event(Some(name), EventType::Normal, "Killing", message);
        }
        self.save();
        if forced {
            self.signal(name, &id, SIGKILL).await;
        }
    }

    fn why_stopped(&self, name: &str, cause: StopCause) -> String {
        match cause {
            StopCause::PodEnds | StopCause::AllRestart => format!("Stopping container {name}"),
            StopCause::Unhealthy => {
                let probe = if self.awaits_startup(name) {
                    "startup"
                } else {
                    "liveness"
                };
                format!("Container {name} failed {probe} probe, will be restarted")
            }
            StopCause::Resized => format!("Container {name} resize requires restart"),
            StopCause::HookFailed => "FailedPostStartHook".to_owned(),
        }
    }

    /// The signal that asks a program to end; its hook has run and it is its turn.
    pub(super) async fn signal_end(&mut self, name: &str) {
        let now = self.now();
        self.abort_hook(name);
        let waited = self
            .wanted
            .container(name)
            .is_some_and(|wanted| wanted.pre_stop || wanted.sidecar);
        let Some(attempt) = self.attempt_mut(name) else {
            return;
        };
        if let Some(kill) = &mut attempt.kill {
            kill.signalled = true;
            if waited {
                kill.deadline = kill.deadline.max(now + AT_LEAST);
            }
        }
        let signal = attempt.stop_signal.unwrap_or(SIGTERM);
        let id = attempt.id.clone();
        self.save();
        self.signal(name, &id, signal).await;
    }

    pub(super) async fn kill(&mut self, name: &str) {
        let now = self.now();
        let Some(attempt) = self.attempt_mut(name) else {
            return;
        };
        if let Some(kill) = &mut attempt.kill {
            kill.forced = Some(now);
        }
        let id = attempt.id.clone();
        self.signal(name, &id, SIGKILL).await;
    }

    fn attempt_mut(&mut self, name: &str) -> Option<&mut Attempt> {
        self.record.containers.get_mut(name)?.attempt.as_mut()
    }

    async fn signal(&mut self, name: &str, id: &str, signal: i32) {
        self.look = true;
        if self.sandbox.is_none() {
            self.connect().await;
        }
        // Without a supervisor there is nothing to signal; looking will find the attempt lost.
        let Some(sandbox) = &self.sandbox else { return };
        if let Err(error) = sandbox.kill(id, signal).await {
            tracing::warn!(pod = %self.key.name, container = name, signal, %error, "signal not sent");
        }
    }
}
