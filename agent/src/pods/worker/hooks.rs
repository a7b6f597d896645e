//! `postStart` and `preStop` hooks: run beside the loop, judged when they have ended.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};
use tokio::time::timeout;

use super::{Finished, Worker};
use crate::pods::machine::{Machine, PodSandbox};
use crate::pods::plan::HookKind;
use crate::pods::prober::ask;
use crate::pods::record::PostStart;
use crate::pods::report::EventType;

/// A hook has the time that its container has; this only keeps one that hangs from being kept for ever.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// What is logged of a failing command at most.
const MAX_OUTPUT: usize = 10 << 10;

/// What a hook acts on.
struct Hook<S> {
    container: Container,
    id: String,
    address: Option<std::net::IpAddr>,
    sandbox: S,
}

impl<M: Machine> Worker<M> {
    pub(super) async fn hook(&mut self, name: &str, kind: HookKind) {
        if self.sandbox.is_none() {
            self.connect().await;
        }
        let attempt = self.record.attempt(name);
        let identity = attempt.map(|attempt| (attempt.id.clone(), attempt.number));
        let (Some((id, number)), Some(container), Some(sandbox)) =
            (identity, self.container(name), self.sandbox.clone())
        else {
            // Without a supervisor there is no container any more: looking will find that out.
            self.look = true;
            self.transient(name).pre_stop_done = true;
            return;
        };
        let handler = container
            .lifecycle
            .as_ref()
            .and_then(|lifecycle| match kind {
                HookKind::PostStart => lifecycle.post_start.clone(),
                HookKind::PreStop => lifecycle.pre_stop.clone(),
            });
        let hook = Hook {
            container,
            id,
            address: self.record.addresses.first().copied(),
            sandbox,
        };
        let done = self.finished.0.clone();
        let container = name.to_owned();
        let task = self.beside(async move {
            let outcome = hook.run(handler.unwrap_or_default()).await;
            // The worker may be gone; then nobody waits for the hook.
            let _ = done
                .send(Finished::Hook {
                    container,
                    number,
                    kind,
                    outcome,
                })
                .await;
        });
        self.abort_hook(name);
        self.transient(name).hook = Some(kind);
        self.hooks.insert(name.to_owned(), task);
    }

    pub(super) fn abort_hook(&mut self, name: &str) {
        if let Some(hook) = self.hooks.remove(name) {
            hook.abort();
        }
        self.transient(name).hook = None;
    }

    pub(super) fn hook_finished(
        &mut self,
        name: &str,
        number: u32,
        kind: HookKind,
        outcome: Result<(), String>,
    ) {
        let current = self
            .record
            .attempt(name)
            .is_some_and(|attempt| attempt.number == number && attempt.is_live());
        if !current || self.transient(name).hook != Some(kind) {
            return;
        }
        self.hooks.remove(name);
        self.transient(name).hook = None;
        if let Err(error) = &outcome {
            tracing::warn!(pod = %self.key.name, namespace = %self.key.namespace,
                container = name, ?kind, %error, "a hook failed");
            let (reason, message) = match kind {
                HookKind::PostStart => ("FailedPostStartHook", "PostStartHook failed"),
                HookKind::PreStop => ("FailedPreStopHook", "PreStopHook failed"),
            };
            self.event(Some(name), EventType::Warning, reason, message.to_owned());
        }
        match kind {
            HookKind::PreStop => self.transient(name).pre_stop_done = true,
            HookKind::PostStart => {
                let attempt = self
                    .record
                    .containers
                    .get_mut(name)
                    .and_then(|known| known.attempt.as_mut());
                if let Some(attempt) = attempt {
                    attempt.post_start = match outcome {
                        Ok(()) => PostStart::Done,
                        Err(_) => PostStart::Failed,
                    };
                }
                self.start_probing();
            }
        }
    }
}

impl<S: PodSandbox> Hook<S> {
    async fn run(&self, handler: LifecycleHandler) -> Result<(), String> {
        if let Some(exec) = &handler.exec {
            return self.exec(exec.command.as_deref().unwrap_or_default()).await;
        }
        let late = |_| "no answer".to_owned();
        if let Some(get) = &handler.http_get {
            let url = ask::url(&self.container, self.address, get)?;
            let asked = ask::http(&url, get.http_headers.as_deref());
            // Whatever the page says: that there is one is enough.
            return timeout(LONGEST, asked).await.map_err(late)?.map(drop);
        }
        if let Some(sleep) = &handler.sleep {
            let seconds = u64::try_from(sleep.seconds).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            return Ok(());
        }
        // A `tcpSocket` is accepted and always fails, in Kubernetes too.
        Err("invalid handler".to_owned())
    }

    async fn exec(&self, command: &[String]) -> Result<(), String> {
        let ran = self.sandbox.exec(&self.id, command, LONGEST, MAX_OUTPUT);
        let outcome = ran.await?;
        if outcome.exit_code == 0 {
            return Ok(());
        }
        Err(format!(
            "command {:?} exited with {}: {}",
            command.join(" "),
            outcome.exit_code,
            String::from_utf8_lossy(&outcome.output)
        ))
    }
}
