//! What the payload of a record means: conversions between our types and `proto/waggle/raft/v1/record.proto`.
//!
//! Bytes come from a disk or a peer, so every decoder answers with an error instead of a panic.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use openraft::{CommittedLeaderId, EntryPayload};
use prost::Message;
use proto::raft::v1 as pb;

use super::mvcc::{Summary, Version};
use super::raft::{Command, Entry, LogId, Membership, Node, StoredMembership, Vote};
use super::{Compare, KeyValue, Op, Revision, Txn};

/// Why bytes are not a record of ours.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum CodecError {
    #[error("not the expected message: {0}")]
    Decode(String),
    #[error("{0} is missing or of an unknown kind")]
    Missing(&'static str),
    #[error("{0}")]
    Invalid(&'static str),
}

impl From<prost::DecodeError> for CodecError {
    fn from(error: prost::DecodeError) -> Self {
        Self::Decode(error.to_string())
    }
}

/// How far the state machine is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) log_id: Option<LogId>,
    pub(super) membership: StoredMembership,
    pub(super) summary: Summary,
    pub(super) generation: u32,
}

pub(super) fn encode_log_id(id: &LogId) -> Vec<u8> {
    log_id_to_pb(id).encode_to_vec()
}

pub(super) fn decode_log_id(bytes: &[u8]) -> Result<LogId, CodecError> {
    Ok(log_id_from_pb(pb::LogId::decode(bytes)?))
}

pub(super) fn encode_vote(vote: &Vote) -> Vec<u8> {
    vote_to_pb(vote).encode_to_vec()
}

pub(super) fn decode_vote(bytes: &[u8]) -> Result<Vote, CodecError> {
    Ok(vote_from_pb(pb::VoteRecord::decode(bytes)?))
}

pub(super) fn vote_to_pb(vote: &Vote) -> pb::VoteRecord {
    let leader = vote.leader_id();
    pb::VoteRecord {
        term: leader.get_term(),
        node_id: leader.voted_for().unwrap_or_default(),
        committed: vote.is_committed(),
    }
}

pub(super) fn vote_from_pb(vote: pb::VoteRecord) -> Vote {
    if vote.committed {
        Vote::new_committed(vote.term, vote.node_id)
    } else {
        Vote::new(vote.term, vote.node_id)
    }
}

pub(super) fn encode_entry(entry: &Entry) -> Vec<u8> {
    entry_to_pb(entry).encode_to_vec()
}

pub(super) fn entry_to_pb(entry: &Entry) -> pb::LogEntry {
    use pb::log_entry::Payload;
    let payload = match &entry.payload {
        EntryPayload::Blank => Payload::Blank(pb::Blank {}),
        EntryPayload::Normal(Command::Txns(txns)) => Payload::Transactions(txns_to_pb(txns)),
        EntryPayload::Normal(Command::Compact(revision)) => Payload::Compaction(pb::Compaction {
            revision: *revision,
        }),
        EntryPayload::Membership(membership) => Payload::Membership(membership_to_pb(membership)),
    };
    pb::LogEntry {
        id: Some(log_id_to_pb(&entry.log_id)),
        payload: Some(payload),
    }
}

pub(super) fn decode_entry(bytes: &[u8]) -> Result<Entry, CodecError> {
    entry_from_pb(pb::LogEntry::decode(bytes)?)
}

pub(super) fn entry_from_pb(entry: pb::LogEntry) -> Result<Entry, CodecError> {
    use pb::log_entry::Payload;
    let id = entry.id.ok_or(CodecError::Missing("id of the entry"))?;
    let payload = match entry
        .payload
        .ok_or(CodecError::Missing("payload of the entry"))?
    {
        Payload::Blank(_) => EntryPayload::Blank,
        Payload::Transactions(txns) => {
            EntryPayload::Normal(Command::Txns(txns_from_pb(txns)?.into()))
        }
        Payload::Compaction(compaction) => {
            EntryPayload::Normal(Command::Compact(compaction.revision))
        }
        Payload::Membership(membership) => {
            EntryPayload::Membership(membership_from_pb(membership)?)
        }
    };
    Ok(Entry {
        log_id: log_id_from_pb(id),
        payload,
    })
}

pub(super) fn encode_applied(applied: &Applied) -> Vec<u8> {
    pb::Applied {
        log_id: applied.log_id.as_ref().map(log_id_to_pb),
        membership_log_id: applied.membership.log_id().as_ref().map(log_id_to_pb),
        membership: Some(membership_to_pb(applied.membership.membership())),
        summary: Some(summary_to_pb(&applied.summary)),
        generation: applied.generation,
    }
    .encode_to_vec()
}

pub(super) fn decode_applied(bytes: &[u8]) -> Result<Applied, CodecError> {
    let applied = pb::Applied::decode(bytes)?;
    let membership = applied
        .membership
        .ok_or(CodecError::Missing("membership"))?;
    Ok(Applied {
        log_id: applied.log_id.map(log_id_from_pb),
        membership: StoredMembership::new(
            applied.membership_log_id.map(log_id_from_pb),
            membership_from_pb(membership)?,
        ),
        summary: summary_from_pb(applied.summary.ok_or(CodecError::Missing("summary"))?),
        generation: applied.generation,
    })
}

pub(super) fn summary_to_pb(summary: &Summary) -> pb::Summary {
    pb::Summary {
        revision: summary.revision,
        compacted: summary.compacted,
        live_keys: summary.live_keys,
        digest: summary.digest,
    }
}

pub(super) fn summary_from_pb(summary: pb::Summary) -> Summary {
    Summary {
        revision: summary.revision,
        compacted: summary.compacted,
        live_keys: summary.live_keys,
        digest: summary.digest,
    }
}

pub(super) fn version_to_pb(version: &Version) -> pb::VersionRecord {
    use pb::version_record::State;
    match version {
        Version::Live(kv) => pb::VersionRecord {
            create_revision: kv.create_revision,
            version: kv.version,
            state: Some(State::Value(kv.value.clone())),
        },
        Version::Gone(_) => pb::VersionRecord {
            create_revision: 0,
            version: 0,
            state: Some(State::Deleted(pb::Blank {})),
        },
    }
}

pub(super) fn encode_version(version: &Version) -> Vec<u8> {
    version_to_pb(version).encode_to_vec()
}

pub(super) fn decode_version(
    key: &Arc<str>,
    revision: Revision,
    bytes: &[u8],
) -> Result<Version, CodecError> {
    version_from_pb(key, revision, pb::VersionRecord::decode(bytes)?)
}

pub(super) fn version_from_pb(
    key: &Arc<str>,
    revision: Revision,
    record: pb::VersionRecord,
) -> Result<Version, CodecError> {
    use pb::version_record::State;
    match record
        .state
        .ok_or(CodecError::Missing("state of the key"))?
    {
        State::Deleted(_) => Ok(Version::Gone(revision)),
        State::Value(value) => {
            if record.version == 0
                || record.create_revision == 0
                || record.create_revision > revision
            {
                return Err(CodecError::Invalid("version counters contradict"));
            }
            Ok(Version::Live(Arc::new(KeyValue::new(
                Arc::clone(key),
                value,
                record.create_revision,
                revision,
                record.version,
            ))))
        }
    }
}

pub(super) fn log_id_to_pb(id: &LogId) -> pb::LogId {
    pb::LogId {
        term: id.leader_id.term,
        node_id: id.leader_id.node_id,
        index: id.index,
    }
}

pub(super) fn log_id_from_pb(id: pb::LogId) -> LogId {
    LogId::new(CommittedLeaderId::new(id.term, id.node_id), id.index)
}

pub(super) fn txns_to_pb(txns: &[Txn]) -> pb::Transactions {
    pb::Transactions {
        transactions: txns.iter().map(txn_to_pb).collect(),
    }
}

pub(super) fn txns_from_pb(txns: pb::Transactions) -> Result<Arc<[Txn]>, CodecError> {
    txns.transactions.into_iter().map(txn_from_pb).collect()
}

fn txn_to_pb(txn: &Txn) -> pb::Transaction {
    use pb::operation::Action;
    pb::Transaction {
        comparisons: txn
            .compares
            .iter()
            .map(|c| pb::Comparison {
                key: c.key.clone(),
                mod_revision: c.mod_revision,
            })
            .collect(),
        operations: txn
            .ops
            .iter()
            .map(|op| match op {
                Op::Put { key, value } => pb::Operation {
                    key: key.clone(),
                    action: Some(Action::Put(value.clone())),
                },
                Op::Delete { key } => pb::Operation {
                    key: key.clone(),
                    action: Some(Action::Delete(pb::Blank {})),
                },
            })
            .collect(),
    }
}

fn txn_from_pb(txn: pb::Transaction) -> Result<Txn, CodecError> {
    use pb::operation::Action;
    let ops: Result<Vec<Op>, CodecError> = txn
        .operations
        .into_iter()
        .map(|op| match op.action {
            Some(Action::Put(value)) => Ok(Op::Put {
                key: op.key,
                value: compact_bytes(value),
            }),
            Some(Action::Delete(_)) => Ok(Op::Delete { key: op.key }),
            None => Err(CodecError::Missing("action of an operation")),
        })
        .collect();
    Ok(Txn {
        compares: txn
            .comparisons
            .into_iter()
            .map(|c| Compare {
                key: c.key,
                mod_revision: c.mod_revision,
            })
            .collect(),
        ops: ops?,
    })
}

/// A value lives as long as its key, so it must not hold on to the buffer that it was read with.
fn compact_bytes(bytes: Bytes) -> Bytes {
    if bytes.is_unique() {
        bytes
    } else {
        Bytes::copy_from_slice(&bytes)
    }
}

pub(super) fn membership_to_pb(membership: &Membership) -> pb::Membership {
    pb::Membership {
        configurations: membership
            .get_joint_config()
            .iter()
            .map(|voters| pb::Voters {
                node_ids: voters.iter().copied().collect(),
            })
            .collect(),
        members: membership
            .nodes()
            .map(|(id, node)| member_to_pb(*id, node))
            .collect(),
    }
}

pub(super) fn member_to_pb(id: u64, node: &Node) -> pb::Member {
    pb::Member {
        node_id: id,
        address: node.address.clone(),
        name: node.name.clone(),
        api_address: node.api_address.clone(),
    }
}

pub(super) fn member_from_pb(member: pb::Member) -> (u64, Node) {
    let node = Node {
        name: member.name,
        address: member.address,
        api_address: member.api_address,
    };
    (member.node_id, node)
}

pub(super) fn membership_from_pb(membership: pb::Membership) -> Result<Membership, CodecError> {
    let configurations: Vec<BTreeSet<u64>> = membership
        .configurations
        .into_iter()
        .map(|voters| voters.node_ids.into_iter().collect())
        .collect();
    let members: BTreeMap<u64, Node> = membership.members.into_iter().map(member_from_pb).collect();
    let known = |id: &u64| members.contains_key(id);
    if !configurations.iter().flatten().all(known) {
        return Err(CodecError::Invalid("a voter is not among the members"));
    }
    Ok(Membership::new(configurations, members))
}
