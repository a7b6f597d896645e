//! Disks that fail, fill up, lose power or lie: nothing acknowledged is lost, nothing wrong is served.

use proptest::prelude::*;

use super::*;
use crate::store::disk::fake::FakeDisk;
use crate::store::member::{Member, Options};
use crate::store::record::keyspace;

async fn open_on(disk: &FakeDisk) -> Result<Store, StoreError> {
    open_at(disk, 0).await
}

async fn open_at(disk: &FakeDisk, watermark: u64) -> Result<Store, StoreError> {
    let member = Member::open_on(Arc::new(disk.clone()), watermark, Options::default()).await?;
    Ok(Store {
        member: Arc::new(member),
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_whose_sync_fails_is_not_acknowledged_and_the_member_stops() {
    let disk = FakeDisk::default();
    let store = open_on(&disk).await.unwrap();
    let mut failure = store.failure();
    let mut watch = store.watch("", 0).unwrap();
    store.txn(put("a", "1")).await.unwrap();
    watch.next().await.unwrap();
    disk.fail_sync(true);
    let error = store.txn(put("a", "2")).await.unwrap_err();
    assert!(error.to_string().contains("injected failure"), "{error}");
    let failed = failure.wait_for(Option::is_some).await.unwrap().clone();
    assert_eq!(failed, Some(error.clone()));
    // Everything is refused with the reason, and watchers are let go.
    disk.fail_sync(false);
    assert_eq!(store.txn(put("a", "3")).await.unwrap_err(), error);
    assert_eq!(store.get("a", Freshness::Local).await.unwrap_err(), error);
    assert_eq!(store.watch("", 0).unwrap_err(), error);
    assert_eq!(store.close().await.unwrap_err(), error);
    while let Ok((events, _)) = watch.next().await {
        assert!(events.iter().all(|event| event.revision() < 2));
    }
    // What was acknowledged is there after the power went.
    let store = open_on(&disk.crash(0)).await.unwrap();
    let kv = store
        .get("a", Freshness::Linearizable)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&kv.value[..], b"1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_named_and_nothing_acknowledged_is_lost() {
    let disk = FakeDisk::default();
    let store = open_on(&disk).await.unwrap();
    disk.set_capacity(Some(disk.used() + 60_000));
    let value = "x".repeat(1_000);
    let mut acknowledged = 0;
    let error = loop {
        match store.txn(put(&format!("k{acknowledged:03}"), &value)).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
    assert!(acknowledged > 10);
    drop(store);
    let store = open_on(&disk.crash(usize::MAX)).await.unwrap();
    let found = store.range(all("k")).await.unwrap().items.len();
    assert!(found == acknowledged || found == acknowledged + 1);
}

/// Everything the store says about its present, as text.
async fn dump(store: &Store) -> String {
    let response = store.range(all("")).await.unwrap();
    let items = response.items.iter();
    items.map(|kv| format!("{kv:?}\n")).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Loses power between any two writes, again and again: what was acknowledged is there, what was not is
    /// there as a whole or not at all.
    #[test]
    fn power_may_go_at_any_moment(
        lives in prop::collection::vec((1usize..30, 0usize..60, prop::bool::ANY), 1..6),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut disk = FakeDisk::default();
            let mut expected = String::new();
            let mut counter = 0;
            for (writes, keep, compact) in lives {
                let store = open_on(&disk).await.unwrap();
                assert_eq!(dump(&store).await, expected);
                for _ in 0..writes {
                    counter += 1;
                    let big = "y".repeat(counter % 3 * 7_000);
                    let value = format!("{counter}{big}");
                    store.txn(put(&format!("k{}", counter % 7), &value)).await.unwrap();
                    if counter % 5 == 0 {
                        store.txn(delete(&format!("k{}", counter % 3))).await.unwrap();
                    }
                }
                if compact {
                    store.compact(store.revision() / 2).await.unwrap();
                }
                expected = dump(&store).await;
                disk = disk.crash(keep);
                drop(store);
            }
            let store = open_on(&disk).await.unwrap();
            assert_eq!(dump(&store).await, expected);
        });
    }
}

/// A disk with some keys, closed cleanly.
async fn filled() -> FakeDisk {
    let disk = FakeDisk::default();
    let store = open_on(&disk).await.unwrap();
    for i in 0..10 {
        store
            .txn(put(&format!("k{i}"), "some value"))
            .await
            .unwrap();
    }
    store.close().await.unwrap();
    disk
}

async fn refusal(disk: &FakeDisk, watermark: u64) -> String {
    match open_at(disk, watermark).await {
        Err(error @ StoreError::Corrupt(_)) => error.to_string(),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("opened"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_records_are_refused_by_name() {
    let flip = |value: &mut Vec<u8>| *value.last_mut().unwrap() ^= 0x10;
    let disk = filled().await;
    assert!(disk.damage(&[keyspace::VERSION], flip));
    let text = refusal(&disk, 0).await;
    assert!(
        text.contains("key \"k0\" at revision 1: record has a wrong checksum"),
        "{text}"
    );

    let disk = filled().await;
    assert!(disk.damage(&record::log_key(4), flip));
    let text = refusal(&disk, 0).await;
    assert!(
        text.contains("log entry 4: record has a wrong checksum"),
        "{text}"
    );

    for name in ["mvote", "mapplied", "mmember"] {
        let disk = filled().await;
        assert!(disk.damage(name.as_bytes(), flip));
        let text = refusal(&disk, 0).await;
        assert!(text.contains(&name[1..]), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_records_are_noticed() {
    let disk = filled().await;
    assert!(disk.remove_first(&[keyspace::VERSION]));
    let text = refusal(&disk, 0).await;
    assert!(
        text.contains("9 keys are there, but 10 were written"),
        "{text}"
    );

    let disk = filled().await;
    assert!(disk.remove_first(&record::log_key(3)));
    let text = refusal(&disk, 0).await;
    assert!(text.contains("the log has a hole before entry 4"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_ends_before_its_watermark_is_refused() {
    let disk = filled().await;
    let text = refusal(&disk, 1_000).await;
    assert!(text.contains("but entry 1000 was acknowledged"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_share_syncs() {
    let disk = FakeDisk::default();
    let store = open_on(&disk).await.unwrap();
    let before = disk.syncs();
    let clients: Vec<_> = (0..64)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                for i in 0..20 {
                    store
                        .txn(put(&format!("k/{client}"), &i.to_string()))
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert_eq!(store.revision(), 64 * 20);
    let syncs = disk.syncs() - before;
    assert!(syncs < 64 * 20 / 4, "{syncs} syncs");
    store.close().await.unwrap();
}
