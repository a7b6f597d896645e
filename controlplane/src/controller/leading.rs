//! What runs on the leader only: controllers and scheduler. Started when this member begins to lead, ended
//! when it ceases to, and started afresh with whatever has changed in between.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cache::Cache;
use crate::controllers::{self, ControllerMetrics, ControllersConfig};
use crate::registry::Client;
use crate::scheduler::{self, SchedulerMetrics};

/// What controllers and scheduler are made of.
pub(super) struct Leading {
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) config: ControllersConfig,
    pub(super) controllers: ControllerMetrics,
    pub(super) scheduler: SchedulerMetrics,
}

impl Leading {
    /// Follows the leadership until `stop`.
    pub(super) async fn run(self, mut leads: watch::Receiver<bool>, stop: CancellationToken) {
        loop {
            let begins = tokio::select! {
                begins = leads.wait_for(|leads| *leads) => begins.is_ok(),
                () = stop.cancelled() => false,
            };
            if !begins {
                return;
            }
            tracing::info!("this member leads: controllers and scheduler start");
            let term = stop.child_token();
            let work = self.term(&term);
            tokio::pin!(work);
            tokio::select! {
                () = &mut work => {}
                // The guard is dropped at once: it must not be held while the term ends.
                () = async { drop(leads.wait_for(|leads| !*leads).await) } => {
                    tracing::info!("this member leads no more: controllers and scheduler end");
                    term.cancel();
                    work.await;
                }
            }
        }
    }

    async fn term(&self, term: &CancellationToken) {
        tokio::join!(
            controllers::run(
                self.client.clone(),
                self.cache.clone(),
                self.config.clone(),
                self.controllers.clone(),
                term.clone(),
            ),
            scheduler::run(
                self.client.clone(),
                self.cache.clone(),
                self.scheduler.clone(),
                term.clone(),
            ),
        );
    }
}
