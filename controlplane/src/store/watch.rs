//! The watch hub: hands every change to the watches that asked for its keys.
//!
//! The state machine sends changes in order through a channel to [`Hub::publish`], so a writer never waits
//! for a watcher. Watches are grouped by prefix in an ordered map; the prefixes of a key are found by walking
//! back from the key, so thousands of watches on other prefixes cost nothing. All watches of a group get the
//! same shared batch.
//!
//! Why there is no gap and no duplicate: `published` moves only under the registry's lock, after the batch is
//! in the buffers. A watch that is registered at `published == p` gets everything after `p` through its
//! buffer and takes everything up to `p` from history.
//!
//! Lock order: registry, then a watch's buffer. The index's lock is never taken with either.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use super::metrics::WatchMetrics;
use super::mvcc::Change;
use super::{Revision, WatchEnd, WatchEvent};

/// What a watcher may leave unread before it is cut off.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            events: 10_000,
            bytes: 16 << 20,
        }
    }
}

#[derive(Debug)]
pub(super) struct Hub {
    registry: Mutex<Registry>,
    /// All changes up to here are in the buffers. Written under the registry's lock.
    published: AtomicU64,
    limits: Limits,
    metrics: WatchMetrics,
}

#[derive(Debug, Default)]
struct Registry {
    groups: BTreeMap<Box<str>, BTreeMap<u64, Arc<Shared>>>,
    next_id: u64,
    closed: bool,
}

/// The events of one group, out of one or more whole revisions.
#[derive(Debug)]
struct Batch {
    events: Vec<WatchEvent>,
    bytes: usize,
}

/// The side of a watch that the hub writes to.
#[derive(Debug)]
struct Shared {
    buffer: Mutex<Buffer>,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Buffer {
    batches: VecDeque<Arc<Batch>>,
    events: usize,
    bytes: usize,
    end: Option<End>,
}

#[derive(Debug, Clone, Copy)]
enum End {
    Slow,
    Closed,
}

impl Hub {
    pub(super) fn new(published: Revision, limits: Limits, metrics: WatchMetrics) -> Self {
        Self {
            registry: Mutex::default(),
            published: AtomicU64::new(published),
            limits,
            metrics,
        }
    }

    /// Hands out changes; they come in order, and after everything published before.
    pub(super) fn publish(&self, changes: &[Change]) {
        let Some(last) = changes.last() else {
            return;
        };
        let mut registry = self.registry();
        for (prefix, batch) in collect(&registry.groups, changes) {
            let mut slow = Vec::new();
            let batch = Arc::new(batch);
            for (id, watch) in &registry.groups[&prefix] {
                if !watch.push(&batch, self.limits) {
                    slow.push(*id);
                }
            }
            for id in slow {
                registry.remove(&prefix, id);
                self.metrics.watchers.dec();
                self.metrics.cut_off.inc();
            }
        }
        self.published.store(last.revision, Ordering::Release);
    }

    /// Registers a watch of the keys below `prefix` for events after `after`. Returns it with the revision up
    /// to which it takes its events from history: see [`Watch::replay`].
    pub(super) fn register(self: &Arc<Self>, prefix: &str, after: Revision) -> (Watch, Revision) {
        let shared = Arc::new(Shared {
            buffer: Mutex::default(),
            wake: Notify::new(),
        });
        let mut registry = self.registry();
        let published = self.published.load(Ordering::Acquire);
        let id = registry.next_id;
        registry.next_id += 1;
        if registry.closed {
            shared.finish(End::Closed);
        } else {
            let group = registry.groups.entry(prefix.into()).or_default();
            group.insert(id, Arc::clone(&shared));
            self.metrics.watchers.inc();
        }
        let watch = Watch {
            hub: Arc::clone(self),
            shared,
            id,
            prefix: prefix.into(),
            pending: Vec::new(),
            complete: after,
        };
        (watch, published)
    }

    /// Ends all watches because events were lost to them; they may be opened again.
    pub(super) fn cut_all(&self, published: Revision) {
        let mut registry = self.registry();
        self.end_all(&mut registry, End::Slow);
        self.published.store(published, Ordering::Release);
    }

    /// Ends all watches for good.
    pub(super) fn close(&self) {
        let mut registry = self.registry();
        registry.closed = true;
        self.end_all(&mut registry, End::Closed);
    }

    fn end_all(&self, registry: &mut Registry, end: End) {
        for watch in std::mem::take(&mut registry.groups)
            .values()
            .flat_map(BTreeMap::values)
        {
            watch.finish(end);
            self.metrics.watchers.dec();
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().expect("no panic while holding it")
    }
}

impl Registry {
    fn remove(&mut self, prefix: &str, id: u64) -> bool {
        let Some(group) = self.groups.get_mut(prefix) else {
            return false;
        };
        let removed = group.remove(&id).is_some();
        if group.is_empty() {
            self.groups.remove(prefix);
        }
        removed
    }
}

/// The events of `changes` for each group that has any.
fn collect<G>(groups: &BTreeMap<Box<str>, G>, changes: &[Change]) -> HashMap<Box<str>, Batch> {
    let mut batches: HashMap<Box<str>, Batch> = HashMap::new();
    if groups.is_empty() {
        return batches;
    }
    for event in changes.iter().flat_map(|change| change.events.iter()) {
        for prefix in matching(groups, event.key()) {
            let bytes = event.bytes();
            match batches.get_mut(prefix) {
                Some(batch) => {
                    batch.events.push(event.clone());
                    batch.bytes += bytes;
                }
                None => {
                    let events = vec![event.clone()];
                    batches.insert(prefix.into(), Batch { events, bytes });
                }
            }
        }
    }
    batches
}

/// The groups whose prefix `key` starts with, the longest first. Each step goes to the greatest prefix that
/// can still match, so groups that share little with the key are never looked at.
fn matching<'a, G>(
    groups: &'a BTreeMap<Box<str>, G>,
    key: &'a str,
) -> impl Iterator<Item = &'a str> {
    let mut bound = Some((key, true));
    std::iter::from_fn(move || {
        loop {
            let (at, inclusive) = bound?;
            let upper = match inclusive {
                true => Bound::Included(at),
                false => Bound::Excluded(at),
            };
            let below = groups
                .range::<str, _>((Bound::Unbounded, upper))
                .next_back();
            let Some((candidate, _)) = below else {
                bound = None;
                return None;
            };
            if key.starts_with(&**candidate) {
                bound = Some((candidate, false));
                return Some(&**candidate);
            }
            // Nothing between their common prefix and the candidate can match.
            bound = Some((common_prefix(key, candidate), true));
        }
    })
}

fn common_prefix<'a>(a: &'a str, b: &str) -> &'a str {
    let mut length = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    while !a.is_char_boundary(length) {
        length -= 1;
    }
    &a[..length]
}

impl Shared {
    /// False once the watch is over its limits; it is ended then.
    fn push(&self, batch: &Arc<Batch>, limits: Limits) -> bool {
        let mut buffer = self.buffer();
        buffer.events += batch.events.len();
        buffer.bytes += batch.bytes;
        // A reader that has taken everything is never slow, however large the batch.
        let over = buffer.events > limits.events || buffer.bytes > limits.bytes;
        let slow = over && !buffer.batches.is_empty();
        if slow {
            buffer.end(End::Slow);
        } else {
            buffer.batches.push_back(Arc::clone(batch));
        }
        drop(buffer);
        self.wake.notify_one();
        !slow
    }

    fn finish(&self, end: End) {
        self.buffer().end(end);
        self.wake.notify_one();
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        self.buffer.lock().expect("no panic while holding it")
    }
}

impl Buffer {
    /// What was not read is given up: the reader resumes from where it was.
    fn end(&mut self, end: End) {
        self.batches = VecDeque::new();
        self.end = Some(end);
    }

    fn take(&mut self) -> VecDeque<Arc<Batch>> {
        self.events = 0;
        self.bytes = 0;
        std::mem::take(&mut self.batches)
    }
}

/// An ordered stream of events without gap or duplicate.
#[derive(Debug)]
pub(crate) struct Watch {
    hub: Arc<Hub>,
    shared: Arc<Shared>,
    id: u64,
    prefix: Box<str>,
    /// Events out of history, before anything in the buffer.
    pending: Vec<WatchEvent>,
    /// Everything up to here was returned, or will be by taking `pending`.
    complete: Revision,
}

impl Watch {
    /// Takes the events up to `until` from history.
    pub(super) fn replay<'a>(
        &mut self,
        changes: impl Iterator<Item = &'a Change>,
        until: Revision,
    ) {
        let events = changes
            .take_while(|change| change.revision <= until)
            .flat_map(|change| change.events.iter())
            .filter(|event| event.key().starts_with(&*self.prefix));
        self.pending.extend(events.cloned());
        self.complete = self.complete.max(until);
    }

    /// The next batch of events (never empty): all of them of one or more whole revisions. Cancel-safe.
    /// The `Revision` is the one up to which the watch is now complete.
    pub(crate) async fn next(&mut self) -> Result<(Vec<WatchEvent>, Revision), WatchEnd> {
        loop {
            if !self.pending.is_empty() {
                return Ok((std::mem::take(&mut self.pending), self.complete));
            }
            self.take_buffer()?;
            if self.pending.is_empty() {
                self.shared.wake.notified().await;
            }
        }
    }

    /// Revision up to which nothing is missing, also where no event matched (for bookmarks).
    pub(crate) fn progress(&self) -> Revision {
        if let Some(first) = self.pending.first() {
            return first.revision() - 1;
        }
        let published = self.hub.published.load(Ordering::Acquire);
        let buffer = self.shared.buffer();
        match buffer.batches.front() {
            Some(batch) => {
                let first = batch.events.first().map_or(0, WatchEvent::revision);
                self.complete.max(first.saturating_sub(1))
            }
            // After the end there is no more: what was given up is missing.
            None if buffer.end.is_some() => self.complete,
            None => self.complete.max(published),
        }
    }

    fn take_buffer(&mut self) -> Result<(), WatchEnd> {
        // Read before the buffer: what is published by now is in the buffer or was never for this watch.
        let published = self.hub.published.load(Ordering::Acquire);
        let (batches, end) = {
            let mut buffer = self.shared.buffer();
            (buffer.take(), buffer.end)
        };
        match end {
            Some(End::Slow) => return Err(WatchEnd::Slow(self.complete)),
            Some(End::Closed) => return Err(WatchEnd::Closed),
            None => {}
        }
        let after = self.complete;
        let events = batches.iter().flat_map(|batch| batch.events.iter());
        let fresh = events.filter(|event| event.revision() > after).cloned();
        self.pending.extend(fresh);
        let last = self.pending.last().map_or(0, WatchEvent::revision);
        self.complete = after.max(published).max(last);
        Ok(())
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut registry = self.hub.registry();
        if registry.remove(&self.prefix, self.id) {
            self.hub.metrics.watchers.dec();
        }
    }
}

#[cfg(test)]
mod tests;
