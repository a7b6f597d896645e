//! Tests of `controllers::node`.

#![allow(clippy::unwrap_used)]

use ipnet::IpNet;
use k8s_openapi::api::core::v1::{NodeSpec, NodeStatus, Taint, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use proptest::prelude::*;

use super::eviction::{Stay, stay};
use super::plan::Emptying;
use super::*;
use crate::controllers::fixtures::{at, pod};

fn node(ready: Option<&str>) -> Node {
    Node {
        metadata: ObjectMeta {
            name: Some("n".into()),
            ..ObjectMeta::default()
        },
        spec: Some(NodeSpec::default()),
        status: Some(NodeStatus {
            conditions: ready.map(|status| {
                vec![k8s_openapi::api::core::v1::NodeCondition {
                    type_: "Ready".into(),
                    status: status.into(),
                    ..Default::default()
                }]
            }),
            ..NodeStatus::default()
        }),
    }
}

fn taints(node: &Node) -> Vec<(String, String)> {
    let taints = node
        .spec
        .as_ref()
        .unwrap()
        .taints
        .clone()
        .unwrap_or_default();
    taints
        .into_iter()
        .map(|taint| (taint.key, taint.effect))
        .collect()
}

#[test]
fn silence_makes_conditions_unknown_once() {
    let silent = plan::silenced(&node(Some("True")), at(1)).unwrap();
    let ready = plan::ready(&silent).unwrap();
    assert_eq!(ready.status, "Unknown");
    assert_eq!(ready.reason.as_deref(), Some("NodeStatusUnknown"));
    assert_eq!(plan::silenced(&silent, at(2)), None);
    let never = plan::silenced(&node(None), at(1)).unwrap();
    let reason = plan::ready(&never).unwrap().reason.clone();
    assert_eq!(reason.as_deref(), Some("NodeStatusNeverUpdated"));
}

#[test]
fn taints_follow_conditions_and_cordons_and_leave_others_alone() {
    let mut sick = node(Some("Unknown"));
    let spec = sick.spec.as_mut().unwrap();
    spec.unschedulable = Some(true);
    spec.taints = Some(vec![Taint {
        key: "mine".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    }]);
    let sick = plan::tainted(&sick, Emptying::Begin, at(1)).unwrap();
    let pair = |key: &str, effect: &str| (key.to_owned(), effect.to_owned());
    assert_eq!(
        taints(&sick),
        [
            pair("mine", "NoSchedule"),
            pair("node.kubernetes.io/unreachable", "NoSchedule"),
            pair("node.kubernetes.io/unreachable", "NoExecute"),
            pair("node.kubernetes.io/unschedulable", "NoSchedule"),
        ]
    );
    assert_eq!(
        plan::tainted(&sick, Emptying::Begin, at(9)),
        None,
        "the time of the first taint stays"
    );
    let mut well = sick.clone();
    well.status = node(Some("True")).status;
    well.spec.as_mut().unwrap().unschedulable = None;
    let well = plan::tainted(&well, Emptying::Begin, at(2)).unwrap();
    assert_eq!(taints(&well), [pair("mine", "NoSchedule")]);
    assert_eq!(
        taints(&plan::tainted(&node(Some("False")), Emptying::Begin, at(1)).unwrap())[1],
        pair("node.kubernetes.io/not-ready", "NoExecute")
    );
    assert_eq!(
        taints(&plan::tainted(&node(None), Emptying::Begin, at(1)).unwrap()),
        [pair("node.kubernetes.io/not-ready", "NoSchedule")]
    );
}

#[test]
fn pods_are_driven_away_only_when_it_is_begun_and_it_can_be_called_off() {
    let sick = node(Some("Unknown"));
    let pair = |key: &str, effect: &str| (key.to_owned(), effect.to_owned());
    let closed = pair(plan::UNREACHABLE, "NoSchedule");
    let driven = pair(plan::UNREACHABLE, "NoExecute");
    let held = plan::tainted(&sick, Emptying::Keep, at(1)).unwrap();
    assert_eq!(taints(&held), std::slice::from_ref(&closed));
    let begun = plan::tainted(&held, Emptying::Begin, at(2)).unwrap();
    assert_eq!(taints(&begun), [closed.clone(), driven]);
    assert_eq!(plan::tainted(&begun, Emptying::Keep, at(3)), None);
    // It says something else than before, and goes on to be emptied.
    let mut other = begun.clone();
    other.status = node(Some("False")).status;
    let other = plan::tainted(&other, Emptying::Keep, at(3)).unwrap();
    assert_eq!(taints(&other)[1], pair(plan::NOT_READY, "NoExecute"));
    let off = plan::tainted(&begun, Emptying::CallOff, at(4)).unwrap();
    assert_eq!(taints(&off), [closed]);
}

#[test]
fn eviction_waits_as_long_as_tolerated() {
    let taint = Taint {
        key: plan::UNREACHABLE.into(),
        effect: "NoExecute".into(),
        time_added: Some(Time(at(0))),
        value: None,
    };
    let tolerate = |seconds: Option<i64>| Toleration {
        key: Some(plan::UNREACHABLE.into()),
        operator: Some("Exists".into()),
        toleration_seconds: seconds,
        ..Toleration::default()
    };
    assert_eq!(stay(&[], &[], at(0), at(0)), Stay::ForEver);
    assert_eq!(stay(&[&taint], &[], at(0), at(0)), Stay::For(0));
    assert_eq!(
        stay(&[&taint], &[tolerate(None)], at(0), at(0)),
        Stay::ForEver
    );
    assert_eq!(
        stay(&[&taint], &[tolerate(Some(300))], at(50), at(100)),
        Stay::For(200)
    );
    assert_eq!(
        stay(&[&taint], &[tolerate(Some(300))], at(50), at(1_000)),
        Stay::For(0)
    );
    // The first of those that are for the taint counts, whatever comes after it.
    let both = [tolerate(Some(10)), tolerate(Some(300))];
    assert_eq!(stay(&[&taint], &both, at(0), at(0)), Stay::For(10));
    let everything = Toleration {
        operator: Some("Exists".into()),
        ..Toleration::default()
    };
    for (tolerations, seconds) in [
        ([tolerate(Some(300)), tolerate(Some(10))], Stay::For(300)),
        ([everything.clone(), tolerate(Some(10))], Stay::ForEver),
        ([tolerate(Some(10)), everything], Stay::For(10)),
    ] {
        assert_eq!(stay(&[&taint], &tolerations, at(0), at(0)), seconds);
    }
    // Of several taints the one that allows the least does.
    let other = Taint {
        key: "other".into(),
        ..taint.clone()
    };
    let each = [
        tolerate(Some(300)),
        Toleration {
            key: Some("other".into()),
            ..tolerate(Some(20))
        },
    ];
    assert_eq!(stay(&[&taint, &other], &each, at(0), at(0)), Stay::For(20));
    // Set by hand it has no time: what counts is when it was first seen, not each look anew.
    let mine = Taint {
        time_added: None,
        ..taint
    };
    assert_eq!(stay(&[&mine], &both, at(50), at(57)), Stay::For(3));
    assert_eq!(stay(&[&mine], &both, at(50), at(60)), Stay::For(0));
}

#[test]
fn pods_of_a_lost_node_are_not_ready() {
    let mut ready = pod("p", Some("n"), Some(1));
    ready.metadata.generation = Some(3);
    let changed = plan::pod_not_ready(&ready, at(5)).unwrap();
    let condition = crate::controllers::podstate::ready_condition(&changed).unwrap();
    assert_eq!(condition.observed_generation, Some(3));
    assert!(!crate::controllers::podstate::is_ready(&changed));
    assert_eq!(plan::pod_not_ready(&changed, at(6)), None);
}

fn ranges(cluster: &[IpNet]) -> PodRanges {
    PodRanges::new(cluster.to_vec(), 24, 64)
}

#[test]
fn the_size_of_a_nodes_range_is_a_setting() {
    let cluster = vec![
        "10.244.0.0/16".parse().unwrap(),
        "fd00:1::/48".parse().unwrap(),
    ];
    let ranges = PodRanges::new(cluster, 26, 80);
    let first = ranges.allocate(&[]).unwrap();
    let next = ranges.allocate(&first).unwrap();
    assert_eq!(next[0].to_string(), "10.244.0.64/26");
    assert_eq!(next[1].to_string(), "fd00:1:0:0:1::/80");
}

#[test]
fn an_address_that_two_nodes_report_is_told_of() {
    let with = |name: &str, addresses: &[&str]| {
        let mut node = node(Some("True"));
        node.metadata.name = Some(name.into());
        node.status.as_mut().unwrap().addresses = Some(
            addresses
                .iter()
                .map(|address| k8s_openapi::api::core::v1::NodeAddress {
                    type_: "InternalIP".into(),
                    address: (*address).into(),
                })
                .collect(),
        );
        node
    };
    let all = [
        with("a", &["192.0.2.1", "2001:db8::1"]),
        with("b", &["192.0.2.2", "2001:db8:0::1"]),
        with("c", &["192.0.2.3"]),
    ];
    let list: Vec<_> = all.iter().cloned().map(std::sync::Arc::new).collect();
    assert_eq!(
        addresses::duplicates(&all[0], &list),
        [
            "Address 2001:db8::1 is reported by node b as well: traffic to either may reach the other"
        ]
    );
    assert!(addresses::duplicates(&all[2], &list).is_empty());
}

/// Two members that both take themselves for the leader, and an operator, give ranges at once.
#[tokio::test(flavor = "multi_thread")]
async fn no_pod_range_is_given_twice_though_two_leaders_race() {
    use crate::controllers::tests::Cluster;
    let cluster = Cluster::bare().await;
    let pool = PodRanges::new(vec!["10.244.0.0/24".parse().unwrap()], 28, 64);
    let mut nodes = Vec::new();
    for number in 0..16 {
        let mut node = node(Some("True"));
        node.metadata.name = Some(format!("n{number}"));
        nodes.push(cluster.client.create(&node).await.unwrap());
    }
    let leaders = [(); 2].map(|()| {
        Controller::new(
            &cluster.client,
            &cluster.cache,
            &pool,
            Duration::from_secs(40),
            NodeEviction::default(),
        )
    });
    let racing = nodes.iter().enumerate().map(|(number, node)| {
        let leader = &leaders[number % 2];
        async move { leader.allocate(node).await }
    });
    for result in futures::future::join_all(racing).await {
        result.unwrap();
    }
    let (live, _) = cluster.client.list::<Node>("").await.unwrap();
    let given: std::collections::BTreeSet<_> =
        live.iter().flat_map(|node| cidr::ranges_of(node)).collect();
    assert_eq!(given.len(), 16, "every node has a range of its own");
    // All are given; by hand nobody gets one that overlaps either, until its node is gone.
    let mut late = node(Some("True"));
    late.metadata.name = Some("late".into());
    let late = cidr::with_ranges(&late, &["10.244.0.0/27".parse().unwrap()]);
    let error = cluster.client.create(&late).await.unwrap_err();
    assert_eq!(error.code(), 422);
    assert!(
        error.to_string().contains(
            "spec.podCIDRs[0]: Invalid value: \"10.244.0.0/27\": overlaps with 10.244.0."
        ),
        "{error}"
    );
    assert!(
        pool.allocate(&given.iter().copied().collect::<Vec<_>>())
            .is_none()
    );
    let first = live[0].metadata.name.clone().unwrap();
    let freed = cidr::ranges_of(&live[0])[0];
    let options = crate::registry::DeleteOptions::default();
    cluster
        .client
        .delete::<Node>("", &first, options)
        .await
        .unwrap();
    let mut late = node(Some("True"));
    late.metadata.name = Some("late".into());
    let late = cluster.client.create(&late).await.unwrap();
    leaders[0].allocate(&late).await.unwrap();
    let late = cluster
        .client
        .get::<Node>("", "late")
        .await
        .unwrap()
        .unwrap();
    assert_eq!(cidr::ranges_of(&late)[0], freed);
}

#[test]
fn ranges_are_cut_in_order_and_gaps_filled() {
    let cluster: Vec<IpNet> = vec![
        "10.244.0.0/16".parse().unwrap(),
        "fd00:1::/48".parse().unwrap(),
    ];
    let first = ranges(&cluster).allocate(&[]).unwrap();
    assert_eq!(first[0].to_string(), "10.244.0.0/24");
    assert_eq!(first[1].to_string(), "fd00:1::/64");
    let used: Vec<IpNet> = ["10.244.0.0/24", "10.244.2.0/23", "fd00:1::/64"]
        .iter()
        .map(|range| range.parse().unwrap())
        .collect();
    let next = ranges(&cluster).allocate(&used).unwrap();
    assert_eq!(next[0].to_string(), "10.244.1.0/24");
    assert_eq!(next[1].to_string(), "fd00:1:0:1::/64");
    let small: Vec<IpNet> = vec!["10.0.0.0/24".parse().unwrap()];
    assert!(ranges(&small).allocate(&small).is_none());
}

#[test]
fn ranges_for_many_are_those_that_one_after_the_other_would_get() {
    let cluster: Vec<IpNet> = vec!["10.244.0.0/26".parse().unwrap()];
    let pool = PodRanges::new(cluster, 28, 64);
    let used: Vec<IpNet> = vec!["10.244.0.16/30".parse().unwrap()];
    let given: Vec<String> = pool
        .free(&used)
        .map(|ranges| ranges[0].to_string())
        .collect();
    assert_eq!(given, ["10.244.0.0/28", "10.244.0.32/28", "10.244.0.48/28"]);
}

proptest! {
    #[test]
    fn no_range_is_given_twice(
        length in 17_u8..=24,
        taken in proptest::collection::vec((0_u32..70_000, 20_u8..=28), 0..6),
    ) {
        let cluster: IpNet = format!("10.244.0.0/{length}").parse().unwrap();
        let cluster = cluster.trunc();
        let mut used: Vec<IpNet> = taken.iter().map(|(offset, length)| {
            let address = std::net::Ipv4Addr::from(u32::from(std::net::Ipv4Addr::new(10, 244, 0, 0)) + offset);
            IpNet::new(address.into(), *length).unwrap().trunc()
        }).collect();
        for _ in 0..260 {
            let Some(ranges) = ranges(&[cluster]).allocate(&used) else { break };
            let range = ranges[0];
            prop_assert!(cluster.contains(&range));
            for other in &used {
                prop_assert!(!other.contains(&range.network()) && !range.contains(&other.network()));
            }
            used.push(range);
        }
        prop_assert!(ranges(&[cluster]).allocate(&used).is_none());
    }
}
