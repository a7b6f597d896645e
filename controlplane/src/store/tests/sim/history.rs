//! What clients did and saw, and what is known to have happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::store::{Op, Revision, Txn, WatchEvent};

/// What became of something that a client asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    Committed(Revision),
    /// A comparison did not hold: nothing was written.
    Conflict,
    /// The store says that it did not happen.
    Refused(String),
    /// It may have happened.
    Unknown(String),
}

#[derive(Debug, Clone)]
pub(super) struct Write {
    pub(super) client: usize,
    pub(super) member: u64,
    pub(super) txn: Txn,
    pub(super) invoked: Duration,
    pub(super) returned: Duration,
    pub(super) outcome: Outcome,
}

/// Keys with values and mod revisions.
pub(super) type Contents = BTreeMap<String, (String, Revision)>;

#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) client: usize,
    pub(super) member: u64,
    pub(super) invoked: Duration,
    pub(super) returned: Duration,
    pub(super) revision: Revision,
    pub(super) contents: Contents,
}

/// One key at one revision; `None` is its deletion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) revision: Revision,
    pub(super) key: String,
    pub(super) value: Option<String>,
}

impl Event {
    pub(super) fn of(event: &WatchEvent) -> Self {
        let value = match event {
            WatchEvent::Put { kv, .. } => Some(String::from_utf8_lossy(&kv.value).into_owned()),
            WatchEvent::Delete { .. } => None,
        };
        Self {
            revision: event.revision(),
            key: event.key().to_string(),
            value,
        }
    }
}

/// What one watcher saw, from wherever it had to begin again.
#[derive(Debug, Clone, Default)]
pub(super) struct Watched {
    pub(super) member: u64,
    /// After this revision.
    pub(super) from: Revision,
    /// And up to here nothing is missing.
    pub(super) complete: Revision,
    pub(super) events: Vec<Event>,
}

/// Who leads, under which vote, and in which life: another one after each restart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Led {
    pub(super) term: u64,
    pub(super) voted_for: u64,
    pub(super) leader: u64,
    pub(super) life: u64,
}

#[derive(Debug, Default)]
pub(super) struct History {
    pub(super) writes: Vec<Write>,
    pub(super) reads: Vec<Read>,
    pub(super) watched: Vec<Watched>,
    pub(super) led: Vec<Led>,
    /// At the end, of each member: what its state adds up to.
    pub(super) ends: BTreeMap<u64, String>,
    /// At the end: everything that ever happened, in order, by the log of one member.
    pub(super) truth: Vec<Event>,
    pub(super) recovered: bool,
}

pub(super) type Recorder = Arc<Mutex<History>>;

impl History {
    /// What happened at each revision.
    pub(super) fn by_revision(&self) -> BTreeMap<Revision, Vec<&Event>> {
        let mut all: BTreeMap<Revision, Vec<&Event>> = BTreeMap::new();
        for event in &self.truth {
            all.entry(event.revision).or_default().push(event);
        }
        all
    }

    /// A number that stands for all of it.
    pub(super) fn hash(&self) -> u32 {
        let mut sum = Sum::default();
        for write in &self.writes {
            sum.numbers(&[write.client as u64, write.member]);
            sum.times(&[write.invoked, write.returned]);
            for op in &write.txn.ops {
                sum.text(op.key());
                if let Op::Put { value, .. } = op {
                    sum.bytes(value);
                }
            }
            for compare in &write.txn.compares {
                sum.text(&compare.key);
                sum.numbers(&[compare.mod_revision]);
            }
            sum.text(&format!("{:?}", write.outcome));
        }
        for read in &self.reads {
            sum.numbers(&[read.client as u64, read.member, read.revision]);
            sum.times(&[read.invoked, read.returned]);
            for (key, (value, revision)) in &read.contents {
                sum.text(key);
                sum.text(value);
                sum.numbers(&[*revision]);
            }
        }
        for watched in &self.watched {
            sum.numbers(&[watched.member, watched.from, watched.complete]);
            sum.events(&watched.events);
        }
        for end in self.ends.values() {
            sum.text(end);
        }
        sum.events(&self.truth);
        sum.0.finalize()
    }
}

/// Adds up what happened.
#[derive(Default)]
struct Sum(crc32fast::Hasher);

impl Sum {
    fn bytes(&mut self, bytes: &[u8]) {
        self.numbers(&[bytes.len() as u64]);
        self.0.update(bytes);
    }

    fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn numbers(&mut self, numbers: &[u64]) {
        for number in numbers {
            self.0.update(&number.to_be_bytes());
        }
    }

    fn times(&mut self, times: &[Duration]) {
        for time in times {
            self.0.update(&time.as_nanos().to_be_bytes());
        }
    }

    fn events(&mut self, events: &[Event]) {
        for event in events {
            self.numbers(&[event.revision]);
            self.text(&event.key);
            match &event.value {
                Some(value) => self.text(value),
                None => self.numbers(&[0]),
            }
        }
    }
}

/// Whether it may find nothing to change.
pub(super) fn only_deletes(txn: &Txn) -> bool {
    txn.ops.iter().all(|op| matches!(op, Op::Delete { .. }))
}

/// The values that a transaction writes; each is written by one transaction only.
pub(super) fn values(txn: &Txn) -> Vec<(String, String)> {
    let puts = txn.ops.iter().filter_map(|op| match op {
        Op::Put { key, value } => Some((key.clone(), String::from_utf8_lossy(value).into_owned())),
        Op::Delete { .. } => None,
    });
    puts.collect()
}
