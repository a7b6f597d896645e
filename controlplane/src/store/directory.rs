//! The store's directory: who holds it, which format it has, and how far its log must reach.
//!
//! ```text
//! lock       held (flock) by the process that serves the store; names that process
//! format     "waggle-store 2", written before anything else
//! watermark  index of the last log entry known to be durable
//! data/      the database (`disk.rs`)
//! ```
//! The watermark is written after each group commit, without a sync of its own. It therefore says too little
//! after a loss of power but never too much, and a database that has lost the end of its log is noticed.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::StoreError;
use super::disk::{DiskError, open_or_make};

const FORMAT_NAME: &str = "waggle-store";
const FORMAT_VERSION: u32 = 2;
/// Without a journal (`disk/journal.rs`). An older version would not look for what is in one, so it is told.
const WITHOUT_JOURNAL: u32 = 1;

/// The locked directory. The lock ends when this is dropped, and with the process in any case.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Creates the directory where it is missing, locks it and checks its format.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let storage = |what: &str, e: io::Error| {
            StoreError::Storage(format!("{what} in {}: {e}", path.display()))
        };
        create(path).map_err(|e| storage("create directory", e))?;
        let lock = lock(path)?;
        let directory = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        directory.check_format()?;
        Ok(directory)
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The files made in it until now keep their names after loss of power.
    pub(super) fn sync(&self) -> Result<(), StoreError> {
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(|e| StoreError::Storage(format!("sync {}: {e}", self.path.display())))
    }

    fn check_format(&self) -> Result<(), StoreError> {
        let path = self.path.join("format");
        let corrupt = |why: String| StoreError::Corrupt(format!("{}: {why}", path.display()));
        match std::fs::read_to_string(&path) {
            Ok(text) => match parse_format(&text) {
                Some(FORMAT_VERSION) => Ok(()),
                Some(WITHOUT_JOURNAL) => self.write_format(),
                Some(found) => Err(StoreError::Format {
                    dir: self.path.clone(),
                    found,
                    known: FORMAT_VERSION,
                }),
                None => Err(corrupt("not a format record of this store".into())),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound && !self.data().exists() => {
                self.write_format()
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Err(corrupt("missing, though there is data".into()))
            }
            Err(e) => Err(corrupt(e.to_string())),
        }
    }

    fn write_format(&self) -> Result<(), StoreError> {
        let text = format!("{FORMAT_NAME} {FORMAT_VERSION}\n");
        write_durably(&self.path, "format", text.as_bytes()).map_err(|e| {
            StoreError::Storage(format!("write the format in {}: {e}", self.path.display()))
        })
    }

    pub(super) fn watermark(&self) -> Result<Watermark, StoreError> {
        let path = self.path.join("watermark");
        let storage =
            |e: io::Error| StoreError::Storage(format!("watermark {}: {e}", path.display()));
        let file = open_or_make(&path).map_err(storage)?;
        let mut bytes = Vec::new();
        (&file).take(64).read_to_end(&mut bytes).map_err(storage)?;
        let index = match parse_watermark(&bytes) {
            Ok(index) => index,
            Err(why) => {
                return Err(StoreError::Corrupt(format!("{}: {why}", path.display())));
            }
        };
        Ok(Watermark {
            file: Some(file),
            index,
        })
    }
}

/// Creates the directory and those above it, so that their names survive loss of power too.
pub(super) fn create(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let missing = path.ancestors().take_while(|dir| !dir.exists());
    let parents: Vec<&Path> = missing.filter_map(Path::parent).collect();
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)?;
    for parent in parents {
        let parent = match parent.as_os_str().is_empty() {
            true => Path::new("."),
            false => parent,
        };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let lock_path = path.join("lock");
    let storage = |e: io::Error| StoreError::Storage(format!("{}: {e}", lock_path.display()));
    let mut file = open_or_make(&lock_path).map_err(storage)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            // The name is a courtesy: without it the error is as true.
            let _ = (&mut file).take(256).read_to_string(&mut holder);
            let holder = match holder.trim() {
                "" => "another process".to_owned(),
                name => name.to_owned(),
            };
            return Err(StoreError::Locked {
                dir: path.to_owned(),
                holder,
            });
        }
        Err(TryLockError::Error(e)) => return Err(storage(e)),
    }
    let program = std::env::current_exe()
        .ok()
        .and_then(|exe| Some(exe.file_name()?.to_string_lossy().into_owned()))
        .unwrap_or_else(|| "unknown program".into());
    let name = format!("process {} ({program})\n", std::process::id());
    file.set_len(0)
        .and_then(|()| file.write_all(name.as_bytes()))
        .map_err(storage)?;
    Ok(file)
}

fn parse_format(text: &str) -> Option<u32> {
    let (name, version) = text.trim_end().split_once(' ')?;
    (name == FORMAT_NAME)
        .then(|| version.parse().ok())
        .flatten()
}

/// Writes a file that is either not there or complete, also after loss of power.
pub(super) fn write_durably(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = dir.join(format!("{name}.new"));
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, dir.join(name))?;
    File::open(dir)?.sync_all()
}

/// The index that the log must reach when it is opened again.
#[derive(Debug)]
pub(super) struct Watermark {
    /// None keeps it in memory only, for tests with a fake disk.
    file: Option<File>,
    index: u64,
}

impl Watermark {
    #[cfg(test)]
    pub(super) fn in_memory(index: u64) -> Self {
        Self { file: None, index }
    }

    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Entries up to `index` are durable.
    pub(super) fn raise(&mut self, index: u64) -> Result<(), DiskError> {
        if index > self.index {
            self.store(index)?;
        }
        Ok(())
    }

    /// Entries after `index` may be gone from now on.
    pub(super) fn lower(&mut self, index: u64) -> Result<(), DiskError> {
        if index < self.index {
            self.store(index)?;
            if let Some(file) = &self.file {
                file.sync_data().map_err(watermark_error)?;
            }
        }
        Ok(())
    }

    fn store(&mut self, index: u64) -> Result<(), DiskError> {
        self.index = index;
        match &self.file {
            Some(file) => file
                .write_all_at(&encode_watermark(index), 0)
                .map_err(watermark_error),
            None => Ok(()),
        }
    }
}

fn watermark_error(error: io::Error) -> DiskError {
    match error.kind() {
        io::ErrorKind::StorageFull => DiskError::Full(format!("watermark: {error}")),
        _ => DiskError::Io(format!("watermark: {error}")),
    }
}

/// Within one sector, so that it is never torn.
fn encode_watermark(index: u64) -> [u8; 12] {
    let index = index.to_be_bytes();
    let mut bytes = [0; 12];
    bytes[..8].copy_from_slice(&index);
    bytes[8..].copy_from_slice(&crc32fast::hash(&index).to_be_bytes());
    bytes
}

fn parse_watermark(bytes: &[u8]) -> Result<u64, &'static str> {
    // A new file; or its first write was lost with the power, which leaves nothing or zeros.
    if bytes.iter().all(|b| *b == 0) {
        return Ok(0);
    }
    let bytes: [u8; 12] = bytes.try_into().map_err(|_| "wrong length")?;
    let (index, checksum) = bytes.split_at(8);
    if crc32fast::hash(index).to_be_bytes() != checksum {
        return Err("wrong checksum");
    }
    Ok(u64::from_be_bytes(index.try_into().expect("eight bytes")))
}

#[cfg(test)]
mod tests;
