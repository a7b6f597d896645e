//! How members reach each other: one question and one answer at a time, the log's on one stream, and snapshots as streams.
//!
//! | file | what |
//! |---|---|
//! | `message` | openraft's requests and answers as messages; pure |
//! | `network` | openraft's network traits, over a [`Transport`] |
//! | `inbox` | what a member does with what it is asked |
//! | `client`, `listener` | the transport of real clusters: gRPC over mutual TLS |
//!
//! Tests have a transport of their own, in memory, with a network between that loses and delays.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use proto::raft::v1 as pb;

use super::raft::NodeId;
use super::snapshot::Image;

pub(super) mod client;
pub(super) mod inbox;
pub(super) mod listener;
pub(super) mod message;
pub(super) mod network;

/// What we say; another is refused.
pub(super) const PROTOCOL: u32 = 1;
/// The largest message. An entry may hold one transaction of the greatest size, and its frame.
pub(super) const MAX_MESSAGE: usize = 16 << 20;

/// Whom to ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub(super) id: NodeId,
    pub(super) address: String,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CallError {
    /// The question did not get there.
    #[error("cannot reach {0}")]
    Unsent(String),
    /// It may have got there.
    #[error("no answer: {0}")]
    Lost(String),
    /// The other side does not talk to us.
    #[error("refused: {0}")]
    Rejected(String),
}

pub(super) trait Transport: Send + Sync + 'static {
    fn call<'a>(
        &'a self,
        peer: &'a Peer,
        request: pb::PeerRequest,
        patience: Duration,
    ) -> BoxFuture<'a, Result<pb::PeerResponse, CallError>>;

    /// Sends the image as chunks; returns when the other side has installed it.
    fn snapshot<'a>(
        &'a self,
        peer: &'a Peer,
        head: pb::SnapshotHead,
        image: Image,
        patience: Duration,
    ) -> BoxFuture<'a, Result<pb::SnapshotResponse, CallError>>;
}

/// What the other members wait for that have asked this one, as the leader: until an entry is committed, and then until they
/// are told so.
#[derive(Clone, Default)]
pub(super) struct Askers(Arc<Mutex<HashMap<NodeId, Waits>>>);

#[derive(Default)]
struct Waits {
    /// Questions without an answer yet.
    open: usize,
    /// The greatest entry that an answer has named.
    entry: u64,
}

impl Askers {
    /// A question that is answered when what is returned is dropped.
    pub(super) fn begin(&self, member: NodeId) -> Asking {
        self.with(member, |waits| waits.open += 1);
        Asking {
            askers: self.clone(),
            member,
        }
    }

    /// Whether a member waits for news that go beyond this entry.
    pub(super) fn wait(&self, member: NodeId, told: u64) -> bool {
        self.with(member, |waits| waits.open > 0 || waits.entry > told)
    }

    fn with<T>(&self, member: NodeId, work: impl FnOnce(&mut Waits) -> T) -> T {
        let mut waits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(waits.entry(member).or_default())
    }
}

/// A question of another member.
pub(super) struct Asking {
    askers: Askers,
    member: NodeId,
}

impl Asking {
    /// It is told of this entry, and waits until it knows that it is committed.
    pub(super) fn names(&self, entry: u64) {
        self.askers.with(self.member, |waits| {
            waits.entry = waits.entry.max(entry);
        });
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.askers.with(self.member, |waits| waits.open -= 1);
    }
}

/// For a member that has no address: it is alone.
pub(super) struct Nobody;

fn alone<T: Send + 'static>() -> BoxFuture<'static, Result<T, CallError>> {
    Box::pin(async {
        let why = "other members: this one was started without an address for them";
        Err(CallError::Unsent(why.to_owned()))
    })
}

impl Transport for Nobody {
    fn call<'a>(
        &'a self,
        _peer: &'a Peer,
        _request: pb::PeerRequest,
        _patience: Duration,
    ) -> BoxFuture<'a, Result<pb::PeerResponse, CallError>> {
        alone()
    }

    fn snapshot<'a>(
        &'a self,
        _peer: &'a Peer,
        _head: pb::SnapshotHead,
        _image: Image,
        _patience: Duration,
    ) -> BoxFuture<'a, Result<pb::SnapshotResponse, CallError>> {
        alone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_waits_until_it_is_answered_and_told() {
        let askers = Askers::default();
        assert!(!askers.wait(2, 0));
        let (one, other) = (askers.begin(2), askers.begin(2));
        other.names(7);
        drop(other);
        assert!(
            askers.wait(2, 7) && !askers.wait(3, 7),
            "one question is open"
        );
        one.names(5);
        drop(one);
        assert!(askers.wait(2, 6) && !askers.wait(2, 7));
    }
}
