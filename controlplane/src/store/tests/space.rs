//! Space that nobody needs any more is given back without being asked for.

use std::time::Duration;

use super::sim::cluster::Cluster;
use super::*;
use crate::store::compaction::Retention;
use crate::store::disk::{Disk, Sizes, SledDisk};
use crate::store::member::{Member, Options};
use crate::store::sealed::SealedDisk;
use crate::store::space::Bounds;

#[tokio::test(flavor = "multi_thread")]
async fn history_log_and_file_stay_small_while_one_value_is_replaced_for_ever() {
    const VALUE: usize = 20_000;
    const MOST: usize = 2_000;
    let dir = tempfile::tempdir().unwrap();
    let sizes = Sizes {
        journal: 1 << 20,
        rewritten: 4 << 20,
    };
    let disk = SledDisk::open_with(&dir.path().join("data"), sizes).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(SealedDisk::open(disk, dir.path()).unwrap());
    let options = Options {
        retention: Retention {
            max_bytes: 64 << 10,
            log_bytes: 256 << 10,
            ..Retention::default()
        },
        // One that is alone and has much to do waits until half of it is used.
        bounds: Bounds {
            reserve: 0,
            quota: 8 << 20,
        },
        ..Options::default()
    };
    let member = Member::open_on(Arc::clone(&disk), 0, options);
    let store = Store {
        member: Arc::new(member.await.unwrap()),
    };
    let mut largest = 0;
    let mut written = 0;
    // Versions are compacted and the file is rewritten by one task, the log is purged by Raft: either may be first.
    let purged = || store.member.group().log_positions().0;
    while disk.size() >= largest / 4 * 3 || purged().is_none() {
        assert!(written < MOST, "nothing was given back of {largest} bytes");
        largest = largest.max(disk.size());
        let value = format!("{written} {}", "x".repeat(VALUE));
        store.txn(put("k", &value)).await.unwrap();
        written += 1;
    }
    let value = store.get("k", Freshness::Linearizable).await.unwrap();
    let last = format!("{} ", written - 1);
    assert!(value.unwrap().value.starts_with(last.as_bytes()));
    // It is not the number of entries alone that decides how many are kept.
    let (purged, last) = store.member.group().log_positions();
    let kept = last.unwrap().index - purged.unwrap().index;
    assert!(kept < 100, "{kept} entries of {VALUE} bytes are kept");
    let old = store.watch("", 1).unwrap_err();
    assert!(matches!(old, StoreError::Compacted { .. }), "{old}");
    drop(disk);
    store.close().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_leader_of_others_leaves_it_until_it_does_not_lead() {
    const A_WHILE: Duration = Duration::from_secs(40);
    let cluster = Cluster::of(3, 1, Options::default()).await;
    let leader = cluster.await_leader().await;
    let rewritten = |id: u64| cluster.disk(id).rewritten();
    let before = rewritten(leader);
    tokio::time::sleep(A_WHILE).await;
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        assert!(rewritten(id) > 0, "member {id}");
    }
    assert_eq!(rewritten(leader), before);
    cluster.store(leader).hand_over().await;
    tokio::time::sleep(A_WHILE).await;
    assert!(rewritten(leader) > before);
}
