//! Pods that wait for a node: ready to be tried, backing off, or parked until something changes.
//!
//! Time is given by the caller.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::request::Request;

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// Nothing stays parked longer than this.
const PARKED: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Active(Reverse<i32>, u64),
    Delayed(Instant, u64),
    /// A decision is under way.
    InHand,
}

#[derive(Debug)]
struct Entry {
    request: Arc<Request>,
    attempts: u32,
    place: Place,
    /// Waits for a change of the cluster rather than for time.
    parked: bool,
    retry_at: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: HashMap<String, Entry>,
    /// Highest priority first, then in the order of arrival.
    active: BTreeSet<(Reverse<i32>, u64, String)>,
    delayed: BTreeMap<(Instant, u64), String>,
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
            place: Place::InHand,
            parked: false,
            retry_at: now,
        };
        self.entries.insert(uid.clone(), entry);
        self.activate(&uid);
    }

    pub(super) fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.entries.remove(uid) {
            self.unplace(uid, entry.place);
        }
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
        !self.delayed.is_empty()
    }

    /// The next pod to try.
    pub(super) fn take(&mut self, now: Instant) -> Option<Arc<Request>> {
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
        entry.parked = parked;
        let due = if parked { now + PARKED } else { entry.retry_at };
        self.delay(uid, due);
    }

    /// The cluster has changed: parked pods that it may matter to are tried again, not sooner than their
    /// back-off allows.
    pub(super) fn wake(&mut self, now: Instant, matters: impl Fn(&Request) -> bool) {
        let parked: Vec<(String, Instant)> = self
            .entries
            .iter()
            .filter(|(_, entry)| {
                entry.parked && entry.place != Place::InHand && matters(&entry.request)
            })
            .map(|(uid, entry)| (uid.clone(), entry.retry_at))
            .collect();
        for (uid, retry_at) in parked {
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.parked = false;
            }
            if retry_at <= now {
                self.activate(&uid);
            } else {
                self.delay(&uid, retry_at);
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
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        let old = entry.place;
        let priority = Reverse(entry.request.priority);
        self.sequence += 1;
        entry.place = Place::Active(priority, self.sequence);
        entry.parked = false;
        let sequence = self.sequence;
        self.unplace(uid, old);
        self.active.insert((priority, sequence, uid.to_owned()));
    }

    fn delay(&mut self, uid: &str, due: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        let old = entry.place;
        self.sequence += 1;
        entry.place = Place::Delayed(due, self.sequence);
        let sequence = self.sequence;
        self.unplace(uid, old);
        self.delayed.insert((due, sequence), uid.to_owned());
    }

    fn unplace(&mut self, uid: &str, place: Place) {
        match place {
            Place::Active(priority, sequence) => {
                self.active.remove(&(priority, sequence, uid.to_owned()));
            }
            Place::Delayed(due, sequence) => {
                self.delayed.remove(&(due, sequence));
            }
            Place::InHand => {}
        }
    }
}
