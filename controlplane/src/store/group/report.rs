//! What members tell each other of themselves: how far they are, whether their disk is full, which members
//! they know of, and notes of the layers above. Kept in memory; nobody's correctness hangs on it.
//!
//! It is also how a member learns that it was removed. Ids are never used twice, so a group of which a later
//! change than ours says that we are not in it has removed us.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use proto::raft::v1 as pb;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Group, ServerMetrics};
use crate::store::peers::message;
use crate::store::raft::NodeId;
use crate::store::{StoreError, codec};

/// How often, when nothing changes.
const EVERY: Duration = Duration::from_secs(1);
/// How often at the most.
const PAUSE: Duration = Duration::from_millis(40);
const PATIENCE: Duration = Duration::from_millis(800);
/// A member that has said nothing for so long is away.
const PRESENCE: Duration = Duration::from_secs(4);
/// Notes of one member, all together.
const MAX_NOTES: usize = 1 << 20;

/// What another member has said of itself.
#[derive(Debug, Clone)]
pub(crate) struct Heard {
    pub(crate) report: pb::Report,
    pub(crate) at: Instant,
}

impl Heard {
    pub(crate) fn is_present(&self) -> bool {
        self.at.elapsed() < PRESENCE
    }
}

/// Shared by all that read or write it.
pub(in crate::store) struct Reports {
    heard: Mutex<BTreeMap<NodeId, Heard>>,
    /// Counts what was heard that the layers above may care for.
    news: watch::Sender<u64>,
    notes: watch::Sender<BTreeMap<String, Bytes>>,
    /// The change of the members that took this one out.
    removed: watch::Sender<Option<u64>>,
}

impl Default for Reports {
    fn default() -> Self {
        Self {
            heard: Mutex::default(),
            news: watch::Sender::new(0),
            notes: watch::Sender::default(),
            removed: watch::Sender::default(),
        }
    }
}

impl Reports {
    fn heard(&self) -> MutexGuard<'_, BTreeMap<NodeId, Heard>> {
        self.heard.lock().expect("no panic while holding it")
    }

    /// The latest of each other member.
    pub(in crate::store) fn all(&self) -> BTreeMap<NodeId, Heard> {
        self.heard().clone()
    }

    /// Others that were heard of a moment ago.
    pub(super) fn present(&self) -> BTreeSet<NodeId> {
        let heard = self.heard();
        let present = heard.iter().filter(|(_, heard)| heard.is_present());
        present.map(|(id, _)| *id).collect()
    }

    /// A member that is there and whose disk is about to be full.
    pub(in crate::store) fn crowded(&self) -> Option<NodeId> {
        let heard = self.heard();
        let mut crowded = heard
            .iter()
            .filter(|(_, heard)| heard.report.no_space && heard.is_present());
        crowded.next().map(|(id, _)| *id)
    }

    /// Tells the others, soon.
    pub(in crate::store) fn note(&self, topic: &str, note: Bytes) {
        self.notes.send_if_modified(|notes| {
            if notes.get(topic) == Some(&note) {
                return false;
            }
            notes.insert(topic.to_owned(), note);
            true
        });
    }

    /// Changes whenever somebody's notes do, and when somebody comes or goes.
    pub(in crate::store) fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    /// The place in the log of the change that took this member out.
    pub(in crate::store) fn removed(&self) -> watch::Receiver<Option<u64>> {
        self.removed.subscribe()
    }

    fn record(&self, from: NodeId, report: pb::Report) {
        let news = {
            let mut heard = self.heard();
            let at = Instant::now();
            let new = Heard { report, at };
            let fresh = new.report.notes.clone();
            let old = heard.insert(from, new);
            old.is_none_or(|old| old.report.notes != fresh || !old.is_present())
        };
        if news {
            self.news.send_modify(|count| *count += 1);
        }
    }
}

impl Group {
    /// What this member says of itself.
    pub(in crate::store) fn report(&self) -> pb::Report {
        let applied = self.state.summary();
        let membership = &applied.membership;
        pb::Report {
            applied: applied.log_id.map_or(0, |id| id.index),
            revision: applied.summary.revision,
            membership_log_id: membership.log_id().as_ref().map(codec::log_id_to_pb),
            membership: Some(codec::membership_to_pb(membership.membership())),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            disk_bytes: self.space.used(),
            free_bytes: self.space.free().unwrap_or(0),
            no_space: self.space.is_short(),
            leader: self.server.borrow().current_leader.unwrap_or(0),
            notes: self.reports.notes.borrow().clone().into_iter().collect(),
        }
    }

    /// What another one says of itself.
    pub(in crate::store) fn hear(&self, from: NodeId, report: pb::Report) {
        let notes = report.notes.values().map(Bytes::len);
        if notes.sum::<usize>() > MAX_NOTES {
            return;
        }
        self.learn_of_removal(&report);
        self.reports.record(from, report);
    }

    /// `report` may say that this member is none any more.
    fn learn_of_removal(&self, report: &pb::Report) {
        let Some(at) = report.membership_log_id.as_ref().map(|id| id.index) else {
            return;
        };
        let Some(members) = message::members(report.membership.clone()) else {
            return;
        };
        let own = self.own.id;
        if at > self.known_since() && members.get_node(&own).is_none() {
            self.reports.removed.send_if_modified(|removed| {
                let first = removed.is_none();
                *removed = removed.or(Some(at));
                first
            });
        }
    }

    /// The newest change of the members, applied here, that this one is in; or the one that brought it.
    fn known_since(&self) -> u64 {
        let applied = self.state.summary();
        let membership = &applied.membership;
        let at = membership.log_id().as_ref().map_or(0, |id| id.index);
        match membership.membership().get_node(&self.own.id) {
            Some(_) => at.max(self.own.since),
            None => self.own.since,
        }
    }

    /// Tells the others and hears them, until it is stopped.
    pub(in crate::store) async fn keep_reporting(self: Arc<Self>) {
        let mut notes = self.reports.notes.subscribe();
        let mut server = self.server.clone();
        loop {
            // By what this member itself has applied.
            self.learn_of_removal(&self.report());
            if !await_others(&mut server, self.own.id).await {
                return;
            }
            for peer in self.others() {
                let group = Arc::clone(&self);
                tokio::spawn(async move {
                    let request = pb::peer_request::Request::Report(group.report());
                    if let Ok(pb::peer_response::Response::Report(report)) =
                        group.call(&peer, request, PATIENCE).await
                    {
                        group.hear(peer.id, report);
                    }
                });
            }
            tokio::time::sleep(PAUSE).await;
            tokio::select! {
                biased;
                changed = notes.changed() => if changed.is_err() {
                    return;
                },
                () = tokio::time::sleep(EVERY) => {}
            }
            notes.borrow_and_update();
        }
    }
}

/// Returns when there is somebody to talk to; false where Raft has ended. At a start Raft may still have to say who there is, and
/// to a member that was removed meanwhile nothing else may ever happen.
async fn await_others(server: &mut watch::Receiver<ServerMetrics>, own: NodeId) -> bool {
    let others = server.wait_for(|server| {
        let mut members = server.membership_config.nodes();
        members.any(|(id, _)| *id != own)
    });
    others.await.is_ok()
}

/// What a removed member says and ends with.
pub(in crate::store) fn removal(id: NodeId, at: u64) -> StoreError {
    StoreError::Removed { id, at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::raft::{Membership, Node};

    fn seen(ids: &[NodeId]) -> ServerMetrics {
        let nodes: BTreeMap<NodeId, Node> = ids.iter().map(|id| (*id, Node::default())).collect();
        let membership = Membership::new(vec![ids.iter().copied().collect()], nodes);
        ServerMetrics {
            membership_config: Arc::new(openraft::StoredMembership::new(None, membership)),
            ..ServerMetrics::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn others_are_waited_for_until_raft_says_who_they_are() {
        let (raft, mut server) = watch::channel(ServerMetrics::default());
        let waits = tokio::spawn(async move { await_others(&mut server, 7).await });
        for (members, found) in [(vec![], false), (vec![7], false), (vec![1, 7], true)] {
            raft.send_replace(seen(&members));
            tokio::time::sleep(EVERY).await;
            assert_eq!(waits.is_finished(), found, "{members:?}");
        }
        assert_eq!(waits.await.ok(), Some(true));
    }
}
