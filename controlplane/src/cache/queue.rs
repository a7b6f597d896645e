//! A work queue that holds each key once: added again while it waits, it is not queued twice; added while
//! a worker has it, it comes again when the worker is done.
//!
//! Failures come back after a delay that doubles per key. No clock but tokio's, so tests can pause it.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LAST_DELAY: Duration = Duration::from_secs(60);

#[derive(Debug)]
struct State<T> {
    ready: VecDeque<T>,
    /// Waiting in `ready`, or to be put there when its worker is done.
    dirty: HashSet<T>,
    working: HashSet<T>,
    delayed: BinaryHeap<Reverse<(Instant, u64)>>,
    /// Sequence number of a delayed entry to its key; per key only the earliest counts.
    delayed_keys: HashMap<u64, T>,
    due: HashMap<T, (Instant, u64)>,
    sequence: u64,
    failures: HashMap<T, u32>,
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            working: HashSet::new(),
            delayed: BinaryHeap::new(),
            delayed_keys: HashMap::new(),
            due: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
        }
    }
}

/// Cheap to clone; all clones are the same queue.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Arc<Mutex<State<T>>>,
    changed: Arc<Notify>,
    /// A worker has finished with a key.
    finished: Arc<Notify>,
}

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Self {
            state: Arc::clone(&self.state),
            changed: Arc::clone(&self.changed),
            finished: Arc::clone(&self.finished),
        }
    }
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            state: Arc::default(),
            changed: Arc::default(),
            finished: Arc::default(),
        }
    }
}

impl<T: Hash + Eq + Clone> Queue<T> {
    pub(crate) fn add(&self, key: T) {
        self.lock().add(key);
        self.changed.notify_one();
    }

    /// An earlier due time of the same key wins.
    pub(crate) fn add_after(&self, key: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let due = Instant::now() + delay;
        {
            let mut state = self.lock();
            if state.due.get(&key).is_some_and(|(known, _)| *known <= due) {
                return;
            }
            let sequence = state.sequence;
            state.sequence += 1;
            state.delayed.push(Reverse((due, sequence)));
            if let Some((_, replaced)) = state.due.insert(key.clone(), (due, sequence)) {
                state.delayed_keys.remove(&replaced);
            }
            state.delayed_keys.insert(sequence, key);
        }
        self.changed.notify_one();
    }

    /// The next key; the caller must say [`Queue::done`] for it. Cancel-safe.
    pub(crate) async fn next(&self) -> T {
        loop {
            let due = {
                let mut state = self.lock();
                state.move_due(Instant::now());
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        // One permit can stand for several adds.
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.delayed.peek().map(|Reverse((due, _))| *due)
            };
            match due {
                Some(due) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(due) => {}
                    }
                }
                None => self.changed.notified().await,
            }
        }
    }

    /// The worker has finished with the key.
    pub(crate) fn done(&self, key: &T) {
        {
            let mut state = self.lock();
            state.working.remove(key);
            if state.dirty.contains(key) {
                state.ready.push_back(key.clone());
            }
        }
        self.changed.notify_one();
        self.finished.notify_waiters();
    }

    /// Returns when no key is ready and no worker has one; what is delayed is not waited for.
    pub(crate) async fn idle(&self) {
        loop {
            let finished = self.finished.notified();
            tokio::pin!(finished);
            // Registered before the look, so that a worker that ends in between is not missed.
            finished.as_mut().enable();
            {
                let state = self.lock();
                if state.ready.is_empty() && state.working.is_empty() {
                    return;
                }
            }
            finished.await;
        }
    }

    /// Brings the key back later, each time after twice the delay.
    pub(crate) fn retry(&self, key: T) {
        let delay = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_default();
            let delay = FIRST_DELAY
                .saturating_mul(2_u32.saturating_pow(*failures))
                .min(LAST_DELAY);
            *failures = failures.saturating_add(1);
            delay
        };
        self.add_after(key, delay);
    }

    /// The key succeeded: its next failure starts with the first delay.
    pub(crate) fn forget(&self, key: &T) {
        self.lock().failures.remove(key);
    }

    /// Keys that wait for a worker now.
    pub(crate) fn len(&self) -> usize {
        self.lock().ready.len()
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().expect("no panic while held")
    }
}

impl<T: Hash + Eq + Clone> State<T> {
    fn add(&mut self, key: T) {
        if !self.dirty.insert(key.clone()) || self.working.contains(&key) {
            return;
        }
        self.ready.push_back(key);
    }

    fn move_due(&mut self, now: Instant) {
        while let Some(Reverse((due, sequence))) = self.delayed.peek().copied() {
            if due > now {
                return;
            }
            self.delayed.pop();
            if let Some(key) = self.delayed_keys.remove(&sequence) {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }
}
