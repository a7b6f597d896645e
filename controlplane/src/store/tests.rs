//! The store as a whole, through its surface.
#![allow(clippy::unwrap_used)]

use super::*;

mod crash;
mod damage;
mod faults;
mod members;
mod suite;

pub(super) fn put(key: &str, value: &str) -> Txn {
    Txn {
        compares: Vec::new(),
        ops: vec![Op::Put {
            key: key.into(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        }],
    }
}

pub(super) fn delete(key: &str) -> Txn {
    Txn {
        compares: Vec::new(),
        ops: vec![Op::Delete { key: key.into() }],
    }
}

pub(super) fn all(prefix: &str) -> RangeRequest {
    RangeRequest {
        prefix: prefix.into(),
        after: None,
        limit: 0,
        revision: None,
        freshness: Freshness::Linearizable,
    }
}

pub(super) async fn open(dir: &std::path::Path) -> Result<Store, StoreError> {
    Store::open(StoreConfig {
        dir: dir.to_owned(),
        node_id: 1,
    })
    .await
}

pub(super) fn committed(outcome: TxnOutcome) -> Revision {
    match outcome {
        TxnOutcome::Committed { revision, .. } => revision,
        TxnOutcome::Conflict { compare, current } => {
            panic!("conflict on {compare:?}: {current:?}")
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_are_read_watched_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    assert!(*store.leadership().borrow());
    let mut watch = store.watch("/a/", 0).unwrap();
    assert_eq!(committed(store.txn(put("/a/x", "1")).await.unwrap()), 1);
    assert_eq!(committed(store.txn(put("/b/x", "2")).await.unwrap()), 2);
    assert_eq!(committed(store.txn(put("/a/x", "3")).await.unwrap()), 3);
    assert_eq!(committed(store.txn(delete("/a/x")).await.unwrap()), 4);
    let mut seen = Vec::new();
    while watch.progress() < 4 || seen.len() < 3 {
        let (events, _) = watch.next().await.unwrap();
        seen.extend(events.iter().map(WatchEvent::revision));
    }
    assert_eq!(seen, [1, 3, 4]);
    store.close().await.unwrap();

    let store = open(dir.path()).await.unwrap();
    assert_eq!(store.revision(), 4);
    assert!(
        store
            .get("/a/x", Freshness::Linearizable)
            .await
            .unwrap()
            .is_none()
    );
    let kv = store.get("/b/x", Freshness::Local).await.unwrap().unwrap();
    assert_eq!((&kv.value[..], kv.mod_revision), (&b"2"[..], 2));
    let old = RangeRequest {
        revision: Some(3),
        ..all("/a/")
    };
    let old = store.range(old).await.unwrap();
    assert_eq!(&old.items[0].value[..], b"3");
    let (events, revision) = store.watch("/a/", 1).unwrap().next().await.unwrap();
    assert_eq!((events.len(), revision), (2, 4));
    store.close().await.unwrap();
}
