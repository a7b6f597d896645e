//! The hub under random interleavings: no gap, no duplicate, nobody slow holds up others.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::store::mvcc::Mvcc;
use crate::store::{Op, StoreError, Txn};

/// Index and hub without the tasks between them: the test decides when the hub catches up.
struct Bench {
    mvcc: Mvcc,
    hub: Arc<Hub>,
    /// Applied, but not yet published.
    waiting: Vec<Change>,
    /// All events there ever were.
    log: Vec<WatchEvent>,
}

impl Bench {
    fn new(limits: Limits) -> Self {
        Self {
            mvcc: Mvcc::default(),
            hub: Arc::new(Hub::new(0, limits, WatchMetrics::default())),
            waiting: Vec::new(),
            log: Vec::new(),
        }
    }

    fn write(&mut self, ops: Vec<Op>) {
        let (_, change) = self.mvcc.apply(&Txn {
            compares: vec![],
            ops,
        });
        if let Some(change) = change {
            self.log.extend(change.events.iter().cloned());
            self.waiting.push(change);
        }
    }

    fn put(&mut self, key: &str) {
        self.write(vec![Op::Put {
            key: key.into(),
            value: Bytes::from_static(b"value"),
        }]);
    }

    fn publish(&mut self) {
        self.hub.publish(&self.waiting);
        self.waiting.clear();
    }

    /// As `Store::watch` does it.
    fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let (mut watch, published) = self.hub.register(prefix, after);
        let changes = self.mvcc.changes_after(after)?;
        if after < published {
            watch.replay(changes, published);
        }
        Ok(watch)
    }

    fn expected(&self, prefix: &str, after: Revision, until: Revision) -> Vec<String> {
        let events = self.log.iter();
        events
            .filter(|e| e.key().starts_with(prefix))
            .filter(|e| e.revision() > after && e.revision() <= until)
            .map(name)
            .collect()
    }
}

fn name(event: &WatchEvent) -> String {
    let kind = match event {
        WatchEvent::Put { .. } => "put",
        WatchEvent::Delete { .. } => "delete",
    };
    format!("{kind} {} {}", event.key(), event.revision())
}

fn try_next(watch: &mut Watch) -> Option<Result<(Vec<WatchEvent>, Revision), WatchEnd>> {
    watch.next().now_or_never()
}

#[derive(Debug, Clone)]
enum Step {
    Write(Vec<(String, bool)>),
    Publish,
    Watch(String, f64),
    Read(usize),
    Drop(usize),
    Compact(f64),
}

fn key() -> impl Strategy<Value = String> {
    "[ab]/[ab]{1,3}"
}

fn step() -> impl Strategy<Value = Step> {
    let write = prop::collection::vec((key(), prop::bool::weighted(0.7)), 1..4);
    prop_oneof![
        6 => write.prop_map(Step::Write),
        3 => Just(Step::Publish),
        2 => ("([ab](/[ab]{0,3})?)?", 0.0..1.2).prop_map(|(p, f)| Step::Watch(p, f)),
        4 => (0usize..8).prop_map(Step::Read),
        1 => (0usize..8).prop_map(Step::Drop),
        1 => (0.0..1.0).prop_map(Step::Compact),
    ]
}

struct Reader {
    watch: Watch,
    prefix: String,
    after: Revision,
    seen: Vec<String>,
}

impl Reader {
    fn read(&mut self, bench: &Bench) -> Result<(), TestCaseError> {
        let before = self.watch.progress();
        if let Some(next) = try_next(&mut self.watch) {
            let (events, complete) = next.unwrap();
            prop_assert!(!events.is_empty());
            // Whole revisions only, and nothing older than what was promised to be complete.
            prop_assert!(events[0].revision() > before);
            prop_assert!(events.last().unwrap().revision() <= complete);
            self.seen.extend(events.iter().map(name));
            prop_assert_eq!(
                &self.seen,
                &bench.expected(&self.prefix, self.after, complete)
            );
            prop_assert!(self.watch.progress() >= complete);
        }
        let progress = self.watch.progress();
        prop_assert_eq!(
            &self.seen,
            &bench.expected(&self.prefix, self.after, progress)
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn no_gap_and_no_duplicate(steps in prop::collection::vec(step(), 1..80)) {
        let mut bench = Bench::new(Limits::default());
        let mut readers: Vec<Reader> = Vec::new();
        for step in steps {
            match step {
                Step::Write(ops) => bench.write(
                    ops.into_iter()
                        .map(|(key, put)| match put {
                            true => Op::Put { key, value: Bytes::from_static(b"v") },
                            false => Op::Delete { key },
                        })
                        .collect(),
                ),
                Step::Publish => bench.publish(),
                Step::Watch(prefix, part) => {
                    let after = (bench.mvcc.revision() as f64 * part) as u64;
                    match bench.watch(&prefix, after) {
                        Ok(watch) => readers.push(Reader { watch, prefix, after, seen: vec![] }),
                        Err(StoreError::Compacted { .. }) => {
                            prop_assert!(after < bench.mvcc.compacted());
                        }
                        Err(StoreError::FutureRevision { .. }) => {
                            prop_assert!(after > bench.mvcc.revision());
                        }
                        Err(other) => panic!("{other}"),
                    }
                }
                Step::Read(i) => {
                    if let Some(reader) = readers.get_mut(i) {
                        reader.read(&bench)?;
                    }
                }
                Step::Drop(i) => {
                    if i < readers.len() {
                        readers.swap_remove(i);
                    }
                }
                Step::Compact(part) => {
                    let to = (bench.mvcc.revision() as f64 * part) as u64;
                    bench.mvcc.compact(to).unwrap();
                }
            }
        }
        bench.publish();
        for reader in &mut readers {
            while let Some(next) = try_next(&mut reader.watch) {
                reader.seen.extend(next.unwrap().0.iter().map(name));
            }
            let revision = bench.mvcc.revision();
            prop_assert_eq!(&reader.seen, &bench.expected(&reader.prefix, reader.after, revision));
            prop_assert!(reader.watch.progress() >= revision.max(reader.after));
        }
        prop_assert_eq!(bench.hub.metrics.watchers.get(), readers.len() as i64);
        drop(readers);
        prop_assert_eq!(bench.hub.metrics.watchers.get(), 0);
        prop_assert!(bench.hub.registry().groups.is_empty());
    }

    #[test]
    fn the_walk_finds_the_prefixes_of_a_key(
        prefixes in prop::collection::btree_set("[aä/]{0,5}", 0..12),
        key in "[aä/]{0,6}",
    ) {
        let groups: BTreeMap<Box<str>, ()> = prefixes.iter().map(|p| (p.as_str().into(), ())).collect();
        let mut found: Vec<&str> = matching(&groups, &key).collect();
        found.reverse();
        let expected: Vec<&str> = prefixes.iter().map(String::as_str).filter(|p| key.starts_with(p)).collect();
        prop_assert_eq!(found, expected);
    }
}

#[test]
fn a_slow_watcher_is_cut_off_alone_and_resumes_where_it_was() {
    let mut bench = Bench::new(Limits {
        events: 10,
        bytes: usize::MAX,
    });
    let mut slow = bench.watch("a/", 0).unwrap();
    let mut quick = bench.watch("a/", 0).unwrap();
    bench.put("a/1");
    bench.publish();
    assert_eq!(try_next(&mut slow).unwrap().unwrap().1, 1);
    for i in 0..30 {
        bench.put(&format!("a/{i}"));
        bench.publish();
        assert!(try_next(&mut quick).unwrap().is_ok());
    }
    assert_eq!(try_next(&mut slow), Some(Err(WatchEnd::Slow(1))));
    // It stays ended.
    assert_eq!(try_next(&mut slow), Some(Err(WatchEnd::Slow(1))));
    assert_eq!(slow.progress(), 1);
    assert_eq!(bench.hub.metrics.cut_off.get(), 1);
    let mut resumed = bench.watch("a/", slow.progress()).unwrap();
    assert_eq!(try_next(&mut resumed).unwrap().unwrap().0.len(), 30);
}

#[test]
fn bytes_are_bounded_too_but_one_large_change_is_no_fault_of_the_reader() {
    let mut bench = Bench::new(Limits {
        events: 1_000,
        bytes: 1_000,
    });
    let mut watch = bench.watch("", 0).unwrap();
    let big = |key: &str| {
        vec![Op::Put {
            key: key.into(),
            value: Bytes::from(vec![0; 5_000]),
        }]
    };
    bench.write(big("a"));
    bench.publish();
    assert!(try_next(&mut watch).unwrap().is_ok());
    bench.write(big("b"));
    bench.publish();
    bench.write(big("c"));
    bench.publish();
    assert!(matches!(try_next(&mut watch), Some(Err(WatchEnd::Slow(1)))));
}

#[test]
fn progress_moves_without_events_and_the_end_is_told() {
    let mut bench = Bench::new(Limits::default());
    let mut watch = bench.watch("a/", 0).unwrap();
    for _ in 0..5 {
        bench.put("b/1");
    }
    assert_eq!(watch.progress(), 0);
    bench.publish();
    assert_eq!(watch.progress(), 5);
    assert!(try_next(&mut watch).is_none());
    bench.hub.close();
    assert_eq!(try_next(&mut watch), Some(Err(WatchEnd::Closed)));
    let mut late = bench.watch("a/", 0).unwrap();
    assert_eq!(try_next(&mut late), Some(Err(WatchEnd::Closed)));
    assert_eq!(bench.hub.metrics.watchers.get(), 0);
}

#[tokio::test]
async fn a_waiting_reader_is_woken_and_may_be_cancelled() {
    let mut bench = Bench::new(Limits::default());
    let mut watch = bench.watch("a/", 0).unwrap();
    for round in 1..=50 {
        {
            let mut cancelled = std::pin::pin!(watch.next());
            assert!(cancelled.as_mut().now_or_never().is_none());
        }
        let reader = tokio::spawn(async move {
            let next = watch.next().await;
            (watch, next)
        });
        tokio::task::yield_now().await;
        bench.put("a/1");
        bench.publish();
        let (back, next) = reader.await.unwrap();
        watch = back;
        assert_eq!(next.unwrap().1, round);
    }
}

impl PartialEq for WatchEvent {
    fn eq(&self, other: &Self) -> bool {
        name(self) == name(other)
    }
}
