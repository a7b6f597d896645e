//! What a member does with what another one asks of it. The same for every transport.
//!
//! Who asks is known to be a member: the transport has seen to it. That it means this member of this cluster is
//! checked here. A question of somebody who was removed is answered too: it may be the first to learn of it
//! from us.

use std::sync::Arc;

use proto::raft::v1 as pb;
use proto::raft::v1::peer_request::Request;
use proto::raft::v1::peer_response::Response;

use super::{PROTOCOL, message};
use crate::store::StoreError;
use crate::store::codec::{self, CodecError};
use crate::store::group::change::Change;
use crate::store::group::{Group, Miss, refusal};
use crate::store::raft::{Batch, Snapshot};
use crate::store::snapshot::{Decoder, SnapshotError};

/// Why a question is not looked at, or has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::store) enum Rejected {
    #[error("protocol {found} of another version of waggle, this one speaks {PROTOCOL}")]
    Protocol { found: u32 },
    #[error("this is a member of another cluster")]
    Cluster,
    #[error("this is member {own}, not member {meant}")]
    Member { own: u64, meant: u64 },
    #[error("malformed: {0}")]
    Malformed(#[from] CodecError),
    #[error("snapshot: {0}")]
    Snapshot(#[from] SnapshotError),
    #[error("a question of an unknown kind")]
    Unknown,
    /// Raft has stopped, or its storage has failed.
    #[error("this member stops: {0}")]
    Stopped(String),
}

fn stopped(error: impl std::fmt::Display) -> Rejected {
    Rejected::Stopped(error.to_string())
}

#[derive(Clone)]
pub(in crate::store) struct Inbox {
    group: Arc<Group>,
}

impl Inbox {
    pub(in crate::store) fn new(group: Arc<Group>) -> Self {
        Self { group }
    }

    /// How it stands, for those who look for the cause of something.
    #[cfg(test)]
    pub(in crate::store) fn describe(&self) -> String {
        let raft = self.group.raft.metrics().borrow().clone();
        let voters: Vec<u64> = raft.membership_config.voter_ids().collect();
        format!(
            "{:?} in term {}, leader {:?}, last entry {:?}, applied {}, voters {voters:?}, runs {:?}",
            raft.state,
            raft.current_term,
            raft.current_leader,
            raft.last_log_index,
            *self.group.state.applied_index().borrow(),
            raft.running_state,
        )
    }

    /// Whether the question is for this member. Who asks.
    pub(in crate::store) fn check(&self, header: Option<&pb::Header>) -> Result<u64, Rejected> {
        let header = header.ok_or(Rejected::Unknown)?;
        let own = &self.group.own;
        if header.protocol != PROTOCOL {
            return Err(Rejected::Protocol {
                found: header.protocol,
            });
        }
        if header.cluster != *own.cluster {
            return Err(Rejected::Cluster);
        }
        if header.to != own.id {
            return Err(Rejected::Member {
                own: own.id,
                meant: header.to,
            });
        }
        Ok(header.from)
    }

    pub(in crate::store) async fn answer(
        &self,
        request: pb::PeerRequest,
    ) -> Result<pb::PeerResponse, Rejected> {
        let from = self.check(request.header.as_ref())?;
        let response = match request.request.ok_or(Rejected::Unknown)? {
            Request::Append(append) => {
                let append = message::append_from_pb(append)?;
                let answer = self.group.raft.append_entries(append).await;
                Response::Append(message::appended_to_pb(&answer.map_err(stopped)?))
            }
            Request::Vote(vote) => {
                let vote = message::vote_from_pb(vote)?;
                let answer = self.group.raft.vote(vote).await;
                Response::Vote(message::voted_to_pb(&answer.map_err(stopped)?))
            }
            Request::Propose(propose) => self.propose(from, propose).await?,
            Request::ReadIndex(_) => {
                let asking = self.group.askers.begin(from);
                match self.group.read_index_here().await {
                    Ok(index) => {
                        asking.names(index);
                        Response::ReadIndex(pb::ReadIndexResponse { index })
                    }
                    Err(miss) => Response::Refusal(refusal(miss)),
                }
            }
            Request::Change(change) => {
                let change = Change::from_pb(change).ok_or(Rejected::Unknown)?;
                match self.group.change_here(&change).await {
                    Ok(index) => Response::Change(pb::ChangeResponse { index }),
                    Err(miss) => Response::Refusal(refusal(miss)),
                }
            }
            Request::Compact(compact) => match self.group.compact_here(compact.revision).await {
                Ok(()) => Response::Compact(pb::CompactResponse {}),
                Err(Miss::Final(StoreError::FutureRevision { .. })) => {
                    let why = format!("revision {} is in the future", compact.revision);
                    Response::Refusal(refusal(Miss::Final(StoreError::InvalidChange(why))))
                }
                Err(miss) => Response::Refusal(refusal(miss)),
            },
            Request::TakeOver(_) => match self.group.take_over(from).await {
                Ok(()) => Response::TakeOver(pb::TakeOverResponse {}),
                Err(miss) => Response::Refusal(refusal(miss)),
            },
            Request::Canvass(canvass) => {
                let last = canvass.last_log_id.map(codec::log_id_from_pb);
                match self.group.canvassed(from, last).await {
                    Ok(answer) => Response::Canvass(answer),
                    Err(miss) => Response::Refusal(refusal(miss)),
                }
            }
            Request::Ask(ask) => match self.group.asked(ask).await {
                Ok(answer) => Response::Ask(pb::AskResponse { answer }),
                Err(why) => Response::Refusal(refusal(Miss::Final(StoreError::InvalidChange(why)))),
            },
            Request::Report(report) => {
                self.group.hear(from, report);
                Response::Report(self.group.report())
            }
        };
        Ok(pb::PeerResponse {
            response: Some(response),
        })
    }

    async fn propose(&self, from: u64, propose: pb::ProposeRequest) -> Result<Response, Rejected> {
        let asking = self.group.askers.begin(from);
        let txns = codec::txns_from_pb(propose.transactions.unwrap_or_default())?;
        let batch = Batch::from(txns);
        Ok(match self.group.write_here(batch.clone()).await {
            Ok(written) => {
                asking.names(written.index);
                let outcomes = batch.iter().zip(&written.outcomes);
                Response::Propose(pb::ProposeResponse {
                    index: written.index,
                    outcomes: outcomes
                        .map(|(txn, outcome)| message::outcome_to_pb(txn, outcome))
                        .collect(),
                })
            }
            Err(miss) => Response::Refusal(refusal(miss)),
        })
    }

    /// Begins to take a snapshot; its chunks are pushed into what is returned.
    pub(in crate::store) fn begin_snapshot(
        &self,
        head: pb::SnapshotHead,
    ) -> Result<Arriving, Rejected> {
        self.check(head.header.as_ref())?;
        Ok(Arriving {
            vote: head.vote.ok_or(CodecError::Missing("vote"))?,
            head,
            decoder: Decoder::default(),
        })
    }

    pub(in crate::store) async fn finish_snapshot(
        &self,
        arriving: Arriving,
    ) -> Result<pb::SnapshotResponse, Rejected> {
        let vote = codec::vote_from_pb(arriving.vote);
        let meta = message::meta_from_pb(arriving.head)?;
        let image = arriving.decoder.finish()?;
        tracing::info!(snapshot = meta.snapshot_id, "installing a snapshot");
        let snapshot = Snapshot {
            meta,
            snapshot: Box::new(image),
        };
        let installed = self.group.raft.install_full_snapshot(vote, snapshot).await;
        Ok(pb::SnapshotResponse {
            vote: Some(codec::vote_to_pb(&installed.map_err(stopped)?.vote)),
        })
    }
}

/// A snapshot of which some is there.
pub(in crate::store) struct Arriving {
    head: pb::SnapshotHead,
    vote: pb::VoteRecord,
    decoder: Decoder,
}

impl Arriving {
    pub(in crate::store) fn push(&mut self, chunk: &[u8]) -> Result<(), Rejected> {
        Ok(self.decoder.push(chunk)?)
    }
}
