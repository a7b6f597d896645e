//! The state machine: applies log entries to the index, and keeps the disk in step. openraft's
//! `RaftStateMachine`.
//!
//! Applying changes memory first and then hands the same versions to the disk thread, without a sync: what a
//! crash loses is applied again from the log, which is durable. The record `applied` is written behind the
//! versions that it stands for, so versions after its revision are leftovers of a crash and are dropped.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::{AnyError, EntryPayload, OptionalSend, StorageIOError};
use tokio::sync::{Notify, mpsc, watch};

use super::Revision;
use super::codec::{self, Applied};
use super::compaction::Retention;
use super::disk::{Disk, DiskError};
use super::log::{Cover, Settled};
use super::metrics::StateMetrics;
use super::mvcc::{Change, Mvcc, Version};
use super::raft::{
    Command, Entry, LogId, Node, NodeId, Outcome, Snapshot, SnapshotMeta, StorageError,
    StoredMembership, TypeConfig, entry_size,
};
use super::record::{self, RecordError};
use super::snapshot::Image;
use super::writer::{Job, KeyRange, Writer};

pub(super) const APPLIED: &str = "applied";
/// Versions that are written in one job while a snapshot is installed.
const INSTALL_SLICE: usize = 256;

/// What the hub is told, in order.
#[derive(Debug)]
pub(super) enum Published {
    Changes(Vec<Change>),
    /// A snapshot was installed; what lies between is not known.
    Jump(Revision),
}

/// The state that readers share with the state machine; only the state machine writes.
pub(super) struct Shared {
    state: RwLock<State>,
    metrics: StateMetrics,
    crowded: Crowded,
    /// About how many bytes of log were applied since the last snapshot.
    log_bytes: AtomicU64,
    /// Index of the last entry that is applied.
    applied: watch::Sender<u64>,
}

/// Wakes upkeep before its time when history or log have become too much.
struct Crowded {
    wake: Notify,
    revisions: u64,
    bytes: u64,
    log_bytes: u64,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) mvcc: Mvcc,
    log_id: Option<LogId>,
    membership: StoredMembership,
    generation: u32,
}

impl Shared {
    /// Readers hold it only while they clone pointers.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no panic while holding it")
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no panic while holding it")
    }

    /// How far this member is.
    pub(super) fn summary(&self) -> Applied {
        self.read().applied()
    }

    /// Index of the last entry that is applied.
    pub(super) fn applied_index(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Readers that wait for what was just applied may go on.
    fn announce(&self, applied: &Applied) {
        let index = applied.log_id.map_or(0, |id| id.index);
        self.applied.send_replace(index);
    }

    fn report(&self, state: &State) {
        let mvcc = &state.mvcc;
        self.metrics.revision.set(mvcc.revision() as i64);
        self.metrics.compacted.set(mvcc.compacted() as i64);
        self.metrics.keys.set(mvcc.live_keys() as i64);
        self.metrics.history_bytes.set(mvcc.history_bytes() as i64);
        let revisions = mvcc.revision() - mvcc.compacted();
        if revisions > self.crowded.revisions
            || mvcc.history_bytes() > self.crowded.bytes
            || self.log_bytes() > self.crowded.log_bytes
        {
            self.crowded.wake.notify_one();
        }
    }

    /// About how many bytes of log a snapshot would make superfluous.
    pub(super) fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    /// Returns when history or log have become too much since the last time.
    pub(super) async fn crowded(&self) {
        self.crowded.wake.notified().await;
    }
}

impl State {
    /// Whether these and nobody else vote, by what is applied.
    pub(super) fn voters_are(&self, voters: &[NodeId]) -> bool {
        self.membership.voter_ids().eq(voters.iter().copied())
    }

    fn applied(&self) -> Applied {
        Applied {
            log_id: self.log_id,
            membership: self.membership.clone(),
            summary: self.mvcc.summary(),
            generation: self.generation,
        }
    }
}

pub(crate) struct StateMachine {
    shared: Arc<Shared>,
    writer: Writer,
    log: Settled,
    cover: Cover,
    hub: mpsc::UnboundedSender<Published>,
    current: Arc<Mutex<Option<(SnapshotMeta, Image)>>>,
}

impl StateMachine {
    /// Reads the applied state from the disk and checks all of it.
    pub(super) fn open(
        disk: &dyn Disk,
        writer: Writer,
        cover: Cover,
        hub: mpsc::UnboundedSender<Published>,
        metrics: StateMetrics,
        retention: &Retention,
    ) -> Result<Self, DiskError> {
        let (state, cleanup) = load(disk)?;
        writer.submit(Job {
            remove_now: cleanup.now,
            remove_later: cleanup.later,
            ..Job::default()
        });
        let shared = Shared {
            state: RwLock::new(State::default()),
            metrics,
            crowded: Crowded {
                wake: Notify::new(),
                revisions: retention.max_revisions.saturating_mul(2),
                bytes: retention.max_bytes.saturating_mul(2),
                log_bytes: retention.log_bytes,
            },
            log_bytes: AtomicU64::new(0),
            applied: watch::Sender::new(state.log_id.map_or(0, |id| id.index)),
        };
        shared.report(&state);
        cover.reach(state.log_id);
        *shared.write() = state;
        Ok(Self {
            shared: Arc::new(shared),
            writer,
            log: cover.settled(),
            cover,
            hub,
            current: Arc::default(),
        })
    }

    pub(super) fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }
}

/// Ranges of keys that are of no use any more.
struct Cleanup {
    /// Keys that may be written again.
    now: Vec<KeyRange>,
    later: Vec<KeyRange>,
}

fn load(disk: &dyn Disk) -> Result<(State, Cleanup), DiskError> {
    let base = record::meta_key(APPLIED);
    let applied = match record::get(disk, &base)? {
        Some(payload) => codec::decode_applied(&payload)
            .map_err(|e| DiskError::Corrupt(format!("{}: {e}", record::describe(&base))))?,
        None => Applied::default(),
    };
    let generation = applied.generation;
    let start = record::generation_key(generation);
    let end = match generation.checked_add(1) {
        Some(next) => record::generation_key(next),
        None => record::versions_end(),
    };
    let mut cleanup = Cleanup {
        // A set of versions that a snapshot was about to bring.
        now: vec![(end.clone(), record::versions_end())],
        // Sets that a snapshot has replaced.
        later: vec![(record::generation_key(0), start.clone())],
    };
    let mut versions: Vec<(Arc<str>, Version)> = Vec::new();
    record::scan(disk, &start, &end, |(base, payload)| {
        let (key, revision) = record::parse_version_key(&base)
            .ok_or_else(|| record::corrupt(&base, RecordError::Malformed))?;
        if revision > applied.summary.revision {
            // Written before a crash, but not yet by `applied`: they will be applied again.
            cleanup.now.push(record::record_range(&base));
            return Ok(());
        }
        if payload == Err(RecordError::Headless) && revision <= applied.summary.compacted {
            // A compaction was about to remove it.
            cleanup.later.push(record::record_range(&base));
            return Ok(());
        }
        let key: Arc<str> = match versions.last() {
            Some((last, _)) if **last == *key => Arc::clone(last),
            _ => key.into(),
        };
        let payload = payload.map_err(|e| record::corrupt(&base, e))?;
        let version = codec::decode_version(&key, revision, &payload)
            .map_err(|e| DiskError::Corrupt(format!("{}: {e}", record::describe(&base))))?;
        versions.push((key, version));
        Ok(())
    })?;
    let rebuilt =
        Mvcc::rebuild(versions, applied.summary).map_err(|e| DiskError::Corrupt(e.to_string()))?;
    cleanup.later.extend(ranges(generation, &rebuilt.stale));
    let state = State {
        mvcc: rebuilt.mvcc,
        log_id: applied.log_id,
        membership: applied.membership,
        generation,
    };
    Ok((state, cleanup))
}

/// Where the given versions are on the disk.
fn ranges(generation: u32, versions: &[(Arc<str>, Revision)]) -> Vec<KeyRange> {
    versions
        .iter()
        .map(|(key, revision)| {
            record::record_range(&record::version_key(generation, key, *revision))
        })
        .collect()
}

/// What one entry changed.
#[derive(Default)]
struct Effects {
    changes: Vec<Change>,
    dropped: Vec<(Arc<str>, Revision)>,
}

impl State {
    fn apply(&mut self, entry: Entry, effects: &mut Effects) -> Outcome {
        self.log_id = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Outcome::None,
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Outcome::None
            }
            EntryPayload::Normal(Command::Txns(txns)) => {
                let outcomes = txns.iter().map(|txn| {
                    let (outcome, change) = self.mvcc.apply(txn);
                    effects.changes.extend(change);
                    outcome
                });
                Outcome::Txns(outcomes.collect())
            }
            EntryPayload::Normal(Command::Compact(revision)) => match self.mvcc.compact(revision) {
                Ok(dropped) => {
                    effects.dropped.extend(dropped);
                    Outcome::Compacted
                }
                Err(_) => Outcome::NotCompacted {
                    current: self.mvcc.revision(),
                },
            },
        }
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        let state = self.shared.read();
        Ok((state.log_id, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcome>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        if let Some(last) = entries.last() {
            let settled = self.log.reach(last.log_id.index).await;
            settled.map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        }
        let mut effects = Effects::default();
        let mut outcomes = Vec::new();
        let applied = {
            let mut state = self.shared.write();
            for entry in entries {
                let size = entry_size(&entry) as u64;
                self.shared.log_bytes.fetch_add(size, Ordering::Relaxed);
                outcomes.push(state.apply(entry, &mut effects));
            }
            self.shared.report(&state);
            state.applied()
        };
        let mut job = Job::default();
        for change in &effects.changes {
            for event in change.events.iter() {
                let version = event.version();
                let base = record::version_key(applied.generation, event.key(), change.revision);
                record::put(&mut job.writes, &base, &codec::encode_version(&version));
            }
        }
        put_applied(&mut job, &applied);
        job.remove_later = ranges(applied.generation, &effects.dropped);
        self.writer.submit(job);
        self.cover.reach(applied.log_id);
        self.shared.announce(&applied);
        if !effects.changes.is_empty() {
            // The hub ends before the state machine only when the store closes.
            let _ = self.hub.send(Published::Changes(effects.changes));
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            shared: Arc::clone(&self.shared),
            current: Arc::clone(&self.current),
        }
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Image>, StorageError> {
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Image>,
    ) -> Result<(), StorageError> {
        let image = *snapshot;
        let fail = |e: AnyError| StorageIOError::write_snapshot(Some(meta.signature()), e);
        let rebuilt = image.to_mvcc().map_err(|e| fail(AnyError::new(&e)))?;
        let (before, old_generation) = {
            let state = self.shared.read();
            (state.mvcc.revision(), state.generation)
        };
        let state = State {
            mvcc: rebuilt.mvcc,
            log_id: meta.last_log_id,
            membership: meta.last_membership.clone(),
            generation: old_generation + 1,
        };
        self.write_image(&image, &state.applied())
            .await
            .map_err(|e| fail(AnyError::new(&e)))?;
        self.cover.reach(meta.last_log_id);
        self.writer.submit(Job {
            remove_later: vec![(
                record::generation_key(old_generation),
                record::generation_key(old_generation + 1),
            )],
            ..Job::default()
        });
        let published = match state.mvcc.changes_after(before) {
            Ok(changes) => Published::Changes(changes.cloned().collect()),
            Err(_) => Published::Jump(state.mvcc.revision()),
        };
        self.shared.report(&state);
        let applied = state.applied();
        *self.shared.write() = state;
        self.shared.announce(&applied);
        // As in `apply`.
        let _ = self.hub.send(published);
        *self.current.lock().expect("no panic while holding it") = Some((meta.clone(), image));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        let current = self.current.lock().expect("no panic while holding it");
        Ok(current.as_ref().map(|(meta, image)| snapshot(meta, image)))
    }
}

impl StateMachine {
    /// Writes a new set of versions beside the current one, then the record that makes it the current one.
    async fn write_image(&self, image: &Image, applied: &Applied) -> Result<(), DiskError> {
        for versions in image.versions.chunks(INSTALL_SLICE) {
            let mut job = Job::default();
            for (key, version) in versions {
                let base = record::version_key(applied.generation, key, version.revision());
                record::put(&mut job.writes, &base, &codec::encode_version(version));
            }
            self.writer.run(job).await?;
        }
        let mut job = Job {
            durable: true,
            ..Job::default()
        };
        put_applied(&mut job, applied);
        self.writer.run(job).await
    }
}

fn put_applied(job: &mut Job, applied: &Applied) {
    let payload = codec::encode_applied(applied);
    record::put(&mut job.writes, &record::meta_key(APPLIED), &payload);
}

fn snapshot(meta: &SnapshotMeta, image: &Image) -> Snapshot {
    Snapshot {
        meta: meta.clone(),
        snapshot: Box::new(image.clone()),
    }
}

/// Takes a snapshot of the state as it is when `build_snapshot` runs.
pub(crate) struct Builder {
    shared: Arc<Shared>,
    current: Arc<Mutex<Option<(SnapshotMeta, Image)>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let (meta, image) = {
            let state = self.shared.read();
            let image = Image::capture(&state.mvcc);
            self.shared.log_bytes.store(0, Ordering::Relaxed);
            let meta = openraft::SnapshotMeta::<NodeId, Node> {
                last_log_id: state.log_id,
                last_membership: state.membership.clone(),
                snapshot_id: format!("{}-{}", next_index(state.log_id), image.summary.revision),
            };
            (meta, image)
        };
        let built = snapshot(&meta, &image);
        *self.current.lock().expect("no panic while holding it") = Some((meta, image));
        Ok(built)
    }
}

fn next_index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}
