//! The disk as the store sees it: an ordered map of bytes whose writes survive as a prefix.
//!
//! Two promises are asked of an implementation, and everything above is built on them: after a crash the
//! writes that are found are a prefix of the writes that were made, and everything written before a
//! successful [`Disk::sync`] is among them. There is no atomic batch on purpose: with prefixes the order of
//! the writes is enough. What the bytes mean is decided in `record.rs`.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use self::database::Database;

mod backing;
mod database;
#[cfg(test)]
pub(super) mod fake;
mod feeder;
mod journal;
mod rewrite;

/// One write: the value of a key, or its removal.
pub(super) type Write = (Vec<u8>, Option<Vec<u8>>);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DiskError {
    #[error("disk full: {0}")]
    Full(String),
    #[error("{0}")]
    Io(String),
    #[error("corrupt data: {0}")]
    Corrupt(String),
}

pub(super) trait Disk: Send + Sync + 'static {
    #[cfg(test)]
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError>;

    /// Visits `start..end` in order until `visit` returns false.
    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError>;

    /// The same of keys alone: their values are not looked at.
    fn scan_keys(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<(), DiskError> {
        self.scan(start, end, &mut |key, _| visit(key))
    }

    /// Makes the writes in order; readable on return, durable after the next `sync`.
    fn write(&self, writes: Vec<Write>) -> Result<(), DiskError>;

    /// Everything written until now survives loss of power once this returns.
    fn sync(&self) -> Result<(), DiskError>;

    /// Does what is left to do for what was written, if that has become much.
    fn settle(&self) -> Result<(), DiskError> {
        Ok(())
    }

    /// Bytes that can still be written to the file system, where that can be known.
    fn available(&self) -> Option<u64>;

    /// Bytes in use.
    fn size(&self) -> u64;

    /// Whether more than half of what is in use holds nothing any more, and is worth to be given back. Now and then it is
    /// counted; between those times the answer is no.
    fn is_mostly_garbage(&self) -> Result<bool, DiskError> {
        Ok(false)
    }

    /// Gives back the space of what was removed. Writers wait meanwhile. How many bytes it took before and takes now.
    fn defragment(&self) -> Result<(u64, u64), DiskError> {
        Ok((self.size(), self.size()))
    }

    /// Whether it may be read without a thread that may wait.
    fn is_memory(&self) -> bool {
        false
    }
}

/// sled below a directory, behind a journal that makes durable what is written.
pub(super) struct SledDisk {
    path: PathBuf,
    sizes: Sizes,
    /// `None` while it is rewritten, and if it could not be opened again.
    open: RwLock<Option<Database>>,
    /// When the file was last looked at for garbage, and its bytes then.
    looked_at: Mutex<Option<(Instant, u64)>>,
}

/// What tests vary.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Bytes of the journal when it has grown.
    pub(super) journal: u64,
    /// A database of fewer bytes is never rewritten by itself.
    pub(super) rewritten: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            journal: journal::WHOLE,
            rewritten: rewrite::LEAST,
        }
    }
}

impl SledDisk {
    /// Opens or creates the database in `path`, which only this process may use (see `directory.rs`).
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        Self::open_with(path, Sizes::default())
    }

    pub(super) fn open_with(path: &Path, sizes: Sizes) -> Result<Self, DiskError> {
        rewrite::recover(path).map_err(|e| io_error("what a rewriting has left", &e))?;
        if path.join("db").exists() {
            // This process may have closed it a moment ago.
            rewrite::await_release(path)?;
        }
        Ok(Self {
            path: path.to_owned(),
            sizes,
            open: RwLock::new(Some(Database::open(path, sizes.journal)?)),
            looked_at: Mutex::default(),
        })
    }

    fn looked_at(&self) -> MutexGuard<'_, Option<(Instant, u64)>> {
        self.looked_at.lock().expect("no panic while holding it")
    }

    /// Bytes of sled's own files.
    fn database_size(&self) -> u64 {
        self.with(|open| Ok(open.size())).unwrap_or(0)
    }

    fn with<T>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, DiskError>,
    ) -> Result<T, DiskError> {
        // A panic of sled in there is its own failure, and is told by whoever was there.
        let open = self.open.read().unwrap_or_else(PoisonError::into_inner);
        match &*open {
            Some(open) => work(open),
            None => Err(DiskError::Io("the database is not open any more".into())),
        }
    }
}

impl Disk for SledDisk {
    #[cfg(test)]
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        self.with(|open| {
            open.settle()?;
            let value = open.sled().get(key).map_err(|e| sled_error("read", &e))?;
            Ok(value.map(|v| v.to_vec()))
        })
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        self.with(|open| {
            open.settle_range(start, end)?;
            for item in open.sled().range(start..end) {
                let (key, value) = item.map_err(|e| sled_error("scan", &e))?;
                if !visit(&key, &value) {
                    break;
                }
            }
            Ok(())
        })
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), DiskError> {
        self.with(|open| open.write(writes))
    }

    fn sync(&self) -> Result<(), DiskError> {
        self.with(Database::sync)
    }

    fn settle(&self) -> Result<(), DiskError> {
        self.with(Database::settle_much)
    }

    fn available(&self) -> Option<u64> {
        available_bytes(&self.path)
    }

    fn size(&self) -> u64 {
        self.with(|open| Ok(open.size() + open.journal_size()))
            .unwrap_or(0)
    }

    fn is_mostly_garbage(&self) -> Result<bool, DiskError> {
        let size = self.database_size();
        if size < self.sizes.rewritten {
            return Ok(false);
        }
        {
            let mut looked_at = self.looked_at();
            let last = looked_at.map(|(at, size)| (at.elapsed(), size));
            if !rewrite::is_worth_a_look(size, last) {
                return Ok(false);
            }
            *looked_at = Some((Instant::now(), size));
        }
        let live = self.with(live)?;
        Ok(rewrite::is_worth(size, live))
    }

    /// Nobody else may write meanwhile (`sealed.rs` sees to it).
    fn defragment(&self) -> Result<(u64, u64), DiskError> {
        let before = self.size();
        let live = self.with(live)?;
        if self.available().is_some_and(|free| free < 2 * live) {
            let why = format!("a copy of {live} bytes has no room");
            return Err(DiskError::Full(why));
        }
        let new = rewrite::new_path(&self.path);
        if let Err(error) = self.with(|open| rewrite::copy(open.sled(), &new)) {
            // A start would remove it too; until then it takes room.
            let _ = std::fs::remove_dir_all(&new);
            return Err(error);
        }
        {
            let mut open = self.open.write().unwrap_or_else(PoisonError::into_inner);
            *open = None;
            rewrite::swap(&self.path)?;
            *open = Some(Database::open(&self.path, self.sizes.journal)?);
        }
        rewrite::forget(&self.path)?;
        *self.looked_at() = Some((Instant::now(), self.database_size()));
        Ok((before, self.size()))
    }
}

/// Bytes of what it holds, all of which sled has then.
fn live(open: &Database) -> Result<u64, DiskError> {
    open.settle()?;
    rewrite::live(open.sled())
}

fn available_bytes(path: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).ok()?;
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: `path` is a NUL-terminated string and `stat` points to memory for one statvfs.
    let result = unsafe { libc::statvfs(path.as_ptr(), stat.as_mut_ptr()) };
    if result != 0 {
        return None;
    }
    // SAFETY: statvfs succeeded, so it has filled the structure.
    let stat = unsafe { stat.assume_init() };
    Some(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Opens a file for reading and writing, which nobody but its owner may read. It is made if it is not there.
pub(super) fn open_or_make(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn io_error(what: &str, error: &io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            DiskError::Full(format!("{what}: {error}"))
        }
        _ => DiskError::Io(format!("{what}: {error}")),
    }
}

fn sled_error(what: &str, error: &sled::Error) -> DiskError {
    match error {
        sled::Error::Io(e) => io_error(what, e),
        sled::Error::Corruption { at, .. } => DiskError::Corrupt(format!("{what}: sled at {at:?}")),
        other => DiskError::Io(format!("{what}: {other}")),
    }
}
