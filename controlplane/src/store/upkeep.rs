//! What a member does now and then on its own: gives up old history, and takes a snapshot when the log has
//! become long. What to give up is planned in `compaction.rs`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::compaction::{self, History, Retention, Samples};
use super::machine::Shared;
use super::proposals;
use super::raft::{Command, Outcome, Raft};
use super::{Revision, StoreError};

const INTERVAL: Duration = Duration::from_secs(15);

pub(super) async fn compact(raft: &Raft, revision: Revision) -> Result<(), StoreError> {
    match proposals::write(raft, Command::Compact(revision)).await? {
        Outcome::NotCompacted { current } => Err(StoreError::FutureRevision {
            requested: revision,
            current,
        }),
        _ => Ok(()),
    }
}

/// Runs until it is stopped.
pub(super) async fn run(raft: Raft, state: Arc<Shared>, retention: Retention) {
    let start = Instant::now();
    let mut samples = Samples::default();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let server = raft.server_metrics();
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = state.crowded() => {}
        }
        let now = start.elapsed();
        let history = {
            let state = state.read();
            let mvcc = &state.mvcc;
            History {
                revision: mvcc.revision(),
                compacted: mvcc.compacted(),
                within_bytes: match mvcc.history_bytes() > retention.max_bytes {
                    true => mvcc.revision_with_history_below(retention.max_bytes / 2),
                    false => 0,
                },
            }
        };
        samples.record(now, history.revision, &retention);
        // Raft takes a snapshot after a number of entries, whatever their size.
        if state.log_bytes() > retention.log_bytes
            && let Err(error) = raft.trigger().snapshot().await
        {
            tracing::debug!(%error, "no snapshot");
        }
        if !server.borrow().state.is_leader() {
            continue;
        }
        if let Some(revision) = compaction::plan(&retention, history, &samples, now) {
            match compact(&raft, revision).await {
                Ok(()) => tracing::debug!(revision, "compacted"),
                Err(error) => tracing::warn!(%error, revision, "compaction failed"),
            }
        }
    }
}
