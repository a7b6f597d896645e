//! A process that imports is killed at any moment: what is in the store afterwards is whole.
#![allow(clippy::unwrap_used)]

use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;
use crate::images::digest::Digest;

const DIRECTORY: &str = "WAGGLE_TEST_CRASH_DIRECTORY";
const IMAGES: u32 = 3;

/// What the killed process does; a test of nothing when it is run among the others.
#[tokio::test]
async fn importer() {
    let Some(dir) = std::env::var_os(DIRECTORY).map(std::path::PathBuf::from) else {
        return;
    };
    let store = ImageStore::open(&dir.join("store")).await.unwrap();
    loop {
        for n in 0..IMAGES {
            let name = format!("localhost/image-{n}");
            store
                .import(&dir.join(format!("layout-{n}")), None)
                .await
                .unwrap();
            store.remove(&name).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_killed_import_leaves_nothing_half() {
    let dir = tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap();
    for n in 0..IMAGES {
        let root = dir.path().join(format!("root-{n}"));
        tree(&root, n);
        // Enough to be killed in the middle of.
        for file in 0..50 {
            fs::write(root.join(format!("file-{file}")), vec![b'x'; 20_000]).unwrap();
        }
        let layout = dir.path().join(format!("layout-{n}"));
        write_layout(&layout, &root, &config(), &format!("localhost/image-{n}")).unwrap();
    }
    let store = dir.path().join("store");
    let mut interrupted = 0;
    for round in 0..200_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "images::tests::crash::importer"])
            .env(DIRECTORY, dir.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        until_busy(&store).await;
        // Not a wait for anything: that the moment is another one each time is the point.
        tokio::time::sleep(Duration::from_millis(round * 7 % 50)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        interrupted += usize::from(!names(&store.join("tmp")).is_empty());
        check(&store).await;
        if interrupted >= 4 && round >= 8 {
            return;
        }
    }
    panic!("no import was interrupted");
}

/// Returns when the other process has begun to import.
async fn until_busy(store: &Path) {
    let busy = async {
        let some = |dir: &str| {
            store
                .join(dir)
                .read_dir()
                .is_ok_and(|mut d| d.next().is_some())
        };
        while !some("tmp") && !some("blobs/sha256") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), busy)
        .await
        .unwrap();
}

/// Every image that is listed is complete and can be mounted; nothing unfinished is left.
async fn check(dir: &Path) {
    let store = ImageStore::open(dir).await.unwrap();
    for blob in names(&dir.join("blobs/sha256")) {
        let bytes = fs::read(dir.join("blobs/sha256").join(&blob)).unwrap();
        assert_eq!(Digest::of(&bytes).hex(), blob);
    }
    for layer in names(&dir.join("layers")) {
        let files = names(&dir.join("layers").join(layer).join("fs"));
        assert_eq!(files.len(), 53, "etc, su, link and the files");
    }
    for image in store.list().await.unwrap() {
        let found = store
            .ensure(&image.reference, PullPolicy::Never, &[])
            .await
            .unwrap();
        assert!(found.layers[0].join("etc/hello").exists());
    }
    assert!(names(&dir.join("tmp")).is_empty());
}
