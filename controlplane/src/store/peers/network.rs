//! openraft's network, over a [`Transport`].

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{AnyError, OptionalSend};
use proto::raft::v1 as pb;

use super::message;
use super::{CallError, Peer, Transport};
use crate::store::codec::{self, CodecError};
use crate::store::group::Identity;
use crate::store::log::Settled;
use crate::store::raft::{Node, NodeId, Snapshot, TypeConfig, Vote};

/// Pause after a member could not be reached: shorter than the time after which it would call an election.
const BACKOFF: Duration = Duration::from_millis(100);
/// How long the news that an entry is committed waits for this member's own disk.
const HOLD: Duration = Duration::from_millis(50);
/// For the whole of a snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(600);

/// Makes a [`Line`] to each of the others; connections are the transport's.
pub(in crate::store) struct Network {
    pub(in crate::store) own: Identity,
    pub(in crate::store) transport: Arc<dyn Transport>,
    pub(in crate::store) log: Settled,
}

pub(in crate::store) struct Line {
    own: Identity,
    log: Settled,
    transport: Arc<dyn Transport>,
    peer: Peer,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Line;

    async fn new_client(&mut self, target: NodeId, node: &Node) -> Line {
        Line {
            own: self.own.clone(),
            log: self.log.clone(),
            transport: Arc::clone(&self.transport),
            peer: Peer {
                id: target,
                address: node.address.clone(),
            },
        }
    }
}

type Failure<E> = RPCError<NodeId, Node, RaftError<NodeId, E>>;

/// Whatever it was, it is tried again after a pause: a member that stops refuses at once, again and again.
fn failure<E: std::error::Error>(error: &CallError) -> Failure<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

fn nonsense<E: std::error::Error>(error: &CodecError) -> Failure<E> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl Line {
    async fn call(
        &self,
        request: pb::peer_request::Request,
        option: &RPCOption,
    ) -> Result<pb::peer_response::Response, CallError> {
        let request = pb::PeerRequest {
            header: Some(self.own.header(self.peer.id)),
            request: Some(request),
        };
        let answer = self
            .transport
            .call(&self.peer, request, option.hard_ttl())
            .await?;
        match answer.response {
            Some(pb::peer_response::Response::Refusal(refusal)) => {
                Err(CallError::Rejected(refusal.message))
            }
            Some(response) => Ok(response),
            None => Err(CallError::Rejected("an answer of an unknown kind".into())),
        }
    }
}

impl Line {
    /// Takes out that something is committed while this member's own disk does not have it (`log.rs`). A message that says
    /// nothing else waits for the disk, but not for long: it is a heart-beat too.
    async fn say_committed(&self, rpc: &mut AppendEntriesRequest<TypeConfig>) {
        let Some(commit) = rpc.leader_commit else {
            return;
        };
        let settled = self.log.has(commit.index)
            || rpc.entries.is_empty()
                && matches!(
                    tokio::time::timeout(HOLD, self.log.reach(commit.index)).await,
                    Ok(Ok(()))
                );
        if !settled {
            rpc.leader_commit = None;
        }
    }
}

fn unexpected<E: std::error::Error>() -> Failure<E> {
    nonsense(&CodecError::Missing("answer to the question"))
}

impl RaftNetwork<TypeConfig> for Line {
    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<NodeId>, RPCError<NodeId, Node, RaftError<NodeId>>> {
        self.say_committed(&mut rpc).await;
        let request = pb::peer_request::Request::Append(message::append_to_pb(&rpc));
        match self.call(request, &option).await.map_err(|e| failure(&e))? {
            pb::peer_response::Response::Append(answer) => {
                message::appended_from_pb(answer).map_err(|e| nonsense(&e))
            }
            _ => Err(unexpected()),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<NodeId>,
        option: RPCOption,
    ) -> Result<VoteResponse<NodeId>, RPCError<NodeId, Node, RaftError<NodeId>>> {
        let request = pb::peer_request::Request::Vote(message::vote_to_pb(&rpc));
        match self.call(request, &option).await.map_err(|e| failure(&e))? {
            pb::peer_response::Response::Vote(answer) => {
                message::voted_from_pb(answer).map_err(|e| nonsense(&e))
            }
            _ => Err(unexpected()),
        }
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let head = pb::SnapshotHead {
            header: Some(self.own.header(self.peer.id)),
            vote: Some(codec::vote_to_pb(&vote)),
            ..message::meta_to_pb(&snapshot.meta)
        };
        tracing::info!(
            peer = self.peer.id,
            snapshot = snapshot.meta.snapshot_id,
            "sending a snapshot"
        );
        let send = self
            .transport
            .snapshot(&self.peer, head, *snapshot.snapshot, SNAPSHOT_PATIENCE);
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => match sent {
                Ok(pb::SnapshotResponse { vote: Some(vote) }) => {
                    Ok(SnapshotResponse::new(codec::vote_from_pb(vote)))
                }
                Ok(_) => Err(unreachable(&CodecError::Missing("vote"))),
                Err(error) => Err(unreachable(&error)),
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

fn unreachable(
    error: &(impl std::error::Error + 'static),
) -> StreamingError<TypeConfig, Fatal<NodeId>> {
    StreamingError::Unreachable(Unreachable::new(&AnyError::new(error)))
}
