//! MVCC key-value store on openraft and sled, with etcd's promises.
//!
//! Every write gets a cluster-wide revision. An acknowledged write survives kill -9 and loss of power. The
//! store knows nothing of Kubernetes: keys are strings, values are bytes.
//!
//! This file is the surface that the rest of the control plane sees; below it, from the top down:
//!
//! | file | what |
//! |---|---|
//! | `member`, `foundation`, `lane` | open the parts in order and run the tasks between them, on a thread of their own |
//! | `upkeep` | gives up old history, bounds the log |
//! | `proposals`, `space` | packs the transactions that wait into one log entry; refuses them before the disk is full |
//! | `group` | who leads, and what is asked of the leader; members come and go |
//! | `raft`, `peers` | the types openraft is told; how members reach each other |
//! | `log`, `machine` | openraft's storage: the log and vote, and applying what is committed |
//! | `mvcc` | the index: all keys with their history; pure |
//! | `watch` | hands changes to watchers |
//! | `compaction`, `snapshot`, `backup` | what history is given up; the state as a stream of chunks, and as a file |
//! | `writer` | the one thread that writes: group commit, tidying up |
//! | `codec`, `record` | what the bytes on the disk mean, and how damage is noticed; pure |
//! | `sealed`, `keyring` | encryption of everything on the disk, and this member's keys |
//! | `disk`, `directory`, `card` | sled behind a journal, and how it gives space back; lock, format and watermark; who this member is |
//!
//! Invariants
//! - Nothing is acknowledged or applied before the log entry is durable here and on a majority; after a failed sync
//!   nothing is acknowledged at all.
//! - Memory is the truth for reads; the disk follows, and is read only at a start and for peers that lag.
//! - The disk thread writes in the order of submission, and the disk keeps a prefix of what was written. So
//!   no write needs to be atomic: what announces others is written behind them.
//! - Every record has a checksum, and the whole has one too (`mvcc::Summary`, the watermark): sled cuts its log
//!   at damage without a word, and the parts that are left look right.
//! - The index changes by log entries alone, so that all members agree. No clock, no configuration.
//! - Lock order: hub registry, then a watch's buffer; the index's lock is taken with neither.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

pub(crate) mod backup;
mod card;
mod codec;
mod compaction;
mod directory;
mod disk;
mod foundation;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod group;
mod keyring;
mod lane;
mod log;
mod machine;
mod member;
mod metrics;
mod mvcc;
mod peers;
#[cfg(test)]
mod planted;
mod proposals;
mod raft;
mod record;
mod sealed;
mod snapshot;
mod space;
mod upkeep;
mod watch;
mod writer;

pub(crate) use card::{Card, FOUNDER};
pub(crate) use group::Identity;
pub(crate) use group::ask::Answer;
pub(crate) use group::change::Change;
pub(crate) use group::report::Heard;
pub(crate) use peers::listener::IsMember;
pub(crate) use raft::Node;
pub(crate) use watch::Watch;

/// A revision of the whole store; the first write has revision 1... Zero means "the key does not exist" in
/// comparisons.
pub(crate) type Revision = u64;

/// One version of one key. Shared (`Arc`) by the index, every list and every watcher.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
pub(crate) struct KeyValue {
    pub(crate) key: Arc<str>,
    pub(crate) value: Bytes,
    pub(crate) create_revision: Revision,
    pub(crate) mod_revision: Revision,
    /// Number of writes since creation, 1 for a created key.
    pub(crate) version: u64,
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
        }
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

#[derive(Debug, serde::Serialize, serde::Deserialize)]
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

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
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
    /// Nothing was written, and nothing can be until there is space.
    #[error("the store's disk is full: {0}")]
    DiskFull(String),
    /// What is on the disk is not what was written there.
    #[error("the store's data is corrupt: {0}")]
    Corrupt(String),
    #[error(
        "{} has format {found}, this version knows format {known}: it was written by another version of waggle",
        dir.display()
    )]
    Format {
        dir: PathBuf,
        found: u32,
        known: u32,
    },
    #[error("{} is in use by {holder}", dir.display())]
    Locked { dir: PathBuf, holder: String },
    #[error("transaction: {0}")]
    InvalidTxn(String),
    /// The transaction may have happened, or may still happen.
    #[error("it is not known whether the write has happened: {0}")]
    OutcomeUnknown(String),
    /// The members cannot be changed like that.
    #[error("{0}")]
    InvalidChange(String),
    /// The others go on without this member.
    #[error(
        "member {id} was removed from the cluster (change {at}); its data is of no use any more"
    )]
    Removed { id: u64, at: u64 },
    #[error("storage: {0}")]
    Storage(String),
    #[error("the store is shutting down")]
    Closed,
}

impl From<disk::DiskError> for StoreError {
    fn from(error: disk::DiskError) -> Self {
        match error {
            disk::DiskError::Full(what) => Self::DiskFull(what),
            disk::DiskError::Corrupt(what) => Self::Corrupt(what),
            disk::DiskError::Io(what) => Self::Storage(what),
        }
    }
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WatchEnd {
    #[error("the watcher is too slow and was cut off at revision {0}")]
    Slow(Revision),
    #[error("the store is shutting down")]
    Closed,
}

impl Op {
    pub(crate) fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }
}

/// Longest key.
const MAX_KEY: usize = 4 << 10;
/// Largest transaction, with all its keys and values.
const MAX_TXN: usize = 8 << 20;

impl Txn {
    /// About how many bytes it takes.
    fn size(&self) -> usize {
        let compares: usize = self.compares.iter().map(|c| c.key.len() + 24).sum();
        let ops = self.ops.iter().map(|op| match op {
            Op::Put { key, value } => key.len() + value.len() + 24,
            Op::Delete { key } => key.len() + 24,
        });
        compares + ops.sum::<usize>()
    }

    /// What must hold before it may be proposed.
    fn validate(&self) -> Result<(), StoreError> {
        let keys = self.ops.iter().map(Op::key);
        for key in keys.chain(self.compares.iter().map(|c| c.key.as_str())) {
            let fault = match key {
                "" => "a key is empty",
                key if key.len() > MAX_KEY => "a key is too long",
                key if key.contains('\0') => "a key contains a NUL",
                _ => continue,
            };
            return Err(StoreError::InvalidTxn(fault.into()));
        }
        let mut keys: Vec<&str> = self.ops.iter().map(Op::key).collect();
        keys.sort_unstable();
        if let Some(twice) = keys.windows(2).find(|pair| pair[0] == pair[1]) {
            let fault = format!("key {:?} is written twice", twice[0]);
            return Err(StoreError::InvalidTxn(fault));
        }
        if self.size() > MAX_TXN {
            let fault = format!("{} bytes are more than {MAX_TXN}", self.size());
            return Err(StoreError::InvalidTxn(fault));
        }
        Ok(())
    }
}

impl WatchEvent {
    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { kv, .. } => &kv.key,
            Self::Delete { previous, .. } => &previous.key,
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        match self {
            Self::Put { kv, .. } => kv.mod_revision,
            Self::Delete { revision, .. } => *revision,
        }
    }

    pub(crate) fn previous(&self) -> Option<&Arc<KeyValue>> {
        match self {
            Self::Put { previous, .. } => previous.as_ref(),
            Self::Delete { previous, .. } => Some(previous),
        }
    }

    /// About how many bytes a reader that has not taken it keeps alive.
    fn bytes(&self) -> usize {
        match self {
            Self::Put { kv, .. } => kv.value.len() + 128,
            Self::Delete { .. } => 128,
        }
    }

    /// What it leaves behind.
    fn version(&self) -> mvcc::Version {
        match self {
            Self::Put { kv, .. } => mvcc::Version::Live(Arc::clone(kv)),
            Self::Delete { revision, .. } => mvcc::Version::Gone(*revision),
        }
    }
}

/// What becomes of a store that is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Start {
    /// It is the first of a new cluster.
    Found,
    /// A cluster knows it already and will bring it everything.
    Join,
}

/// How members talk to each other.
pub(crate) struct PeerConfig {
    pub(crate) listener: tokio::net::TcpListener,
    pub(crate) server: Arc<rustls::ServerConfig>,
    pub(crate) client: Arc<rustls::ClientConfig>,
    /// The name that every member's certificate bears.
    pub(crate) name: rustls_pki_types::ServerName<'static>,
    pub(crate) is_member: IsMember,
}

impl std::fmt::Debug for PeerConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PeerConfig").finish_non_exhaustive()
    }
}

#[derive(Debug)]
pub(crate) struct StoreConfig {
    pub(crate) dir: PathBuf,
    pub(crate) identity: Identity,
    /// What the others are to know of this member.
    pub(crate) node: Node,
    pub(crate) start: Start,
    /// None: it stays alone.
    pub(crate) peers: Option<PeerConfig>,
}

impl StoreConfig {
    /// A cluster of one, which nobody can join.
    #[cfg(test)]
    pub(crate) fn alone(dir: PathBuf, id: u64) -> Self {
        Self {
            dir,
            identity: Identity {
                id,
                cluster: Arc::from(""),
                since: 0,
            },
            node: Node::default(),
            start: Start::Found,
            peers: None,
        }
    }
}

/// A cheap handle to the member's store.
#[derive(Clone)]
pub(crate) struct Store {
    member: Arc<member::Member>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("revision", &self.revision())
            .finish_non_exhaustive()
    }
}

/// How long a reader or watcher may wait for a revision that it has heard of from another member.
const FUTURE: std::time::Duration = std::time::Duration::from_secs(3);

impl Store {
    /// Opens (or creates) the store. Fails when another process owns the directory, when the data is of an unknown
    /// format version, or when a record is corrupt. Until it is [`Self::ready`], only what this member has can be read
    /// ([`Freshness::Local`]).
    pub(crate) async fn begin(config: StoreConfig) -> Result<Self, StoreError> {
        let member = member::Member::begin(config, member::Options::default()).await?;
        Ok(Self {
            member: Arc::new(member),
        })
    }

    /// Waits until this member can serve; with other members that takes a majority of them.
    pub(crate) async fn ready(&self) -> Result<(), StoreError> {
        self.member.become_ready().await
    }

    /// Why it is not ready, as far as that is known yet.
    pub(crate) fn waits_for(&self) -> String {
        self.member.waits_for()
    }

    #[cfg(test)]
    pub(crate) async fn open(config: StoreConfig) -> Result<Self, StoreError> {
        let member = member::Member::open(config, member::Options::default()).await?;
        Ok(Self {
            member: Arc::new(member),
        })
    }

    pub(crate) async fn get(
        &self,
        key: &str,
        freshness: Freshness,
    ) -> Result<Option<Arc<KeyValue>>, StoreError> {
        self.member.freshen(freshness).await?;
        Ok(self.member.state().read().mvcc.get(key).cloned())
    }

    pub(crate) async fn range(&self, request: RangeRequest) -> Result<RangeResponse, StoreError> {
        self.member.freshen(request.freshness).await?;
        if let Some(revision) = request.revision {
            self.reach(revision).await;
        }
        self.member.state().read().mvcc.range(&request)
    }

    /// Waits a moment for a revision that another member may have told of and this one has not applied yet.
    pub(crate) async fn reach(&self, revision: Revision) {
        if self.revision() >= revision {
            return;
        }
        let mut applied = self.member.state().applied_index();
        let reached = async {
            while self.revision() < revision {
                if applied.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever asks then learns that it is in the future.
        let _ = tokio::time::timeout(FUTURE, reached).await;
    }

    /// Returns once the transaction is durable and applied. A transaction that changes nothing gets no revision
    /// of its own: it answers with the current one.
    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        txn.validate()?;
        let result = self.member.proposals()?.propose(txn).await;
        match result {
            // The disk's error says more than what it did to Raft.
            Err(StoreError::Storage(_) | StoreError::Closed) => {
                self.member.usable()?;
                result
            }
            result => result,
        }
    }

    /// Events of all keys below `prefix` with a revision greater than `after`.
    pub(crate) fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.member.usable()?;
        let (mut watch, published) = self.member.hub().register(prefix, after);
        let state = self.member.state().read();
        let changes = state.mvcc.changes_after(after)?;
        if after < published {
            watch.replay(changes, published);
        }
        Ok(watch)
    }

    /// Revision of the last applied write.
    pub(crate) fn revision(&self) -> Revision {
        self.member.state().read().mvcc.revision()
    }

    /// Drops history before `revision`; later watches from there get [`StoreError::Compacted`]. Old history is
    /// also dropped without being asked (`store/compaction.rs`).
    pub(crate) async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.member.compact(revision).await
    }

    /// Returns when this member has all that was acknowledged before the call.
    ///
    /// # Errors
    /// It does not know, because too few members answer.
    pub(crate) async fn confirm(&self) -> Result<(), StoreError> {
        self.member.freshen(Freshness::Linearizable).await
    }

    /// Everything as it is now, or as this member knows it, as the pieces of a file (`store/backup.rs`).
    pub(crate) async fn backup(
        &self,
        freshness: Freshness,
    ) -> Result<impl Iterator<Item = Bytes> + Send + use<>, StoreError> {
        self.member.freshen(freshness).await?;
        let image = snapshot::Image::capture(&self.member.state().read().mvcc);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let created = now.map_or(0, |now| now.as_secs() as i64);
        let cluster = &self.member.group().own.cluster;
        Ok(backup::pieces(&image, cluster, created))
    }

    /// Adds, promotes or removes a member. Returns the change's place in the log.
    pub(crate) async fn change(&self, change: &Change) -> Result<u64, StoreError> {
        self.member.usable()?;
        self.member.group().change(change).await
    }

    /// What the other members have said of themselves of late, by their ids.
    pub(crate) fn heard(&self) -> std::collections::BTreeMap<u64, Heard> {
        self.member.group().reports.all()
    }

    /// Tells all other members something, within a moment; they find it under the topic in [`Self::heard`].
    pub(crate) fn note(&self, topic: &str, note: Bytes) {
        self.member.group().reports.note(topic, note);
    }

    /// Changes when a note of another member does, or one comes or goes.
    pub(crate) fn news(&self) -> tokio::sync::watch::Receiver<u64> {
        self.member.group().reports.news()
    }

    /// Gives back what this member's disk holds of values that are gone; bytes before and after. Writes of this member
    /// wait meanwhile.
    pub(crate) async fn defragment(&self) -> Result<(u64, u64), StoreError> {
        self.member.usable()?;
        self.member.group().space.defragment().await
    }

    /// What a layer above answers to its like on other members.
    pub(crate) fn answer_with(&self, topic: &'static str, answer: Answer) {
        self.member.group().answer_with(topic, answer);
    }

    /// Asks all other members that are there; the answers that came in time.
    pub(crate) async fn ask_others(
        &self,
        topic: &str,
        question: Bytes,
        patience: std::time::Duration,
    ) -> Vec<Bytes> {
        let group = self.member.group();
        group.ask_others(topic, question, patience).await
    }

    /// Where the members' APIs are, as host:port, once that is not what is known already.
    pub(crate) async fn api_addresses(&self, known: &[String]) -> Vec<String> {
        let mut server = self.member.group().server.clone();
        loop {
            server.borrow_and_update();
            let members = self.members().into_iter().map(|member| member.api_address);
            let now: Vec<String> = members.filter(|address| !address.is_empty()).collect();
            if now != known {
                return now;
            }
            if server.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What this member says of itself to the others.
    pub(crate) fn report(&self) -> proto::raft::v1::Report {
        self.member.group().report()
    }

    /// The cluster's own name for itself.
    pub(crate) fn cluster(&self) -> &str {
        &self.member.group().own.cluster
    }

    /// This member's own id.
    pub(crate) fn id(&self) -> u64 {
        self.member.group().own.id
    }

    /// How often the cluster has asked for another key, as far as this member's disk has followed.
    pub(crate) fn encryption_generation(&self) -> u64 {
        self.member.sealed().map_or(0, |disk| disk.generation())
    }

    /// Seals this member's disk with another key; returns when the old one opens nothing any more.
    pub(crate) async fn rotate_encryption_key(&self, generation: u64) -> Result<(), StoreError> {
        let disk = self.member.sealed().ok_or(StoreError::Closed)?;
        tokio::task::spawn_blocking(move || disk.rotate(generation))
            .await
            .map_err(|error| StoreError::Storage(format!("sealing with another key: {error}")))?
            .map_err(StoreError::from)
    }

    /// The members of the group, by their ids.
    pub(crate) fn members(&self) -> Vec<Member> {
        self.member.members()
    }

    /// True on the member that runs controllers and scheduler.
    pub(crate) fn leadership(&self) -> tokio::sync::watch::Receiver<bool> {
        self.member.leadership()
    }

    /// Becomes an error when this member has stopped for good, as after a failed sync. The process should end.
    pub(crate) fn failure(&self) -> tokio::sync::watch::Receiver<Option<StoreError>> {
        self.member.failure()
    }

    pub(crate) fn register_metrics(&self, registry: &mut prometheus_client::registry::Registry) {
        self.member.metrics().register(registry);
    }

    /// Lets another member lead, where this one does and another can; takes some seconds at the most. This one is to
    /// be closed afterwards.
    pub(crate) async fn hand_over(&self) {
        self.member.group().hand_over().await;
    }

    /// Makes everything durable and lets go of the directory; other handles answer [`StoreError::Closed`].
    pub(crate) async fn close(self) -> Result<(), StoreError> {
        self.member.close().await
    }
}

/// One member of the group as this one knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) id: u64,
    pub(crate) name: String,
    /// Where the others reach it; empty in a group of one.
    pub(crate) address: String,
    /// Where clients reach its API.
    pub(crate) api_address: String,
    pub(crate) leads: bool,
    pub(crate) votes: bool,
}

#[cfg(test)]
mod tests;
