//! The thin loop around every reconciling controller: takes keys from a queue, calls `reconcile`, retries
//! with back-off.

use std::future::Future;
use std::time::{Duration, Instant};

use crate::cache::{ObjectKey, Queue};
use crate::registry::ApiError;

use super::metrics::ControllerMetrics;

/// What a successful reconcile wants next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing until something changes.
    Wait,
    /// Look again after this time even if nothing changes.
    After(Duration),
}

/// Calls `reconcile` for the queue's keys, at most `parallel` at a time and never two for one key.
pub(super) async fn work<F, R>(
    name: &'static str,
    queue: Queue<ObjectKey>,
    parallel: usize,
    metrics: ControllerMetrics,
    reconcile: F,
) where
    F: Fn(ObjectKey) -> R + Send + Sync,
    R: Future<Output = Result<Next, ApiError>> + Send,
{
    let one = || async {
        loop {
            let key = queue.next().await;
            metrics.queue_depth(name, queue.len());
            let started = Instant::now();
            let result = reconcile(key.clone()).await;
            metrics.reconciled(name, started.elapsed(), result.is_ok());
            match result {
                Ok(next) => {
                    queue.forget(&key);
                    if let Next::After(delay) = next {
                        queue.add_after(key.clone(), delay);
                    }
                }
                Err(error) => {
                    // A conflict only says that the view was old; the change that made it so is on its way.
                    if error.code() == 409 {
                        tracing::debug!(controller = name, %key, %error, "will retry");
                    } else {
                        tracing::warn!(controller = name, %key, %error, "reconcile failed, will retry");
                    }
                    queue.retry(key.clone());
                }
            }
            queue.done(&key);
        }
    };
    futures::future::join_all((0..parallel).map(|_| one())).await;
}
