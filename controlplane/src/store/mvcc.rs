//! The multi-version index: every live key with its latest version, and all history since compaction.
//!
//! Pure: no disk, no clock, no task. One writer (the state machine) changes it behind a lock; readers clone
//! `Arc`s out of it. It is the same on every member, because it changes by log entries alone.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use super::{
    Compare, KeyValue, Op, RangeRequest, RangeResponse, Revision, StoreError, Txn, TxnOutcome,
    WatchEvent,
};

mod rebuild;
pub(super) use rebuild::{RebuildError, Rebuilt};

/// One version of a key.
#[derive(Debug, Clone)]
pub(super) enum Version {
    Live(Arc<KeyValue>),
    /// The key was deleted at this revision.
    Gone(Revision),
}

impl Version {
    pub(super) fn revision(&self) -> Revision {
        match self {
            Self::Live(kv) => kv.mod_revision,
            Self::Gone(revision) => *revision,
        }
    }

    pub(super) fn live(&self) -> Option<&Arc<KeyValue>> {
        match self {
            Self::Live(kv) => Some(kv),
            Self::Gone(_) => None,
        }
    }
}

/// The versions of one key, the older ones in ascending order.
#[derive(Debug)]
struct Chain {
    latest: Version,
    older: Vec<Version>,
}

impl Chain {
    fn at(&self, revision: Revision) -> Option<&Arc<KeyValue>> {
        if self.latest.revision() <= revision {
            return self.latest.live();
        }
        let newer = self.older.partition_point(|v| v.revision() <= revision);
        self.older.get(newer.checked_sub(1)?)?.live()
    }

    fn push(&mut self, version: Version) {
        let previous = std::mem::replace(&mut self.latest, version);
        self.older.push(previous);
    }
}

/// Everything that happened at one revision, ordered by key.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub(super) revision: Revision,
    pub(super) events: Arc<[WatchEvent]>,
}

impl Change {
    /// Bytes of values that this change keeps alive for its history.
    fn bytes(&self) -> u64 {
        self.events
            .iter()
            .filter_map(WatchEvent::previous)
            .map(|kv| (kv.value.len() + 160) as u64)
            .sum()
    }
}

/// What all versions add up to. Members at the same revision agree on it, and what is read from a disk or a
/// peer must agree with it: every record has a checksum of its own, but only this notices that one is gone.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) revision: Revision,
    pub(super) compacted: Revision,
    pub(super) live_keys: u64,
    /// Sum of [`digest`] over all versions.
    pub(super) digest: u64,
}

/// A hash of one version's place; what it holds is covered by its record's checksum.
fn digest(key: &str, revision: Revision) -> u64 {
    let revision = revision.to_be_bytes();
    let hash = |parts: [&[u8]; 2]| {
        let mut hasher = crc32fast::Hasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        u64::from(hasher.finalize())
    };
    hash([key.as_bytes(), &revision]) << 32 | hash([&revision, key.as_bytes()])
}

#[derive(Debug, Default)]
pub(super) struct Mvcc {
    keys: BTreeMap<Arc<str>, Chain>,
    /// All changes after `compacted`.
    history: VecDeque<Change>,
    history_bytes: u64,
    revision: Revision,
    compacted: Revision,
    live: u64,
    digest: u64,
}

impl Mvcc {
    pub(super) fn revision(&self) -> Revision {
        self.revision
    }

    pub(super) fn compacted(&self) -> Revision {
        self.compacted
    }

    pub(super) fn live_keys(&self) -> u64 {
        self.live
    }

    pub(super) fn summary(&self) -> Summary {
        Summary {
            revision: self.revision,
            compacted: self.compacted,
            live_keys: self.live,
            digest: self.digest,
        }
    }

    /// Bytes of values that only history keeps alive.
    pub(super) fn history_bytes(&self) -> u64 {
        self.history_bytes
    }

    pub(super) fn get(&self, key: &str) -> Option<&Arc<KeyValue>> {
        self.keys.get(key)?.latest.live()
    }

    /// The transaction's outcome, and what changed if anything did.
    pub(super) fn apply(&mut self, txn: &Txn) -> (TxnOutcome, Option<Change>) {
        if let Some(compare) = txn.compares.iter().find(|c| !self.holds(c)) {
            let conflict = TxnOutcome::Conflict {
                compare: compare.clone(),
                current: self.get(&compare.key).cloned(),
            };
            return (conflict, None);
        }
        let revision = self.revision + 1;
        let mut written = Vec::new();
        let mut events = Vec::with_capacity(txn.ops.len());
        for op in last_per_key(&txn.ops) {
            match op {
                Op::Put { key, value } => {
                    let event = self.put(key, value.clone(), revision);
                    if let WatchEvent::Put { kv, .. } = &event {
                        written.push(Arc::clone(kv));
                    }
                    events.push(event);
                }
                Op::Delete { key } => events.extend(self.delete(key, revision)),
            }
        }
        if events.is_empty() {
            let revision = self.revision;
            return (TxnOutcome::Committed { revision, written }, None);
        }
        events.sort_by(|a, b| a.key().cmp(b.key()));
        self.revision = revision;
        for event in &events {
            self.digest = self.digest.wrapping_add(digest(event.key(), revision));
        }
        let change = Change {
            revision,
            events: events.into(),
        };
        self.history_bytes += change.bytes();
        self.history.push_back(change.clone());
        (TxnOutcome::Committed { revision, written }, Some(change))
    }

    fn holds(&self, compare: &Compare) -> bool {
        let current = self.get(&compare.key).map_or(0, |kv| kv.mod_revision);
        current == compare.mod_revision
    }

    fn put(&mut self, key: &str, value: bytes::Bytes, revision: Revision) -> WatchEvent {
        let (key, previous) = match self.keys.get_key_value(key) {
            Some((key, chain)) => (Arc::clone(key), chain.latest.live().cloned()),
            None => (Arc::from(key), None),
        };
        let (create_revision, version) = match &previous {
            Some(kv) => (kv.create_revision, kv.version + 1),
            None => (revision, 1),
        };
        let kv = Arc::new(KeyValue::new(
            Arc::clone(&key),
            value,
            create_revision,
            revision,
            version,
        ));
        let latest = Version::Live(Arc::clone(&kv));
        match self.keys.get_mut(&key) {
            Some(chain) => chain.push(latest),
            None => {
                let older = Vec::new();
                self.keys.insert(key, Chain { latest, older });
            }
        }
        if previous.is_none() {
            self.live += 1;
        }
        WatchEvent::Put { kv, previous }
    }

    fn delete(&mut self, key: &str, revision: Revision) -> Option<WatchEvent> {
        let chain = self.keys.get_mut(key)?;
        let previous = Arc::clone(chain.latest.live()?);
        chain.push(Version::Gone(revision));
        self.live -= 1;
        Some(WatchEvent::Delete { revision, previous })
    }

    pub(super) fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let revision = request.revision.unwrap_or(self.revision);
        self.readable(revision)?;
        let prefix = request.prefix.as_str();
        let start = match request.after.as_deref() {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = self
            .keys
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .filter_map(|(_, chain)| chain.at(revision));
        let limit = match request.limit {
            0 => usize::MAX,
            limit => limit,
        };
        let items: Vec<_> = found.by_ref().take(limit).cloned().collect();
        let remaining = found.count() as u64;
        Ok(RangeResponse {
            items,
            revision,
            more: remaining > 0,
            remaining,
        })
    }

    /// Whether the state at `revision` can still be told.
    fn readable(&self, revision: Revision) -> Result<(), StoreError> {
        if revision < self.compacted {
            return Err(StoreError::Compacted {
                requested: revision,
                oldest: self.compacted,
            });
        }
        if revision > self.revision {
            return Err(StoreError::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        Ok(())
    }

    /// Everything that happened after a revision, oldest first.
    pub(super) fn changes_after(
        &self,
        after: Revision,
    ) -> Result<impl Iterator<Item = &Change>, StoreError> {
        self.readable(after)?;
        let start = self.history.partition_point(|c| c.revision <= after);
        Ok(self.history.range(start..))
    }

    /// Forgets history up to `revision`; the state at `revision` itself stays readable. Returns the versions
    /// that are gone. Compacting to where the store already is does nothing.
    pub(super) fn compact(
        &mut self,
        revision: Revision,
    ) -> Result<Vec<(Arc<str>, Revision)>, StoreError> {
        if revision > self.revision {
            return Err(StoreError::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        let mut dropped = Vec::new();
        while let Some(change) = self.history.front()
            && change.revision <= revision
        {
            self.history_bytes -= change.bytes();
            let change = self.history.pop_front().expect("there is a front");
            for event in change.events.iter() {
                self.trim(event.key(), revision, &mut dropped);
            }
        }
        self.compacted = self.compacted.max(revision);
        for (key, revision) in &dropped {
            self.digest = self.digest.wrapping_sub(digest(key, *revision));
        }
        Ok(dropped)
    }

    /// Drops the versions of a key that no revision from `oldest` on can see.
    fn trim(&mut self, key: &str, oldest: Revision, dropped: &mut Vec<(Arc<str>, Revision)>) {
        let Some((key, _)) = self.keys.get_key_value(key) else {
            return;
        };
        let key = Arc::clone(key);
        let chain = self.keys.get_mut(&key).expect("found just now");
        if let Version::Gone(revision) = chain.latest
            && revision <= oldest
        {
            let versions = chain.older.iter().chain([&chain.latest]);
            dropped.extend(versions.map(|v| (Arc::clone(&key), v.revision())));
            self.keys.remove(&key);
            return;
        }
        let mut keep = chain.older.partition_point(|v| v.revision() <= oldest);
        if chain.latest.revision() > oldest
            && let Some(last) = keep.checked_sub(1)
            && chain.older[last].live().is_some()
        {
            // The version that is seen at `oldest`.
            keep = last;
        }
        let versions = chain.older.drain(..keep);
        dropped.extend(versions.map(|v| (Arc::clone(&key), v.revision())));
        if chain.older.is_empty() {
            chain.older.shrink_to_fit();
        }
    }

    /// The oldest revision after which history takes at most `bytes`.
    pub(super) fn revision_with_history_below(&self, bytes: u64) -> Revision {
        let mut left = self.history_bytes;
        for change in &self.history {
            if left <= bytes {
                return change.revision - 1;
            }
            left -= change.bytes();
        }
        self.revision
    }

    /// All versions of all keys, ordered by key and revision.
    pub(super) fn versions(&self) -> impl Iterator<Item = (&Arc<str>, &Version)> {
        self.keys.iter().flat_map(|(key, chain)| {
            let versions = chain.older.iter().chain([&chain.latest]);
            versions.map(move |version| (key, version))
        })
    }
}

/// The operations, of several on one key only the last: a transaction is one revision, and a key has one
/// version per revision.
fn last_per_key(ops: &[Op]) -> impl Iterator<Item = &Op> {
    let last: HashMap<&str, usize> = match ops.len() {
        0 | 1 => HashMap::new(),
        _ => ops
            .iter()
            .enumerate()
            .map(|(i, op)| (op.key(), i))
            .collect(),
    };
    ops.iter()
        .enumerate()
        .filter(move |(i, op)| last.get(op.key()).is_none_or(|last| last == i))
        .map(|(_, op)| op)
}

#[cfg(test)]
mod tests;
