//! What only happens with several members: logs that are cut back, snapshots that are installed. Driven
//! through openraft's storage traits, on the fake disk, with loss of power in between.

use futures::FutureExt as _;
use openraft::EntryPayload;
use openraft::storage::{
    RaftLogReader, RaftLogReaderExt, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder,
    RaftStateMachine,
};
use openraft::testing::log_id;
use proptest::prelude::*;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::store::compaction::Retention;
use crate::store::directory::Watermark;
use crate::store::disk::Disk;
use crate::store::disk::fake::FakeDisk;
use crate::store::log::LogStore;
use crate::store::machine::{Published, StateMachine};
use crate::store::metrics::Metrics;
use crate::store::raft::{Command, Entry, LogId, Vote};
use crate::store::snapshot::{Decoder, Image};
use crate::store::writer::{Job, Writer};

/// One member's storage without Raft above it.
struct Storage {
    log: LogStore,
    machine: StateMachine,
    published: UnboundedReceiver<Published>,
    writer: Writer,
    thread: std::thread::JoinHandle<()>,
}

impl Storage {
    fn open(disk: &FakeDisk) -> Self {
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let metrics = Metrics::default();
        let watermark = Watermark::in_memory(0);
        let (writer, thread) =
            Writer::start(Arc::clone(&disk), watermark, metrics.disk, ()).unwrap();
        let (hub, published) = unbounded_channel();
        let (log, cover) = LogStore::open(&disk, writer.clone(), 0, 0).unwrap();
        let (state, retention) = (metrics.state, Retention::default());
        let machine =
            StateMachine::open(&*disk, writer.clone(), cover, hub, state, &retention).unwrap();
        Self {
            log,
            machine,
            published,
            writer,
            thread,
        }
    }

    fn close(self) {
        self.writer.stop();
        self.thread.join().unwrap();
    }

    async fn apply(&mut self, from: u64, txns: Vec<Txn>) {
        let entries = txns
            .into_iter()
            .zip(from..)
            .map(|(txn, i)| entry(1, i, txn));
        self.machine
            .apply(entries.collect::<Vec<_>>())
            .await
            .unwrap();
    }

    fn contents(&self) -> Vec<String> {
        let shared = self.machine.shared();
        let state = shared.read();
        state.mvcc.versions().map(|v| format!("{v:?}")).collect()
    }
}

fn entry(term: u64, index: u64, txn: Txn) -> Entry {
    Entry {
        log_id: log_id(term, 1, index),
        payload: EntryPayload::Normal(Command::Txns(vec![txn].into())),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Append(u64, usize),
    Truncate(f64),
    Purge(f64),
    /// Loses power; this many writes that were not synced survive.
    Crash(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..6, 0usize..20_000).prop_map(|(n, size)| Step::Append(n, size)),
        2 => (0.0..1.0).prop_map(Step::Truncate),
        1 => (0.0..1.0).prop_map(Step::Purge),
        2 => (0usize..40).prop_map(Step::Crash),
    ]
}

/// A leader's entries go to the others at once; here they count when this disk has them.
#[tokio::test]
async fn a_leader_tells_of_an_entry_at_once_and_counts_it_when_it_is_written() {
    let disk = FakeDisk::default();
    let mut storage = Storage::open(&disk);
    let (own, settled) = (0, storage.log.settled());
    let led = Vote::new_committed(3, own);
    storage.log.save_vote(&led).await.unwrap();
    let (release, held) = std::sync::mpsc::channel::<()>();
    storage.writer.submit(Job {
        done: Some(Box::new(move |_| held.recv().unwrap())),
        ..Job::default()
    });
    let mine = |index| Entry {
        log_id: LogId::new(*led.leader_id(), index),
        ..entry(3, index, put("k", "v"))
    };
    storage
        .log
        .blocking_append([mine(0), mine(1)])
        .await
        .unwrap();
    assert!(!settled.has(0) && !settled.has(1) && !settled.has(2));
    assert!(settled.reach(1).now_or_never().is_none());
    {
        let apply = storage.machine.apply([mine(0)]);
        tokio::pin!(apply);
        assert!(futures::poll!(&mut apply).is_pending());
        release.send(()).unwrap();
        apply.await.unwrap();
    }
    settled.reach(1).await.unwrap();
    // Of another leader's entries nothing is said ahead, nor of changes of members.
    let (release, held) = std::sync::mpsc::channel::<()>();
    storage.writer.submit(Job {
        done: Some(Box::new(move |_| held.recv().unwrap())),
        ..Job::default()
    });
    let blank = Entry {
        payload: EntryPayload::Blank,
        ..mine(2)
    };
    let mut log = storage.log.clone();
    let appended = log.blocking_append([blank]);
    tokio::pin!(appended);
    assert!(futures::poll!(&mut appended).is_pending());
    assert!(settled.has(2), "Raft does not know of it");
    let mut log = storage.log.clone();
    let others = log.blocking_append([entry(4, 3, put("k", "w"))]);
    tokio::pin!(others);
    assert!(futures::poll!(&mut others).is_pending());
    release.send(()).unwrap();
    appended.await.unwrap();
    others.await.unwrap();
    // What cannot be written is never applied.
    disk.fail_sync(true);
    storage.log.blocking_append([mine(4)]).await.unwrap();
    let error = storage.machine.apply([mine(4)]).await.unwrap_err();
    assert!(error.to_string().contains("injected failure"), "{error}");
    storage.close();
}

#[tokio::test]
async fn a_member_that_led_does_not_lead_again_without_an_election() {
    let disk = FakeDisk::default();
    let mut storage = Storage::open(&disk);
    let votes = [
        (Vote::new_committed(3, 0), Vote::new(3, 0)),
        (Vote::new(4, 0), Vote::new(4, 0)),
        (Vote::new_committed(5, 1), Vote::new_committed(5, 1)),
    ];
    for (saved, found) in votes {
        storage.log.save_vote(&saved).await.unwrap();
        assert_eq!(storage.log.read_vote().await.unwrap(), Some(saved));
        storage.close();
        storage = Storage::open(&disk);
        assert_eq!(storage.log.read_vote().await.unwrap(), Some(found));
    }
    storage.close();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_log_is_what_was_written(steps in prop::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut disk = FakeDisk::default();
            let mut storage = Storage::open(&disk);
            // The model: terms of the entries from `purged` on. Index 0 is always there.
            let mut log: Vec<Entry> = Vec::new();
            let mut purged = 0u64;
            for (term, step) in (1..).zip(steps) {
                let next = purged + log.len() as u64;
                match step {
                    Step::Append(n, size) => {
                        let value = "v".repeat(size);
                        let entries: Vec<_> =
                            (next..next + n).map(|i| entry(term, i, put("k", &value))).collect();
                        storage.log.blocking_append(entries.clone()).await.unwrap();
                        log.extend(entries);
                    }
                    Step::Truncate(part) => {
                        let keep = (log.len() as f64 * part) as usize;
                        if let Some(first) = log.get(keep) {
                            storage.log.truncate(first.log_id).await.unwrap();
                            log.truncate(keep);
                        }
                    }
                    Step::Purge(part) => {
                        let drop = (log.len() as f64 * part) as usize;
                        if let Some(last) = drop.checked_sub(1).and_then(|i| log.get(i)) {
                            storage.log.purge(last.log_id).await.unwrap();
                            let applied: Vec<_> = log.drain(..drop).collect();
                            storage.machine.apply(applied).await.unwrap();
                            purged += drop as u64;
                        }
                    }
                    Step::Crash(keep) => {
                        // A purge waits for no sync: without one it may or may not be found again.
                        let sync = Job { durable: true, ..Job::default() };
                        storage.writer.run(sync).await.unwrap();
                        disk = disk.crash(keep);
                        storage = Storage::open(&disk);
                    }
                }
                let found = storage.log.try_get_log_entries(..).await.unwrap();
                assert_eq!(found, log);
                let state = storage.log.get_log_state().await.unwrap();
                let last = purged.checked_add(log.len() as u64).and_then(|n| n.checked_sub(1));
                assert_eq!(state.last_log_id.map(|id| id.index), last);
                for entry in &log {
                    let index = entry.log_id.index;
                    assert_eq!(storage.log.get_log_id(index).await.unwrap(), entry.log_id);
                }
            }
            storage.close();
        });
    }

    /// Cuts a log back and loses power at every point of it: the log is a prefix of the old one, and not
    /// shorter than what was to be kept.
    #[test]
    fn a_truncation_that_is_interrupted_leaves_no_hole(
        size in 0usize..20_000, from in 1u64..10, keep in 0usize..60,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let disk = FakeDisk::default();
            let mut storage = Storage::open(&disk);
            let value = "v".repeat(size);
            let entries: Vec<_> = (0..10).map(|i| entry(1, i, put("k", &value))).collect();
            storage.log.blocking_append(entries.clone()).await.unwrap();
            disk.hold_syncs();
            storage.log.truncate(entries[from as usize].log_id).await.unwrap();
            let after = Storage::open(&disk.crash(keep));
            let (_, last) = after.log.positions();
            let last = last.unwrap().index;
            assert!((from - 1..=9).contains(&last), "{last}");
        });
    }
}

async fn snapshot_of(storage: &mut Storage) -> openraft::Snapshot<crate::store::raft::TypeConfig> {
    let mut builder = storage.machine.get_snapshot_builder().await;
    builder.build_snapshot().await.unwrap()
}

fn carried(image: &Image) -> Image {
    let mut decoder = Decoder::default();
    for chunk in image.chunks() {
        decoder.push(&chunk).unwrap();
    }
    decoder.finish().unwrap()
}

fn leader_writes() -> Vec<Txn> {
    let mut txns: Vec<Txn> = (0..40)
        .map(|i| put(&format!("k{}", i % 9), &"v".repeat(i * 300)))
        .collect();
    txns.push(delete("k3"));
    txns
}

#[tokio::test]
async fn an_installed_snapshot_replaces_everything_and_survives() {
    let mut leader = Storage::open(&FakeDisk::default());
    leader.apply(0, leader_writes()).await;
    let snapshot = snapshot_of(&mut leader).await;

    let disk = FakeDisk::default();
    let mut follower = Storage::open(&disk);
    follower
        .apply(0, vec![put("old", "1"), put("k1", "old")])
        .await;
    let image = Box::new(carried(&snapshot.snapshot));
    follower
        .machine
        .install_snapshot(&snapshot.meta, image)
        .await
        .unwrap();
    assert_eq!(follower.contents(), leader.contents());
    // Its watchers learn of what they do not know yet, once each.
    let mut revisions = Vec::new();
    while let Ok(Published::Changes(changes)) = follower.published.try_recv() {
        revisions.extend(changes.iter().map(|change| change.revision));
    }
    assert_eq!(revisions, (1..=41).collect::<Vec<_>>());
    // And it goes on from there, also after a loss of power.
    follower.apply(41, vec![put("new", "1")]).await;
    leader.apply(41, vec![put("new", "1")]).await;
    follower.close();
    let mut follower = Storage::open(&disk.crash(0));
    assert_eq!(follower.contents(), leader.contents());
    let (applied, _) = follower.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(log_id(1, 1, 41)));
}

/// Raft gives entries up before the snapshot in their place is installed.
#[tokio::test]
async fn entries_stay_on_the_disk_until_it_has_what_they_stand_for() {
    let mut leader = Storage::open(&FakeDisk::default());
    leader.apply(0, leader_writes()).await;
    let snapshot = snapshot_of(&mut leader).await;
    let last = snapshot.meta.last_log_id.unwrap();

    let disk = FakeDisk::default();
    let mut follower = Storage::open(&disk);
    let old = (0..3).map(|i| entry(1, i, put("old", "1")));
    follower.log.blocking_append(old).await.unwrap();
    follower.log.purge(last).await.unwrap();
    let mut log = follower.log.clone();
    let next = log.blocking_append([entry(1, last.index + 1, put("new", "1"))]);
    tokio::pin!(next);
    assert!(futures::poll!(&mut next).is_pending());
    let sync = Job {
        durable: true,
        ..Job::default()
    };
    follower.writer.run(sync).await.unwrap();
    let before = Storage::open(&disk.crash(0)).log.positions();
    assert_eq!(before, (None, Some(log_id(1, 1, 2))));

    let image = Box::new(carried(&snapshot.snapshot));
    let installed = follower.machine.install_snapshot(&snapshot.meta, image);
    installed.await.unwrap();
    next.await.unwrap();
    let mut after = Storage::open(&disk.crash(0));
    assert_eq!(after.log.positions(), (Some(last), Some(log_id(1, 1, 41))));
    let (applied, _) = after.machine.applied_state().await.unwrap();
    assert_eq!(applied, Some(last));
}

/// What follows on such entries does not wait for ever for a state machine that has ended.
#[tokio::test]
async fn nothing_waits_for_a_snapshot_that_is_not_installed() {
    let mut storage = Storage::open(&FakeDisk::default());
    storage.log.purge(log_id(1, 1, 7)).await.unwrap();
    drop(storage.machine);
    let next = storage.log.blocking_append([entry(1, 8, put("k", "v"))]);
    let error = next.await.unwrap_err().to_string();
    assert!(error.contains("the state machine has ended"), "{error}");
}

#[tokio::test]
async fn a_snapshot_beyond_the_history_cuts_watchers_off() {
    let mut leader = Storage::open(&FakeDisk::default());
    leader.apply(0, leader_writes()).await;
    let compact = Entry {
        log_id: log_id(1, 1, 41),
        payload: EntryPayload::Normal(Command::Compact(20)),
    };
    leader.machine.apply([compact]).await.unwrap();
    let snapshot = snapshot_of(&mut leader).await;
    let mut follower = Storage::open(&FakeDisk::default());
    follower.apply(0, vec![put("old", "1")]).await;
    follower.published.try_recv().unwrap();
    follower
        .machine
        .install_snapshot(&snapshot.meta, snapshot.snapshot)
        .await
        .unwrap();
    assert!(matches!(
        follower.published.try_recv(),
        Ok(Published::Jump(41))
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Loses power at any moment of an installation: the old state is there or the new one.
    #[test]
    fn an_interrupted_installation_is_all_or_nothing(keep in 0usize..200) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let mut leader = Storage::open(&FakeDisk::default());
            leader.apply(0, leader_writes()).await;
            let snapshot = snapshot_of(&mut leader).await;
            let disk = FakeDisk::default();
            let mut follower = Storage::open(&disk);
            follower.apply(0, vec![put("old", "1")]).await;
            let sync = Job { durable: true, ..Job::default() };
            follower.writer.run(sync).await.unwrap();
            let before = follower.contents();
            disk.hold_syncs();
            follower.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
            let disk = disk.crash(keep);
            let found = Storage::open(&disk);
            let contents = found.contents();
            assert!(contents == before || contents == leader.contents());
            // Another attempt is not disturbed by what the first one left.
            let mut found = found;
            let snapshot = snapshot_of(&mut leader).await;
            found.machine.install_snapshot(&snapshot.meta, snapshot.snapshot).await.unwrap();
            found.close();
            let found = Storage::open(&disk);
            assert_eq!(found.contents(), leader.contents());
            found.close();
        });
    }
}
