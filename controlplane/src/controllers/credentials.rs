//! The controllers that need the cluster's keys: they approve and sign certificates, fill Secrets with tokens of
//! accounts, and remove bootstrap tokens that have ended. One reconciler each, in a file of its own.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{ControllerMetrics, worker};
use crate::auth::{Chain, Pki, Tokens};
use crate::cache::{Cache, Queue};
use crate::registry::Client;

mod account_tokens;
mod bootstrap_tokens;
mod certificates;

/// What signs, and what says whether somebody's certificate may be approved unseen.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    pub(crate) tokens: Tokens,
    pub(crate) pki: Arc<Pki>,
    pub(crate) authorizer: Chain,
}

/// Runs until `shutdown`. Call it while this member leads.
pub(crate) async fn run(
    client: Client,
    cache: Cache,
    keys: Keys,
    metrics: ControllerMetrics,
    shutdown: CancellationToken,
) {
    cache.synced().await;
    macro_rules! controller {
        ($module:path, $parallel:expr, $controller:expr) => {
            async {
                use $module as this;
                let queue = Queue::default();
                let _subscriptions = this::subscribe(&cache, &queue);
                let controller = $controller;
                let metrics = metrics.clone();
                let reconcile = |key| controller.reconcile(key);
                worker::work(this::NAME, queue, $parallel, metrics, reconcile).await;
            }
        };
    }
    let all = async {
        tokio::join!(
            controller!(
                certificates,
                4,
                certificates::Controller::new(&client, &cache, &keys)
            ),
            controller!(
                account_tokens,
                4,
                account_tokens::Controller::new(&client, &cache, &keys)
            ),
            controller!(
                bootstrap_tokens,
                1,
                bootstrap_tokens::Controller::new(&client, &cache)
            ),
        );
    };
    tokio::select! { () = all => {}, () = shutdown.cancelled() => {} }
}
