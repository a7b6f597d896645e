//! Tests of `controllers::endpointslice::hints`.
#![allow(clippy::unwrap_used)]

use k8s_openapi::api::discovery::v1::EndpointConditions;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn endpoint(number: usize, zone: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![format!("10.0.{}.{}", number / 250, number % 250)],
        conditions: Some(EndpointConditions {
            ready: Some(ready),
            ..EndpointConditions::default()
        }),
        zone: zone.map(str::to_owned),
        ..Endpoint::default()
    }
}

fn node(zone: Option<&str>, cpu: &str, ready: &str, role: Option<&str>) -> Arc<Node> {
    let mut labels = serde_json::Map::new();
    if let Some(zone) = zone {
        labels.insert(ZONE.into(), zone.into());
    }
    if let Some(role) = role {
        labels.insert(format!("node-role.kubernetes.io/{role}"), "".into());
    }
    let node = serde_json::from_value(json!({
        "metadata": {"labels": labels},
        "status": {"allocatable": {"cpu": cpu}, "conditions": [{"type": "Ready", "status": ready}]},
    }));
    Arc::new(node.unwrap())
}

fn hinted(endpoints: &[Endpoint]) -> Vec<Option<&str>> {
    let zone = |endpoint: &Endpoint| -> Option<String> {
        let zones = endpoint.hints.as_ref()?.for_zones.as_ref()?;
        Some(zones[0].name.clone())
    };
    endpoints
        .iter()
        .map(|endpoint| zone(endpoint).map(|zone| &*zone.leak()))
        .collect()
}

#[test]
fn zones_weigh_as_the_cpus_of_their_ready_nodes() {
    let nodes = [
        node(Some("a"), "2", "True", None),
        node(Some("a"), "2000m", "True", None),
        node(Some("b"), "4", "True", None),
        node(Some("b"), "64", "False", None),
        node(Some("c"), "64", "True", Some("control-plane")),
    ];
    let expected: Cpus = [("a".to_owned(), 4_000), ("b".to_owned(), 4_000)].into();
    assert_eq!(cpus(&nodes), Some(expected));
    assert_eq!(cpus(&nodes[..2]), None, "one zone");
    let homeless = [nodes.as_slice(), &[node(None, "4", "True", None)]].concat();
    assert_eq!(cpus(&homeless), None, "a node without zone");
}

#[test]
fn endpoints_serve_their_own_zone_and_lend_to_one_that_is_short() {
    let cpus: Cpus = [("a".to_owned(), 1), ("b".to_owned(), 1)].into();
    let zones = ["a", "a", "a", "a", "a", "b"];
    let mut endpoints: Vec<_> = (0..6).map(|n| endpoint(n, Some(zones[n]), true)).collect();
    endpoints.push(endpoint(6, Some("b"), false));
    give(&mut endpoints, Some(&cpus));
    let hints = hinted(&endpoints);
    let b = hints.iter().filter(|zone| **zone == Some("b")).count();
    assert_eq!((b, hints[6]), (3, None));
    assert_eq!(hints[5], Some("b"));
}

#[test]
fn without_enough_to_go_by_there_are_no_hints() {
    let cpus: Cpus = [("a".to_owned(), 1), ("b".to_owned(), 1)].into();
    for (zones, cpus) in [
        (vec![Some("a")], Some(&cpus)),
        (vec![Some("a"), Some("b"), None], Some(&cpus)),
        (vec![Some("a"), Some("b")], None),
        // Three for two equal zones: one of them would be overloaded.
        (vec![Some("a"), Some("a"), Some("b")], Some(&cpus)),
    ] {
        let each = zones.iter().enumerate();
        let mut endpoints: Vec<_> = each.map(|(n, zone)| endpoint(n, *zone, true)).collect();
        endpoints[0].hints = Some(EndpointHints::default());
        give(&mut endpoints, cpus);
        assert!(hinted(&endpoints).iter().all(Option::is_none), "{zones:?}");
        assert!(endpoints[0].hints.is_none());
    }
}

proptest! {
    #[test]
    fn no_zone_is_overloaded_by_more_than_a_fifth(
        cpus in proptest::collection::btree_map("[a-d]", 1_i64..64, 2..5),
        zones in proptest::collection::vec("[a-e]", 1..60),
    ) {
        let each = zones.iter().enumerate();
        let mut endpoints: Vec<_> = each.map(|(n, zone)| endpoint(n, Some(zone.as_str()), true)).collect();
        give(&mut endpoints, Some(&cpus));
        let hints = hinted(&endpoints);
        prop_assert!(hints.iter().all(Option::is_some) || hints.iter().all(Option::is_none));
        if hints[0].is_none() {
            return Ok(());
        }
        let total: i64 = cpus.values().sum();
        for (zone, milli) in &cpus {
            let serve = hints.iter().filter(|hint| **hint == Some(zone.as_str())).count() as f64;
            let share = *milli as f64 / total as f64 * hints.len() as f64;
            prop_assert!(share / serve <= 1.2 + 1e-9, "{zone}: {share} for {serve}");
        }
    }
}
