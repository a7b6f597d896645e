//! Topology hints and traffic distribution.

use super::*;

fn hinted(address: &str, zones: &[&str], nodes: &[&str]) -> Endpoint {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    Endpoint {
        hints_zones: owned(zones),
        hints_nodes: owned(nodes),
        ..endpoint(address)
    }
}

fn bench() -> Bench {
    let mut bench = Bench::new();
    bench.service(service());
    bench.node("a");
    bench
}

fn picked(bench: &Bench) -> Vec<String> {
    bench.at(inside("10.96.0.1", 80)).unwrap()
}

#[test]
fn prefer_same_zone_takes_the_endpoints_meant_for_this_zone() {
    let mut bench = bench();
    bench.endpoints([
        hinted("10.77.0.1", &["a"], &[]),
        hinted("10.77.0.2", &["b"], &[]),
        hinted("10.77.0.3", &["b", "a"], &[]),
    ]);
    assert_eq!(picked(&bench), ["10.77.0.1", "10.77.0.3"]);
}

#[test]
fn prefer_same_node_takes_the_endpoints_meant_for_this_node_and_else_this_zone() {
    let mut bench = bench();
    bench.endpoints([
        hinted("10.77.0.1", &["a"], &[HERE]),
        hinted("10.77.0.2", &["a"], &["there"]),
    ]);
    assert_eq!(picked(&bench), ["10.77.0.1"]);
    bench.endpoints([
        hinted("10.77.0.1", &["b"], &["far"]),
        hinted("10.77.0.2", &["a"], &["there"]),
    ]);
    assert_eq!(picked(&bench), ["10.77.0.2"]);
}

#[test]
fn hints_are_ignored_unless_every_ready_endpoint_has_them() {
    let mut bench = bench();
    bench.endpoints([hinted("10.77.0.1", &["a"], &[]), endpoint("10.77.0.2")]);
    assert_eq!(picked(&bench), ["10.77.0.1", "10.77.0.2"]);
    bench.endpoints([
        hinted("10.77.0.1", &["a"], &[]),
        unready(endpoint("10.77.0.2")),
        hinted("10.77.0.3", &["b"], &[]),
    ]);
    assert_eq!(
        picked(&bench),
        ["10.77.0.1"],
        "one that is not ready does not count"
    );
}

#[test]
fn hints_are_ignored_when_no_ready_endpoint_is_meant_for_here() {
    let mut bench = bench();
    bench.endpoints([
        hinted("10.77.0.1", &["b"], &[]),
        hinted("10.77.0.2", &["c"], &[]),
    ]);
    assert_eq!(picked(&bench), ["10.77.0.1", "10.77.0.2"]);
    bench.endpoints([
        draining(hinted("10.77.0.1", &["a"], &[])),
        hinted("10.77.0.2", &["b"], &[]),
    ]);
    assert_eq!(
        picked(&bench),
        ["10.77.0.2"],
        "a terminating one in this zone is no reason"
    );
}

#[test]
fn a_local_policy_ignores_hints() {
    let mut bench = bench();
    bench.service(Service {
        internal_traffic_local: true,
        ..service()
    });
    let here = Endpoint {
        node: Some(HERE.to_owned()),
        ..hinted("10.77.0.1", &["b"], &["there"])
    };
    bench.endpoints([here, hinted("10.77.0.2", &["a"], &[HERE])]);
    assert_eq!(picked(&bench), ["10.77.0.1"]);
}

#[test]
fn this_nodes_zone_is_followed() {
    let mut bench = bench();
    bench.endpoints([
        hinted("10.77.0.1", &["a"], &[]),
        hinted("10.77.0.2", &["b"], &[]),
    ]);
    bench.node("b");
    assert_eq!(picked(&bench), ["10.77.0.2"]);
    assert_eq!(
        bench.gone(),
        [(
            inside("10.96.0.1", 80),
            "10.77.0.1".to_owned(),
            GoneState::Unused
        )]
    );
    let elsewhere = Node {
        zone: Some("a".to_owned()),
        ..Node::default()
    };
    bench.apply(false, vec![Event::NodeSet("there".to_owned(), elsewhere)]);
    assert_eq!(
        picked(&bench),
        ["10.77.0.2"],
        "another node's zone is not ours"
    );
    bench.apply(false, vec![Event::NodeRemoved(HERE.to_owned())]);
    assert_eq!(
        picked(&bench),
        ["10.77.0.1", "10.77.0.2"],
        "no zone, no preference"
    );
}
