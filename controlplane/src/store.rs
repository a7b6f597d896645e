//! MVCC key-value store on openraft and sled, with etcd's promises.
//!
//! Every write gets a cluster-wide revision. An acknowledged write survives kill -9 and loss of power. The
//! store knows nothing of Kubernetes: keys are strings, values are bytes.
//!
//! This file is the surface that the rest of the control plane sees; below it `store/` has the log, the
//! state machine, the key index, compaction and the watch hub.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

/// A revision of the whole store; the first write has revision 1... Zero means "the key does not exist" in
/// comparisons.
pub(crate) type Revision = u64;

/// One version of one key. Shared (`Arc`) by the index, every list and every watcher.
#[derive(Debug)]
pub(crate) struct KeyValue {
    pub(crate) key: Arc<str>,
    pub(crate) value: Bytes,
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    /// Number of writes since creation, 1 for a created key.
    pub(crate) version: u64,
    /// What the layer above serves for this version: made once, shared by every reader.
    rendered: OnceLock<Bytes>,
}

impl KeyValue {
    pub(crate) fn new(
        key: Arc<str>,
        value: Bytes,
        create_revision: Revision,
        mod_revision: Revision,
        version: u64,
    ) -> Self {
        Self {
            key,
            value,
            create_revision,
            mod_revision,
            version,
            rendered: OnceLock::new(),
        }
    }

    /// The bytes that `render` makes of this version; `render` runs at most once per version.
    pub(crate) fn rendered(&self, render: impl FnOnce(&Self) -> Bytes) -> Bytes {
        self.rendered.get_or_init(|| render(self)).clone()
    }
}

/// How fresh a read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freshness {
    /// Sees every write that was acknowledged before the read began (read index).
    Linearizable,
    /// Whatever this member has in memory.
    Local,
}

#[derive(Debug, Clone)]
pub(crate) struct RangeRequest {
    /// All keys that start with this.
    pub(crate) prefix: String,
    /// Only keys strictly after this one.
    pub(crate) after: Option<String>,
    /// At most this many; 0 is no limit.
    pub(crate) limit: usize,
    /// State at this revision instead of now.
    pub(crate) revision: Option<Revision>,
    pub(crate) freshness: Freshness,
}

#[derive(Debug)]
pub(crate) struct RangeResponse {
    pub(crate) items: Vec<Arc<KeyValue>>,
    /// Revision at which the range is true.
    pub(crate) revision: Revision,
    pub(crate) more: bool,
    /// How many keys follow the last one returned.
    pub(crate) remaining: u64,
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum Op {
    Put { key: String, value: Bytes },
    Delete { key: String },
}

/// The key's current mod revision must be this; 0 means the key must not exist.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Compare {
    pub(crate) key: String,
    pub(crate) mod_revision: Revision,
}

/// All comparisons hold and all writes happen at one new revision, or nothing happens.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Txn {
    pub(crate) compares: Vec<Compare>,
    pub(crate) ops: Vec<Op>,
}

#[derive(Debug)]
pub(crate) enum TxnOutcome {
    /// Revision of the writes, and the new version of each put key in the order of `ops`.
    Committed {
        revision: Revision,
        written: Vec<Arc<KeyValue>>,
    },
    /// The first comparison that failed, with the key's current version.
    Conflict {
        compare: Compare,
        current: Option<Arc<KeyValue>>,
    },
}

#[derive(Debug, Clone)]
pub(crate) enum WatchEvent {
    Put {
        kv: Arc<KeyValue>,
        previous: Option<Arc<KeyValue>>,
    },
    /// `revision` is that of the deletion; `previous` the last version.
    Delete {
        revision: Revision,
        previous: Arc<KeyValue>,
    },
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum StoreError {
    #[error("revision {requested} is compacted, the oldest kept is {oldest}")]
    Compacted {
        requested: Revision,
        oldest: Revision,
    },
    #[error("revision {requested} is in the future, the store is at {current}")]
    FutureRevision {
        requested: Revision,
        current: Revision,
    },
    #[error("no leader: {0}")]
    NoLeader(String),
    #[error("storage: {0}")]
    Storage(String),
    #[error("the store is shutting down")]
    Closed,
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WatchEnd {
    #[error("the watcher is too slow and was cut off at revision {0}")]
    Slow(Revision),
    #[error("the store is shutting down")]
    Closed,
}

/// An ordered stream of events without gap or duplicate.
#[derive(Debug)]
pub(crate) struct Watch {
    #[allow(dead_code)]
    pending: VecDeque<WatchEvent>,
}

#[derive(Debug, Clone)]
pub(crate) struct StoreConfig {
    pub(crate) dir: PathBuf,
    /// Identity of this member in the Raft group.
    pub(crate) node_id: u64,
}

/// A cheap handle to the member's store.
#[derive(Debug, Clone)]
pub(crate) struct Store {}

// The signatures that the layers above are written against.
#[allow(unused_variables, clippy::unused_async)]
impl Store {
    /// Opens (or creates) the store and waits until this member can serve. Fails when another process owns
    /// the directory, when the data is of an unknown format version, or when a record is corrupt.
    pub(crate) async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        todo!()
    }
    pub(crate) async fn get(
        &self,
        key: &str,
        freshness: Freshness,
    ) -> Result<Option<Arc<KeyValue>>, StoreError> {
        todo!()
    }
    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        todo!()
    }
    /// Returns once the transaction is durable and applied.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        todo!()
    }
    /// Events of all keys below `prefix` with a revision greater than `after`.
    pub(crate) fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        todo!()
    }
    /// Revision of the last applied write.
    pub(crate) fn revision(&self) -> Revision {
        todo!()
    }
    /// Drops history before `revision`; later watches from there get [`StoreError::Compacted`].
    pub(crate) async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        todo!()
    }
    /// True on the member that runs controllers and scheduler.
    pub(crate) fn leadership(&self) -> tokio::sync::watch::Receiver<bool> {
        todo!()
    }
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        todo!()
    }
}

impl Watch {
    /// The next batch of events (never empty): all of them of one or more whole revisions. Cancel-safe.
    /// The `Revision` is the one up to which the watch is now complete.
    pub(crate) async fn next(&mut self) -> Result<(Vec<WatchEvent>, Revision), WatchEnd> {
        todo!()
    }
    /// Revision up to which nothing is missing, also where no event matched (for bookmarks).
    pub(crate) fn progress(&self) -> Revision {
        todo!()
    }
}
