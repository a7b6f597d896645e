//! When history is given up without being asked: a pure plan.
//!
//! Reflectors come back with a revision that is minutes old at most, so that much is kept; a busy store keeps
//! less than that, because history is memory; an idle one keeps its last revisions for longer.

use std::collections::VecDeque;
use std::time::Duration;

use super::Revision;

#[derive(Debug, Clone, Copy)]
pub(super) struct Retention {
    /// History younger than this is kept, within the bounds below.
    pub(super) age: Duration,
    /// This many revisions are kept however old they are.
    pub(super) min_revisions: u64,
    /// No more revisions than this, however young.
    pub(super) max_revisions: u64,
    /// No more bytes of superseded values than this, however young.
    pub(super) max_bytes: u64,
    /// Log that may be applied before a snapshot makes it superfluous.
    pub(super) log_bytes: u64,
    /// Not worth a log entry below this many revisions.
    pub(super) step: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            age: Duration::from_secs(300),
            min_revisions: 1_000,
            max_revisions: 10_000,
            max_bytes: 8 << 20,
            log_bytes: 16 << 20,
            step: 250,
        }
    }
}

/// The store as the plan sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct History {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    /// Where to compact to because history takes more than [`Retention::max_bytes`]; 0 if it does not.
    pub(super) within_bytes: Revision,
}

/// Which revision the store had when.
#[derive(Debug, Default)]
pub(super) struct Samples {
    samples: VecDeque<(Duration, Revision)>,
}

impl Samples {
    /// `now` is time since any fixed moment; it must not go back.
    pub(super) fn record(&mut self, now: Duration, revision: Revision, retention: &Retention) {
        self.samples.push_back((now, revision));
        while self.samples.len() > 1 && self.samples[1].0 + retention.age <= now {
            self.samples.pop_front();
        }
    }

    /// The newest revision known to be at least `age` old.
    fn revision_before(&self, now: Duration, age: Duration) -> Revision {
        self.samples
            .iter()
            .take_while(|(at, _)| *at + age <= now)
            .last()
            .map_or(0, |(_, revision)| *revision)
    }
}

/// The revision to compact to, if that is worth it.
pub(super) fn plan(
    retention: &Retention,
    history: History,
    samples: &Samples,
    now: Duration,
) -> Option<Revision> {
    let old = samples.revision_before(now, retention.age);
    let by_age = old.min(history.revision.saturating_sub(retention.min_revisions));
    let by_count = history.revision.saturating_sub(retention.max_revisions);
    let target = by_age.max(by_count).max(history.within_bytes);
    // Too many bytes are worth an entry at once.
    let worth = match history.within_bytes > history.compacted {
        true => 1,
        false => retention.step,
    };
    let target = target.min(history.revision);
    (target >= history.compacted.saturating_add(worth)).then_some(target)
}

#[cfg(test)]
mod tests;
