//! Tests of `sync::hold`.
#![allow(clippy::unwrap_used)]

use std::cell::Cell;

use proptest::prelude::*;

use super::*;

const WAIT: Duration = Duration::from_secs(5);
const DRAIN: Duration = Duration::from_secs(1);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn leaving(grace: u64) -> Leaving {
    Leaving {
        key: ObjectKey::new("ns", "p"),
        node: "n1".into(),
        grace: seconds(grace),
        serves: true,
    }
}

/// One pod that is being deleted, and what is true around it.
struct World {
    holds: Holds,
    start: Instant,
    offer: Cell<Offer>,
    applied: u64,
}

impl World {
    fn new(leaving: Leaving) -> Self {
        let limits = Limits {
            wait: WAIT,
            drain: DRAIN,
        };
        let start = Instant::now();
        let mut holds = Holds::new(limits);
        holds.observe("u", leaving, start);
        Self {
            holds,
            start,
            offer: Cell::new(Offer::Open),
            applied: 0,
        }
    }

    fn at(&mut self, after: Duration) -> Vec<(Outcome, Duration)> {
        let nodes = Nodes {
            applied: self.applied,
            current: 50,
        };
        let released = self
            .holds
            .step(self.start + after, nodes, |_, _| self.offer.get());
        released
            .iter()
            .map(|pod| (pod.outcome, pod.after))
            .collect()
    }
}

#[test]
fn a_pod_is_told_when_all_nodes_have_acknowledged_and_what_was_under_way_is_served() {
    let mut world = World::new(leaving(30));
    assert_eq!(world.at(seconds(0)), []);
    world.applied = 100;
    assert_eq!(world.at(seconds(1)), [], "it is still offered");
    world.offer.set(Offer::Closed(101));
    assert_eq!(world.at(seconds(2)), [], "the nodes do not know yet");
    // A later change of the same slice does not make it wait for that one.
    world.offer.set(Offer::Closed(200));
    world.applied = 101;
    assert_eq!(world.at(seconds(3)), [], "it drains");
    assert_eq!(world.holds.wake(), Some(world.start + seconds(4)));
    assert!(world.holds.is_held("u"));
    assert_eq!(world.at(seconds(4)), [(Outcome::Acknowledged, seconds(4))]);
    assert!(!world.holds.is_held("u"));
    assert_eq!(world.at(seconds(9)), [], "told once");
    assert_eq!((world.holds.waiting(), world.holds.wake()), (0, None));
}

#[test]
fn a_pod_in_no_slice_is_not_delayed() {
    let mut world = World::new(leaving(30));
    world.offer.set(Offer::Nowhere);
    assert_eq!(world.at(seconds(0)), [(Outcome::Unlisted, seconds(0))]);
}

#[test]
fn a_pod_that_leaves_its_slices_waits_for_the_nodes_to_know() {
    let mut world = World::new(leaving(30));
    assert_eq!(world.at(seconds(0)), []);
    world.offer.set(Offer::Nowhere);
    world.applied = 49;
    assert_eq!(world.at(seconds(1)), []);
    world.applied = 50;
    assert_eq!(world.at(seconds(1)), []);
    assert_eq!(world.at(seconds(2)), [(Outcome::Acknowledged, seconds(2))]);
}

#[test]
fn a_pod_that_does_not_serve_is_not_drained() {
    let mut world = World::new(Leaving {
        serves: false,
        ..leaving(30)
    });
    world.offer.set(Offer::Closed(7));
    world.applied = 7;
    assert_eq!(world.at(seconds(0)), [(Outcome::Acknowledged, seconds(0))]);
}

#[test]
fn patience_ends() {
    let mut world = World::new(leaving(30));
    world.offer.set(Offer::Closed(7));
    assert_eq!(world.at(Duration::from_millis(4_999)), []);
    assert_eq!(world.holds.wake(), Some(world.start + WAIT));
    assert_eq!(world.at(WAIT), [(Outcome::TimedOut, WAIT)]);
}

#[test]
fn a_short_grace_period_bounds_all_of_it() {
    let mut world = World::new(leaving(1));
    assert_eq!(world.at(seconds(1)), [(Outcome::TimedOut, seconds(1))]);

    // Hurried while it drains: kubectl delete --grace-period=1 after a usual delete.
    let mut world = World::new(leaving(30));
    world.offer.set(Offer::Closed(7));
    world.applied = 7;
    assert_eq!(world.at(seconds(0)), []);
    world.holds.observe("u", leaving(0), world.start);
    assert_eq!(world.at(seconds(0)), [(Outcome::Acknowledged, seconds(0))]);
}

#[test]
fn without_grace_or_without_a_limit_nothing_is_held() {
    let world = World::new(leaving(0));
    assert!(!world.holds.is_held("u"));
    let mut holds = Holds::new(Limits {
        wait: Duration::ZERO,
        drain: DRAIN,
    });
    holds.observe("u", leaving(30), Instant::now());
    assert_eq!((holds.is_held("u"), holds.waiting()), (false, 0));
}

#[test]
fn a_pod_that_is_gone_is_forgotten() {
    let mut world = World::new(leaving(30));
    world.holds.forget("u");
    assert_eq!((world.holds.waiting(), world.holds.wake()), (0, None));
    assert_eq!(world.at(seconds(9)), []);
}

proptest! {
    /// Whatever happens, a pod is told exactly once, in time, and not before the nodes know unless the time
    /// is up.
    #[test]
    fn every_pod_is_told_once_and_in_time(
        grace in 1_u64..10,
        steps in proptest::collection::vec((0_u64..1_500, 0_u8..3, 0_u64..6), 1..30),
    ) {
        let mut world = World::new(leaving(grace));
        let limit = (WAIT + DRAIN).min(seconds(grace));
        let (mut now, mut told, mut acknowledged) = (Duration::ZERO, 0, false);
        for (pause, offer, applied) in steps {
            // The hub wakes when it is asked to.
            let next = now + Duration::from_millis(pause);
            while let Some(wake) = world.holds.wake().filter(|wake| *wake <= world.start + next) {
                now = wake - world.start;
                let released = world.at(now);
                told += released.len();
                for (outcome, after) in released {
                    prop_assert!(after <= limit);
                    prop_assert!(acknowledged || outcome == Outcome::TimedOut);
                }
            }
            now = next;
            // Slices only ever close; revisions only ever grow.
            if let Offer::Open = world.offer.get() && offer > 0 {
                world.offer.set(Offer::Closed(5));
            }
            world.applied = world.applied.max(applied);
            acknowledged |= world.offer.get() == Offer::Closed(5) && world.applied >= 5;
            for (outcome, after) in world.at(now) {
                told += 1;
                prop_assert!(after <= limit);
                prop_assert!(acknowledged || outcome == Outcome::TimedOut);
            }
        }
        let end = now.max(limit);
        told += world.at(end).len();
        prop_assert_eq!(told, 1);
        prop_assert!(!world.holds.is_held("u"));
    }
}
