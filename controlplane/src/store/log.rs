//! The Raft log and the vote on the disk: openraft's `RaftLogStorage`.
//!
//! Entries are written by the disk thread (`writer.rs`); the newest ones stay in memory until they are
//! written and a little longer, because each of them is read once more, to be applied. The positions (first,
//! last, vote) are kept in memory and are ahead of the disk by what is being written.
//!
//! openraft 0.9 sends an entry to the others only once the log says that it is written, so a write would wait for
//! two disks, one after the other. The log of a leader therefore says so at once, and what is not written yet is not
//! [`Settled`]: until it is, it is not applied here (`machine.rs`) and the others are not told that it is committed
//! (`peers/network.rs`). What Raft counts for this member then never counts before its disk has it.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, Weak};

use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{AnyError, EntryPayload, OptionalSend, StorageIOError};
use tokio::sync::watch;

use super::codec;
use super::disk::{Disk, DiskError};
use super::raft::{Command, Entry, LogId, NodeId, StorageError, TypeConfig, Vote, entry_size};
use super::record::{self, RecordError};
use super::writer::{Job, Writer};

/// Entries that stay in memory after they were written, by bytes.
const TAIL_BYTES: usize = 1 << 20;
/// One read for a follower, by bytes.
const READ_BYTES: usize = 1 << 20;

/// Entries that [`LogStore::led`] gives at most.
const LED: usize = 64;

pub(super) const VOTE: &str = "vote";
pub(super) const PURGED: &str = "purged";

/// Clones share one log.
#[derive(Clone)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
}

struct Shared {
    own: NodeId,
    /// The disk thread owns it, so that it is closed when that thread has ended.
    disk: Weak<dyn Disk>,
    writer: Writer,
    state: Mutex<State>,
    /// The first entry that Raft was told of before it was on the disk; written with the state locked.
    unsettled: watch::Sender<Result<u64, DiskError>>,
    /// What [`Cover`] says.
    covered: watch::Receiver<u64>,
    /// The index after the last entry that was submitted.
    appended: watch::Sender<u64>,
}

/// Which entries are on this disk, of those that Raft takes for written.
#[derive(Clone)]
pub(super) struct Settled(watch::Receiver<Result<u64, DiskError>>);

impl Settled {
    pub(super) fn has(&self, index: u64) -> bool {
        #[cfg(test)]
        if super::planted::is(super::planted::Bug::CountsUnwritten) {
            return true;
        }
        matches!(&*self.0.borrow(), Ok(unsettled) if index < *unsettled)
    }

    /// Returns when the entry is on the disk.
    ///
    /// # Errors
    /// It never will be, or that is not known.
    pub(super) async fn reach(&self, index: u64) -> Result<(), DiskError> {
        if self.has(index) {
            return Ok(());
        }
        let mut unsettled = self.0.clone();
        let settled = |now: &Result<u64, DiskError>| now.as_ref().map_or(true, |at| index < *at);
        match unsettled.wait_for(settled).await {
            Ok(now) => now.clone().map(drop),
            Err(_) => Err(DiskError::Io("the store is shut down".into())),
        }
    }
}

/// What the log is told by the state machine: up to which entry the disk was given the state. Only such entries may go:
/// Raft gives up entries as soon as it has told the state machine to install a snapshot in their place, and a crash
/// before that is done must find them.
pub(super) struct Cover {
    shared: Arc<Shared>,
    covered: watch::Sender<u64>,
}

impl Cover {
    pub(super) fn settled(&self) -> Settled {
        Settled(self.shared.unsettled.subscribe())
    }

    /// To be called when the state was given to the writer, so that whatever is given later survives only with it.
    pub(super) fn reach(&self, applied: Option<LogId>) {
        let mut state = self.shared.lock();
        let covered = next(applied);
        if let Some(held) = state.held
            && held.upto.index < covered
        {
            self.shared.write_purge(held.upto);
            state.held = None;
        }
        self.covered.send_replace(covered);
    }
}

/// A purge that waits for the state machine.
#[derive(Debug, Clone, Copy)]
struct Held {
    upto: LogId,
    /// The log on the disk ends before it. Entries after it must not be there without it.
    leaves_gap: bool,
}

#[derive(Default)]
struct State {
    vote: Option<Vote>,
    purged: Option<LogId>,
    held: Option<Held>,
    last: Option<LogId>,
    /// The newest entries, without a hole, up to `last`.
    tail: VecDeque<Entry>,
    tail_bytes: usize,
    /// Entries up to this index (exclusive) are on the disk.
    written: u64,
    /// Raft was told of entries up to this index (exclusive) when they were submitted.
    told: u64,
}

impl LogStore {
    /// Reads what is on the disk and checks all of it. The log must reach `watermark`.
    pub(super) fn open(
        disk: &Arc<dyn Disk>,
        writer: Writer,
        own: NodeId,
        watermark: u64,
    ) -> Result<(Self, Cover), DiskError> {
        let vote = read_meta(&**disk, VOTE, codec::decode_vote)?;
        let mut state = State {
            vote: vote.map(|vote| not_leading(vote, own)),
            purged: read_meta(&**disk, PURGED, codec::decode_log_id)?,
            ..State::default()
        };
        state.last = state.purged;
        let (start, end) = (
            record::log_key(next(state.purged)),
            record::log_key(u64::MAX),
        );
        let mut torn = None;
        record::scan(&**disk, &start, &end, |(base, payload)| {
            let index = record::parse_log_key(&base)
                .ok_or_else(|| record::corrupt(&base, RecordError::Malformed))?;
            if torn.is_some() || index != next(state.last) {
                return Err(DiskError::Corrupt(format!(
                    "the log has a hole before entry {index}"
                )));
            }
            match payload {
                Ok(payload) => {
                    let entry = decode_entry(&base, index, &payload)?;
                    state.last = Some(entry.log_id);
                    state.keep(entry);
                    state.written = next(state.last);
                    state.trim();
                    Ok(())
                }
                // The last thing that was written before a crash, acknowledged to nobody.
                Err(RecordError::Incomplete) if index > watermark => {
                    torn = Some(index);
                    Ok(())
                }
                Err(error) => Err(record::corrupt(&base, error)),
            }
        })?;
        state.written = next(state.last);
        let reached = state.last.map_or(0, |id| id.index);
        if reached < watermark {
            return Err(DiskError::Corrupt(format!(
                "the log ends at entry {reached}, but entry {watermark} was acknowledged"
            )));
        }
        if let Some(index) = torn {
            tracing::warn!(
                index,
                "removing a log entry that was not written completely"
            );
            writer.submit(Job {
                remove_now: vec![(record::log_key(index), record::log_key(u64::MAX))],
                ..Job::default()
            });
        }
        // What an interrupted purge left behind.
        writer.submit(Job {
            remove_later: vec![(record::log_key(0), start)],
            ..Job::default()
        });
        let covered = watch::Sender::new(0);
        let shared = Arc::new(Shared {
            own,
            disk: Arc::downgrade(disk),
            writer,
            state: Mutex::new(state),
            unsettled: watch::Sender::new(Ok(u64::MAX)),
            covered: covered.subscribe(),
            appended: watch::Sender::new(0),
        });
        let cover = Cover {
            shared: Arc::clone(&shared),
            covered,
        };
        Ok((Self { shared }, cover))
    }

    pub(super) fn settled(&self) -> Settled {
        Settled(self.shared.unsettled.subscribe())
    }

    /// Changes to the index after the last entry each time that some are submitted.
    pub(super) fn appended(&self) -> watch::Receiver<u64> {
        self.shared.appended.subscribe()
    }

    /// Some entries that this member has submitted under its own vote, from `start` on, without a hole.
    pub(super) fn led(&self, start: u64, vote: &Vote) -> Vec<Entry> {
        let state = self.state();
        let Some(skip) = start.checked_sub(state.tail_start()) else {
            return Vec::new();
        };
        let mut bytes = 0;
        let entries = state.tail.iter().skip(skip as usize).take(LED);
        let entries = entries.take_while(|entry| {
            bytes += entry_size(entry);
            bytes <= READ_BYTES && entry.log_id.leader_id == *vote.leader_id()
        });
        entries.cloned().collect()
    }

    /// Entries that a start with nothing applied would have to apply, for tests and diagnostics.
    #[cfg(test)]
    pub(super) fn positions(&self) -> (Option<LogId>, Option<LogId>) {
        let state = self.state();
        (state.purged, state.last)
    }

    /// The end of the log, written or about to be.
    pub(super) fn last(&self) -> Option<LogId> {
        self.state().last
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.lock()
    }

    /// Entries that follow on a purge are written after it, so that a crash leaves no hole.
    async fn follow_purge(&self) -> Result<(), DiskError> {
        let held = self.state().held.filter(|held| held.leaves_gap);
        let Some(Held { upto, .. }) = held else {
            return Ok(());
        };
        let mut covered = self.shared.covered.clone();
        let mut failure = self.shared.writer.failure();
        tokio::select! {
            biased;
            covered = covered.wait_for(|covered| upto.index < *covered) => {
                covered.map(drop).map_err(|_| DiskError::Io("the state machine has ended".into()))
            }
            failed = failure.wait_for(Option::is_some) => {
                let why = failed.ok().and_then(|failed| failed.clone());
                Err(why.unwrap_or_else(|| DiskError::Io("the store is shut down".into())))
            }
        }
    }

    /// Entries `start..end`, at most `limit` bytes of them but at least one.
    async fn read(&self, start: u64, end: u64, limit: usize) -> Result<Vec<Entry>, StorageError> {
        let (start, end, tail, tail_start) = {
            let state = self.state();
            let start = start.max(next(state.purged));
            let end = end.min(next(state.last));
            if start >= end {
                return Ok(Vec::new());
            }
            let tail_start = state.tail_start();
            let skip = start.saturating_sub(tail_start) as usize;
            let take = end.saturating_sub(tail_start.max(start)) as usize;
            let tail: Vec<Entry> = state.tail.iter().skip(skip).take(take).cloned().collect();
            (start, end, tail, tail_start)
        };
        let mut entries = Vec::new();
        if start < tail_start {
            let end = end.min(tail_start);
            let disk = Weak::clone(&self.shared.disk);
            let read = move || match disk.upgrade() {
                Some(disk) => read_entries(&*disk, start, end, limit),
                None => Err(DiskError::Io("the store is shut down".into())),
            };
            let complete;
            let in_memory = self
                .shared
                .disk
                .upgrade()
                .is_some_and(|disk| disk.is_memory());
            let found = match in_memory {
                true => read(),
                false => tokio::task::spawn_blocking(read)
                    .await
                    .map_err(|e| StorageIOError::read_logs(AnyError::new(&e)))?,
            };
            (entries, complete) =
                found.map_err(|e| StorageIOError::read_logs(AnyError::new(&e)))?;
            if !complete {
                return Ok(entries);
            }
        }
        let mut bytes: usize = entries.iter().map(entry_size).sum();
        for entry in tail {
            bytes += entry_size(&entry);
            if bytes > limit && !entries.is_empty() {
                break;
            }
            entries.push(entry);
        }
        Ok(entries)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while holding it")
    }

    fn write_purge(&self, upto: LogId) {
        let mut job = Job {
            remove_later: vec![(record::log_key(0), record::log_key(upto.index + 1))],
            ..Job::default()
        };
        let payload = codec::encode_log_id(&upto);
        record::put(&mut job.writes, &record::meta_key(PURGED), &payload);
        self.writer.submit(job);
    }

    fn leads(&self, state: &State, entry: &Entry) -> bool {
        state.vote.is_some_and(|vote| {
            let leader = vote.leader_id();
            vote.is_committed()
                && leader.voted_for() == Some(self.own)
                && *leader == entry.log_id.leader_id
        })
    }

    /// To be called when what is told or what is written has changed.
    fn settle(&self, state: &State) {
        let now = match state.written < state.told {
            true => state.written,
            false => u64::MAX,
        };
        self.unsettled
            .send_if_modified(|unsettled| match unsettled {
                Ok(at) => std::mem::replace(at, now) != now,
                Err(_) => false,
            });
    }
}

/// The vote of a member that led, without its leadership: of what it said as the leader of that term its disk may have
/// lost the end, and it must not say something else under the same term.
fn not_leading(vote: Vote, own: NodeId) -> Vote {
    let leader = vote.leader_id();
    #[cfg(test)]
    if super::planted::is(super::planted::Bug::LeadsAgain) {
        return vote;
    }
    match leader.voted_for() == Some(own) {
        true => Vote::new(leader.get_term(), own),
        false => vote,
    }
}

impl State {
    fn tail_start(&self) -> u64 {
        match self.tail.front() {
            Some(entry) => entry.log_id.index,
            None => next(self.last),
        }
    }

    fn keep(&mut self, entry: Entry) {
        self.tail_bytes += entry_size(&entry);
        self.tail.push_back(entry);
    }

    /// Forgets the oldest entries in memory, as far as the disk has them.
    fn trim(&mut self) {
        while self.tail_bytes > TAIL_BYTES
            && let Some(entry) = self.tail.front()
            && entry.log_id.index < self.written
        {
            self.tail_bytes -= entry_size(entry);
            self.tail.pop_front();
        }
    }

    fn forget_up_to(&mut self, index: u64) {
        while let Some(entry) = self.tail.front()
            && entry.log_id.index <= index
        {
            self.tail_bytes -= entry_size(entry);
            self.tail.pop_front();
        }
    }

    fn forget_from(&mut self, index: u64) {
        while let Some(entry) = self.tail.back()
            && entry.log_id.index >= index
        {
            self.tail_bytes -= entry_size(entry);
            self.tail.pop_back();
        }
    }
}

/// The index after a position.
fn next(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

fn read_meta<T>(
    disk: &dyn Disk,
    name: &str,
    decode: impl Fn(&[u8]) -> Result<T, codec::CodecError>,
) -> Result<Option<T>, DiskError> {
    let base = record::meta_key(name);
    let Some(payload) = record::get(disk, &base)? else {
        return Ok(None);
    };
    let value = decode(&payload)
        .map_err(|e| DiskError::Corrupt(format!("{}: {e}", record::describe(&base))))?;
    Ok(Some(value))
}

fn decode_entry(base: &[u8], index: u64, payload: &[u8]) -> Result<Entry, DiskError> {
    let entry = codec::decode_entry(payload)
        .map_err(|e| DiskError::Corrupt(format!("{}: {e}", record::describe(base))))?;
    if entry.log_id.index != index {
        return Err(record::corrupt(base, RecordError::Malformed));
    }
    Ok(entry)
}

/// Entries `start..end` up to `limit` bytes, and whether those are all.
fn read_entries(
    disk: &dyn Disk,
    start: u64,
    end: u64,
    limit: usize,
) -> Result<(Vec<Entry>, bool), DiskError> {
    let mut entries = Vec::new();
    let mut bytes = 0;
    let mut complete = true;
    let (from, to) = (record::log_key(start), record::log_key(end));
    record::scan(disk, &from, &to, |(base, payload)| {
        complete &= bytes < limit;
        if !complete {
            return Ok(());
        }
        let payload = payload.map_err(|e| record::corrupt(&base, e))?;
        let index = record::parse_log_key(&base)
            .ok_or_else(|| record::corrupt(&base, RecordError::Malformed))?;
        let entry = decode_entry(&base, index, &payload)?;
        bytes += entry_size(&entry);
        entries.push(entry);
        Ok(())
    })?;
    Ok((entries, complete))
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(start) => start + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(end) => end + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        self.read(start, end, usize::MAX).await
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        self.read(start, end, READ_BYTES).await
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let state = self.state();
        Ok(LogState {
            last_purged_log_id: state.purged,
            last_log_id: state.last,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        let mut job = Job {
            durable: true,
            ..Job::default()
        };
        let payload = codec::encode_vote(vote);
        record::put(&mut job.writes, &record::meta_key(VOTE), &payload);
        self.shared
            .writer
            .run(job)
            .await
            .map_err(|e| StorageIOError::write_vote(AnyError::new(&e)))?;
        self.state().vote = Some(*vote);
        Ok(())
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        Ok(self.state().vote)
    }

    async fn append<I>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let ready = self.follow_purge().await;
        ready.map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        let mut job = Job {
            durable: true,
            ..Job::default()
        };
        let mut at_once = true;
        let last = {
            let mut state = self.state();
            for entry in entries {
                if let EntryPayload::Normal(Command::Txns(txns)) = &entry.payload {
                    txns.begin();
                }
                // Changes of members, and with what a leader begins, count when they are written.
                at_once &= matches!(entry.payload, EntryPayload::Normal(_))
                    && self.shared.leads(&state, &entry);
                let payload = codec::encode_entry(&entry);
                let base = record::log_key(entry.log_id.index);
                record::put(&mut job.writes, &base, &payload);
                state.last = Some(entry.log_id);
                state.keep(entry);
            }
            if at_once {
                state.told = next(state.last);
                self.shared.settle(&state);
            }
            self.shared.appended.send_replace(next(state.last));
            state.last
        };
        job.last_log = last.map(|id| id.index);
        let waiting = match at_once {
            true => {
                callback.log_io_completed(Ok(()));
                None
            }
            false => Some(callback),
        };
        let shared = Arc::clone(&self.shared);
        job.done = Some(Box::new(move |result| {
            match &result {
                Ok(()) => {
                    let mut state = shared.lock();
                    state.written = state.written.max(next(last));
                    state.trim();
                    shared.settle(&state);
                }
                Err(error) => {
                    let error = Err(error.clone());
                    // There need not be anybody who waits.
                    let _before = shared.unsettled.send_replace(error);
                }
            }
            if let Some(callback) = waiting {
                callback.log_io_completed(result.map_err(std::io::Error::other));
            }
        }));
        self.shared.writer.submit(job);
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let from = log_id.index;
        self.state().forget_from(from);
        let job = Job {
            remove_now: vec![(record::log_key(from), record::log_key(u64::MAX))],
            durable: true,
            last_log: Some(from.saturating_sub(1)),
            ..Job::default()
        };
        self.shared
            .writer
            .run(job)
            .await
            .map_err(|e| StorageIOError::write_logs(AnyError::new(&e)))?;
        let last = {
            let mut state = self.state();
            // What was waiting to be written when it was truncated must not count as written.
            state.written = state.written.min(from);
            state.told = state.told.min(from);
            self.shared.settle(&state);
            match state.tail.back() {
                Some(entry) => Some(entry.log_id),
                None if next(state.purged) >= from => state.purged,
                None => None,
            }
        };
        let last = match last {
            None if from > 0 => {
                // The tail is empty, so `last` decides what `read` can see: until then it is everything.
                let before = self.read(from - 1, from, usize::MAX).await?;
                before.last().map(|entry| entry.log_id)
            }
            last => last,
        };
        self.state().last = last;
        Ok(())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        let mut state = self.state();
        let leaves_gap = state.last < Some(log_id);
        state.purged = state.purged.max(Some(log_id));
        state.last = state.last.max(Some(log_id));
        state.forget_up_to(log_id.index);
        let upto = state.purged.unwrap_or(log_id);
        if upto.index < *self.shared.covered.borrow() {
            self.shared.write_purge(upto);
        } else {
            let before = state.held.is_some_and(|held| held.leaves_gap);
            state.held = Some(Held {
                upto,
                leaves_gap: leaves_gap || before,
            });
        }
        Ok(())
    }
}
