//! The types that openraft is told about: what an entry says, what applying it answers.
//!
//! Nothing here does anything; `log.rs` and `machine.rs` implement openraft's storage for these types.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};

use super::snapshot::Image;
use super::{Revision, Txn, TxnOutcome};

openraft::declare_raft_types!(
    pub(crate) TypeConfig:
        D = Command,
        R = Outcome,
        NodeId = u64,
        Node = Node,
        SnapshotData = Image,
);

pub(super) type NodeId = u64;
pub(super) type Entry = openraft::Entry<TypeConfig>;
pub(super) type LogId = openraft::LogId<NodeId>;
pub(super) type Vote = openraft::Vote<NodeId>;
pub(super) type Membership = openraft::Membership<NodeId, Node>;
pub(super) type StoredMembership = openraft::StoredMembership<NodeId, Node>;
pub(super) type SnapshotMeta = openraft::SnapshotMeta<NodeId, Node>;
pub(super) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(super) type Raft = openraft::Raft<TypeConfig>;
pub(super) type StorageError = openraft::StorageError<NodeId>;

/// A member of the group, as all members know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    /// For people; unique.
    pub(crate) name: String,
    /// Where the other members reach it; empty where none can.
    pub(crate) address: String,
    /// Where clients reach its API; empty where it is not known.
    pub(crate) api_address: String,
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.address)
    }
}

/// The transactions of one entry. Clones share what is known of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Batch {
    txns: Arc<[Txn]>,
    /// Set before the entry is written to this member's log: from then on it may happen, whatever Raft says
    /// of it later.
    #[serde(skip)]
    begun: Arc<AtomicBool>,
}

impl Batch {
    pub(super) fn begin(&self) {
        self.begun.store(true, Ordering::Release);
    }

    pub(super) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }
}

impl<T: Into<Arc<[Txn]>>> From<T> for Batch {
    fn from(txns: T) -> Self {
        Self {
            txns: txns.into(),
            begun: Arc::default(),
        }
    }
}

impl Deref for Batch {
    type Target = [Txn];

    fn deref(&self) -> &[Txn] {
        &self.txns
    }
}

impl PartialEq for Batch {
    fn eq(&self, other: &Self) -> bool {
        self.txns == other.txns
    }
}

impl Eq for Batch {}

/// What a log entry asks the state machine to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Command {
    /// Independent transactions, in this order; each gets a revision of its own.
    Txns(Batch),
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
