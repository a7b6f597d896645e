//! The store as a whole, through its surface.
#![allow(clippy::unwrap_used)]

use super::*;

mod cluster;
mod crash;
mod damage;
mod faults;
mod members;
mod sim;
mod space;
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
    Store::open(StoreConfig::alone(dir.to_owned(), 1)).await
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

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_store_says_so_and_frees_its_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let other = store.clone();
    let mut leadership = store.leadership();
    let failure = store.failure();
    let mut watch = store.watch("", 0).unwrap();
    let second = open(dir.path()).await.unwrap_err();
    assert!(matches!(second, StoreError::Locked { .. }), "{second}");
    store.close().await.unwrap();
    assert_eq!(watch.next().await.unwrap_err(), WatchEnd::Closed);
    assert_eq!(
        other.txn(put("a", "1")).await.unwrap_err(),
        StoreError::Closed
    );
    let read = other.get("a", Freshness::Local).await;
    assert_eq!(read.unwrap_err(), StoreError::Closed);
    assert_eq!(other.watch("", 0).unwrap_err(), StoreError::Closed);
    leadership.wait_for(|leads| !leads).await.unwrap();
    // Closing is no failure.
    assert!(failure.borrow().is_none());
    open(dir.path()).await.unwrap().close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_members_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await.unwrap().close().await.unwrap();
    let config = StoreConfig::alone(dir.path().to_owned(), 2);
    let error = Store::open(config).await.unwrap_err();
    assert!(error.to_string().contains("belongs to member 1"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_compare_and_are_validated() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let create = |value: &str| Txn {
        compares: vec![Compare {
            key: "a".into(),
            mod_revision: 0,
        }],
        ..put("a", value)
    };
    assert_eq!(committed(store.txn(create("1")).await.unwrap()), 1);
    match store.txn(create("2")).await.unwrap() {
        TxnOutcome::Conflict { compare, current } => {
            assert_eq!(compare.key, "a");
            assert_eq!(&current.unwrap().value[..], b"1");
        }
        other => panic!("{other:?}"),
    }
    // What changes nothing gets no revision.
    assert_eq!(committed(store.txn(delete("none")).await.unwrap()), 1);
    assert_eq!(committed(store.txn(Txn::default()).await.unwrap()), 1);
    let mut twice = put("b", "1");
    twice.ops.push(Op::Delete { key: "b".into() });
    let huge = put("b", &"x".repeat(MAX_TXN));
    for txn in [
        twice,
        huge,
        put("", ""),
        put("a\0b", ""),
        delete(&"k".repeat(MAX_KEY + 1)),
    ] {
        let error = store.txn(txn).await.unwrap_err();
        assert!(matches!(error, StoreError::InvalidTxn(_)), "{error}");
    }
    assert_eq!(store.revision(), 1);
    // Large, but allowed; found again after a restart.
    let large = "x".repeat(MAX_TXN - 1_000);
    store.txn(put("large", &large)).await.unwrap();
    store.close().await.unwrap();
    let store = open(dir.path()).await.unwrap();
    let kv = store
        .get("large", Freshness::Linearizable)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(kv.value.len(), large.len());
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_forgets_and_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    for i in 0..20 {
        store
            .txn(put(&format!("k{}", i % 4), &i.to_string()))
            .await
            .unwrap();
    }
    store.compact(15).await.unwrap();
    let future = store.compact(21).await.unwrap_err();
    assert!(matches!(future, StoreError::FutureRevision { .. }));
    for reopened in [false, true] {
        let store = match reopened {
            false => store.clone(),
            true => {
                store.clone().close().await.unwrap();
                open(dir.path()).await.unwrap()
            }
        };
        let gone = StoreError::Compacted {
            requested: 14,
            oldest: 15,
        };
        assert_eq!(store.watch("", 14).unwrap_err(), gone);
        let old = RangeRequest {
            revision: Some(14),
            ..all("")
        };
        assert_eq!(store.range(old.clone()).await.unwrap_err(), gone);
        let (events, _) = store.watch("", 15).unwrap().next().await.unwrap();
        assert_eq!(events.len(), 5);
        let old = RangeRequest {
            revision: Some(15),
            ..old
        };
        let items = store.range(old).await.unwrap().items;
        let values: Vec<_> = items.iter().map(|kv| kv.value.clone()).collect();
        assert_eq!(values, ["12", "13", "14", "11"]);
        if reopened {
            store.close().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_say_what_happened() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let mut registry = prometheus_client::registry::Registry::default();
    store.register_metrics(&mut registry);
    let _watch = store.watch("a", 0).unwrap();
    store.txn(put("a", "1")).await.unwrap();
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for expected in [
        "waggle_store_revision 1\n",
        "waggle_store_keys 1\n",
        "waggle_store_watchers 1\n",
        "waggle_store_transactions_total 1\n",
        "waggle_store_transactions_per_entry_count 1\n",
    ] {
        assert!(text.contains(expected), "{expected} not in {text}");
    }
    let syncs = text
        .lines()
        .find(|l| l.starts_with("waggle_store_disk_sync_seconds_count"));
    assert!(!syncs.unwrap().ends_with(" 0"));
    store.close().await.unwrap();
}

/// Reads a watch of everything until `last`: every revision once, in order.
async fn follow(store: Store, mut after: Revision, last: Revision) {
    let mut watch = loop {
        match store.watch("", after) {
            Ok(watch) => break watch,
            Err(StoreError::Compacted { oldest, .. }) => after = oldest,
            Err(other) => panic!("{other}"),
        }
    };
    while after < last {
        let (events, complete) = watch.next().await.unwrap();
        for event in events {
            assert_eq!(event.revision(), after + 1);
            after += 1;
        }
        assert_eq!(complete, after);
        assert!(watch.progress() >= after);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn watches_opened_under_load_miss_nothing() {
    const WRITERS: u64 = 8;
    const WRITES: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await.unwrap();
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            for i in 0..WRITES {
                let txn = put(&format!("k{writer}/{}", i % 5), &i.to_string());
                let revision = committed(store.txn(txn).await.unwrap());
                if i % 10 == 5 {
                    // From somewhere in the past, the present, and what is compacted meanwhile.
                    let after = revision.saturating_sub(i * writer);
                    tokio::spawn(follow(store.clone(), after, WRITERS * WRITES));
                    let last = follow(store.clone(), after, revision);
                    last.await;
                }
                if i % 25 == 24 {
                    store.compact(revision / 2).await.unwrap();
                }
            }
        }));
    }
    tasks.push(tokio::spawn(follow(store.clone(), 0, WRITERS * WRITES)));
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(store.revision(), WRITERS * WRITES);
    store.close().await.unwrap();
}
