//! sled and the journal in front of it, while they are open. Every write goes to the journal. sled gets what lasts soon after,
//! some of it at a time, and the rest (the log, which is removed soon, and what is written with every write) only when the
//! journal is full: most of it is gone by then. Then it is also said how far sled is, and a start writes over again from there
//! what the journal has, whatever a crash has left of that in sled.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::journal::{self, Journal, Place};
use super::{DiskError, Lasts, Write, io_error, sled_error};

/// The database while it is open.
pub(super) struct Database {
    pub(super) db: sled::Db,
    /// Of the database: how far it has the journal.
    places: sled::Tree,
    /// A second descriptor of the file that sled writes: `fdatasync` works on the file, not the descriptor.
    data: File,
    /// Held by whoever writes, and while sled is given something.
    front: Mutex<Front>,
    lasts: Lasts,
    /// Bytes of the journal's file: it is asked for while a sync holds the journal.
    journal_bytes: AtomicU64,
    /// What the file system has given to sled's file at its last `fdatasync`: length and blocks.
    given: Mutex<(u64, u64)>,
    blobs: Mutex<Blobs>,
}

/// What is written before it is in sled: the last write of each key that sled does not have yet. Whoever waits for a sync need
/// not wait for sled.
struct Front {
    journal: Journal,
    lasting: Waiting,
    brief: Waiting,
}

#[derive(Default)]
struct Waiting {
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    /// Of keys and values.
    bytes: usize,
}

impl Waiting {
    fn put(&mut self, (key, value): Write) {
        self.bytes += journal::size_of(&key, value.as_deref());
        if let Some(old) = self.writes.insert(key.clone(), value) {
            self.bytes -= journal::size_of(&key, old.as_deref());
        }
    }

    fn take_first(&mut self) -> Option<Write> {
        let (key, value) = self.writes.pop_first()?;
        self.bytes -= journal::size_of(&key, value.as_deref());
        Some((key, value))
    }

    fn forget(&mut self, key: &[u8]) {
        if let Some(old) = self.writes.remove(key) {
            self.bytes -= journal::size_of(key, old.as_deref());
        }
    }

    fn take(&mut self) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
        std::mem::take(self).writes
    }
}

/// What sled is given at a time, by bytes, if not much waits: the next group of writes waits for it.
const SLICE_BYTES: usize = 8 << 10;
/// How many items are read at a time, from sled and from what waits.
const SCAN: usize = 64;

/// sled puts items over 128 KiB into files of their own. Records are cut small enough that this does not
/// happen, so that the check is one `stat`; if it happens all the same, those files are synced too.
struct Blobs {
    dir: PathBuf,
    seen: Option<SystemTime>,
}

/// What sled may keep of its pages in memory. The store has all live data in memory already.
const PAGE_CACHE_BYTES: u64 = 16 << 20;

/// By key; `None` is a removal that waits.
type Items = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Beside the database's own files.
const JOURNAL: &str = "journal";
/// The tree and the key of [`Database::places`].
const PLACES: &str = "journal";
const AT: &str = "at";

/// sled rewrites and frees old segments on this beat, so it cannot be switched off.
const HOUSEKEEPING_MS: u64 = 1_000;

pub(super) fn open_database(path: &Path) -> Result<sled::Db, DiskError> {
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(PAGE_CACHE_BYTES)
        .flush_every_ms(Some(HOUSEKEEPING_MS));
    // Some corruptions make sled panic while it recovers: that is a refusal like any other.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
    match opened {
        Ok(result) => result.map_err(|e| sled_error("open", &e)),
        Err(panic) => {
            let why = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("unknown reason");
            Err(DiskError::Corrupt(format!("sled cannot recover: {why}")))
        }
    }
}

/// Names and contents of all files that sled has made.
pub(super) fn sync_files(path: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_files(&entry.path())?;
        } else {
            File::open(entry.path())?.sync_all()?;
        }
    }
    File::open(path)?.sync_all()
}

impl Database {
    pub(super) fn open(path: &Path, whole: u64, lasts: Lasts) -> Result<Self, DiskError> {
        let io = |what: &'static str| move |e: io::Error| io_error(what, &e);
        let db = open_database(path)?;
        let places = db
            .open_tree(PLACES)
            .map_err(|e| sled_error("open places", &e))?;
        let (journal, records) = Journal::open(&path.join(JOURNAL), whole)?;
        let data = File::open(path.join("db")).map_err(io("open db"))?;
        let mut open = Self {
            db,
            places,
            data,
            journal_bytes: AtomicU64::new(journal.length()),
            front: Mutex::new(Front {
                journal,
                lasting: Waiting::default(),
                brief: Waiting::default(),
            }),
            lasts,
            given: Mutex::default(),
            blobs: Mutex::new(Blobs {
                dir: path.join("blobs"),
                seen: None,
            }),
        };
        let mut reached = open.place()?;
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
            open.put(record.writes.iter().map(|(key, value)| (key, value)))?;
            reached = record.place;
        }
        let place = Place {
            lap: lap + 1,
            ..reached
        };
        open.say_place(place)?;
        open.sync_database()?;
        // Names and contents of the files that were made must be durable before anything is acknowledged.
        File::open(path.join("conf"))
            .and_then(|f| f.sync_all())
            .map_err(io("sync conf"))?;
        open.data.sync_all().map_err(io("sync db"))?;
        File::open(path)
            .and_then(|f| f.sync_all())
            .map_err(io("sync directory"))?;
        let front = open.front.get_mut();
        let front = front.unwrap_or_else(PoisonError::into_inner);
        front.journal.begin(place);
        Ok(open)
    }

    fn front(&self) -> MutexGuard<'_, Front> {
        // After a panic of sled nothing is written any more.
        self.front.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything that was written is in sled when this returns.
    pub(super) fn settle(&self) -> Result<(), DiskError> {
        self.put_waiting(&mut self.front())
    }

    /// Gives sled some of what lasts.
    pub(super) fn settle_some(&self) -> Result<(), DiskError> {
        let mut front = self.front();
        // Nothing may be in sled that the journal can lose: without what came before it, it would be a hole.
        if !front.journal.is_synced() {
            return Ok(());
        }
        // As much as comes, however fast that is.
        let rest = front.lasting.bytes
            - SLICE_BYTES
                .max(front.lasting.bytes / 4)
                .min(front.lasting.bytes);
        while front.lasting.bytes > rest
            && let Some((key, value)) = front.lasting.take_first()
        {
            self.put([(&key, &value)])?;
        }
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        let front = self.front();
        let waits = [&front.brief, &front.lasting];
        let waiting = waits.iter().find_map(|waiting| waiting.writes.get(key));
        match waiting {
            Some(value) => Ok(value.clone()),
            None => {
                let value = self.db.get(key).map_err(|e| sled_error("read", &e))?;
                Ok(value.map(|value| value.to_vec()))
            }
        }
    }

    /// Visits `start..end` in order until `visit` returns false. Writers go on in between.
    pub(super) fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        let mut from = Bound::Included(start.to_vec());
        loop {
            let (items, reached) = self.read_some(&from, end)?;
            for (key, value) in items {
                if let Some(value) = value
                    && !visit(&key, &value)
                {
                    return Ok(());
                }
            }
            match reached {
                Some(key) => from = Bound::Excluded(key),
                None => return Ok(()),
            }
        }
    }

    /// The next items, and up to which key there are no others; `None` when there is nothing behind them. Nothing moves
    /// from what waits to sled meanwhile.
    fn read_some(
        &self,
        from: &Bound<Vec<u8>>,
        end: &[u8],
    ) -> Result<(Items, Option<Vec<u8>>), DiskError> {
        let start = match from {
            Bound::Included(key) | Bound::Excluded(key) => key.as_slice(),
            Bound::Unbounded => &[],
        };
        if start >= end {
            return Ok((Items::new(), None));
        }
        let range = (from.as_ref().map(Vec::as_slice), Bound::Excluded(end));
        let front = self.front();
        let mut items = Items::new();
        let mut reached: Option<Vec<u8>> = None;
        for item in self.db.range::<&[u8], _>(range).take(SCAN) {
            let (key, value) = item.map_err(|e| sled_error("scan", &e))?;
            items.insert(key.to_vec(), Some(value.to_vec()));
        }
        if items.len() == SCAN {
            reached = items.keys().next_back().cloned();
        }
        for waiting in [&front.lasting, &front.brief] {
            let mut read = 0;
            for (key, value) in waiting.writes.range::<[u8], _>(range).take(SCAN) {
                items.insert(key.clone(), value.clone());
                read += 1;
                if read == SCAN && reached.as_ref().is_none_or(|reached| key < reached) {
                    reached = Some(key.clone());
                }
            }
        }
        if let Some(reached) = &reached {
            // What is behind is read again, with what is between.
            let behind = (Bound::Excluded(reached.as_slice()), Bound::Unbounded);
            let behind: Vec<_> = items
                .range::<[u8], _>(behind)
                .map(|(key, _)| key.clone())
                .collect();
            behind.iter().for_each(|key| {
                items.remove(key);
            });
        }
        Ok((items, reached))
    }

    #[cfg(test)]
    pub(super) fn lap(&self) -> u64 {
        self.front().journal.place().lap
    }

    /// Bytes of sled's file. sled itself would look through the directory of large items, and this is asked for often.
    pub(super) fn size(&self) -> u64 {
        self.data.metadata().map_or(0, |data| data.len())
    }

    pub(super) fn journal_size(&self) -> u64 {
        self.journal_bytes.load(Ordering::Relaxed)
    }

    fn note_size(&self, journal: &Journal) {
        self.journal_bytes
            .store(journal.length(), Ordering::Relaxed);
    }

    /// How far the database has the journal.
    fn place(&self) -> Result<Place, DiskError> {
        let place = self.places.get(AT).map_err(|e| sled_error("read", &e))?;
        match place {
            None => Ok(Place::default()),
            Some(bytes) => Place::from_bytes(&bytes)
                .ok_or_else(|| DiskError::Corrupt("the place in the journal".into())),
        }
    }

    fn say_place(&self, place: Place) -> Result<(), DiskError> {
        let said = self.places.insert(AT, &place.to_bytes());
        said.map(drop).map_err(|e| sled_error("write", &e))
    }

    fn put<'a>(
        &self,
        writes: impl IntoIterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>,
    ) -> Result<(), DiskError> {
        for (key, value) in writes {
            match value {
                Some(value) => self.db.insert(key, value.as_slice()),
                None => self.db.remove(key),
            }
            .map_err(|e| sled_error("write", &e))?;
        }
        Ok(())
    }

    fn put_waiting(&self, front: &mut Front) -> Result<(), DiskError> {
        // A crash may leave some of them in sled, and not the first ones: the journal must have what is missing.
        front.journal.sync()?;
        self.put(&front.lasting.take())?;
        self.put(&front.brief.take())?;
        self.say_place(front.journal.place())
    }

    /// In the journal when this returns; sled gets it later.
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
            for write in record {
                self.wait(&mut front, write)?;
            }
        }
        self.note_size(&front.journal);
        Ok(())
    }

    fn wait(&self, front: &mut Front, write: Write) -> Result<(), DiskError> {
        if (self.lasts)(&write.0) {
            front.lasting.put(write);
            return Ok(());
        }
        let removed = write.1.is_none() && front.brief.writes.contains_key(&write.0);
        let is_there = |key: &[u8]| self.db.contains_key(key);
        if removed && !is_there(&write.0).map_err(|e| sled_error("read", &e))? {
            // It has come and gone.
            front.brief.forget(&write.0);
        } else {
            front.brief.put(write);
        }
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), DiskError> {
        {
            let mut front = self.front();
            front.journal.sync()?;
            self.note_size(&front.journal);
        }
        self.sync_growth()
    }

    /// The database alone has everything, and the journal begins anew.
    fn checkpoint(&self, front: &mut Front) -> Result<(), DiskError> {
        self.put_waiting(front)?;
        let place = front.journal.place();
        let next = Place {
            lap: place.lap + 1,
            ..place
        };
        self.say_place(next)?;
        self.sync_database()?;
        front.journal.begin(next);
        Ok(())
    }

    fn sync_database(&self) -> Result<(), DiskError> {
        self.db.flush().map_err(|e| sled_error("flush", &e))?;
        let given = self.look_given()?;
        self.sync_data(given)?;
        self.sync_blobs().map_err(|e| io_error("sync blobs", &e))
    }

    /// sled takes what it has written (with `sync_file_range`) for durable, and uses the place of what that replaces
    /// again. That holds from the next `fdatasync` on the file system, whosever, but not where its file has grown.
    fn sync_growth(&self) -> Result<(), DiskError> {
        let given = self.look_given()?;
        if given == *self.given.lock().expect("no panic while holding it") {
            return Ok(());
        }
        self.sync_data(given)
    }

    fn look_given(&self) -> Result<(u64, u64), DiskError> {
        let data = self
            .data
            .metadata()
            .map_err(|e| io_error("look at db", &e))?;
        Ok((data.len(), data.blocks()))
    }

    fn sync_data(&self, given: (u64, u64)) -> Result<(), DiskError> {
        self.data
            .sync_data()
            .map_err(|e| io_error("fdatasync", &e))?;
        *self.given.lock().expect("no panic while holding it") = given;
        Ok(())
    }

    fn sync_blobs(&self) -> io::Result<()> {
        let mut blobs = self.blobs.lock().expect("no panic while holding it");
        let changed = std::fs::metadata(&blobs.dir)?.modified()?;
        if blobs.seen == Some(changed) {
            return Ok(());
        }
        for entry in std::fs::read_dir(&blobs.dir)? {
            match File::open(entry?.path()) {
                Ok(file) => file.sync_all()?,
                // sled removes blobs in the background.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        File::open(&blobs.dir)?.sync_all()?;
        blobs.seen = Some(changed);
        Ok(())
    }
}
