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
use super::{Askers, CallError, Peer, Transport};
use crate::store::codec::{self, CodecError};
use crate::store::group::Identity;
use crate::store::log::{LogStore, Settled};
use crate::store::raft::{LogId, Node, NodeId, Snapshot, TypeConfig, Vote};

/// Pause after a member could not be reached: shorter than the time after which it would call an election.
const BACKOFF: Duration = Duration::from_millis(100);
/// How long the news that an entry is committed waits for this member's own disk.
const HOLD: Duration = Duration::from_millis(50);
/// How long the same news waits for an entry to go with. Timers tell no less than a millisecond.
const LINGER: Duration = Duration::from_millis(1);
/// For the whole of a snapshot.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(600);

/// Makes a [`Line`] to each of the others; connections are the transport's.
pub(in crate::store) struct Network {
    pub(in crate::store) own: Identity,
    pub(in crate::store) transport: Arc<dyn Transport>,
    pub(in crate::store) log: LogStore,
    pub(in crate::store) askers: Askers,
}

pub(in crate::store) struct Line {
    own: Identity,
    log: LogStore,
    settled: Settled,
    askers: Askers,
    known: Option<Known>,
    transport: Arc<dyn Transport>,
    peer: Peer,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Line;

    async fn new_client(&mut self, target: NodeId, node: &Node) -> Line {
        Line {
            own: self.own.clone(),
            log: self.log.clone(),
            settled: self.log.settled(),
            askers: self.askers.clone(),
            known: None,
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

/// What the peer has, as it has said on this line to the leader of this vote.
#[derive(Debug, Clone, Copy)]
struct Known {
    vote: Vote,
    /// It has all entries up to this one.
    last: u64,
    committed: Option<LogId>,
}

impl Line {
    /// Takes out that something is committed while this member's own disk does not have it (`log.rs`). A message that says
    /// nothing else waits for the disk, but not for long: it is a heart-beat too.
    async fn say_committed(&self, rpc: &mut AppendEntriesRequest<TypeConfig>) {
        let Some(commit) = rpc.leader_commit else {
            return;
        };
        let settled = self.settled.has(commit.index)
            || rpc.entries.is_empty()
                && matches!(
                    tokio::time::timeout(HOLD, self.settled.reach(commit.index)).await,
                    Ok(Ok(()))
                );
        if !settled {
            rpc.leader_commit = None;
        }
    }

    fn known(&self, rpc: &AppendEntriesRequest<TypeConfig>) -> Option<&Known> {
        self.known.as_ref().filter(|known| known.vote == rpc.vote)
    }

    /// Whether the peer has said that it has all this, because it went along with earlier news.
    fn is_known(&self, rpc: &AppendEntriesRequest<TypeConfig>) -> bool {
        let last = rpc.entries.last().map(|entry| entry.log_id.index);
        self.known(rpc).is_some_and(|known| {
            last.is_some_and(|last| last <= known.last) && rpc.leader_commit <= known.committed
        })
    }

    /// Entries that the peer has and that are committed without its answer are not sent again: what is left is news.
    fn leave_out_known(&self, rpc: &mut AppendEntriesRequest<TypeConfig>) {
        let Some(last) = rpc.entries.last().map(|entry| entry.log_id) else {
            return;
        };
        let committed = rpc.leader_commit.is_some_and(|id| id.index >= last.index);
        if committed
            && self
                .known(rpc)
                .is_some_and(|known| last.index <= known.last)
        {
            rpc.prev_log_id = Some(last);
            rpc.entries.clear();
        }
    }

    /// News wait a moment for entries of this leader to go with, except to a member that has asked and waits for them.
    /// openraft sends them at once in a message of their own, and nothing else while that is under way, so a client that
    /// writes one after the other would pay for two messages per write and member.
    async fn gather(&self, rpc: &mut AppendEntriesRequest<TypeConfig>) {
        let (Some(prev), Some(known)) = (rpc.prev_log_id, self.known(rpc)) else {
            return;
        };
        let news = rpc.entries.is_empty() && rpc.leader_commit > known.committed;
        let told = known.committed.map_or(0, |id| id.index);
        if !news || self.askers.wait(self.peer.id, told) {
            return;
        }
        let start = prev.index + 1;
        let mut appended = self.log.appended();
        let more = async { appended.wait_for(|next| *next > start).await.is_ok() };
        if let Ok(true) = tokio::time::timeout(LINGER, more).await {
            // Only such as this leader made follow on what it has sent before, whoever leads by now.
            rpc.entries = self.log.led(start, &rpc.vote);
        }
    }

    /// The peer has taken it.
    fn remember(&mut self, known: Known) {
        self.known = Some(match self.known {
            Some(before) if before.vote == known.vote => Known {
                last: before.last.max(known.last),
                committed: before.committed.max(known.committed),
                ..known
            },
            _ => known,
        });
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
        if self.is_known(&rpc) {
            return Ok(AppendEntriesResponse::Success);
        }
        self.leave_out_known(&mut rpc);
        self.say_committed(&mut rpc).await;
        self.gather(&mut rpc).await;
        let last = rpc.entries.last().map(|entry| entry.log_id);
        let taken = last.or(rpc.prev_log_id).map(|last| Known {
            vote: rpc.vote,
            last: last.index,
            committed: rpc.leader_commit,
        });
        let request = pb::peer_request::Request::Append(message::append_to_pb(&rpc));
        match self.call(request, &option).await.map_err(|e| failure(&e))? {
            pb::peer_response::Response::Append(answer) => {
                let answer = message::appended_from_pb(answer).map_err(|e| nonsense(&e))?;
                if let (AppendEntriesResponse::Success, Some(known)) = (&answer, taken) {
                    self.remember(known);
                }
                Ok(answer)
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
