//! A file is read as it was written or refused; a cluster made of it has everything and goes on.
#![allow(clippy::unwrap_used)]

use super::*;
use crate::store::tests::{all, committed, delete, open as open_store, put};
use crate::store::{Freshness, RangeRequest, Store};

async fn filled(dir: &Path) -> Store {
    let store = open_store(dir).await.unwrap();
    for i in 0..50 {
        let value = format!("{i} {}", "x".repeat(i * 200));
        store
            .txn(put(&format!("k{}", i % 20), &value))
            .await
            .unwrap();
    }
    store.txn(delete("k3")).await.unwrap();
    store
}

async fn file_of(store: &Store) -> Vec<u8> {
    let pieces = store.backup(Freshness::Linearizable).await.unwrap();
    pieces.flat_map(|piece| piece.to_vec()).collect()
}

async fn contents(store: &Store) -> Vec<(String, Bytes, u64)> {
    let items = store.range(all("")).await.unwrap().items;
    let of = |kv: &std::sync::Arc<crate::store::KeyValue>| {
        (kv.key.to_string(), kv.value.clone(), kv.mod_revision)
    };
    items.iter().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_cluster_has_what_was_saved_and_no_revision_comes_twice() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(&dir.path().join("old")).await;
    let saved = contents(&store).await;
    let path = dir.path().join("file");
    std::fs::write(&path, file_of(&store).await).unwrap();
    store.txn(put("later", "1")).await.unwrap();
    store.close().await.unwrap();
    let info = inspect(&path).unwrap();
    assert_eq!((info.revision, info.keys), (51, 19));

    let new = dir.path().join("new");
    assert_eq!(restore(&path, &new).unwrap(), info);
    let card = Card::read(&new).unwrap().unwrap();
    assert_ne!(card.cluster, "");
    for _ in 0..2 {
        let store = open_store(&new).await.unwrap();
        assert_eq!(contents(&store).await, saved);
        // Who knows the old cluster is told to begin anew.
        for known in [10, 51, 52] {
            let error = store.watch("", known).unwrap_err();
            assert!(matches!(error, StoreError::Compacted { .. }), "{error}");
        }
        store.close().await.unwrap();
    }
    let store = open_store(&new).await.unwrap();
    let revision = committed(store.txn(put("k1", "new")).await.unwrap());
    assert_eq!(revision, 51 + AHEAD + 1);
    let old = RangeRequest {
        revision: Some(51 + AHEAD),
        ..all("")
    };
    assert_eq!(store.range(old).await.unwrap().items.len(), 19);
    store.close().await.unwrap();
    let error = restore(&path, &new).unwrap_err();
    assert!(
        error.to_string().contains("holds a store already"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_cut_changed_or_of_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path()).await;
    let file = file_of(&store).await;
    store.close().await.unwrap();
    assert!(read(file.as_slice()).is_ok());
    for length in (0..file.len()).step_by(997).chain([file.len() - 1]) {
        assert!(read(&file[..length]).is_err(), "{length}");
    }
    for at in (0..file.len()).step_by(1_009) {
        let mut changed = file.clone();
        changed[at] ^= 0x20;
        assert!(read(changed.as_slice()).is_err(), "{at}");
    }
    let other = String::from_utf8_lossy(&file[..18]).replace('1', "7");
    let other = [other.as_bytes(), &file[18..]].concat();
    let error = read(other.as_slice()).unwrap_err().to_string();
    assert!(
        error.contains("format 7, this version of waggle knows format 1"),
        "{error}"
    );
    assert!(read(&b"something else entirely, and long enough"[..]).is_err());
}
