//! Tests of `controllers::node::zones`.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const GRACE: Duration = Duration::from_secs(40);

fn zone(name: &str) -> Zone {
    Zone {
        region: String::new(),
        name: name.to_owned(),
    }
}

fn zones(all: &[(&str, usize, usize)]) -> HashMap<Zone, Census> {
    let pairs = all
        .iter()
        .map(|&(name, ready, unready)| (zone(name), Census { ready, unready }));
    pairs.collect()
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// How many nodes of zone `a` are given up in `time` when they are asked for every second.
fn given_up(pace: &mut Pace, zones: &HashMap<Zone, Census>, time: std::ops::Range<u64>) -> usize {
    let limits = NodeEviction::default();
    let verdicts = time.map(|at| pace.judge(&zone("a"), zones, &limits, GRACE, seconds(at)));
    verdicts.filter(|verdict| *verdict == Verdict::Now).count()
}

#[test]
fn one_node_of_a_healthy_zone_is_emptied_at_once_and_the_next_ten_seconds_later() {
    let mut pace = Pace::default();
    let zones = zones(&[("a", 4, 2)]);
    let limits = NodeEviction::default();
    let mut judge = |at| pace.judge(&zone("a"), &zones, &limits, GRACE, seconds(at));
    assert_eq!(judge(0), Verdict::Now);
    assert_eq!(judge(1), Verdict::Later(seconds(5)));
    assert_eq!(judge(8), Verdict::Later(seconds(2)));
    assert_eq!(judge(10), Verdict::Now);
}

#[test]
fn a_small_zone_with_too_many_silent_nodes_is_left_alone_and_a_large_one_emptied_slowly() {
    assert_eq!(
        given_up(&mut Pace::default(), &zones(&[("a", 2, 3)]), 0..1000),
        0
    );
    assert_eq!(
        given_up(&mut Pace::default(), &zones(&[("a", 20, 30)]), 0..1000),
        0
    );
    assert_eq!(
        given_up(&mut Pace::default(), &zones(&[("a", 20, 31)]), 0..1000),
        10
    );
    // Two are few, whatever their share; just below the share is not too many.
    assert_eq!(
        given_up(&mut Pace::default(), &zones(&[("a", 1, 2)]), 0..1000),
        100
    );
    assert_eq!(
        given_up(&mut Pace::default(), &zones(&[("a", 46, 54)]), 0..1000),
        100
    );
}

#[test]
fn a_zone_that_is_away_as_a_whole_is_emptied_while_another_is_well() {
    let zones = zones(&[("a", 0, 5), ("b", 5, 0)]);
    assert_eq!(given_up(&mut Pace::default(), &zones, 0..100), 10);
}

#[test]
fn when_no_node_is_ready_all_is_called_off_and_afterwards_they_get_time_to_come_back() {
    let mut pace = Pace::default();
    let limits = NodeEviction::default();
    let some = zones(&[("a", 2, 1), ("b", 3, 0)]);
    let none = zones(&[("a", 0, 3), ("b", 0, 3)]);
    let mut judge = |zones, at| pace.judge(&zone("a"), zones, &limits, GRACE, seconds(at));
    assert_eq!(judge(&some, 0), Verdict::Now);
    assert_eq!(judge(&none, 100), Verdict::CalledOff(seconds(5)));
    assert_eq!(judge(&none, 200), Verdict::CalledOff(seconds(5)));
    assert_eq!(judge(&some, 205), Verdict::Later(seconds(5)));
    assert_eq!(judge(&some, 238), Verdict::Later(seconds(2)));
    assert_eq!(judge(&some, 240), Verdict::Now);
}

#[test]
fn zones_go_by_region_and_name() {
    let node = |labels: &[(&str, &str)]| Node {
        metadata: k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta {
            labels: Some(crate::controllers::fixtures::labels(labels)),
            ..Default::default()
        },
        ..Node::default()
    };
    let nodes = [
        node(&[(REGION, "north"), (ZONE, "a")]),
        node(&[(REGION, "south"), (ZONE, "a")]),
        node(&[(ZONE, "a")]),
        node(&[]),
        node(&[]),
    ];
    let zones = census(&nodes, |_| false);
    assert_eq!(zones.len(), 4);
    assert_eq!(zones[&Zone::default()].unready, 2);
    assert_eq!(Zone::of(&nodes[0]).to_string(), "north/a");
}

proptest! {
    /// Whatever comes and goes: never more nodes than the rate allows, and none while nobody is ready.
    #[test]
    fn the_pace_is_kept(steps in proptest::collection::vec((0_usize..6, 0_usize..6, 0_u64..30), 1..60)) {
        let mut pace = Pace::default();
        let limits = NodeEviction::default();
        let mut now = Duration::ZERO;
        let mut last: Option<Duration> = None;
        for (ready, unready, pause) in steps {
            now += seconds(pause);
            let zones = zones(&[("a", ready, unready + 1)]);
            match pace.judge(&zone("a"), &zones, &limits, GRACE, now) {
                Verdict::Now => {
                    prop_assert!(ready > 0);
                    prop_assert!(last.is_none_or(|last| now >= last + seconds(10)));
                    last = Some(now);
                }
                Verdict::Later(after) => prop_assert!(ready > 0 && !after.is_zero() && after <= LOOK_AGAIN),
                Verdict::CalledOff(_) => prop_assert_eq!(ready, 0),
            }
        }
    }
}
