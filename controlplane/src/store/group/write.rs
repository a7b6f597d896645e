//! A batch of transactions as one entry of the log: written here by the leader, or sent to it.
//!
//! Nothing is proposed twice. What certainly did not happen is tried again elsewhere; what may have happened
//! is reported as such, because doing it again could do it twice.

use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use proto::raft::v1 as pb;

use super::{Called, Group, Miss, miss};
use crate::store::peers::{CallError, Peer, message};
use crate::store::proposals::fatal_error;
use crate::store::raft::{Batch, Command, NodeId, Outcome};
use crate::store::{Revision, StoreError, TxnOutcome, codec};

/// How long an entry may take to be committed and applied. Then its outcome is unknown.
const COMMIT: Duration = Duration::from_secs(7);
/// How long a member that does not lead waits to have applied what the leader has written for it, so that its
/// own watches and reads are not behind its answers. It answers in any case.
const CATCH_UP: Duration = Duration::from_secs(2);

/// For the answer of a leader that is replaced.
const LAST_ANSWER: Duration = Duration::from_millis(300);

/// What was written, and where in the log.
pub(in crate::store) struct Written {
    pub(in crate::store) index: u64,
    pub(in crate::store) outcomes: Vec<TxnOutcome>,
}

impl Group {
    /// Returns when the batch is durable and applied.
    pub(in crate::store) async fn write(
        &self,
        batch: &Batch,
    ) -> Result<Vec<TxnOutcome>, StoreError> {
        let mut search = self.search();
        let (written, elsewhere) = loop {
            let leader = search.leader().await?;
            let attempt = match &leader {
                None => self.write_here(batch.clone()).await,
                Some(peer) => self.write_there(peer, batch).await,
            };
            if let Some(written) = search.judge(attempt)? {
                break (written, leader.is_some());
            }
        };
        if elsewhere {
            let caught_up = self.applied(written.index);
            if tokio::time::timeout(CATCH_UP, caught_up).await.is_err() {
                tracing::debug!(index = written.index, "far behind the leader");
            }
        }
        Ok(written.outcomes)
    }

    /// Only the leader can.
    pub(in crate::store) async fn write_here(&self, batch: Batch) -> Result<Written, Miss> {
        self.stays()?;
        if !self.leads_for_sure() {
            let why = "this member does not reach a majority";
            return Err(Miss::NotLeader(why.to_owned()));
        }
        self.space
            .admit(&batch, &self.reports)
            .map_err(Miss::Final)?;
        let (index, outcome) = self.commit(Command::Txns(batch)).await?;
        match outcome {
            Outcome::Txns(outcomes) => Ok(Written { index, outcomes }),
            other => Err(Miss::Final(StoreError::Storage(format!(
                "unexpected outcome {other:?}"
            )))),
        }
    }

    /// Forgets history before `revision`, on all members.
    pub(in crate::store) async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        let request = pb::peer_request::Request::Compact(pb::CompactRequest { revision });
        let mut search = self.search();
        loop {
            let attempt = match search.leader().await? {
                None => self.compact_here(revision).await,
                // Asking twice is the same as asking once.
                Some(peer) => self.ask(&peer, request.clone(), COMMIT).await.map(drop),
            };
            if let Some(done) = search.judge(attempt)? {
                return Ok(done);
            }
        }
    }

    pub(in crate::store) async fn compact_here(&self, revision: Revision) -> Result<(), Miss> {
        self.stays()?;
        match self.commit(Command::Compact(revision)).await?.1 {
            Outcome::NotCompacted { current } => Err(Miss::Final(StoreError::FutureRevision {
                requested: revision,
                current,
            })),
            _ => Ok(()),
        }
    }

    async fn commit(&self, command: Command) -> Result<(u64, Outcome), Miss> {
        let batch = match &command {
            Command::Txns(batch) => Some(batch.clone()),
            Command::Compact(_) => None,
        };
        let begun = || batch.as_ref().is_none_or(Batch::has_begun);
        let unknown = |why: &str| Miss::Final(StoreError::OutcomeUnknown(why.to_owned()));
        let committed = tokio::time::timeout(COMMIT, self.raft.client_write(command)).await;
        match committed {
            Ok(Ok(response)) => Ok((response.log_id.index, response.data)),
            // Raft says the same of an entry that it has never seen and of one that a new leader has replaced
            // in our log, but perhaps not in all.
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(to)))) if !begun() => {
                Err(Miss::NotLeader(match to.leader_id {
                    Some(leader) => format!("member {leader} leads"),
                    None => "none is elected".to_owned(),
                }))
            }
            Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_)))) => {
                Err(unknown("another member leads since"))
            }
            Ok(Err(RaftError::APIError(other))) => {
                Err(Miss::Final(StoreError::Storage(other.to_string())))
            }
            Ok(Err(RaftError::Fatal(fatal))) => match (fatal_error(&fatal), begun()) {
                (StoreError::Closed, true) => Err(unknown("the leader stops")),
                (error, _) => Err(Miss::Final(error)),
            },
            Err(_) => Err(unknown("too few members have answered in time")),
        }
    }

    /// Another one leads, and whoever led before has had a moment to answer. A leader that nobody hears would be waited
    /// for until its connection ends.
    async fn replaced(&self, leader: NodeId) {
        let mut server = self.server.clone();
        let other = server.wait_for(|server| server.current_leader.is_some_and(|it| it != leader));
        if other.await.is_err() {
            // Raft has stopped: the answer, or its end, comes in any case.
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LAST_ANSWER).await;
    }

    async fn write_there(&self, peer: &Peer, batch: &Batch) -> Result<Written, Miss> {
        let request = pb::peer_request::Request::Propose(pb::ProposeRequest {
            transactions: Some(codec::txns_to_pb(batch)),
        });
        // The leader gives up first.
        let patience = COMMIT + Duration::from_secs(1);
        let leads = |error: &dyn std::fmt::Display| format!("member {} leads, {error}", peer.id);
        let call = self.call(peer, request, patience);
        let answer = tokio::select! {
            biased;
            answer = call => answer,
            () = self.replaced(peer.id) => {
                return Err(unknown("another member leads since".to_owned()));
            }
        };
        let response = match answer {
            Ok(pb::peer_response::Response::Propose(response)) => response,
            Ok(_) => return Err(unknown(leads(&"and answers something else"))),
            Err(Called::Refused(refusal)) => return Err(miss(refusal)),
            #[cfg(test)]
            Err(Called::Failed(CallError::Lost(why)))
                if crate::store::planted::is(crate::store::planted::Bug::WritesAgain) =>
            {
                return Err(Miss::NotLeader(why));
            }
            Err(Called::Failed(CallError::Lost(why))) => return Err(unknown(leads(&why))),
            Err(Called::Failed(error)) => return Err(Miss::NotLeader(leads(&error))),
        };
        if response.outcomes.len() != batch.len() {
            return Err(unknown(leads(&"and answers something else")));
        }
        let outcomes = batch.iter().zip(response.outcomes);
        let outcomes = outcomes.map(|(txn, outcome)| message::outcome_from_pb(txn, outcome));
        Ok(Written {
            index: response.index,
            outcomes: outcomes
                .collect::<Result<_, _>>()
                .map_err(|error| unknown(leads(&error)))?,
        })
    }
}

fn unknown(why: String) -> Miss {
    Miss::Final(StoreError::OutcomeUnknown(why))
}
