//! When all members are to seal their disks with another key. The request is a number in the store; each member has
//! keys of its own and follows.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ApiError, Registry};
use crate::store::{Compare, Freshness, Op, Txn, TxnOutcome};

const REQUESTED: &str = "/waggle/encryption-generation";
const RETRY: Duration = Duration::from_secs(5);

impl Registry {
    async fn requested(&self, freshness: Freshness) -> Result<(u64, u64), ApiError> {
        let Some(kv) = self.store().get(REQUESTED, freshness).await? else {
            return Ok((0, 0));
        };
        let text = String::from_utf8_lossy(&kv.value);
        let generation = text.parse().map_err(ApiError::internal)?;
        Ok((generation, kv.mod_revision))
    }

    /// Asks all members for another key; returns the number of the request.
    pub(crate) async fn request_encryption_key(&self) -> Result<u64, ApiError> {
        let (generation, mod_revision) = self.requested(Freshness::Linearizable).await?;
        let next = generation + 1;
        let txn = Txn {
            compares: vec![Compare {
                key: REQUESTED.to_owned(),
                mod_revision,
            }],
            ops: vec![Op::Put {
                key: REQUESTED.to_owned(),
                value: next.to_string().into(),
            }],
        };
        match self.store().txn(txn).await? {
            // Somebody else has asked at the same time: one new key is enough for both.
            TxnOutcome::Committed { .. } | TxnOutcome::Conflict { .. } => Ok(next),
        }
    }

    /// Does what was asked of this member, until `stop`.
    pub(crate) async fn follow_encryption(self, stop: CancellationToken) {
        let followed = async {
            loop {
                let watched = self.store().watch(REQUESTED, self.store().revision());
                if let Err(error) = self.catch_up().await {
                    tracing::error!(%error, "the store was not sealed with another key");
                    tokio::time::sleep(RETRY).await;
                    continue;
                }
                match watched {
                    // Whatever comes, or the end of the watch: looked at anew.
                    Ok(mut watch) => drop(watch.next().await),
                    Err(_) => tokio::time::sleep(RETRY).await,
                }
            }
        };
        tokio::select! { () = followed => {}, () = stop.cancelled() => {} }
    }

    async fn catch_up(&self) -> Result<(), ApiError> {
        let (wanted, _) = self.requested(Freshness::Local).await?;
        if wanted > self.store().encryption_generation() {
            self.store().rotate_encryption_key(wanted).await?;
            tracing::info!(generation = wanted, "the store is sealed with another key");
        }
        Ok(())
    }
}
