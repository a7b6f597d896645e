//! Plans for nodes.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const CLUSTER: [&str; 2] = ["10.244.0.0/16", "fd00:244::/48"];

fn nodes() -> Nodes {
    let cluster = CLUSTER.iter().map(|range| range.parse().unwrap()).collect();
    Nodes::new("own", cluster, 1000)
}

fn set(name: &str, addresses: &[&str], ranges: &[&str]) -> Event {
    let node = Node {
        internal_ips: addresses.iter().map(|ip| ip.parse().unwrap()).collect(),
        pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        zone: None,
    };
    Event::NodeSet(name.to_owned(), node)
}

fn batch(full: bool, events: &[Event]) -> Batch {
    Batch {
        revision: 1,
        full,
        events: events.to_vec(),
    }
}

fn dual() -> Vantage {
    Vantage {
        locals: ["192.0.2.1", "2001:db8::1"]
            .iter()
            .map(|ip| ip.parse().unwrap())
            .collect(),
        v4: true,
        v6: true,
        links: vec![
            "192.0.2.0/24".parse().unwrap(),
            "2001:db8::/64".parse().unwrap(),
        ],
    }
}

/// Entries as `range -> end`, nodes' addresses with a star.
fn table(plan: &NodePlan) -> Vec<String> {
    plan.remotes
        .iter()
        .map(|(range, remote)| {
            let star = if remote.flags == REMOTE_NODE { "*" } else { "" };
            format!("{range}{star} -> {}", IpAddr::from(remote.node))
        })
        .collect()
}

fn kinds(plan: &NodePlan) -> Vec<&'static str> {
    plan.problems.iter().map(NodeProblem::kind).collect()
}

#[test]
fn ranges_and_addresses_lead_to_their_nodes_and_not_to_this_one() {
    let mut nodes = nodes();
    let changed = nodes.apply(&batch(
        true,
        &[
            set("own", &["192.0.2.1"], &["10.244.0.0/24"]),
            set(
                "two",
                &["192.0.2.2", "2001:db8::2"],
                &["10.244.1.0/24", "fd00:244:0:1::/64"],
            ),
        ],
    ));
    assert!(changed);
    let plan = nodes.plan(&dual());
    assert_eq!(
        table(&plan),
        [
            "10.244.1.0/24 -> 192.0.2.2",
            "192.0.2.2/32* -> 192.0.2.2",
            "2001:db8::2/128* -> 192.0.2.2",
            "fd00:244:0:1::/64 -> 192.0.2.2",
        ]
    );
    assert_eq!(
        plan.gateways
            .iter()
            .map(|(a, b)| format!("{a} {b}"))
            .collect::<Vec<_>>(),
        ["10.244.1.0/24 192.0.2.2", "fd00:244:0:1::/64 2001:db8::2"]
    );
    assert!(plan.problems.is_empty(), "{:?}", plan.problems);
    let again = batch(false, &[set("own", &["192.0.2.1"], &["10.244.0.0/24"])]);
    assert!(!nodes.apply(&again), "nothing new");
}

#[test]
fn a_node_that_changes_its_address_or_goes_is_followed() {
    let mut nodes = nodes();
    nodes.apply(&batch(
        true,
        &[set("two", &["192.0.2.2"], &["10.244.1.0/24"])],
    ));
    nodes.plan(&dual());
    nodes.apply(&batch(
        false,
        &[set("two", &["192.0.2.9"], &["10.244.1.0/24"])],
    ));
    assert_eq!(
        table(&nodes.plan(&dual())),
        ["10.244.1.0/24 -> 192.0.2.9", "192.0.2.9/32* -> 192.0.2.9"]
    );
    assert!(nodes.apply(&batch(false, &[Event::NodeRemoved("two".to_owned())])));
    assert_eq!(nodes.plan(&dual()), NodePlan::default());
    nodes.apply(&batch(
        false,
        &[set("two", &["192.0.2.2"], &["10.244.1.0/24"])],
    ));
    assert!(nodes.apply(&batch(true, &[])), "a full state without it");
    assert_eq!(nodes.plan(&dual()), NodePlan::default());
}

#[test]
fn overlapping_ranges_stay_with_whoever_came_first() {
    let mut nodes = nodes();
    nodes.apply(&batch(
        true,
        &[set("two", &["192.0.2.2"], &["10.244.2.0/23"])],
    ));
    nodes.plan(&dual());
    // Sorts before the first one, and covers it, is covered by it, or is the same.
    for range in ["10.244.0.0/20", "10.244.3.0/24", "10.244.2.0/23"] {
        nodes.apply(&batch(
            false,
            &[set("a", &["192.0.2.3"], &[range, "10.244.99.0/24"])],
        ));
        let plan = nodes.plan(&dual());
        assert_eq!(kinds(&plan), ["overlap"], "{range}");
        let problem = plan.problems.first().unwrap().to_string();
        assert!(
            problem.contains(range) && problem.contains("10.244.2.0/23"),
            "{problem}"
        );
        let table = table(&plan);
        assert!(
            table.contains(&"10.244.2.0/23 -> 192.0.2.2".to_owned()),
            "{table:?}"
        );
        assert!(
            table.contains(&"10.244.99.0/24 -> 192.0.2.3".to_owned()),
            "the rest goes on"
        );
        assert_eq!(table.len(), 4);
    }
    // With the first one gone, the range is free.
    nodes.apply(&batch(false, &[Event::NodeRemoved("two".to_owned())]));
    let plan = nodes.plan(&dual());
    assert!(plan.problems.is_empty());
    assert!(table(&plan).contains(&"10.244.2.0/23 -> 192.0.2.3".to_owned()));
}

#[test]
fn nobody_takes_this_nodes_range_or_address() {
    let mut nodes = nodes();
    nodes.apply(&batch(
        true,
        &[
            set("a", &["192.0.2.1", "192.0.2.3"], &["10.244.0.0/24"]),
            set("own", &["192.0.2.1"], &["10.244.0.0/24"]),
        ],
    ));
    let plan = nodes.plan(&dual());
    assert_eq!(kinds(&plan), ["overlap", "bad_address"]);
    assert_eq!(table(&plan), ["192.0.2.3/32* -> 192.0.2.3"]);
}

#[test]
fn duplicate_addresses_ranges_outside_and_nonsense_are_refused_by_name() {
    let mut nodes = nodes();
    nodes.apply(&batch(
        true,
        &[
            set("two", &["192.0.2.2"], &["10.244.2.0/24"]),
            set("three", &["192.0.2.2"], &["10.244.3.0/24"]),
            set(
                "four",
                &["192.0.2.4", "192.0.2.2"],
                &["10.9.0.0/24", "10.0.0.0/8"],
            ),
            set(
                "five",
                &["127.0.0.1", "fe80::1", "10.244.7.7", "ff02::1", "0.0.0.0"],
                &[],
            ),
        ],
    ));
    let plan = nodes.plan(&dual());
    assert_eq!(
        table(&plan),
        [
            "10.244.2.0/24 -> 192.0.2.2",
            "192.0.2.2/32* -> 192.0.2.2",
            "192.0.2.4/32* -> 192.0.2.4",
        ]
    );
    let mut kinds = kinds(&plan);
    kinds.sort_unstable();
    assert_eq!(
        kinds,
        [
            "bad_address",
            "bad_address",
            "bad_address",
            "bad_address",
            "bad_address",
            "duplicate_address",
            "duplicate_address",
            "outside_cluster",
            "outside_cluster",
            "unreachable",
            "unreachable",
        ]
    );
}

#[test]
fn both_ends_choose_the_same_family() {
    let ends = [["192.0.2.1", "2001:db8::1"], ["192.0.2.2", "2001:db8::2"]];
    for (here, there, expected) in [
        (3, 3, Some(true)),
        (1, 3, Some(true)),
        (3, 1, Some(true)),
        (2, 3, Some(false)),
        (3, 2, Some(false)),
        (1, 2, None),
    ] {
        let has = |mask: u8, v6: u8| mask & (1 << v6) != 0;
        let vantage = Vantage {
            v4: has(here, 0),
            v6: has(here, 1),
            ..Vantage::default()
        };
        let addresses: Vec<&str> = (0..2)
            .filter(|v6| has(there, *v6))
            .map(|v6| ends[1][usize::from(v6)])
            .collect();
        let mut nodes = nodes();
        nodes.apply(&batch(true, &[set("two", &addresses, &["10.244.2.0/24"])]));
        let plan = nodes.plan(&vantage);
        let end = plan
            .remotes
            .values()
            .next()
            .map(|remote| remote.node.is_v4());
        assert_eq!(end, expected, "{here} {there}");
        assert_eq!(plan.problems.is_empty(), expected.is_some());
    }
}

#[test]
fn gateways_are_only_nodes_on_a_shared_link() {
    let mut nodes = nodes();
    nodes.apply(&batch(
        true,
        &[
            set(
                "near",
                &["192.0.2.2"],
                &["10.244.2.0/24", "fd00:244:0:2::/64"],
            ),
            set("far", &["198.51.100.2"], &["10.244.3.0/24"]),
        ],
    ));
    let plan = nodes.plan(&dual());
    assert_eq!(plan.gateways.len(), 1, "{:?}", plan.gateways);
    assert_eq!(plan.remotes.len(), 5);
}

#[test]
fn what_an_earlier_life_left_stays_until_a_full_state_says_otherwise() {
    let mut nodes = nodes();
    let remote = |end: &str, flags| Remote {
        node: end.parse::<IpAddr>().unwrap().into(),
        flags,
        padding: 0,
    };
    let left = [
        ("10.244.2.0/24", remote("192.0.2.2", 0)),
        ("192.0.2.2/32", remote("192.0.2.2", REMOTE_NODE)),
        ("10.244.3.0/24", remote("192.0.2.3", 0)),
    ];
    nodes.adopt(
        left.iter()
            .map(|(range, remote)| (range.parse().unwrap(), *remote)),
    );
    let plan = nodes.plan(&dual());
    assert_eq!(plan.remotes.len(), 3);
    assert!(!nodes.is_synced());
    // A latecomer whose name sorts first claims the range that node two had: it was there before.
    nodes.apply(&batch(
        true,
        &[
            set("a", &["192.0.2.8"], &["10.244.2.0/24"]),
            set("two", &["192.0.2.2"], &["10.244.2.0/24"]),
        ],
    ));
    assert!(nodes.is_synced());
    let plan = nodes.plan(&dual());
    assert_eq!(
        table(&plan),
        [
            "10.244.2.0/24 -> 192.0.2.2",
            "192.0.2.2/32* -> 192.0.2.2",
            "192.0.2.8/32* -> 192.0.2.8",
        ]
    );
    assert_eq!(kinds(&plan), ["overlap"]);
}

#[test]
fn a_full_table_is_named() {
    let mut nodes = Nodes::new("own", vec![CLUSTER[0].parse().unwrap()], 3);
    nodes.apply(&batch(
        true,
        &[
            set("one", &["192.0.2.11"], &["10.244.1.0/24"]),
            set("two", &["192.0.2.12"], &["10.244.2.0/24"]),
        ],
    ));
    let plan = nodes.plan(&dual());
    assert_eq!(plan.remotes.len(), 3);
    assert_eq!(kinds(&plan), ["table_full"]);
}

proptest! {
    /// Whatever is claimed, in whatever order: what is planned is some node's claim, overlaps nothing, and stays
    /// as it is for as long as its node claims it.
    #[test]
    fn claims_never_overlap_and_never_move(
        steps in proptest::collection::vec((0u8..6, 20u8..=24, 0u8..8), 1..40),
    ) {
        let mut nodes = nodes();
        nodes.apply(&batch(true, &[]));
        let mut claimed: BTreeMap<String, (IpAddr, IpNet)> = BTreeMap::new();
        let mut before: BTreeMap<IpNet, Remote> = BTreeMap::new();
        for (node, length, third) in steps {
            let name = format!("node{node}");
            let event = if length == 22 && claimed.remove(&name).is_some() {
                Event::NodeRemoved(name)
            } else {
                let address = format!("192.0.2.{}", 10 + node);
                let range = format!("10.244.{}.0/{length}", third * 4);
                let range: IpNet = range.parse::<IpNet>().unwrap().trunc();
                claimed.insert(name.clone(), (address.parse().unwrap(), range));
                set(&name, &[&address], &[&range.to_string()])
            };
            nodes.apply(&batch(false, &[event]));
            let plan = nodes.plan(&dual());
            let ranges: Vec<_> = plan.remotes.iter().filter(|(_, to)| to.flags == 0).collect();
            for (at, (range, remote)) in ranges.iter().enumerate() {
                let end = IpAddr::from(remote.node);
                prop_assert!(claimed.values().any(|claim| *claim == (end, **range)), "{range} {end}");
                for (other, _) in &ranges[at + 1..] {
                    prop_assert!(!range.contains(*other) && !other.contains(*range));
                }
            }
            for (range, remote) in &before {
                let end = IpAddr::from(remote.node);
                if remote.flags == 0 && claimed.values().any(|claim| *claim == (end, *range)) {
                    prop_assert_eq!(plan.remotes.get(range), Some(remote));
                }
            }
            before = plan.remotes;
        }
    }
}
