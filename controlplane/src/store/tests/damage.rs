//! Damage below the store: bits that changed in sled's own files, and a real file system that is full.

use std::os::unix::fs::FileExt;
use std::path::Path;

use super::*;
use crate::store::member::{Member, Options};
use crate::store::space::Bounds;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).unwrap();
}

async fn contents(store: &Store) -> Vec<String> {
    let response = store.range(all("")).await.unwrap();
    response.items.iter().map(|kv| format!("{kv:?}")).collect()
}

/// sled cuts its log at damage that it meets and goes on with what was before, or with older versions of some
/// pages. The store must not: it is right, or it refuses.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_bit_anywhere_in_the_database_is_harmless_or_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let value = "x".repeat(300);
    for i in 0..600 {
        let txn = put(&format!("k{}", i % 100), &format!("{i} {value}"));
        store.txn(txn).await.unwrap();
    }
    let expected = contents(&store).await;
    store.close().await.unwrap();
    let length = std::fs::metadata(dir.path().join("data/db")).unwrap().len();
    let mut refused = 0;
    for _ in 0..10 {
        let damaged = tempfile::tempdir().unwrap();
        copy(dir.path(), damaged.path());
        // It could mend the database.
        std::fs::remove_file(damaged.path().join("data/journal")).unwrap();
        let at = rand::random_range(0..length);
        flip(&damaged.path().join("data/db"), at);
        match open(damaged.path()).await {
            Ok(store) => {
                assert_eq!(contents(&store).await, expected, "bit flipped at {at}");
                assert_eq!(store.revision(), 600);
                store.close().await.unwrap();
            }
            Err(StoreError::Corrupt(_)) => refused += 1,
            Err(other) => panic!("bit flipped at {at}: {other}"),
        }
    }
    assert!(refused > 0);
}

/// The same after a crash, when the journal has what the database lacks.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_bit_in_database_or_journal_is_harmless_or_refused_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    for i in 0..200 {
        let txn = put(&format!("k{}", i % 100), &format!("{i}"));
        store.txn(txn).await.unwrap();
    }
    let expected = contents(&store).await;
    let crashed = tempfile::tempdir().unwrap();
    copy(dir.path(), crashed.path());
    store.close().await.unwrap();
    for turn in 0..12 {
        let damaged = tempfile::tempdir().unwrap();
        copy(crashed.path(), damaged.path());
        let file = damaged.path().join(["data/db", "data/journal"][turn % 2]);
        let bytes = std::fs::read(&file).unwrap();
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        let at = rand::random_range(0..used) as u64;
        flip(&file, at);
        match open(damaged.path()).await {
            Ok(store) => {
                assert_eq!(contents(&store).await, expected, "{file:?} at {at}");
                assert_eq!(store.revision(), 200);
                store.close().await.unwrap();
            }
            Err(StoreError::Corrupt(_)) => {}
            Err(other) => panic!("{file:?} at {at}: {other}"),
        }
    }
}

/// A small file system of its own; unmounted when dropped.
struct Tmpfs {
    dir: tempfile::TempDir,
}

impl Tmpfs {
    fn mount(bytes: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"])
            .arg(dir.path())
            .status()
            .unwrap();
        assert!(status.success(), "mounting a tmpfs needs root");
        Self { dir }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount")
            .arg("--lazy")
            .arg(self.dir.path())
            .status();
    }
}

async fn open_with_reserve(dir: &Path, reserve: u64) -> Result<Store, StoreError> {
    let config = StoreConfig::alone(dir.to_owned(), 1);
    let options = Options {
        bounds: Bounds {
            reserve,
            ..Bounds::default()
        },
        ..Options::default()
    };
    let member = Member::open(config, options).await?;
    Ok(Store {
        member: Arc::new(member),
    })
}

/// Writes until the disk is full; returns how many writes were acknowledged.
async fn fill(store: &Store) -> usize {
    let value = "x".repeat(20_000);
    for i in 0..10_000 {
        match store.txn(put(&format!("k{i:05}"), &value)).await {
            Ok(_) => {}
            Err(StoreError::DiskFull(_)) => return i,
            Err(other) => panic!("{other}"),
        }
    }
    panic!("the disk was never full");
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_disk_is_full_writes_are_refused_and_reads_go_on() {
    let tmpfs = Tmpfs::mount(24 << 20);
    let store = open_with_reserve(tmpfs.dir.path(), 12 << 20).await.unwrap();
    let written = fill(&store).await;
    assert!(written > 10);
    assert_eq!(store.range(all("k")).await.unwrap().items.len(), written);
    assert!(store.failure().borrow().is_none());
    store.close().await.unwrap();
    // With space again it goes on where it was.
    let store = open_with_reserve(tmpfs.dir.path(), 0).await.unwrap();
    assert_eq!(store.range(all("k")).await.unwrap().items.len(), written);
    store.txn(put("more", "")).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_full_all_the_same_stops_the_member() {
    let tmpfs = Tmpfs::mount(12 << 20);
    let store = open_with_reserve(tmpfs.dir.path(), 0).await.unwrap();
    let written = fill(&store).await;
    assert!(matches!(
        store.get("k00000", Freshness::Local).await,
        Err(StoreError::DiskFull(_))
    ));
    assert!(matches!(store.close().await, Err(StoreError::DiskFull(_))));
    let status = std::process::Command::new("mount")
        .args(["-o", "remount,size=64M"])
        .arg(tmpfs.dir.path())
        .status()
        .unwrap();
    assert!(status.success());
    let store = open_with_reserve(tmpfs.dir.path(), 0).await.unwrap();
    let found = store.range(all("k")).await.unwrap().items.len();
    assert!(
        found == written || found == written + 1,
        "{found} of {written}"
    );
    store.close().await.unwrap();
}
