//! sled and the journal in front of it, while they are open: every write goes to both, in the same order.

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
    /// Held by whoever writes, so that both get all writes in the same order.
    journal: Mutex<Journal>,
    /// Bytes of the journal's file: it is asked for while a sync holds the journal.
    journal_bytes: AtomicU64,
    /// What the file system has given to sled's file at its last `fdatasync`: length and blocks.
    given: Mutex<(u64, u64)>,
    blobs: Mutex<Blobs>,
}

/// sled puts items over 128 KiB into files of their own. Records are cut small enough that this does not
/// happen, so that the check is one `stat`; if it happens all the same, those files are synced too.
struct Blobs {
    dir: PathBuf,
    seen: Option<SystemTime>,
}

/// What sled may keep of its pages in memory. The store has all live data in memory already.
const PAGE_CACHE_BYTES: u64 = 4 << 20;

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
            journal: Mutex::new(journal),
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
            open.put(&record.writes)?;
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
        let journal = open.journal.get_mut();
        journal.unwrap_or_else(PoisonError::into_inner).begin(place);
        Ok(open)
    }

    pub(super) fn journal(&self) -> MutexGuard<'_, Journal> {
        // After a panic of sled nothing is written any more.
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of sled's own files.
    pub(super) fn size(&self) -> u64 {
        self.db.size_on_disk().unwrap_or(0)
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

    fn put(&self, writes: &[Write]) -> Result<(), DiskError> {
        for (key, value) in writes {
            match value {
                Some(value) => self.db.insert(key, value.as_slice()),
                None => self.db.remove(key),
            }
            .map_err(|e| sled_error("write", &e))?;
        }
        Ok(())
    }

    pub(super) fn write(&self, writes: &[Write]) -> Result<(), DiskError> {
        let mut journal = self.journal();
        for record in journal::split(writes) {
            if journal.is_full(record) {
                self.checkpoint(&mut journal)?;
            }
            let place = journal.push(record)?;
            self.put(record)?;
            self.say_place(place)?;
        }
        self.note_size(&journal);
        Ok(())
    }

    pub(super) fn sync(&self) -> Result<(), DiskError> {
        {
            let mut journal = self.journal();
            journal.sync()?;
            self.note_size(&journal);
        }
        self.sync_growth()
    }

    /// The database alone has everything, and the journal begins anew.
    fn checkpoint(&self, journal: &mut Journal) -> Result<(), DiskError> {
        let place = journal.place();
        let next = Place {
            lap: place.lap + 1,
            ..place
        };
        self.say_place(next)?;
        self.sync_database()?;
        journal.begin(next);
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
