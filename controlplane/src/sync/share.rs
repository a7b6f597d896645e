//! What the nodes have acknowledged that hold their streams to other members, and the same of ours for them.
//!
//! A pod's deletion waits for all nodes, whichever member they talk to. Each member tells the others the least
//! that its nodes have applied, and which nodes those are; the notes travel with the members' own reports.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use super::applied::{Applied, Elsewhere};
use crate::store::{Heard, Store};

const LEAST: &str = "nodes/applied";
const NAMES: &str = "nodes/connected";
/// Acknowledgements of many nodes come together.
const PAUSE: Duration = Duration::from_millis(10);

/// Until `stop`.
pub(super) async fn share(store: Store, applied: Applied, stop: CancellationToken) {
    let mut changes = applied.changes();
    let mut news = store.news();
    let mut told = (None, BTreeSet::new());
    loop {
        // Acknowledgements are many, and nodes that come or go few.
        let turnover = Some(applied.turnover());
        if told.0 != turnover {
            let names = applied.names();
            if names != told.1 {
                let text = serde_json::to_vec(&names).expect("texts always serialize");
                store.note(NAMES, text.into());
            }
            told = (turnover, names);
        }
        let least = applied.least_here();
        store.note(LEAST, Bytes::copy_from_slice(&least.to_be_bytes()));
        applied.set_elsewhere(elsewhere(store.heard().values()));
        changes.borrow_and_update();
        tokio::select! {
            () = stop.cancelled() => return,
            changed = changes.changed() => if changed.is_err() { return },
            changed = news.changed() => if changed.is_err() { return },
        }
        tokio::time::sleep(PAUSE).await;
        news.borrow_and_update();
    }
}

/// What members that are there say of their nodes. Pure.
fn elsewhere<'a>(heard: impl Iterator<Item = &'a Heard>) -> Elsewhere {
    let mut all = Elsewhere::default();
    for heard in heard.filter(|heard| heard.is_present()) {
        let note = |topic: &str| heard.report.notes.get(topic);
        if let Some(least) = note(LEAST).and_then(|bytes| bytes.as_ref().try_into().ok()) {
            all.least = all.least.min(u64::from_be_bytes(least));
        }
        let names = note(NAMES).and_then(|bytes| serde_json::from_slice(bytes).ok());
        let names: BTreeSet<String> = names.unwrap_or_default();
        all.nodes.extend(names);
    }
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proto::raft::v1::Report;

    use super::*;

    fn heard(least: u64, names: &[&str]) -> Heard {
        let mut report = Report::default();
        let least = Bytes::copy_from_slice(&least.to_be_bytes());
        report.notes.insert(LEAST.to_owned(), least);
        let names = serde_json::to_vec(names).unwrap();
        report.notes.insert(NAMES.to_owned(), names.into());
        Heard {
            report,
            at: tokio::time::Instant::now(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_node_of_any_member_that_is_there_counts() {
        let said = [
            heard(7, &["a"]),
            heard(5, &["b", "c"]),
            heard(u64::MAX, &[]),
        ];
        let all = elsewhere(said.iter());
        assert_eq!(all.least, 5);
        assert_eq!(all.nodes.len(), 3);
        assert_eq!(elsewhere([].iter()), Elsewhere::default());
        // A member that went away says nothing any more.
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(elsewhere(said.iter()), Elsewhere::default());
    }
}
