//! The database is made anew to give space back: sled uses again what it has freed, but hardly ever makes its file smaller.
//!
//! ```text
//! data       the database
//! data.new   a copy that is under way; of no worth while `data` is there
//! data.old   what was replaced; of no worth once `data` is there
//! ```
//! The copy is whole and durable before the first name changes, so a start finds one of the two whatever happened.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::backing::{open_database, sync_files};
use super::{DiskError, io_error, sled_error};

/// A file that is smaller is left alone.
pub(super) const LEAST: u64 = 64 << 20;
/// To look costs reading all of it.
const LOOK_AGAIN: Duration = Duration::from_secs(3_600);
/// How long the old database may take to let go of its files.
const RELEASE: Duration = Duration::from_secs(10);

/// Whether it may be worth to look: how long ago that was done last, and what size the file had then.
pub(super) fn is_worth_a_look(size: u64, last: Option<(Duration, u64)>) -> bool {
    last.is_none_or(|(ago, then)| size / 2 >= then || ago >= LOOK_AGAIN)
}

/// Whether more than half of the file is garbage.
pub(super) fn is_worth(size: u64, live: u64) -> bool {
    live < size / 2
}

pub(super) fn new_path(path: &Path) -> PathBuf {
    path.with_extension("new")
}

fn old_path(path: &Path) -> PathBuf {
    path.with_extension("old")
}

/// Before the database is opened: what a rewriting that was interrupted has left.
pub(super) fn recover(path: &Path) -> io::Result<()> {
    let (new, old) = (new_path(path), old_path(path));
    if !path.exists() && old.exists() {
        // It was between the two names.
        let whole = if new.exists() { &new } else { &old };
        std::fs::rename(whole, path)?;
        sync_parent(path)?;
    }
    for left in [new, old] {
        if left.exists() {
            std::fs::remove_dir_all(left)?;
        }
    }
    Ok(())
}

/// Bytes of keys and values.
pub(super) fn live(db: &sled::Db) -> Result<u64, DiskError> {
    let mut sum = 0;
    for item in db.iter() {
        let (key, value) = item.map_err(|e| sled_error("scan", &e))?;
        sum += (key.len() + value.len()) as u64;
    }
    Ok(sum)
}

/// Everything, durable, in a database of its own, which is closed again.
pub(super) fn copy(from: &sled::Db, to: &Path) -> Result<(), DiskError> {
    if to.exists() {
        std::fs::remove_dir_all(to).map_err(|e| io_error("remove an old copy", &e))?;
    }
    let db = open_database(to)?;
    for name in from.tree_names() {
        let open = |db: &sled::Db| db.open_tree(&name).map_err(|e| sled_error("open", &e));
        let (source, copy) = (open(from)?, open(&db)?);
        for item in source.iter() {
            let (key, value) = item.map_err(|e| sled_error("scan", &e))?;
            copy.insert(key, value)
                .map_err(|e| sled_error("copy", &e))?;
        }
    }
    db.flush().map_err(|e| sled_error("flush", &e))?;
    drop(db);
    await_release(to)?;
    sync_files(to).map_err(|e| io_error("sync the copy", &e))
}

/// Puts the copy in the place of the database, which must be closed.
pub(super) fn swap(path: &Path) -> Result<(), DiskError> {
    await_release(path)?;
    let swap = || {
        std::fs::rename(path, old_path(path))?;
        std::fs::rename(new_path(path), path)?;
        sync_parent(path)
    };
    swap().map_err(|e| io_error("put the copy in place", &e))
}

pub(super) fn forget(path: &Path) -> Result<(), DiskError> {
    std::fs::remove_dir_all(old_path(path)).map_err(|e| io_error("remove the old database", &e))
}

fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

/// sled's own tasks may hold a database for a moment after it was dropped, and write beside it by its path. While they do
/// its file is locked.
pub(super) fn await_release(path: &Path) -> Result<(), DiskError> {
    let started = Instant::now();
    loop {
        let file = File::open(path.join("db")).map_err(|e| io_error("open db", &e))?;
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(std::fs::TryLockError::WouldBlock) if started.elapsed() < RELEASE => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(error) => return Err(DiskError::Io(format!("the database stays open: {error}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::super::{Disk, SledDisk};
    use super::*;

    fn fill(disk: &SledDisk, keys: std::ops::Range<u32>, fill: u8) {
        let writes = keys.map(|n| (n.to_be_bytes().to_vec(), Some(vec![fill; 8_000])));
        disk.write(writes.collect()).unwrap();
        disk.sync().unwrap();
    }

    fn contents(disk: &SledDisk) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        let keep = &mut |key: &[u8], value: &[u8]| {
            all.push((key.to_vec(), value.to_vec()));
            true
        };
        disk.scan(&[], &[0xff; 8], keep).unwrap();
        all
    }

    #[test]
    fn a_file_full_of_garbage_becomes_small_and_keeps_what_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let disk = SledDisk::open(&path).unwrap();
        fill(&disk, 0..2_000, 1);
        let removals = (10..2_000_u32).map(|n| (n.to_be_bytes().to_vec(), None));
        disk.write(removals.collect()).unwrap();
        disk.sync().unwrap();
        let kept = contents(&disk);
        assert_eq!(kept.len(), 10);
        assert!(
            !disk.is_mostly_garbage().unwrap(),
            "it is too small to care"
        );
        let (before, after) = disk.defragment().unwrap();
        assert!(after < before / 4, "{before} {after}");
        assert_eq!(disk.size(), after);
        assert_eq!(contents(&disk), kept);
        // It goes on like any other, also after a start.
        fill(&disk, 100..120, 2);
        drop(disk);
        let disk = SledDisk::open(&path).unwrap();
        assert_eq!(contents(&disk).len(), 30);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_start_finds_a_whole_database_wherever_it_was_interrupted() {
        for step in 0..4 {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("data");
            let disk = SledDisk::open(&path).unwrap();
            fill(&disk, 0..20, 1);
            let kept = contents(&disk);
            if step > 0 {
                disk.with(|open| copy(open.sled(), &new_path(&path)))
                    .unwrap();
            }
            drop(disk);
            match step {
                // Half a copy.
                1 => std::fs::remove_file(new_path(&path).join("conf")).unwrap(),
                2 => std::fs::rename(&path, old_path(&path)).unwrap(),
                3 => swap(&path).unwrap(),
                _ => {}
            }
            let disk = SledDisk::open(&path).unwrap();
            assert_eq!(contents(&disk), kept, "step {step}");
            drop(disk);
            assert_eq!(
                std::fs::read_dir(dir.path()).unwrap().count(),
                1,
                "step {step}"
            );
        }
    }

    #[test]
    fn what_was_just_closed_is_opened_again_when_its_last_holder_lets_go() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        drop(SledDisk::open(&path).unwrap());
        // As one of sled's tasks that is late.
        let holder = File::open(path.join("db")).unwrap();
        holder.lock().unwrap();
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            drop(holder);
        });
        SledDisk::open(&path).unwrap();
        late.join().unwrap();
    }

    #[test]
    fn a_file_is_looked_at_when_it_has_doubled_or_after_an_hour() {
        let soon = Duration::from_secs(60);
        assert!(is_worth_a_look(100, None));
        assert!(!is_worth_a_look(150, Some((soon, 100))));
        assert!(is_worth_a_look(200, Some((soon, 100))));
        assert!(is_worth_a_look(100, Some((LOOK_AGAIN, 100))));
        assert!(is_worth(100, 49) && !is_worth(100, 50));
    }
}
