//! openraft's requests and answers as messages, and back. Pure; bytes come from a peer, so that every way back
//! answers with an error instead of a panic.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::{Membership, SnapshotMeta as Meta};
use proto::raft::v1 as pb;

use crate::store::codec::{self, CodecError};
use crate::store::raft::{NodeId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::store::{KeyValue, Op, Txn, TxnOutcome};

type Append = AppendEntriesRequest<TypeConfig>;

const NO_VOTE: CodecError = CodecError::Missing("vote");

pub(in crate::store) fn append_to_pb(append: &Append) -> pb::AppendRequest {
    pb::AppendRequest {
        vote: Some(codec::vote_to_pb(&append.vote)),
        previous: append.prev_log_id.as_ref().map(codec::log_id_to_pb),
        committed: append.leader_commit.as_ref().map(codec::log_id_to_pb),
        entries: append.entries.iter().map(codec::entry_to_pb).collect(),
    }
}

pub(in crate::store) fn append_from_pb(append: pb::AppendRequest) -> Result<Append, CodecError> {
    let entries = append.entries.into_iter().map(codec::entry_from_pb);
    Ok(Append {
        vote: codec::vote_from_pb(append.vote.ok_or(NO_VOTE)?),
        prev_log_id: append.previous.map(codec::log_id_from_pb),
        leader_commit: append.committed.map(codec::log_id_from_pb),
        entries: entries.collect::<Result<_, _>>()?,
    })
}

pub(in crate::store) fn appended_to_pb(
    appended: &AppendEntriesResponse<NodeId>,
) -> pb::AppendResponse {
    use pb::append_response::Result;
    let result = match appended {
        AppendEntriesResponse::Success => Result::Success(pb::Blank {}),
        AppendEntriesResponse::PartialSuccess(up_to) => Result::Partial(pb::PartialSuccess {
            up_to: up_to.as_ref().map(codec::log_id_to_pb),
        }),
        AppendEntriesResponse::Conflict => Result::Conflict(pb::Blank {}),
        AppendEntriesResponse::HigherVote(vote) => Result::HigherVote(codec::vote_to_pb(vote)),
    };
    pb::AppendResponse {
        result: Some(result),
    }
}

pub(in crate::store) fn appended_from_pb(
    appended: pb::AppendResponse,
) -> Result<AppendEntriesResponse<NodeId>, CodecError> {
    use pb::append_response::Result;
    let result = appended
        .result
        .ok_or(CodecError::Missing("result of an append"))?;
    Ok(match result {
        Result::Success(_) => AppendEntriesResponse::Success,
        Result::Partial(partial) => {
            AppendEntriesResponse::PartialSuccess(partial.up_to.map(codec::log_id_from_pb))
        }
        Result::Conflict(_) => AppendEntriesResponse::Conflict,
        Result::HigherVote(vote) => AppendEntriesResponse::HigherVote(codec::vote_from_pb(vote)),
    })
}

pub(in crate::store) fn vote_to_pb(vote: &VoteRequest<NodeId>) -> pb::VoteRequest {
    pb::VoteRequest {
        vote: Some(codec::vote_to_pb(&vote.vote)),
        last_log_id: vote.last_log_id.as_ref().map(codec::log_id_to_pb),
    }
}

pub(in crate::store) fn vote_from_pb(
    vote: pb::VoteRequest,
) -> Result<VoteRequest<NodeId>, CodecError> {
    Ok(VoteRequest {
        vote: codec::vote_from_pb(vote.vote.ok_or(NO_VOTE)?),
        last_log_id: vote.last_log_id.map(codec::log_id_from_pb),
    })
}

pub(in crate::store) fn voted_to_pb(voted: &VoteResponse<NodeId>) -> pb::VoteResponse {
    pb::VoteResponse {
        vote: Some(codec::vote_to_pb(&voted.vote)),
        granted: voted.vote_granted,
        last_log_id: voted.last_log_id.as_ref().map(codec::log_id_to_pb),
    }
}

pub(in crate::store) fn voted_from_pb(
    voted: pb::VoteResponse,
) -> Result<VoteResponse<NodeId>, CodecError> {
    Ok(VoteResponse {
        vote: codec::vote_from_pb(voted.vote.ok_or(NO_VOTE)?),
        vote_granted: voted.granted,
        last_log_id: voted.last_log_id.map(codec::log_id_from_pb),
    })
}

pub(in crate::store) fn meta_to_pb(meta: &SnapshotMeta) -> pb::SnapshotHead {
    let membership = &meta.last_membership;
    pb::SnapshotHead {
        header: None,
        vote: None,
        last_log_id: meta.last_log_id.as_ref().map(codec::log_id_to_pb),
        membership_log_id: membership.log_id().as_ref().map(codec::log_id_to_pb),
        membership: Some(codec::membership_to_pb(membership.membership())),
        snapshot_id: meta.snapshot_id.clone(),
    }
}

pub(in crate::store) fn meta_from_pb(head: pb::SnapshotHead) -> Result<SnapshotMeta, CodecError> {
    let membership = head.membership.ok_or(CodecError::Missing("membership"))?;
    Ok(Meta {
        last_log_id: head.last_log_id.map(codec::log_id_from_pb),
        last_membership: StoredMembership::new(
            head.membership_log_id.map(codec::log_id_from_pb),
            codec::membership_from_pb(membership)?,
        ),
        snapshot_id: head.snapshot_id,
    })
}

/// Values are not sent back: the member that asks has them.
pub(in crate::store) fn outcome_to_pb(txn: &Txn, outcome: &TxnOutcome) -> pb::ProposeOutcome {
    use pb::propose_outcome::Outcome;
    let outcome = match outcome {
        TxnOutcome::Committed { revision, written } => Outcome::Committed(pb::Committed {
            revision: *revision,
            written: written
                .iter()
                .map(|kv| pb::Counters {
                    create_revision: kv.create_revision,
                    version: kv.version,
                    mod_revision: kv.mod_revision,
                })
                .collect(),
        }),
        TxnOutcome::Conflict { compare, current } => {
            let at = txn.compares.iter().position(|one| one == compare);
            Outcome::Conflict(pb::Conflict {
                comparison: at.map_or(0, |at| at as u32),
                current: current.as_ref().map(|kv| pb::KeyVersion {
                    key: kv.key.to_string(),
                    mod_revision: kv.mod_revision,
                    record: Some(codec::version_to_pb(&crate::store::mvcc::Version::Live(
                        kv.clone(),
                    ))),
                }),
            })
        }
    };
    pb::ProposeOutcome {
        outcome: Some(outcome),
    }
}

/// What became of `txn`.
pub(in crate::store) fn outcome_from_pb(
    txn: &Txn,
    outcome: pb::ProposeOutcome,
) -> Result<TxnOutcome, CodecError> {
    use pb::propose_outcome::Outcome;
    match outcome
        .outcome
        .ok_or(CodecError::Missing("outcome of a transaction"))?
    {
        Outcome::Committed(committed) => {
            let puts = txn.ops.iter().filter_map(|op| match op {
                Op::Put { key, value } => Some((key, value)),
                Op::Delete { .. } => None,
            });
            let counters = committed.written;
            if puts.clone().count() != counters.len() {
                return Err(CodecError::Invalid("counters of another transaction"));
            }
            let written = puts.zip(counters).map(|((key, value), counters)| {
                KeyValue::new(
                    key.as_str().into(),
                    value.clone(),
                    counters.create_revision,
                    counters.mod_revision,
                    counters.version,
                )
                .into()
            });
            Ok(TxnOutcome::Committed {
                revision: committed.revision,
                written: written.collect(),
            })
        }
        Outcome::Conflict(conflict) => {
            let compare = txn
                .compares
                .get(conflict.comparison as usize)
                .ok_or(CodecError::Invalid("a comparison that was not asked for"))?;
            let current = match conflict.current {
                None => None,
                Some(version) => {
                    let record = version
                        .record
                        .ok_or(CodecError::Missing("record of a version"))?;
                    let key = version.key.into();
                    codec::version_from_pb(&key, version.mod_revision, record)?
                        .live()
                        .cloned()
                }
            };
            Ok(TxnOutcome::Conflict {
                compare: compare.clone(),
                current,
            })
        }
    }
}

/// The members that a membership names.
pub(in crate::store) fn members(
    membership: Option<pb::Membership>,
) -> Option<Membership<NodeId, crate::store::raft::Node>> {
    codec::membership_from_pb(membership?).ok()
}

#[cfg(test)]
mod tests;
