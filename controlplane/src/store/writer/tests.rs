//! The disk thread on a fake disk: group commit, failure for good, removals.
#![allow(clippy::unwrap_used)]

use std::sync::mpsc::channel;

use super::*;
use crate::store::disk::fake::FakeDisk;

fn start(disk: &FakeDisk) -> (Writer, JoinHandle<()>) {
    let disk = Arc::new(disk.clone());
    Writer::start(disk, Watermark::in_memory(0), DiskMetrics::default(), ()).unwrap()
}

fn write(key: &str, durable: bool) -> Job {
    Job {
        writes: vec![(key.into(), Some(b"value".to_vec()))],
        durable,
        ..Job::default()
    }
}

#[tokio::test]
async fn jobs_that_wait_together_share_one_sync() {
    let disk = FakeDisk::default();
    let (writer, thread) = start(&disk);
    // The first job holds the thread until all the others wait. None of them may be in its group.
    let (release, held) = channel::<()>();
    let (holds, held_up) = channel();
    writer.submit(Job {
        done: Some(Box::new(move |_| {
            holds.send(()).unwrap();
            held.recv().unwrap();
        })),
        ..Job::default()
    });
    held_up.recv().unwrap();
    let (tx, rx) = channel();
    for i in 0..100 {
        let tx = tx.clone();
        let mut job = write(&format!("k{i}"), true);
        job.done = Some(Box::new(move |result| tx.send(result).unwrap()));
        writer.submit(job);
    }
    release.send(()).unwrap();
    for _ in 0..100 {
        rx.recv().unwrap().unwrap();
    }
    assert_eq!(disk.syncs(), 1);
    assert_eq!(disk.unsynced(), 0);
    writer.stop();
    thread.join().unwrap();
}

#[tokio::test]
async fn a_failed_sync_is_told_and_never_tried_again() {
    let disk = FakeDisk::default();
    let (writer, thread) = start(&disk);
    writer.run(write("a", true)).await.unwrap();
    disk.fail_sync(true);
    let error = writer.run(write("b", true)).await.unwrap_err();
    assert_eq!(error, DiskError::Io("fsync: injected failure".into()));
    // The disk works again, but what it holds is not known any more.
    disk.fail_sync(false);
    assert_eq!(writer.run(write("c", true)).await.unwrap_err(), error);
    assert_eq!(writer.failure().borrow().as_ref(), Some(&error));
    assert_eq!(disk.get(b"c").unwrap(), None);
    writer.stop();
    thread.join().unwrap();
    assert_eq!(disk.syncs(), 1);
    // After its end, jobs are refused as well.
    assert!(writer.run(write("d", true)).await.is_err());
}

/// What nobody waits for wakes nobody, and is there before what somebody has waited for.
#[tokio::test]
async fn what_nobody_waits_for_goes_with_the_next_job() {
    let disk = FakeDisk::default();
    let (writer, thread) = start(&disk);
    writer.submit(write("a", false));
    assert_eq!(lock(&writer.later).jobs.len(), 1);
    writer.run(write("b", true)).await.unwrap();
    assert!(lock(&writer.later).jobs.is_empty());
    assert!(disk.get(b"a").unwrap().is_some());
    assert_eq!((disk.syncs(), disk.unsynced()), (1, 0));
    // Where nobody comes it does not wait for long.
    writer.submit(write("c", false));
    while disk.get(b"c").unwrap().is_none() {
        tokio::task::yield_now().await;
    }
    // Nor for ever in memory.
    let large = |n: usize| Job {
        writes: vec![(vec![b'd', n as u8], Some(vec![0; LATER_BYTES / 4]))],
        ..Job::default()
    };
    (0..5).for_each(|n| writer.submit(large(n)));
    assert!(lock(&writer.later).jobs.len() < 5);
    writer.submit(write("e", false));
    writer.stop();
    thread.join().unwrap();
    assert!(disk.get(b"e").unwrap().is_some());
    assert_eq!(disk.unsynced(), 0);
}

#[tokio::test]
async fn removals_keep_out_of_the_way_and_are_all_done() {
    let disk = FakeDisk::default();
    let (writer, thread) = start(&disk);
    let writes = (0..1_000u16).map(|i| (i.to_be_bytes().to_vec(), Some(vec![0])));
    let job = Job {
        writes: writes.collect(),
        remove_later: vec![(vec![0, 0], vec![2, 0]), (vec![3, 0], vec![3, 50])],
        ..Job::default()
    };
    writer.run(job).await.unwrap();
    // Removed at once, and before what the same job writes.
    let job = Job {
        writes: vec![(vec![3, 150], Some(b"new".to_vec()))],
        remove_now: vec![(vec![3, 100], vec![3, 200])],
        ..Job::default()
    };
    writer.run(job).await.unwrap();
    assert_eq!(disk.get(&[3, 150]).unwrap(), Some(b"new".to_vec()));
    assert_eq!(disk.get(&[3, 151]).unwrap(), None);
    // Nothing more to do: the thread waits without spinning once the ranges are empty.
    while disk.get(&[3, 49]).unwrap().is_some() {
        tokio::task::yield_now().await;
    }
    assert_eq!(disk.get(&[1, 255]).unwrap(), None);
    assert_eq!(disk.get(&[2, 0]).unwrap(), Some(vec![0]));
    assert_eq!(disk.get(&[3, 50]).unwrap(), Some(vec![0]));
    writer.stop();
    thread.join().unwrap();
    assert_eq!(disk.unsynced(), 0);
}

#[test]
fn more_is_removed_than_is_written_and_one_write_waits_for_little() {
    assert_eq!(slice(0), 32);
    assert_eq!(slice(3), 32);
    assert_eq!(slice(200), 400);
    assert_eq!(slice(1_000_000), 1_024);
}

/// A key whose removal is under way is not looked for again, so nobody waits for that.
#[tokio::test]
async fn what_was_found_once_is_not_looked_at_again() {
    let disk = FakeDisk::default();
    let (failed, _) = watch::channel(None);
    let mut thread = Thread::new(
        Arc::new(disk.clone()),
        Watermark::in_memory(0),
        DiskMetrics::default(),
        failed,
        Arc::default(),
    );
    let writes = (0..100u8).map(|n| (vec![n], Some(vec![0])));
    disk.write(writes.collect()).unwrap();
    thread.removals.push_back((vec![0], vec![90]));
    thread.tidy(40).unwrap();
    assert_eq!(thread.removals, [(vec![39, 0], vec![90])]);
    thread.tidy(40).unwrap();
    thread.tidy(40).unwrap();
    assert!(thread.removals.is_empty());
    assert_eq!(disk.get(&[89]).unwrap(), None);
    assert!(disk.get(&[90]).unwrap().is_some());
}
