//! sled and the journal in front of it, while they are open. Every write goes to the journal; sled gets those that are in the
//! journal's file later, many at a time, and then what says how far it is. What a crash leaves of them in sled is written over
//! again from there.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::journal::{self, Journal, Place};
use super::{DiskError, Write, io_error, sled_error};

/// The database while it is open.
pub(super) struct Database {
    pub(super) db: sled::Db,
    /// Of the database: how far it has the journal.
    places: sled::Tree,
    /// A second descriptor of the file that sled writes: `fdatasync` works on the file, not the descriptor.
    data: File,
    /// Held by whoever writes.
    front: Mutex<Front>,
    /// Bytes of the journal's file: it is asked for while a sync holds the journal.
    journal_bytes: AtomicU64,
    /// What the file system has given to sled's file at its last `fdatasync`: length and blocks.
    given: Mutex<(u64, u64)>,
    blobs: Mutex<Blobs>,
}

/// What is written before it is in sled.
struct Front {
    journal: Journal,
    /// The last write of each key that sled does not have yet: whoever waits for a sync need not wait for sled, and of
    /// what is written again and again it gets one.
    pending: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    pending_bytes: usize,
}

/// Writes that may wait for sled, by bytes. The next sync waits while they are given to it: more at a time is a longer wait,
/// fewer is more often the same key.
const PENDING_BYTES: usize = 32 << 10;

/// sled puts items over 128 KiB into files of their own. Records are cut small enough that this does not
/// happen, so that the check is one `stat`; if it happens all the same, those files are synced too.
struct Blobs {
    dir: PathBuf,
    seen: Option<SystemTime>,
}

/// What sled may keep of its pages in memory. The store has all live data in memory already.
const PAGE_CACHE_BYTES: u64 = 16 << 20;

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
    pub(super) fn open(path: &Path, whole: u64) -> Result<Self, DiskError> {
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
                pending: BTreeMap::new(),
                pending_bytes: 0,
            }),
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
        self.put_pending(&mut self.front())
    }

    /// The same if it has become much.
    pub(super) fn settle_much(&self) -> Result<(), DiskError> {
        let mut front = self.front();
        match front.pending_bytes > PENDING_BYTES {
            true => self.put_pending(&mut front),
            false => Ok(()),
        }
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

    fn put_pending(&self, front: &mut Front) -> Result<(), DiskError> {
        if front.pending.is_empty() {
            return Ok(());
        }
        // A crash may leave some of them in sled, and not the first ones: the journal must have what is missing.
        front.journal.sync()?;
        front.pending_bytes = 0;
        self.put(&std::mem::take(&mut front.pending))?;
        self.say_place(front.journal.place())
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
        {
            let mut front = self.front();
            front.journal.sync()?;
            self.note_size(&front.journal);
        }
        self.sync_growth()
    }

    /// The database alone has everything, and the journal begins anew.
    fn checkpoint(&self, front: &mut Front) -> Result<(), DiskError> {
        self.put_pending(front)?;
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
