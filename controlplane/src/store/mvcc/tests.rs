//! The index against a plain model that keeps the whole state of every revision.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::store::Freshness;

/// What a key is in the model: value, create revision, mod revision, version.
type Fact = (Vec<u8>, u64, u64, u64);

/// The plain reference: the whole state after every revision.
#[derive(Debug)]
struct Model {
    states: Vec<BTreeMap<String, Fact>>,
    compacted: Revision,
}

impl Model {
    fn now(&self) -> &BTreeMap<String, Fact> {
        self.states.last().unwrap()
    }

    fn revision(&self) -> Revision {
        self.states.len() as u64 - 1
    }

    /// None is a conflict, Some the revision.
    fn apply(&mut self, txn: &Txn) -> Option<Revision> {
        let now = self.now();
        let current = |key: &str| now.get(key).map_or(0, |fact| fact.2);
        if txn
            .compares
            .iter()
            .any(|c| current(&c.key) != c.mod_revision)
        {
            return None;
        }
        let revision = self.revision() + 1;
        let mut next = now.clone();
        let mut ops: BTreeMap<&str, &Op> = BTreeMap::new();
        for op in &txn.ops {
            ops.insert(op.key(), op);
        }
        let mut changed = false;
        for (key, op) in ops {
            match op {
                Op::Put { value, .. } => {
                    let (created, version) = now.get(key).map_or((revision, 1), |f| (f.1, f.3 + 1));
                    next.insert(key.into(), (value.to_vec(), created, revision, version));
                    changed = true;
                }
                Op::Delete { .. } => changed |= next.remove(key).is_some(),
            }
        }
        if changed {
            self.states.push(next);
        }
        Some(self.revision())
    }

    /// The events of one revision, as text.
    fn events(&self, revision: Revision) -> Vec<String> {
        let before = &self.states[revision as usize - 1];
        let after = &self.states[revision as usize];
        let keys: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
        keys.into_iter()
            .filter(|key| before.get(*key) != after.get(*key))
            .map(|key| format!("{key} {:?} -> {:?}", before.get(key), after.get(key)))
            .collect()
    }
}

fn fact(kv: &KeyValue) -> Fact {
    (
        kv.value.to_vec(),
        kv.create_revision,
        kv.mod_revision,
        kv.version,
    )
}

fn describe(event: &WatchEvent) -> String {
    let (before, after) = match event {
        WatchEvent::Put { kv, previous } => (previous.as_deref().map(fact), Some(fact(kv))),
        WatchEvent::Delete { previous, .. } => (Some(fact(previous)), None),
    };
    format!(
        "{} {:?} -> {:?}",
        event.key(),
        before.as_ref(),
        after.as_ref()
    )
}

#[derive(Debug, Clone)]
enum Step {
    Txn(Vec<(String, u8)>, Vec<(String, Option<u8>)>),
    /// To this part of the way between compacted and current.
    Compact(f64),
    /// Through a snapshot's set of versions and back.
    Rebuild,
}

fn key() -> impl Strategy<Value = String> {
    "[ab]/[abc]{0,2}"
}

fn step() -> impl Strategy<Value = Step> {
    let compares = prop::collection::vec((key(), 0u8..3), 0..2);
    let ops = prop::collection::vec((key(), prop::option::weighted(0.7, any::<u8>())), 0..4);
    prop_oneof![
        12 => (compares, ops).prop_map(|(c, o)| Step::Txn(c, o)),
        1 => (0.0..1.0).prop_map(Step::Compact),
        1 => Just(Step::Rebuild),
    ]
}

/// Comparisons that are right most of the time, so that transactions are not all conflicts.
fn txn(model: &Model, compares: &[(String, u8)], ops: &[(String, Option<u8>)]) -> Txn {
    let current = |key: &str| model.now().get(key).map_or(0, |fact| fact.2);
    Txn {
        compares: compares
            .iter()
            .map(|(key, wrong)| Compare {
                key: key.clone(),
                mod_revision: current(key) + u64::from(*wrong == 2),
            })
            .collect(),
        ops: ops
            .iter()
            .map(|(key, value)| match value {
                Some(value) => Op::Put {
                    key: key.clone(),
                    value: Bytes::from(vec![*value; 3]),
                },
                None => Op::Delete { key: key.clone() },
            })
            .collect(),
    }
}

fn rebuild(mvcc: &Mvcc) -> Mvcc {
    let versions: Vec<_> = mvcc
        .versions()
        .map(|(key, version)| (Arc::clone(key), version.clone()))
        .collect();
    let rebuilt = Mvcc::rebuild(versions, mvcc.summary());
    let rebuilt = rebuilt.unwrap();
    assert!(rebuilt.stale.is_empty(), "{:?}", rebuilt.stale);
    rebuilt.mvcc
}

/// Everything that can be asked has the model's answer.
fn check(mvcc: &Mvcc, model: &Model) {
    assert_eq!(mvcc.revision(), model.revision());
    assert_eq!(mvcc.live_keys(), model.now().len() as u64);
    for (key, expected) in model.now() {
        assert_eq!(fact(mvcc.get(key).unwrap()), *expected);
    }
    for revision in model.compacted..=model.revision() {
        for prefix in ["", "a", "a/", "b/a", "c"] {
            check_range(mvcc, model, revision, prefix);
        }
    }
    for after in model.compacted..=model.revision() {
        let changes: Vec<_> = mvcc.changes_after(after).unwrap().collect();
        let revisions: Vec<_> = changes.iter().map(|c| c.revision).collect();
        let expected: Vec<_> = (after + 1..=model.revision()).collect();
        assert_eq!(revisions, expected);
        for change in changes {
            let events: Vec<_> = change.events.iter().map(describe).collect();
            assert_eq!(events, model.events(change.revision));
        }
    }
    let bytes: u64 = mvcc.history.iter().map(Change::bytes).sum();
    assert_eq!(mvcc.history_bytes(), bytes);
    if let Some(compacted) = model.compacted.checked_sub(1) {
        let gone = StoreError::Compacted {
            requested: compacted,
            oldest: model.compacted,
        };
        assert_eq!(mvcc.changes_after(compacted).err(), Some(gone.clone()));
        let request = request("", Some(compacted));
        assert_eq!(mvcc.range(&request).err(), Some(gone));
    }
    let future = request("", Some(model.revision() + 1));
    assert!(matches!(
        mvcc.range(&future),
        Err(StoreError::FutureRevision { .. })
    ));
}

fn request(prefix: &str, revision: Option<Revision>) -> RangeRequest {
    RangeRequest {
        prefix: prefix.into(),
        after: None,
        limit: 0,
        revision,
        freshness: Freshness::Local,
    }
}

/// One range in one go, and the same in pages of two.
fn check_range(mvcc: &Mvcc, model: &Model, revision: Revision, prefix: &str) {
    let expected: Vec<(String, Fact)> = model.states[revision as usize]
        .iter()
        .filter(|(key, _)| key.starts_with(prefix))
        .map(|(key, fact)| (key.clone(), fact.clone()))
        .collect();
    let mut paged = request(prefix, Some(revision));
    let whole = mvcc.range(&paged).unwrap();
    let facts = |response: &RangeResponse| -> Vec<(String, Fact)> {
        let items = response.items.iter();
        items.map(|kv| (kv.key.to_string(), fact(kv))).collect()
    };
    assert_eq!(facts(&whole), expected);
    assert!(!whole.more && whole.remaining == 0 && whole.revision == revision);
    paged.limit = 2;
    let mut pages = Vec::new();
    loop {
        let page = mvcc.range(&paged).unwrap();
        pages.extend(facts(&page));
        assert_eq!(page.remaining as usize, expected.len() - pages.len());
        assert_eq!(page.more, page.remaining > 0);
        if !page.more {
            break;
        }
        paged.after = page.items.last().map(|kv| kv.key.to_string());
    }
    assert_eq!(pages, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn agrees_with_a_plain_model(steps in prop::collection::vec(step(), 1..40)) {
        let mut mvcc = Mvcc::default();
        let mut model = Model { states: vec![BTreeMap::new()], compacted: 0 };
        for step in steps {
            match step {
                Step::Txn(compares, ops) => {
                    let txn = txn(&model, &compares, &ops);
                    let expected = model.apply(&txn);
                    let (outcome, change) = mvcc.apply(&txn);
                    match outcome {
                        TxnOutcome::Committed { revision, written } => {
                            prop_assert_eq!(Some(revision), expected);
                            for kv in written {
                                prop_assert_eq!(&fact(&kv), &model.now()[&*kv.key]);
                            }
                            prop_assert!(change.is_none_or(|c| c.revision == revision));
                        }
                        TxnOutcome::Conflict { compare, current } => {
                            prop_assert_eq!(expected, None);
                            let current = current.map(|kv| fact(&kv));
                            prop_assert_eq!(current.as_ref(), model.now().get(&compare.key));
                        }
                    }
                }
                Step::Compact(part) => {
                    let span = model.revision() - model.compacted;
                    let to = model.compacted + (span as f64 * part) as u64;
                    model.compacted = to;
                    let before: Vec<_> = mvcc.versions().map(|(k, v)| (k.clone(), v.revision())).collect();
                    let dropped = mvcc.compact(to).unwrap();
                    let after: Vec<_> = mvcc.versions().map(|(k, v)| (k.clone(), v.revision())).collect();
                    // What it says is gone is exactly what is gone.
                    let mut all: Vec<_> = after.into_iter().chain(dropped).collect();
                    all.sort();
                    prop_assert_eq!(all, before);
                }
                Step::Rebuild => mvcc = rebuild(&mvcc),
            }
        }
        check(&mvcc, &model);
        check(&rebuild(&mvcc), &model);
    }

    #[test]
    fn a_rebuild_drops_what_a_compaction_left(steps in prop::collection::vec(step(), 1..40)) {
        let mut mvcc = Mvcc::default();
        let mut model = Model { states: vec![BTreeMap::new()], compacted: 0 };
        for step in steps {
            if let Step::Txn(compares, ops) = step {
                let txn = txn(&model, &compares, &ops);
                model.apply(&txn);
                mvcc.apply(&txn);
            }
        }
        let versions: Vec<_> = mvcc.versions().map(|(k, v)| (k.clone(), v.clone())).collect();
        let to = mvcc.revision() / 2;
        let mut dropped = mvcc.compact(to).unwrap();
        model.compacted = to;
        let rebuilt = Mvcc::rebuild(versions, mvcc.summary()).unwrap();
        let mut stale = rebuilt.stale;
        dropped.sort();
        stale.sort();
        prop_assert_eq!(stale, dropped);
        check(&rebuilt.mvcc, &model);
    }
}

fn version(key: &str, revision: Revision) -> (Arc<str>, Version) {
    let key: Arc<str> = key.into();
    let kv = KeyValue::new(Arc::clone(&key), Bytes::new(), revision, revision, 1);
    (key, Version::Live(Arc::new(kv)))
}

#[test]
fn a_rebuild_refuses_what_contradicts_itself() {
    let expect = |revision, compacted, live_keys| Summary {
        revision,
        compacted,
        live_keys,
        digest: digest("a", 1),
    };
    let order = Mvcc::rebuild([version("b", 1), version("a", 2)], expect(2, 0, 2));
    assert!(matches!(order, Err(RebuildError::Order { .. })));
    let twice = Mvcc::rebuild([version("a", 2), version("a", 2)], expect(2, 0, 1));
    assert!(matches!(twice, Err(RebuildError::Order { .. })));
    let future = Mvcc::rebuild([version("a", 3)], expect(2, 0, 1));
    assert!(matches!(future, Err(RebuildError::Future { .. })));
    let lost = Mvcc::rebuild([version("a", 1)], expect(2, 0, 2)).err();
    let (found, expected) = (1, 2);
    assert_eq!(lost, Some(RebuildError::Count { found, expected }));
    // An older version must not take the place of one that was lost.
    let older = Mvcc::rebuild([version("a", 2)], expect(3, 0, 1)).err();
    assert_eq!(older, Some(RebuildError::Missing));
    let ahead = Mvcc::rebuild([], expect(2, 3, 0));
    assert!(matches!(ahead, Err(RebuildError::Compacted { .. })));
    assert!(Mvcc::rebuild([version("a", 1)], expect(2, 0, 1)).is_ok());
}

#[test]
fn history_is_measured_by_what_it_keeps_alive() {
    let mut mvcc = Mvcc::default();
    for i in 0..10u8 {
        mvcc.apply(&Txn {
            compares: vec![],
            ops: vec![Op::Put {
                key: "k".into(),
                value: Bytes::from(vec![i; 840]),
            }],
        });
    }
    assert_eq!(mvcc.history_bytes(), 9_000);
    let to = mvcc.revision_with_history_below(4_500);
    mvcc.compact(to).unwrap();
    assert_eq!((to, mvcc.history_bytes()), (6, 4_000));
    assert_eq!(mvcc.revision_with_history_below(0), 10);
}
