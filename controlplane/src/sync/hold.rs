//! Which pods' deletions are kept from their nodes for now, and until when. Pure: time, slices and
//! acknowledgements come as data.
//!
//! A pod that is being deleted goes on serving until nobody sends it anything new:
//!
//! ```text
//! offered --> listed --> draining --> told
//!    |          |            |          ^
//!    +----------+------------+----------+   the time is up
//! ```
//!
//! *Offered*: a slice still names it as an endpoint to pick. *Listed*: no slice does, and the nodes have
//! still to put that in force. *Draining*: they all have; requests that were under way at that moment are
//! being answered. *Told*: its node knows of the deletion. All of it together never takes longer than the
//! pod's grace period, and the part before draining never longer than [`Limits::wait`].

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::cache::ObjectKey;

/// How long a pod that is being deleted may be left running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// For all connected nodes to let go of its endpoints. Zero: nothing is held back.
    pub(crate) wait: Duration,
    /// After that, for what was under way.
    pub(crate) drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            wait: Duration::from_secs(5),
            drain: Duration::from_secs(1),
        }
    }
}

/// What the slices of its Services say of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// It is in none of them.
    Nowhere,
    /// At least one has it as an endpoint that is not terminating.
    Open,
    /// All that have it have it as terminating, since this revision.
    Closed(u64),
}

/// A pod whose deletion was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) key: ObjectKey,
    pub(super) node: String,
    pub(super) grace: Duration,
    /// It answers requests: there may be some under way.
    pub(super) serves: bool,
}

/// What the nodes have in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nodes {
    /// The least revision of all that are waited for.
    pub(super) applied: u64,
    /// The revision that the slices were read at.
    pub(super) current: u64,
}

/// Why a pod's node is told now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Nobody was sending it anything.
    Unlisted,
    Acknowledged,
    TimedOut,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Released {
    pub(super) uid: String,
    pub(super) leaving: Leaving,
    pub(super) outcome: Outcome,
    pub(super) after: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Offered,
    Listed { revision: u64 },
    Draining { until: Instant },
    Told,
}

#[derive(Debug)]
struct Hold {
    leaving: Leaving,
    since: Instant,
    /// The nodes are waited for until then.
    patience: Instant,
    /// The pod is told then at the latest.
    end: Instant,
    state: State,
    /// A slice was seen that offers it.
    offered: bool,
}

impl Hold {
    fn step(
        &mut self,
        uid: &str,
        now: Instant,
        nodes: Nodes,
        drain: Duration,
        offer: &impl Fn(&ObjectKey, &str) -> Offer,
    ) -> Option<Outcome> {
        if self.state == State::Offered {
            match offer(&self.leaving.key, uid) {
                Offer::Nowhere if !self.offered => return Some(Outcome::Unlisted),
                Offer::Nowhere => {
                    let revision = nodes.current;
                    self.state = State::Listed { revision };
                }
                Offer::Open => self.offered = true,
                Offer::Closed(revision) => self.state = State::Listed { revision },
            }
        }
        if let State::Listed { revision } = self.state
            && nodes.applied >= revision
        {
            let drain = if self.leaving.serves {
                drain
            } else {
                Duration::ZERO
            };
            let until = (now + drain).min(self.end);
            self.state = State::Draining { until };
        }
        match self.state {
            State::Told => None,
            State::Draining { until } => (now >= until).then_some(Outcome::Acknowledged),
            State::Offered | State::Listed { .. } => {
                (now >= self.patience.min(self.end)).then_some(Outcome::TimedOut)
            }
        }
    }
}

/// Every pod that is being deleted, by uid.
#[derive(Debug)]
pub(super) struct Holds {
    limits: Limits,
    pods: HashMap<String, Hold>,
    /// How many of them are not told yet.
    waiting: usize,
}

impl Holds {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            pods: HashMap::new(),
            waiting: 0,
        }
    }

    /// How many pods are held back.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Whether the pod's deletion is kept from its node.
    pub(super) fn is_held(&self, uid: &str) -> bool {
        self.pods
            .get(uid)
            .is_some_and(|hold| hold.state != State::Told)
    }

    /// The pod's deletion was asked for, or is to be hurried.
    pub(super) fn observe(&mut self, uid: &str, leaving: Leaving, now: Instant) {
        let most = now + leaving.grace;
        if let Some(hold) = self.pods.get_mut(uid) {
            hold.end = hold.end.min(most);
            if let State::Draining { until } = &mut hold.state {
                *until = (*until).min(hold.end);
            }
            let serves = hold.leaving.serves || leaving.serves;
            hold.leaving = Leaving { serves, ..leaving };
            return;
        }
        let at_once = self.limits.wait.is_zero() || leaving.grace.is_zero();
        let hold = Hold {
            leaving,
            since: now,
            patience: now + self.limits.wait,
            end: most,
            state: if at_once { State::Told } else { State::Offered },
            offered: false,
        };
        self.waiting += usize::from(!at_once);
        self.pods.insert(uid.to_owned(), hold);
    }

    /// The pod is gone.
    pub(super) fn forget(&mut self, uid: &str) {
        if let Some(hold) = self.pods.remove(uid) {
            self.waiting -= usize::from(hold.state != State::Told);
        }
    }

    /// The pods whose nodes are to be told now.
    pub(super) fn step(
        &mut self,
        now: Instant,
        nodes: Nodes,
        offer: impl Fn(&ObjectKey, &str) -> Offer,
    ) -> Vec<Released> {
        let mut released = Vec::new();
        if self.waiting == 0 {
            return released;
        }
        let drain = self.limits.drain;
        for (uid, hold) in &mut self.pods {
            if let Some(outcome) = hold.step(uid, now, nodes, drain, &offer) {
                hold.state = State::Told;
                released.push(Released {
                    uid: uid.clone(),
                    leaving: hold.leaving.clone(),
                    outcome,
                    after: now - hold.since,
                });
            }
        }
        self.waiting -= released.len();
        released
    }

    /// When time alone changes something.
    pub(super) fn wake(&self) -> Option<Instant> {
        let times = self.pods.values().filter_map(|hold| match hold.state {
            State::Offered | State::Listed { .. } => Some(hold.patience.min(hold.end)),
            State::Draining { until } => Some(until),
            State::Told => None,
        });
        times.min()
    }
}

#[cfg(test)]
mod tests;
