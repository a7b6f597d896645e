//! Clusters of several members, on a network in memory.

use std::time::Duration;

use super::sim::cluster::Cluster;
use super::*;
use crate::store::member::Options;

fn small_log() -> Options {
    Options {
        snapshot_every: 40,
        ..Options::default()
    }
}

async fn everything(store: &Store) -> Vec<(String, String)> {
    let response = store.range(all("")).await.unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let items = response.items.iter();
    items
        .map(|kv| (kv.key.to_string(), text(&kv.value)))
        .collect()
}

/// What is committed is told with the next entry, where one comes soon, and soon where none comes.
#[tokio::test(start_paused = true)]
async fn a_write_costs_each_member_one_message_while_others_follow() {
    let cluster = Cluster::of(3, 1, Options::default()).await;
    let leader = cluster.await_leader().await;
    let store = cluster.store(leader);
    store.txn(put("k", "first")).await.unwrap();
    cluster.net.take_asked();
    for n in 0..100 {
        store.txn(put("k", &n.to_string())).await.unwrap();
    }
    let followers: Vec<u64> = cluster
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    for id in &followers {
        let messages = cluster.net.appends(leader, *id);
        assert!(messages <= 120, "{messages} to {id} for 100 writes");
    }
    let revision = store.revision();
    let told = async {
        for id in followers {
            cluster.store(id).reach(revision).await;
            assert_eq!(cluster.store(id).revision(), revision);
        }
    };
    // Before the next heart-beat.
    let soon = Duration::from_millis(60);
    tokio::time::timeout(soon, told).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn any_member_writes_reads_and_watches() {
    let cluster = Cluster::of(3, 1, Options::default()).await;
    let mut watches: Vec<Watch> = Vec::new();
    for id in 1..=3 {
        watches.push(cluster.store(id).watch("k", 0).unwrap());
    }
    for (id, reader) in [(1, 2), (2, 3), (3, 1), (3, 3)] {
        let value = format!("by {id}");
        let revision = committed(cluster.store(id).txn(put("k", &value)).await.unwrap());
        // Whoever wrote it sees it in its own memory, and everybody else when they ask properly.
        let own = cluster.store(id).get("k", Freshness::Local).await.unwrap();
        assert_eq!(own.unwrap().mod_revision, revision);
        let other = cluster
            .store(reader)
            .get("k", Freshness::Linearizable)
            .await;
        assert_eq!(&other.unwrap().unwrap().value[..], value.as_bytes());
    }
    let create = Txn {
        compares: vec![Compare {
            key: "k".into(),
            mod_revision: 0,
        }],
        ..put("k", "new")
    };
    for id in 1..=3 {
        match cluster.store(id).txn(create.clone()).await.unwrap() {
            TxnOutcome::Conflict { current, .. } => assert_eq!(current.unwrap().mod_revision, 4),
            other => panic!("{other:?}"),
        }
    }
    for mut watch in watches {
        let mut seen = Vec::new();
        while seen.len() < 4 {
            let (events, _) = watch.next().await.unwrap();
            seen.extend(events.iter().map(WatchEvent::revision));
        }
        assert_eq!(seen, [1, 2, 3, 4]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_is_replaced_within_a_second() {
    for seed in 0..6 {
        let mut cluster = Cluster::of(3, seed, Options::default()).await;
        let leader = cluster.await_leader().await;
        cluster.any().txn(put("k", "1")).await.unwrap();
        cluster.crash(leader, 0);
        let died = tokio::time::Instant::now();
        let store = cluster.any();
        store.txn(put("k", "2")).await.unwrap();
        let gap = died.elapsed();
        assert!(gap < Duration::from_secs(1), "{gap:?}");
        // The dead one comes back and has it too.
        cluster.start(leader).await.unwrap();
        let back = cluster
            .store(leader)
            .get("k", Freshness::Linearizable)
            .await;
        assert_eq!(&back.unwrap().unwrap().value[..], b"2");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_cut_off_is_replaced_within_two_seconds() {
    for seed in 0..6 {
        let cluster = Cluster::of(3, seed, Options::default()).await;
        let leader = cluster.await_leader().await;
        cluster.any().txn(put("k", "1")).await.unwrap();
        cluster.net.isolate(&[leader], &cluster.ids());
        let cut = tokio::time::Instant::now();
        let other = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
        // What was on the way to the old leader may end without an answer.
        while cluster.store(other).txn(put("k", "2")).await.is_err() {}
        let gap = cut.elapsed();
        assert!(gap < Duration::from_secs(2), "{gap:?}");
        let read = cluster.store(leader).get("k", Freshness::Linearizable);
        let read = tokio::time::timeout(Duration::from_secs(30), read).await;
        assert!(matches!(read, Ok(Err(StoreError::NoLeader(_)))), "{read:?}");
    }
}

fn term(cluster: &Cluster, id: u64) -> u64 {
    let group = cluster.store(id).member.group();
    let server = group.server.borrow();
    server.vote.leader_id().get_term()
}

#[tokio::test(start_paused = true)]
async fn a_follower_that_hears_nothing_disturbs_nobody() {
    for seed in 0..4 {
        let cluster = Cluster::of(3, seed, Options::default()).await;
        let leader = cluster.await_leader().await;
        let deaf = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
        let before = term(&cluster, leader);
        // It is heard, but hears neither the leader's beats nor its answers.
        cluster.net.cut(leader, deaf);
        for turn in 0..20 {
            let txn = put("k", &turn.to_string());
            cluster.store(leader).txn(txn).await.unwrap();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        cluster.net.heal();
        let read = cluster.store(deaf).get("k", Freshness::Linearizable).await;
        assert_eq!(&read.unwrap().unwrap().value[..], b"19");
        for id in cluster.ids() {
            assert_eq!(term(&cluster, id), before, "member {id}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_hands_over_sooner_than_it_would_be_missed() {
    for seed in 0..6 {
        let mut cluster = Cluster::of(3, seed, Options::default()).await;
        let leader = cluster.await_leader().await;
        let others: Vec<u64> = cluster
            .ids()
            .into_iter()
            .filter(|id| *id != leader)
            .collect();
        cluster.any().txn(put("k", "1")).await.unwrap();
        // All know of each other that they are there.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let store = cluster.store(leader).clone();
        let asked = tokio::time::Instant::now();
        let handing = tokio::spawn(async move { store.hand_over().await });
        // Whoever is asked meanwhile answers when there is the next leader; nothing fails.
        for id in [others[0], others[1], leader] {
            cluster
                .store(id)
                .txn(put("k", &id.to_string()))
                .await
                .unwrap();
            let read = cluster.store(id).get("k", Freshness::Linearizable).await;
            assert_eq!(&read.unwrap().unwrap().value[..], id.to_string().as_bytes());
        }
        let gap = asked.elapsed();
        assert!(gap < Duration::from_millis(900), "{gap:?}");
        handing.await.unwrap();
        let next = cluster.await_leader().await;
        assert_ne!(next, leader);
        cluster.stop(leader).await.unwrap();
        cluster.any().txn(put("k", "2")).await.unwrap();
    }
    // Nobody could: it is over at once.
    let cluster = Cluster::of(1, 9, Options::default()).await;
    let asked = tokio::time::Instant::now();
    cluster.store(1).hand_over().await;
    assert_eq!(asked.elapsed(), Duration::ZERO);
    cluster.store(1).txn(put("k", "1")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_everything_fails_soon_and_says_why() {
    let mut cluster = Cluster::of(3, 2, Options::default()).await;
    cluster.any().txn(put("k", "1")).await.unwrap();
    let leader = cluster.await_leader().await;
    let others: Vec<u64> = cluster
        .ids()
        .into_iter()
        .filter(|id| *id != leader)
        .collect();
    for id in others {
        cluster.crash(id, 0);
    }
    // By then the leader knows.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let store = cluster.store(leader).clone();
    assert!(!*store.leadership().borrow(), "it does not lead any more");
    for round in 0..2 {
        let asked = tokio::time::Instant::now();
        let write = store.txn(put("k", "2")).await.unwrap_err();
        let read = store.get("k", Freshness::Linearizable).await.unwrap_err();
        for error in [write, read] {
            assert!(matches!(error, StoreError::NoLeader(_)), "{error}");
        }
        let most = if round == 0 { 8 } else { 2 };
        assert!(
            asked.elapsed() < Duration::from_secs(most),
            "{:?}",
            asked.elapsed()
        );
    }
    // Who asks for what this member has in memory gets it.
    let stale = store.get("k", Freshness::Local).await.unwrap().unwrap();
    assert_eq!(&stale.value[..], b"1");
    let refused = store.backup(Freshness::Linearizable).await.err();
    assert!(
        matches!(refused, Some(StoreError::NoLeader(_))),
        "{refused:?}"
    );
    let pieces = store.backup(Freshness::Local).await.unwrap();
    let file: Vec<u8> = pieces.flatten().collect();
    let (info, _) = backup::read(file.as_slice()).unwrap();
    assert_eq!((info.revision, info.keys), (stale.mod_revision, 1));
    for id in 1..=3 {
        if id != leader {
            cluster.start(id).await.unwrap();
        }
    }
    store.txn(put("k", "3")).await.unwrap();
    assert_eq!(everything(&store).await, [("k".to_owned(), "3".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_joins_late_gets_a_snapshot_and_votes() {
    let mut cluster = Cluster::found(3, small_log()).await;
    for i in 0..150 {
        let txn = put(&format!("k{}", i % 20), &i.to_string());
        cluster.any().txn(txn).await.unwrap();
    }
    for id in 2..=5 {
        cluster.add(id).await.unwrap();
        cluster.await_voter(id).await;
    }
    let expected = everything(cluster.store(1)).await;
    assert_eq!(expected.len(), 20);
    for id in 2..=5 {
        assert_eq!(everything(cluster.store(id)).await, expected);
    }
    // Two of five may go.
    cluster.crash(1, 0);
    cluster.crash(2, 0);
    cluster.any().txn(put("k0", "after")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_removed_member_stops_and_says_so_also_when_it_leads_or_was_away() {
    let mut cluster = Cluster::of(5, 4, small_log()).await;
    let leader = cluster.await_leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    for id in [follower, leader] {
        let other = cluster
            .ids()
            .into_iter()
            .find(|other| *other != id)
            .unwrap();
        let store = cluster.store(id).clone();
        let mut failure = store.failure();
        cluster
            .store(other)
            .change(&Change::Remove(id))
            .await
            .unwrap();
        let removed = async { failure.wait_for(Option::is_some).await.unwrap().clone() };
        let removed = tokio::time::timeout(Duration::from_secs(10), removed).await;
        let error = removed.expect("it learns of it").unwrap();
        assert!(
            matches!(error, StoreError::Removed { id: gone, .. } if gone == id),
            "{error}"
        );
        assert_eq!(store.txn(put("k", "x")).await.unwrap_err(), error);
        drop(store);
        let _ = cluster.stop(id).await;
        cluster.any().txn(put("k", &id.to_string())).await.unwrap();
    }
    // One that is away while it is removed, and comes back.
    let away = *cluster.ids().last().unwrap();
    cluster.crash(away, usize::MAX);
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.any().change(&Change::Remove(away)).await.unwrap();
    let error = tokio::time::timeout(Duration::from_secs(20), cluster.start(away)).await;
    let error = error.expect("it learns of it").unwrap_err();
    assert!(matches!(error, StoreError::Removed { .. }), "{error}");
    assert_eq!(cluster.any().members().len(), 2);
    let last = cluster.any().change(&Change::Remove(99)).await.unwrap_err();
    assert!(matches!(last, StoreError::InvalidChange(_)), "{last}");
}

#[tokio::test(start_paused = true)]
async fn all_may_stop_and_start_again() {
    let mut cluster = Cluster::of(3, 5, small_log()).await;
    for i in 0..100 {
        cluster.any().txn(put(&format!("k{i}"), "v")).await.unwrap();
    }
    let before = everything(&cluster.any()).await;
    for id in 1..=3 {
        cluster.crash(id, 0);
    }
    let starts: Vec<_> = (1..=3)
        .map(|id| (id, tokio::spawn(cluster.begin(id))))
        .collect();
    for (id, start) in starts {
        let running = start.await.unwrap().unwrap();
        cluster.running(id, running);
    }
    assert_eq!(everything(&cluster.any()).await, before);
    // A lagging member is brought up by one that has started anew, from a snapshot.
    cluster.crash(3, 0);
    for i in 0..100 {
        cluster.any().txn(put(&format!("k{i}"), "w")).await.unwrap();
    }
    for id in 1..=2 {
        cluster.crash(id, 0);
    }
    let starts: Vec<_> = (1..=3)
        .map(|id| (id, tokio::spawn(cluster.begin(id))))
        .collect();
    for (id, start) in starts {
        let running = start.await.unwrap().unwrap();
        cluster.running(id, running);
    }
    let after = everything(cluster.store(3)).await;
    assert!(after.iter().all(|(_, value)| value == "w"));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_anywhere_stops_writes_but_not_deletes() {
    let options = Options {
        bounds: crate::store::space::Bounds {
            quota: 200_000,
            ..Default::default()
        },
        ..Options::default()
    };
    let cluster = Cluster::of(3, 6, options).await;
    let mut written = 0;
    let error = loop {
        let txn = put(&format!("k{written}"), &"x".repeat(5_000));
        match cluster.any().txn(txn).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::DiskFull(_)), "{error}");
    for id in 1..=3 {
        let refused = cluster.store(id).txn(put("more", "x")).await.unwrap_err();
        assert!(matches!(refused, StoreError::DiskFull(_)), "{refused}");
    }
    for i in 0..written {
        cluster
            .store(2)
            .txn(delete(&format!("k{i}")))
            .await
            .unwrap();
    }
    cluster
        .store(3)
        .compact(cluster.store(3).revision())
        .await
        .unwrap();
    // The space comes back with the next tidying and is reported.
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.store(1).txn(put("more", "x")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn notes_reach_all_members() {
    let cluster = Cluster::of(3, 7, Options::default()).await;
    let mut news = cluster.store(2).news();
    news.borrow_and_update();
    cluster.store(1).note("topic", Bytes::from_static(b"hello"));
    let heard = async {
        loop {
            let heard = cluster.store(2).heard();
            if heard
                .get(&1)
                .is_some_and(|heard| heard.report.notes.contains_key("topic"))
            {
                return;
            }
            news.changed().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(1), heard)
        .await
        .unwrap();
}
