//! A panic of a pod's worker, or of a task that works for it, ends neither the agent nor the service of the pod: the
//! worker begins again as the next agent would, with what is on disk.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::{Finished, Worker};
use crate::pods::machine::Machine;
use crate::pods::plan::Transient;
use crate::pods::record::{self, Record};
use crate::pods::report::EventType;

/// How long is waited before it begins again; twice as long after each panic.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

impl<M: Machine> Worker<M> {
    /// Serves the pod until it has ended and may be forgotten, or until nobody holds the other end of the inbox.
    pub(crate) async fn serve(mut self) {
        let mut pause = FIRST_PAUSE;
        // What a panic may leave half done in memory is thrown away.
        while AssertUnwindSafe(self.run()).catch_unwind().await.is_err() {
            self.context.metrics.worker_panics.inc();
            tracing::error!(pod = %self.key.name, namespace = %self.key.namespace,
                again_after = ?pause, "the pod's worker panicked");
            self.forget();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            let message = "Error syncing pod: the agent's worker panicked and begins again";
            self.event(None, EventType::Warning, "FailedSync", message.to_owned());
        }
    }

    /// Keeps of the pod what was asked for, and what is on disk.
    fn forget(&mut self) {
        for task in self.probers.values().chain(self.hooks.values()) {
            task.abort();
        }
        let asked = (self.record.terminating, self.record.failed.take());
        let written = record::load(&self.dirs.data).map(|(_, record)| record);
        // One that was never written announced no step.
        self.record = written.unwrap_or_else(|_| Record::new(self.now()));
        self.record.terminating = asked.0.or(self.record.terminating);
        self.record.failed = asked.1.or_else(|| self.record.failed.take());
        self.saved = None;
        self.transient = Transient {
            leaving: self.transient.leaving,
            ..Transient::taken_over(&self.record)
        };
        (self.sandbox, self.changes) = (None, None);
        (self.look, self.look_at, self.resize_due) = (false, None, true);
        self.images.clear();
        self.volume_images.clear();
        self.pull_backoffs.clear();
        self.probers.clear();
        self.hooks.clear();
        self.told.clear();
        // Those who still work for the time before are not heard.
        self.finished = mpsc::channel(16);
        self.reports = mpsc::channel(64);
    }

    /// Begins work that is not waited for.
    pub(super) fn beside(&self, work: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        let done = self.finished.0.clone();
        let task = tokio::spawn(async move {
            if AssertUnwindSafe(work).catch_unwind().await.is_err() {
                // The worker may be gone; then nobody waits.
                let _ = done.send(Finished::Nothing).await;
            }
        });
        task.abort_handle()
    }
}
