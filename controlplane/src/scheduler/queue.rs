//! Pods that wait for a node: ready to be tried, backing off, or parked until something changes.
//!
//! Time is given by the caller.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::news::Waiting;
use super::request::Request;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// Nothing stays parked longer than this.
const PARKED: Duration = Duration::from_secs(300);

/// Highest priority first, then in the order of the numbers, which are those of arrivals.
type Rank = (Reverse<i32>, u64, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active(Reverse<i32>, u64),
    /// Backing off.
    Delayed(Instant, u64),
    /// The same until something changes.
    Parked(Instant, u64),
    /// A decision is under way.
    InHand,
}

#[derive(Debug)]
struct Entry {
    request: Arc<Request>,
    attempts: u32,
    /// The number that it was first given.
    arrived: u64,
    place: Place,
    retry_at: Instant,
    /// The round of decisions in which it was last tried.
    tried: u64,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<String, Entry>,
    active: BTreeSet<Rank>,
    delayed: BTreeMap<(Instant, u64), String>,
    /// Those of them that wait for a change of the cluster rather than for time.
    parked: BTreeSet<Rank>,
    sequence: u64,
}

impl Queue {
    /// A new pod, or a new version of one that waits.
    pub(super) fn put(&mut self, request: Arc<Request>, now: Instant) {
        let uid = request.uid().to_owned();
        if let Some(entry) = self.entries.get_mut(&uid) {
            // Its status changes with every attempt; only another spec or labels can change the answer.
            let same = entry.request.pod.spec == request.pod.spec
                && entry.request.class.labels == request.class.labels;
            entry.request = request;
            if same || entry.place == Place::InHand {
                return;
            }
            self.activate(&uid);
            return;
        }
        let entry = Entry {
            request,
            attempts: 0,
            arrived: self.sequence,
            place: Place::InHand,
            retry_at: now,
            tried: 0,
        };
        self.entries.insert(uid.clone(), entry);
        self.activate(&uid);
    }

    pub(super) fn remove(&mut self, uid: &str) {
        let Some(place) = self.entries.get(uid).map(|entry| entry.place) else {
            return;
        };
        self.unplace(uid, place);
        self.entries.remove(uid);
    }

    pub(super) fn contains(&self, uid: &str) -> bool {
        self.entries.contains_key(uid)
    }

    /// A decision about it is under way.
    pub(super) fn is_in_hand(&self, uid: &str) -> bool {
        self.entries
            .get(uid)
            .is_some_and(|entry| entry.place == Place::InHand)
    }

    pub(super) fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// The next pod to try in this round of decisions.
    pub(super) fn take(&mut self, now: Instant, round: u64) -> Option<Arc<Request>> {
        while let Some((&(due, sequence), _)) = self.delayed.first_key_value() {
            if due > now {
                break;
            }
            if let Some(uid) = self.delayed.remove(&(due, sequence)) {
                self.activate(&uid);
            }
        }
        let (_, _, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::InHand;
        entry.tried = round;
        entry.attempts = entry.attempts.saturating_add(1);
        Some(Arc::clone(&entry.request))
    }

    /// No node fits: wait for a change.
    pub(super) fn park(&mut self, uid: &str, now: Instant) {
        self.defer(uid, now, true);
    }

    /// Binding failed: try again after a while.
    pub(super) fn back_off(&mut self, uid: &str, now: Instant) {
        self.defer(uid, now, false);
    }

    fn defer(&mut self, uid: &str, now: Instant, parked: bool) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        let factor = 2_u32.saturating_pow(entry.attempts.saturating_sub(1));
        entry.retry_at = now + FIRST_BACKOFF.saturating_mul(factor).min(LAST_BACKOFF);
        let due = if parked { now + PARKED } else { entry.retry_at };
        self.delay(uid, due, parked);
    }

    /// The cluster has changed: of the parked pods those are tried again that it `matters` to, not sooner than their
    /// back-off allows. It is asked in the order in which they are tried, until it says that it matters to no further one.
    pub(super) fn wake(
        &mut self,
        now: Instant,
        mut matters: impl FnMut(&Waiting<'_>) -> ControlFlow<(), bool>,
    ) {
        let mut woken = Vec::new();
        for (_, _, uid) in &self.parked {
            let Some(entry) = self.entries.get(uid) else {
                continue;
            };
            let waiting = Waiting {
                request: &entry.request,
                tried: entry.tried,
                ready: entry.retry_at <= now,
            };
            match matters(&waiting) {
                ControlFlow::Continue(true) => woken.push((uid.clone(), entry.retry_at)),
                ControlFlow::Continue(false) => {}
                ControlFlow::Break(()) => break,
            }
        }
        for (uid, retry_at) in woken {
            if retry_at <= now {
                self.activate(&uid);
            } else {
                self.delay(&uid, retry_at, false);
            }
        }
    }

    /// When the next delayed pod is due, if none is ready.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((due, _), _)| *due)
    }

    /// (ready, backing off or parked)
    pub(super) fn depths(&self) -> (usize, usize) {
        (self.active.len(), self.delayed.len())
    }

    fn activate(&mut self, uid: &str) {
        self.sequence += 1;
        let Some(entry) = self.entries.get(uid) else {
            return;
        };
        let priority = Reverse(entry.request.priority);
        self.active
            .insert((priority, self.sequence, uid.to_owned()));
        self.put_in(uid, Place::Active(priority, self.sequence));
    }

    fn delay(&mut self, uid: &str, due: Instant, parked: bool) {
        self.sequence += 1;
        self.delayed.insert((due, self.sequence), uid.to_owned());
        let place = if parked {
            Place::Parked(due, self.sequence)
        } else {
            Place::Delayed(due, self.sequence)
        };
        self.put_in(uid, place);
        if parked && let Some(rank) = self.rank(uid) {
            self.parked.insert(rank);
        }
    }

    fn put_in(&mut self, uid: &str, place: Place) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        let old = std::mem::replace(&mut entry.place, place);
        self.unplace(uid, old);
    }

    fn rank(&self, uid: &str) -> Option<Rank> {
        let entry = self.entries.get(uid)?;
        let priority = Reverse(entry.request.priority);
        Some((priority, entry.arrived, uid.to_owned()))
    }

    fn unplace(&mut self, uid: &str, place: Place) {
        match place {
            Place::Active(priority, sequence) => {
                self.active.remove(&(priority, sequence, uid.to_owned()));
            }
            Place::Delayed(due, sequence) => {
                self.delayed.remove(&(due, sequence));
            }
            Place::Parked(due, sequence) => {
                self.delayed.remove(&(due, sequence));
                if let Some(rank) = self.rank(uid) {
                    self.parked.remove(&rank);
                }
            }
            Place::InHand => {}
        }
    }
}
