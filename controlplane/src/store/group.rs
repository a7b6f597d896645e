//! The group as one member sees it: who leads, who else there is, and how they are asked.
//!
//! | file | what |
//! |---|---|
//! | `write` | a batch of transactions, here or at the leader |
//! | `read` | how far a reader must wait: read index, one round for all that wait |
//! | `change`, `plan` | members come and go; what is allowed is pure |
//! | `ask` | what the layers above ask each other |
//! | `election` | when a member calls an election; what it asks the others first |
//! | `handover` | a leader that stops lets another one lead |
//! | `report` | what members tell each other of themselves, now and then |
//!
//! What is asked of the leader is tried for a moment while none is known, because an election takes one. Once
//! that was in vain everybody is refused at once until there is a leader again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::error::{CheckIsLeaderError, RaftError};
use proto::raft::v1 as pb;
use tokio::sync::watch;
use tokio::time::Instant;

use super::StoreError;
use super::log::LogStore;
use super::machine::Shared;
use super::peers::{Askers, CallError, PROTOCOL, Peer, Transport};
use super::raft::{Node, NodeId, Raft};
use super::space::Space;

pub(super) mod ask;
pub(super) mod change;
pub(super) mod election;
pub(super) mod handover;
pub(super) mod plan;
pub(super) mod read;
pub(super) mod report;
pub(super) mod write;

/// How long a leader is looked for. An election takes less.
const LEADER_PATIENCE: Duration = Duration::from_secs(3);
/// The same once it was in vain.
const BRIEF: Duration = Duration::from_millis(400);
const PAUSE: Duration = Duration::from_millis(40);
/// A leader that was acknowledged by a majority this long ago may have been replaced.
pub(super) const QUORUM_MEMORY: Duration = Duration::from_millis(1_600);

pub(super) type ServerMetrics = openraft::metrics::RaftServerMetrics<NodeId, Node>;

/// Who this member is.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) id: NodeId,
    /// The cluster's own name for itself.
    pub(crate) cluster: Arc<str>,
    /// The change of the members that brought it; 0 for the founder.
    pub(crate) since: u64,
}

impl Identity {
    pub(super) fn header(&self, to: NodeId) -> pb::Header {
        pb::Header {
            protocol: PROTOCOL,
            cluster: self.cluster.to_string(),
            from: self.id,
            to,
        }
    }
}

/// What all that this member does in the group shares.
pub(super) struct Group {
    pub(super) own: Identity,
    pub(super) raft: Raft,
    pub(super) state: Arc<Shared>,
    log: LogStore,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) server: watch::Receiver<ServerMetrics>,
    pub(super) reports: report::Reports,
    pub(super) space: Space,
    pub(super) askers: Askers,
    /// The last search for a leader was in vain.
    forsaken: AtomicBool,
    answers: ask::Answers,
    /// This member is about to stop, and takes nothing more as the leader.
    leaving: AtomicBool,
}

/// Where the leader is.
enum Place {
    Here,
    There(Peer),
}

/// A search for the leader. It goes on while those who are taken for it say that they are not.
struct Search<'a> {
    group: &'a Group,
    deadline: Instant,
    server: watch::Receiver<ServerMetrics>,
    /// Why the last attempt was none.
    missed: Option<String>,
}

impl Search<'_> {
    /// The leader; `None` is this member.
    async fn leader(&mut self) -> Result<Option<Peer>, StoreError> {
        loop {
            if let Some(why) = self.missed.take() {
                if Instant::now() >= self.deadline {
                    self.group.forsaken.store(true, Ordering::Relaxed);
                    return Err(StoreError::NoLeader(why));
                }
                self.pause().await?;
            }
            match self.group.place() {
                Ok(Place::Here) => return Ok(None),
                Ok(Place::There(peer)) => return Ok(Some(peer)),
                Err(why) => self.missed = Some(why),
            }
        }
    }

    async fn pause(&mut self) -> Result<(), StoreError> {
        self.server.borrow_and_update();
        tokio::select! {
            biased;
            changed = self.server.changed() => changed.map_err(|_| StoreError::Closed),
            () = tokio::time::sleep(PAUSE) => Ok(()),
        }
    }

    /// `Ok(None)`: it was not the leader.
    fn judge<T>(&mut self, attempt: Result<T, Miss>) -> Result<Option<T>, StoreError> {
        match attempt {
            Ok(done) => {
                self.group.forsaken.store(false, Ordering::Relaxed);
                Ok(Some(done))
            }
            Err(Miss::NotLeader(why)) => {
                self.missed = Some(why);
                Ok(None)
            }
            Err(Miss::Final(error)) => Err(error),
        }
    }
}

/// Why somebody who was taken for the leader did not do what was asked. It has not happened.
pub(super) enum Miss {
    /// Somebody else may.
    NotLeader(String),
    Final(StoreError),
}

impl Group {
    pub(super) fn new(
        own: Identity,
        raft: Raft,
        log: LogStore,
        state: Arc<Shared>,
        transport: Arc<dyn Transport>,
        space: Space,
        askers: Askers,
    ) -> Self {
        Self {
            own,
            server: raft.server_metrics(),
            raft,
            log,
            state,
            transport,
            reports: report::Reports::default(),
            space,
            askers,
            forsaken: AtomicBool::new(false),
            answers: ask::Answers::default(),
            leaving: AtomicBool::new(false),
        }
    }

    fn place(&self) -> Result<Place, String> {
        let server = self.server.borrow();
        let Some(leader) = server.current_leader else {
            return Err("none is elected".to_owned());
        };
        if leader == self.own.id {
            return Ok(Place::Here);
        }
        match server.membership_config.membership().get_node(&leader) {
            Some(node) => Ok(Place::There(Peer {
                id: leader,
                address: node.address.clone(),
            })),
            None => Err(format!("member {leader} leads and is not known")),
        }
    }

    /// Looks for the leader, on behalf of one question.
    fn search(&self) -> Search<'_> {
        let patience = match self.forsaken.load(Ordering::Relaxed) {
            true => BRIEF,
            false => LEADER_PATIENCE,
        };
        Search {
            group: self,
            deadline: Instant::now() + patience,
            server: self.server.clone(),
            missed: None,
        }
    }

    /// Asks the leader something that may be asked again without harm.
    async fn ask(
        &self,
        peer: &Peer,
        request: pb::peer_request::Request,
        patience: Duration,
    ) -> Result<pb::peer_response::Response, Miss> {
        match self.call(peer, request, patience).await {
            Ok(response) => Ok(response),
            Err(Called::Refused(refusal)) => Err(miss(refusal)),
            Err(Called::Failed(error)) => Err(Miss::NotLeader(format!(
                "member {} leads, {error}",
                peer.id
            ))),
        }
    }

    pub(super) async fn call(
        &self,
        peer: &Peer,
        request: pb::peer_request::Request,
        patience: Duration,
    ) -> Result<pb::peer_response::Response, Called> {
        let request = pb::PeerRequest {
            header: Some(self.own.header(peer.id)),
            request: Some(request),
        };
        let answer = self.transport.call(peer, request, patience).await;
        match answer.map_err(Called::Failed)?.response {
            Some(pb::peer_response::Response::Refusal(refusal)) => Err(Called::Refused(refusal)),
            Some(response) => Ok(response),
            None => Err(Called::Failed(CallError::Rejected(
                "an answer of an unknown kind".to_owned(),
            ))),
        }
    }

    /// All others.
    pub(super) fn others(&self) -> Vec<Peer> {
        let server = self.server.borrow();
        let nodes = server.membership_config.nodes();
        nodes
            .filter(|(id, _)| **id != self.own.id)
            .map(|(id, node)| Peer {
                id: *id,
                address: node.address.clone(),
            })
            .collect()
    }

    /// Whether this member leads, and a majority has said so a moment ago.
    pub(super) fn leads_for_sure(&self) -> bool {
        is_acknowledged(&self.raft.metrics().borrow())
    }

    #[cfg(test)]
    pub(super) fn log_positions(&self) -> (Option<super::raft::LogId>, Option<super::raft::LogId>) {
        self.log.positions()
    }

    /// Whether there is nobody else.
    pub(super) fn is_alone(&self) -> bool {
        let server = self.server.borrow();
        let membership = server.membership_config.membership();
        membership.nodes().all(|(id, _)| *id == self.own.id)
    }

    /// Whether nobody else votes, as far as this member knows.
    pub(super) fn votes_alone(&self) -> bool {
        let server = self.server.borrow();
        server.membership_config.voter_ids().eq([self.own.id])
    }

    /// True while nothing can be committed without this member. What is acknowledged is applied here first, so
    /// memory is as fresh as can be and the round through Raft would only cost time.
    ///
    /// Growing the group takes two entries, and the first, which still needs this member, is seen in the
    /// effective membership before the second is written. Shrinking it to one is trusted once it is applied:
    /// no other member can be elected any more.
    pub(super) fn decides_alone(&self) -> bool {
        if !self.server.borrow().state.is_leader() || !self.votes_alone() {
            return false;
        }
        self.state.read().voters_are(&[self.own.id])
    }

    /// Waits until everything up to this place in the log is applied here.
    pub(super) async fn applied(&self, index: u64) -> Result<(), StoreError> {
        let mut applied = self.state.applied_index();
        match applied.wait_for(|at| *at >= index).await {
            Ok(_) => Ok(()),
            Err(_) => Err(StoreError::Closed),
        }
    }
}

pub(super) fn is_acknowledged(metrics: &openraft::RaftMetrics<NodeId, Node>) -> bool {
    let voters = metrics.membership_config.voter_ids().count();
    let memory = QUORUM_MEMORY.as_millis() as u64;
    let fresh = metrics
        .millis_since_quorum_ack
        .is_some_and(|millis| millis < memory);
    metrics.state.is_leader() && (voters == 1 || fresh)
}

/// Why a question has no answer.
pub(super) enum Called {
    Refused(pb::Refusal),
    Failed(CallError),
}

/// What a refusal says of the attempt.
fn miss(refusal: pb::Refusal) -> Miss {
    use pb::refusal::Reason;
    let message = refusal.message;
    match Reason::try_from(refusal.reason) {
        Ok(Reason::NotLeader | Reason::NoQuorum) => Miss::NotLeader(message),
        Ok(Reason::Stopped) => Miss::NotLeader(format!("the leader stops: {message}")),
        Ok(Reason::DiskFull) => Miss::Final(StoreError::DiskFull(message)),
        Ok(Reason::Invalid) => Miss::Final(StoreError::InvalidChange(message)),
        Ok(Reason::OutcomeUnknown) | Ok(Reason::Unspecified) | Err(_) => {
            Miss::Final(StoreError::OutcomeUnknown(message))
        }
    }
}

/// The refusal that says it.
pub(super) fn refusal(miss: Miss) -> pb::Refusal {
    use pb::refusal::Reason;
    let (reason, message) = match miss {
        Miss::NotLeader(why) => (Reason::NotLeader, why),
        Miss::Final(error) => match error {
            StoreError::NoLeader(why) => (Reason::NoQuorum, why),
            StoreError::DiskFull(why) => (Reason::DiskFull, why),
            StoreError::InvalidChange(why) => (Reason::Invalid, why),
            StoreError::Closed => (Reason::Stopped, StoreError::Closed.to_string()),
            other => (Reason::OutcomeUnknown, other.to_string()),
        },
    };
    pb::Refusal {
        reason: reason.into(),
        message,
    }
}

/// Why no leader could be made sure of.
fn unconfirmed(error: RaftError<NodeId, CheckIsLeaderError<NodeId, Node>>) -> Miss {
    match error {
        RaftError::APIError(CheckIsLeaderError::ForwardToLeader(to)) => {
            Miss::NotLeader(match to.leader_id {
                Some(leader) => format!("member {leader} leads"),
                None => "none is elected".to_owned(),
            })
        }
        RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(e)) => {
            let answer: Vec<String> = e.got.iter().map(|id| format!("member {id}")).collect();
            Miss::NotLeader(format!(
                "too few members answer: only {}",
                answer.join(", ")
            ))
        }
        RaftError::Fatal(fatal) => Miss::Final(super::proposals::fatal_error(&fatal)),
    }
}
