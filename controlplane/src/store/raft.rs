//! The types that openraft is told about: what an entry says, what applying it answers.
//!
//! Nothing here does anything; `log.rs` and `machine.rs` implement openraft's storage for these types.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::snapshot::Image;
use super::{Revision, Txn, TxnOutcome};

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = openraft::BasicNode,
        SnapshotData = Image,
);

pub(super) type NodeId = u64;
pub(super) type Node = openraft::BasicNode;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<NodeId>;
pub(super) type Vote = openraft::Vote<NodeId>;
pub(super) type Membership = openraft::Membership<NodeId, Node>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, Node>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Node>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<NodeId>;

/// What a log entry asks the state machine to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Independent transactions, in this order; each gets a revision of its own.
    Txns(Arc<[Txn]>),
    /// Forget history before this revision.
    Compact(Revision),
}

impl Command {
    /// About how many bytes it takes, for bounds.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Txns(txns) => txns.iter().map(Txn::size).sum(),
            Self::Compact(_) => 16,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Txns(txns) => write!(f, "{} transactions", txns.len()),
            Self::Compact(revision) => write!(f, "compact to {revision}"),
        }
    }
}

/// What applying an entry answers to its proposer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Outcome {
    /// An entry of Raft itself.
    None,
    /// One per transaction, in order.
    Txns(Vec<TxnOutcome>),
    Compacted,
    /// The store was not there yet.
    NotCompacted {
        current: Revision,
    },
}

/// A size that stands for an entry in bounds on memory.
pub(super) fn entry_size(entry: &Entry) -> usize {
    match &entry.payload {
        openraft::EntryPayload::Normal(command) => command.size(),
        _ => 64,
    }
}
