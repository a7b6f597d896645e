//! What a member does now and then on its own: gives up old history, takes a snapshot when the log has become long, and
//! gives space on the disk back. What to give up is planned in `compaction.rs`.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Revision;
use super::compaction::{self, History, Retention, Samples};
use super::group::{Group, Miss};

const INTERVAL: Duration = Duration::from_secs(15);
/// Writes per second below which a wait of a second or so stops hardly anybody.
const CALM: u64 = 20;

/// Runs until it is stopped.
pub(super) async fn run(group: Arc<Group>, retention: Retention) {
    let state = &group.state;
    let start = Instant::now();
    let mut samples = Samples::default();
    let mut last_shortened = None;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut last_tick = None;
    loop {
        let at_rest = tokio::select! {
            _ = ticks.tick() => true,
            // Somebody writes much.
            () = state.crowded() => false,
        };
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
        let calm = at_rest && {
            let this = (now, history.revision);
            let last = last_tick.replace(this);
            last.is_some_and(|last| is_calm(last, this))
        };
        if state.log_bytes() > retention.log_bytes {
            let index = *state.applied_index().borrow();
            shorten_log(&group, last_shortened.replace(index)).await;
        }
        give_space_back(&group, calm).await;
        if !group.leads_for_sure() {
            continue;
        }
        if let Some(revision) = compaction::plan(&retention, history, &samples, now) {
            match group.compact_here(revision).await {
                Ok(()) => tracing::debug!(revision, "compacted"),
                Err(Miss::NotLeader(why)) => tracing::debug!(why, revision, "not compacted"),
                Err(Miss::Final(error)) => tracing::warn!(%error, revision, "compaction failed"),
            }
        }
    }
}

/// Raft takes a snapshot after a number of entries, and keeps a number of those before it for members that are a little behind,
/// whatever their size. Here it takes one, and gives up what was applied when that was done the last time.
async fn shorten_log(group: &Group, before: Option<u64>) {
    let trigger = group.raft.trigger();
    let mut done = trigger.snapshot().await;
    if let Some(index) = before {
        done = done.and(trigger.purge_log(index).await);
    }
    if let Err(error) = done {
        tracing::debug!(%error, "the log is not shortened");
    }
}

/// Whether little was written between two moments.
fn is_calm((since, before): (Duration, Revision), (now, revision): (Duration, Revision)) -> bool {
    let seconds = now.saturating_sub(since).as_secs().max(1);
    revision.saturating_sub(before) < CALM * seconds
}

/// Writes wait meanwhile, so a leader of others leaves it until it does not lead, and one that is alone until little is
/// written; or until there is little room left.
async fn give_space_back(group: &Group, calm: bool) {
    if group.leads_for_sure() && !(group.is_alone() && calm) && !group.space.is_half_full() {
        return;
    }
    let given_back = async {
        match group.space.is_mostly_garbage().await? {
            true => group.space.defragment().await.map(Some),
            false => Ok(None),
        }
    };
    match given_back.await {
        Ok(Some((before, after))) => {
            tracing::info!(before, after, "space on the disk is given back")
        }
        Ok(None) => {}
        Err(error) => tracing::warn!(%error, "space on the disk was not given back"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calm_is_when_little_is_written() {
        let at = |seconds, revision| (Duration::from_secs(seconds), revision);
        assert!(is_calm(at(15, 1_000), at(30, 1_000)));
        assert!(is_calm(at(15, 1_000), at(30, 1_299)));
        assert!(!is_calm(at(15, 1_000), at(30, 1_300)));
        assert!(!is_calm(at(15, 1_000), at(15, 1_020)));
    }
}
