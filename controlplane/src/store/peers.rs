//! How members reach each other: one question and one answer at a time, and snapshots as streams.
//!
//! | file | what |
//! |---|---|
//! | `message` | openraft's requests and answers as messages; pure |
//! | `network` | openraft's network traits, over a [`Transport`] |
//! | `inbox` | what a member does with what it is asked |
//! | `client`, `listener` | the transport of real clusters: gRPC over mutual TLS |
//!
//! Tests have a transport of their own, in memory, with a network between that loses and delays.

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
