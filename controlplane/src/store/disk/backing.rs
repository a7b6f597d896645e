//! sled while it is open: what it has, how far that is, and how it is made durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::journal::Place;
use super::{DiskError, io_error, sled_error};

pub(super) struct Backing {
    pub(super) db: sled::Db,
    /// Of the database: how far it has the journal.
    places: sled::Tree,
    /// A second descriptor of the file that sled writes: `fdatasync` works on the file, not the descriptor.
    data: File,
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
const PAGE_CACHE_BYTES: u64 = 16 << 20;

/// The tree and the key of [`Backing::places`].
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

impl Backing {
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let db = open_database(path)?;
        let places = db
            .open_tree(PLACES)
            .map_err(|e| sled_error("open places", &e))?;
        let data = File::open(path.join("db")).map_err(|e| io_error("open db", &e))?;
        Ok(Self {
            db,
            places,
            data,
            given: Mutex::default(),
            blobs: Mutex::new(Blobs {
                dir: path.join("blobs"),
                seen: None,
            }),
        })
    }

    /// Bytes of sled's file. sled itself would look through the directory of large items, and this is asked for often.
    pub(super) fn size(&self) -> u64 {
        self.data.metadata().map_or(0, |data| data.len())
    }

    /// Names and contents of the files that were made are durable when this returns.
    pub(super) fn sync_names(&self, path: &Path) -> Result<(), DiskError> {
        let io = |what: &'static str| move |e: io::Error| io_error(what, &e);
        File::open(path.join("conf"))
            .and_then(|f| f.sync_all())
            .map_err(io("sync conf"))?;
        self.data.sync_all().map_err(io("sync db"))?;
        File::open(path)
            .and_then(|f| f.sync_all())
            .map_err(io("sync directory"))
    }

    /// How far the database has the journal.
    pub(super) fn place(&self) -> Result<Place, DiskError> {
        let place = self.places.get(AT).map_err(|e| sled_error("read", &e))?;
        match place {
            None => Ok(Place::default()),
            Some(bytes) => Place::from_bytes(&bytes)
                .ok_or_else(|| DiskError::Corrupt("the place in the journal".into())),
        }
    }

    pub(super) fn say_place(&self, place: Place) -> Result<(), DiskError> {
        let said = self.places.insert(AT, &place.to_bytes());
        said.map(drop).map_err(|e| sled_error("write", &e))
    }

    pub(super) fn put<'a>(
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

    /// Takes what the journal has up to a place.
    pub(super) fn take<'a>(
        &self,
        writes: impl IntoIterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>,
        place: Place,
    ) -> Result<(), DiskError> {
        // What it has written for what it was given before.
        self.sync_growth()?;
        self.put(writes)?;
        self.say_place(place)?;
        self.sync_growth()
    }

    /// All that it was given is durable when this returns.
    pub(super) fn sync(&self) -> Result<(), DiskError> {
        self.db.flush().map_err(|e| sled_error("flush", &e))?;
        let given = self.look_given()?;
        self.sync_data(given)?;
        self.sync_blobs().map_err(|e| io_error("sync blobs", &e))
    }

    /// sled takes what it has written (with `sync_file_range`) for durable, and uses the place of what that replaces
    /// again. That holds from the next `fdatasync` on the file system, whosever, but not where its file has grown.
    fn sync_growth(&self) -> Result<(), DiskError> {
        let given = self.look_given()?;
        if given == *self.given.lock().unwrap_or_else(PoisonError::into_inner) {
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
        *self.given.lock().unwrap_or_else(PoisonError::into_inner) = given;
        Ok(())
    }

    fn sync_blobs(&self) -> io::Result<()> {
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
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
