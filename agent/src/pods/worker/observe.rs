//! What the supervisor says of the pod's containers, noted in the record.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::Worker;
use crate::pods::machine::{Machine, PodSandbox};
use crate::pods::record::{Attempt, AttemptState, Ended};
use crate::runtime::{ContainerState, logs};

/// A supervisor that does not answer is asked again after this.
const LOOK_AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(1);

/// A message of a container's end is cut here, and all messages of a pod together here.
const MAX_MESSAGE: usize = 4096;
const MAX_MESSAGES: usize = 12 << 10;
/// What stands for a message is the end of the log.
const FALLBACK_LINES: usize = 80;
const FALLBACK_BYTES: usize = 2048;

impl<M: Machine> Worker<M> {
    pub(super) async fn observe(&mut self) {
        self.look = false;
        if !self.record.prepared {
            return;
        }
        let Some(states) = self.states().await else {
            self.look_at = Some(self.now() + LOOK_AGAIN_AFTER);
            return;
        };
        self.look = false;
        let now = self.now();
        let mut ended = Vec::new();
        let names: Vec<String> = self.record.containers.keys().cloned().collect();
        for name in names {
            let Some(attempt) = self
                .record
                .attempt(&name)
                .filter(|attempt| attempt.is_live())
            else {
                continue;
            };
            let next = match states.get(&attempt.id) {
                Some(state) => self.translate(&name, attempt, state, now),
                // Whoever is making it says what came of it.
                None if attempt.state == AttemptState::Creating => continue,
                None => AttemptState::Ended(lost(attempt, now)),
            };
            if next == attempt.state {
                continue;
            }
            if matches!(next, AttemptState::Ended(_)) {
                ended.push(name.clone());
            }
            if let Some(attempt) = self
                .record
                .containers
                .get_mut(&name)
                .and_then(|container| container.attempt.as_mut())
            {
                attempt.state = next;
            }
        }
        self.save();
        for name in ended {
            self.stop_probing(Some(&name));
            self.clean_attempt(&name).await;
        }
        self.start_probing();
    }

    /// What the supervisor says; when it is gone, what its records say. `None` when it cannot be told.
    async fn states(&mut self) -> Option<BTreeMap<String, ContainerState>> {
        for _ in 0..2 {
            if self.sandbox.is_none() {
                match self.context.machine.connect_sandbox(&self.dirs.run).await {
                    Ok(Some(sandbox)) => self.use_sandbox(sandbox),
                    Ok(None) => return self.sweep().await,
                    Err(error) => {
                        tracing::warn!(pod = %self.key.name, %error,
                            "the pod's supervisor does not answer");
                        return None;
                    }
                }
            }
            let sandbox = self.sandbox.clone()?;
            match sandbox.states().await {
                Ok(states) => return Some(states),
                Err(error) => {
                    tracing::warn!(pod = %self.key.name, %error, "the pod's supervisor is lost");
                    self.sandbox = None;
                    self.changes = None;
                }
            }
        }
        None
    }

    /// There is no supervisor: what it left is removed, and the pod begins anew around its containers' ends.
    async fn sweep(&mut self) -> Option<BTreeMap<String, ContainerState>> {
        self.transient.prepared = false;
        self.transient.prepare_again = None;
        match self.context.machine.sweep_sandbox(&self.dirs.run).await {
            Ok(states) => Some(states),
            Err(error) => {
                tracing::warn!(pod = %self.key.name, %error,
                    "what the supervisor left was not removed");
                None
            }
        }
    }

    fn translate(
        &self,
        name: &str,
        attempt: &Attempt,
        state: &ContainerState,
        now: Timestamp,
    ) -> AttemptState {
        match state {
            ContainerState::Created => AttemptState::Created,
            ContainerState::Running { started_at, .. } => AttemptState::Running {
                started_at: Timestamp::try_from(*started_at).unwrap_or(now),
            },
            ContainerState::Exited {
                code,
                signal,
                oom_killed,
                started_at,
                finished_at,
            } => {
                let exit_code = match signal {
                    Some(signal) if *code < 128 => 128 + signal,
                    _ => *code,
                };
                let reason = if *oom_killed {
                    "OOMKilled"
                } else if exit_code == 0 {
                    "Completed"
                } else {
                    "Error"
                };
                // A supervisor that was killed took with it when it had started the program.
                let known_start = match attempt.state {
                    AttemptState::Running { started_at } => Some(started_at),
                    _ => None,
                };
                AttemptState::Ended(Ended {
                    id: attempt.id.clone(),
                    number: attempt.number,
                    exit_code,
                    // As the kubelet: the signal is in the exit code.
                    signal: None,
                    reason: reason.to_owned(),
                    message: self.termination_message(name, attempt.number, exit_code),
                    started_at: started_at
                        .and_then(|at| Timestamp::try_from(at).ok())
                        .or(known_start),
                    finished_at: Timestamp::try_from(*finished_at).unwrap_or(now),
                    noticed_at: now,
                })
            }
        }
    }

    fn termination_message(&self, name: &str, number: u32, exit_code: i32) -> Option<String> {
        use std::io::Read;
        let count = self.wanted.all().count().max(1);
        let limit = MAX_MESSAGE.min(MAX_MESSAGES / count);
        let path = self.dirs.attempt(name, number).join("termination-log");
        let mut content = Vec::new();
        let most = u64::try_from(limit).unwrap_or(u64::MAX);
        std::fs::File::open(path)
            .ok()?
            .take(most)
            .read_to_end(&mut content)
            .ok()?;
        let mut message = String::from_utf8_lossy(&content).into_owned();
        let container = self.container(name);
        let policy = container.and_then(|it| it.termination_message_policy);
        if message.is_empty()
            && exit_code != 0
            && policy.as_deref() == Some("FallbackToLogsOnError")
        {
            let log = self.dirs.log(name, number);
            message = logs::tail(&log, FALLBACK_LINES, FALLBACK_BYTES.min(limit)).ok()?;
        }
        (!message.is_empty()).then_some(message)
    }
}

/// Of an attempt that ran and that nobody knows any more: the machine was restarted, or its supervisor died.
fn lost(attempt: &Attempt, now: Timestamp) -> Ended {
    let started_at = match attempt.state {
        AttemptState::Running { started_at } => Some(started_at),
        _ => None,
    };
    Ended {
        id: attempt.id.clone(),
        number: attempt.number,
        exit_code: 137,
        signal: None,
        reason: "ContainerStatusUnknown".to_owned(),
        message: Some("The container could not be located when the node looked for it".to_owned()),
        started_at,
        finished_at: now,
        noticed_at: now,
    }
}
