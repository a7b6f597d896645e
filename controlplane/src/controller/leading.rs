//! What only the leader runs: controllers and scheduler, started when this member becomes the leader and
//! stopped when it ceases to be.

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::controllers::credentials::Keys;
use crate::controllers::{self, ControllerMetrics, ControllersConfig};
use crate::extension::Extensions;
use crate::registry::Client;
use crate::scheduler::{self, SchedulerMetrics};

/// Everything that a term of leadership needs.
#[derive(Debug, Clone)]
pub(super) struct Leading {
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) config: ControllersConfig,
    pub(super) keys: Keys,
    pub(super) extensions: Extensions,
    pub(super) controller_metrics: ControllerMetrics,
    pub(super) scheduler_metrics: SchedulerMetrics,
}

impl Leading {
    /// Runs until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut leadership = self.client.registry().store().leadership();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                led = leadership.wait_for(|leads| *leads) => if led.is_err() { return },
            }
            tracing::info!("this member leads");
            let term = stop.child_token();
            let mut tasks = self.start(&term);
            tokio::select! {
                _ = leadership.wait_for(|leads| !*leads) => {}
                // Both run until they are told to stop: an end before that is a panic.
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "what the leader runs has ended; it is started again");
                    }
                }
                () = stop.cancelled() => {}
            }
            term.cancel();
            while tasks.join_next().await.is_some() {}
        }
    }

    fn start(&self, term: &CancellationToken) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        tasks.spawn(controllers::run(
            self.client.clone(),
            self.cache.clone(),
            self.config.clone(),
            self.controller_metrics.clone(),
            term.clone(),
        ));
        tasks.spawn(controllers::credentials::run(
            self.client.clone(),
            self.cache.clone(),
            self.keys.clone(),
            self.controller_metrics.clone(),
            term.clone(),
        ));
        tasks.spawn(controllers::availability::run(
            self.client.clone(),
            self.cache.clone(),
            self.extensions.clone(),
            self.controller_metrics.clone(),
            term.clone(),
        ));
        tasks.spawn(scheduler::run(
            self.client.clone(),
            self.cache.clone(),
            self.scheduler_metrics.clone(),
            term.clone(),
        ));
        tasks
    }
}
