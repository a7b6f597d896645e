//! sled and the journal in front of it, while they are open. Every write goes to the journal; sled gets those that are in the
//! journal's file later, many at a time, from another thread ([`Feeder`]), and then what says how far it is. What a crash leaves
//! of them in sled is written over again from there.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::backing::Backing;
use super::feeder::{Batch, Feeder, Writes};
use super::journal::{self, Journal, Place};
use super::{DiskError, Write, io_error};

/// The database while it is open.
pub(super) struct Database {
    backing: Arc<Backing>,
    /// It ends with the database.
    feeder: Feeder,
    /// Held by whoever writes.
    front: Mutex<Front>,
    /// Bytes of the journal's file: it is asked for while a sync holds the journal.
    journal_bytes: AtomicU64,
}

/// What is written before it is in sled.
struct Front {
    journal: Journal,
    /// The last write of each key that nobody gives to sled yet: of what is written again and again it gets one.
    pending: Writes,
    pending_bytes: usize,
}

/// Writes that sled gets together, by bytes.
const PENDING_BYTES: usize = 32 << 10;
/// Beyond this whoever writes waits for sled.
const MOST_BYTES: usize = 4 * PENDING_BYTES;

/// Beside the database's own files.
const JOURNAL: &str = "journal";

impl Database {
    pub(super) fn open(path: &Path, whole: u64) -> Result<Self, DiskError> {
        let backing = Backing::open(path)?;
        let (mut journal, records) = Journal::open(&path.join(JOURNAL), whole)?;
        let mut reached = backing.place()?;
        let mut lap = reached.lap;
        for record in records {
            lap = lap.max(record.place.lap);
            if record.place.sequence <= reached.sequence {
                continue;
            }
            if record.place.sequence != reached.sequence + 1 {
                return Err(DiskError::Corrupt(format!(
                    "the database ends at write {}, its journal goes on at {}",
                    reached.sequence, record.place.sequence
                )));
            }
            backing.put(record.writes.iter().map(|(key, value)| (key, value)))?;
            reached = record.place;
        }
        let place = Place {
            lap: lap + 1,
            ..reached
        };
        backing.say_place(place)?;
        backing.sync()?;
        // They must be durable before anything is acknowledged.
        backing.sync_names(path)?;
        journal.begin(place);
        let backing = Arc::new(backing);
        let taker = Arc::clone(&backing);
        let feeder = Feeder::start(move |batch| taker.take(&batch.writes, batch.place))
            .map_err(|e| io_error("start a thread", &e))?;
        Ok(Self {
            backing,
            feeder,
            journal_bytes: AtomicU64::new(journal.length()),
            front: Mutex::new(Front {
                journal,
                pending: Writes::new(),
                pending_bytes: 0,
            }),
        })
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        // After a panic nothing is written any more.
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For those who read; what is not settled is not there.
    pub(super) fn sled(&self) -> &sled::Db {
        &self.backing.db
    }

    /// Everything that was written is in sled when this returns.
    pub(super) fn settle(&self) -> Result<(), DiskError> {
        let mut front = self.front();
        self.feed(&mut front)?;
        self.feeder.finish()
    }

    /// What was written of `start..end` is in sled when this returns.
    pub(super) fn settle_range(&self, start: &[u8], end: &[u8]) -> Result<(), DiskError> {
        let range = (Bound::Included(start), Bound::Excluded(end));
        let waits = start < end && {
            let front = self.front();
            front.pending.range::<[u8], _>(range).next().is_some() || self.feeder.has_any(range)
        };
        match waits {
            true => self.settle(),
            false => Ok(()),
        }
    }

    /// Begins to give sled what waits, if that has become much.
    pub(super) fn settle_much(&self) -> Result<(), DiskError> {
        let mut front = self.front();
        let much = front.pending_bytes > PENDING_BYTES;
        if much && (front.pending_bytes > MOST_BYTES || self.feeder.is_idle()?) {
            self.feed(&mut front)?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn lap(&self) -> u64 {
        self.front().journal.place().lap
    }

    pub(super) fn size(&self) -> u64 {
        self.backing.size()
    }

    pub(super) fn journal_size(&self) -> u64 {
        self.journal_bytes.load(Ordering::Relaxed)
    }

    fn note_size(&self, journal: &Journal) {
        self.journal_bytes
            .store(journal.length(), Ordering::Relaxed);
    }

    /// Hands over what waits.
    fn feed(&self, front: &mut Front) -> Result<(), DiskError> {
        if front.pending.is_empty() {
            return Ok(());
        }
        // A crash may leave some of them in sled, and not the first ones: the journal must have what is missing.
        front.journal.sync()?;
        front.pending_bytes = 0;
        self.feeder.give(Batch {
            writes: std::mem::take(&mut front.pending),
            place: front.journal.place(),
        })
    }

    /// In the journal when this returns, and in sled when it is settled.
    pub(super) fn write(&self, mut writes: Vec<Write>) -> Result<(), DiskError> {
        let mut front = self.front();
        let records: Vec<usize> = journal::split(&writes).map(<[Write]>::len).collect();
        for count in records {
            let rest = writes.split_off(count);
            let record = std::mem::replace(&mut writes, rest);
            if front.journal.is_full(&record) {
                self.checkpoint(&mut front)?;
            }
            front.journal.push(&record)?;
            front.pending_bytes += record.iter().map(journal::size).sum::<usize>();
            front.pending.extend(record);
        }
        self.note_size(&front.journal);
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), DiskError> {
        self.feeder.check()?;
        let mut front = self.front();
        front.journal.sync()?;
        self.note_size(&front.journal);
        Ok(())
    }

    /// The database alone has everything, and the journal begins anew.
    fn checkpoint(&self, front: &mut Front) -> Result<(), DiskError> {
        self.feed(front)?;
        self.feeder.finish()?;
        let place = front.journal.place();
        let next = Place {
            lap: place.lap + 1,
            ..place
        };
        self.backing.say_place(next)?;
        self.backing.sync()?;
        front.journal.begin(next);
        Ok(())
    }
}
