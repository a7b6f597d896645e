//! Service semantics, one test a behaviour.

use agent_ebpf::layout::{
    PROTOCOL_SCTP, PROTOCOL_UDP, SCOPE_LOCAL, SERVICE_FOREIGN, SERVICE_LOCAL, SERVICE_SOURCE_RANGES,
};

use super::*;
use crate::cluster::ServiceType;

const VIP: &str = "203.0.113.7";

fn with_node_port() -> Service {
    let mut service = service();
    service.ports[0].node_port = Some(30_080);
    service
}

#[test]
fn a_cluster_ip_is_reached_from_inside_only() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1"), endpoint("10.77.0.2")]);
    bench.service(service());
    assert_eq!(
        bench.at(inside("10.96.0.1", 80)),
        some(["10.77.0.1", "10.77.0.2"])
    );
    assert_eq!(bench.at(outside("10.96.0.1", 80)), None);
    assert_eq!(bench.look(inside("10.96.0.1", 80)).flags, 0);
}

#[test]
fn a_service_without_endpoints_is_there_and_leads_nowhere() {
    let mut bench = Bench::new();
    bench.service(with_node_port());
    for key in [
        inside("10.96.0.1", 80),
        node_port(30_080, SCOPE_INSIDE),
        node_port(30_080, SCOPE_OUTSIDE),
    ] {
        assert_eq!(bench.at(key), some([]));
    }
}

#[test]
fn headless_and_external_name_services_have_no_address() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1")]);
    bench.service(Service {
        headless: true,
        cluster_ips: Vec::new(),
        ..with_node_port()
    });
    assert_eq!(bench.maps.services.len(), 0);
    bench.service(Service {
        service_type: ServiceType::ExternalName,
        ..with_node_port()
    });
    assert_eq!(bench.maps.services.len(), 0);
}

#[test]
fn ports_by_name_and_the_same_port_by_other_protocols() {
    let mut bench = Bench::new();
    let named = |name: &str, protocol, number| ServicePort {
        name: name.to_owned(),
        protocol,
        ..port(number)
    };
    bench.service(Service {
        ports: vec![
            named("dns", Protocol::Udp, 53),
            named("dns-tcp", Protocol::Tcp, 53),
            named("peers", Protocol::Sctp, 53),
            named("web", Protocol::Tcp, 80),
        ],
        ..service()
    });
    let target = |name: &str, protocol, port| EndpointPort {
        name: name.to_owned(),
        protocol,
        port,
    };
    let slice = EndpointSlice {
        ports: vec![
            target("dns", Protocol::Udp, 1053),
            target("dns-tcp", Protocol::Tcp, 2053),
            target("peers", Protocol::Sctp, 3053),
            target("other", Protocol::Tcp, 8080),
        ],
        ..slice([endpoint("10.77.0.1")])
    };
    bench.apply(false, vec![Event::SliceSet(name("web-1"), slice)]);
    let targets = |protocol, number| -> Vec<u16> {
        let key = ServiceKey {
            protocol,
            ..inside("10.96.0.1", number)
        };
        bench
            .look(key)
            .backends
            .iter()
            .map(|backend| backend.port)
            .collect()
    };
    assert_eq!(targets(PROTOCOL_UDP, 53), [1053]);
    assert_eq!(targets(PROTOCOL_TCP, 53), [2053]);
    assert_eq!(targets(PROTOCOL_SCTP, 53), [3053]);
    assert_eq!(
        targets(PROTOCOL_TCP, 80),
        [0u16; 0],
        "no slice has a port of this name"
    );
}

#[test]
fn a_dual_stack_service_has_backends_of_each_family_on_its_addresses() {
    let mut bench = Bench::new();
    bench.service(Service {
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00:96::1")],
        ..with_node_port()
    });
    bench.apply(
        false,
        vec![
            Event::SliceSet(name("web-4"), slice([endpoint("10.77.0.1")])),
            Event::SliceSet(name("web-6"), slice([endpoint("fd00:77::1")])),
        ],
    );
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some(["10.77.0.1"]));
    assert_eq!(bench.at(inside("fd00:96::1", 80)), some(["fd00:77::1"]));
    assert_eq!(bench.at(outside("0.0.0.0", 30_080)), some(["10.77.0.1"]));
    assert_eq!(bench.at(outside("::", 30_080)), some(["fd00:77::1"]));
}

#[test]
fn external_addresses_of_a_family_that_the_service_lacks_are_nobodys() {
    let mut bench = Bench::new();
    bench.service(Service {
        external_ips: vec![ip(VIP), ip("2001:db8::7")],
        ..with_node_port()
    });
    assert!(bench.maps.services.contains_key(&outside(VIP, 80)));
    assert!(
        !bench
            .maps
            .services
            .contains_key(&outside("2001:db8::7", 80))
    );
    assert!(!bench.maps.services.contains_key(&outside("::", 30_080)));
}

#[test]
fn a_node_port_is_a_wildcard_inside_and_outside() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1"), local("10.77.0.2")]);
    bench.service(with_node_port());
    for scope in [SCOPE_INSIDE, SCOPE_OUTSIDE] {
        let look = bench.look(node_port(30_080, scope));
        assert_eq!((look.backends.len(), look.flags), (2, 0));
    }
    assert_eq!(bench.maps.node_ports, Some((30_080, 30_080)));
}

#[test]
fn ports_that_are_looked_up_widen_before_a_key_and_narrow_after_it() {
    let mut bench = Bench::new();
    bench.service(with_node_port());
    let mut second = with_node_port();
    second.cluster_ips = vec![ip("10.96.0.2")];
    second.ports[0].node_port = Some(31_000);
    bench.apply(false, vec![Event::ServiceSet(name("second"), second)]);
    assert_eq!(
        bench.plan.operations[0],
        Operation::NodePorts {
            minimum: 30_080,
            maximum: 31_000
        }
    );
    bench.apply(false, vec![Event::ServiceRemoved(name("web"))]);
    assert_eq!(bench.maps.node_ports, Some((30_080, 31_000)));
    bench.rest();
    assert_eq!(bench.maps.node_ports, Some((31_000, 31_000)));
    bench.apply(false, vec![Event::ServiceRemoved(name("second"))]);
    bench.rest();
    assert_eq!(bench.maps.node_ports, Some((1, 0)), "none");
}

#[test]
fn external_ips_and_load_balancer_addresses_are_foreign_unless_the_node_has_them() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1")]);
    bench.service(Service {
        external_ips: vec![ip(VIP), ip("192.0.2.1")],
        load_balancer_ips: vec![ip("203.0.113.8")],
        ..service()
    });
    bench.node("a");
    for (address, flags) in [
        (VIP, SERVICE_FOREIGN),
        ("203.0.113.8", SERVICE_FOREIGN),
        ("192.0.2.1", 0),
    ] {
        for key in [inside(address, 80), outside(address, 80)] {
            assert_eq!(
                (bench.at(key), bench.look(key).flags),
                (some(["10.77.0.1"]), flags),
                "{key:?}"
            );
        }
    }
}

#[test]
fn internal_traffic_policy_local_takes_this_nodes_endpoints_only() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1"), local("10.77.0.2")]);
    bench.service(Service {
        internal_traffic_local: true,
        ..with_node_port()
    });
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some(["10.77.0.2"]));
    assert_eq!(
        bench.at(node_port(30_080, SCOPE_INSIDE)),
        some(["10.77.0.1", "10.77.0.2"])
    );
    bench.endpoints([endpoint("10.77.0.1")]);
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some([]));
}

#[test]
fn external_traffic_policy_local_takes_this_nodes_endpoints_outside_and_all_inside() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1"), local("10.77.0.2")]);
    bench.service(Service {
        external_traffic_local: true,
        external_ips: vec![ip(VIP)],
        load_balancer_ips: vec![ip("203.0.113.8")],
        ..with_node_port()
    });
    for (address, port) in [("0.0.0.0", 30_080), (VIP, 80), ("203.0.113.8", 80)] {
        assert_eq!(bench.at(outside(address, port)), some(["10.77.0.2"]));
        assert_ne!(bench.look(outside(address, port)).flags & SERVICE_LOCAL, 0);
        assert_eq!(
            bench.at(inside(address, port)),
            some(["10.77.0.1", "10.77.0.2"])
        );
        assert_eq!(bench.look(inside(address, port)).flags & SERVICE_LOCAL, 0);
    }
    assert_eq!(
        bench.at(inside("10.96.0.1", 80)),
        some(["10.77.0.1", "10.77.0.2"])
    );
}

#[test]
fn scope_local_is_for_direct_server_return_only() {
    let services = Service {
        external_ips: vec![ip(VIP)],
        load_balancer_source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
        load_balancer_ips: vec![ip("203.0.113.8")],
        ..with_node_port()
    };
    for dsr in [false, true] {
        let mut bench = Bench::with(dsr, Limits::default());
        bench.endpoints([endpoint("10.77.0.1"), local("10.77.0.2")]);
        bench.service(services.clone());
        for (address, port) in [("0.0.0.0", 30_080), (VIP, 80), ("203.0.113.8", 80)] {
            let key = key(address, port, SCOPE_LOCAL);
            assert_eq!(bench.at(key), dsr.then(|| some(["10.77.0.2"]).unwrap()));
            if dsr {
                let flags = bench.look(key).flags & (SERVICE_LOCAL | SERVICE_SOURCE_RANGES);
                assert_eq!(
                    flags, SERVICE_LOCAL,
                    "the first node has checked the client"
                );
            }
        }
        assert_eq!(bench.at(key("10.96.0.1", 80, SCOPE_LOCAL)), None);
    }
}

/// With direct server return it is the node that has the address which must answer, whoever made the slice.
#[test]
fn an_endpoint_without_node_name_is_where_its_address_is() {
    let mut bench = Bench::with(true, Limits::default());
    bench.service(Service {
        external_traffic_local: true,
        internal_traffic_local: true,
        ..with_node_port()
    });
    let nameless = |address: &str| Endpoint {
        node: None,
        ..endpoint(address)
    };
    bench.endpoints([
        nameless("10.77.0.1"),
        nameless("10.77.1.1"),
        nameless("192.0.2.1"),
        nameless("192.0.2.9"),
        nameless("203.0.113.9"),
        // What it says counts, where it says something.
        endpoint("10.77.0.2"),
        local("10.77.1.2"),
    ]);
    let keys = [
        inside("10.96.0.1", 80),
        node_port(30_080, SCOPE_OUTSIDE),
        node_port(30_080, SCOPE_LOCAL),
    ];
    let at = |bench: &Bench, key| {
        let mut addresses = bench.at(key).unwrap();
        addresses.sort();
        addresses
    };
    for key in keys {
        assert_eq!(at(&bench, key), ["10.77.1.2"], "nothing is known");
    }
    let node = |ranges: &[&str]| Node {
        internal_ips: vec![ip("192.0.2.1")],
        pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..Node::default()
    };
    let set = |node| vec![Event::NodeSet(HERE.to_owned(), node)];
    bench.apply(false, set(node(&["10.77.0.0/24", "fd00:77::/64"])));
    for key in keys {
        assert_eq!(at(&bench, key), ["10.77.0.1", "10.77.1.2", "192.0.2.1"]);
    }
    bench.apply(false, set(node(&["10.77.1.0/24"])));
    for key in keys {
        assert_eq!(
            at(&bench, key),
            ["10.77.1.1", "10.77.1.2", "192.0.2.1"],
            "its range is another now"
        );
    }
}

#[test]
fn source_ranges_hold_for_load_balancer_addresses_alone() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1")]);
    let ranges = |ranges: &[&str]| Service {
        load_balancer_ips: vec![ip("203.0.113.8")],
        external_ips: vec![ip(VIP)],
        load_balancer_source_ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        ..with_node_port()
    };
    bench.service(ranges(&[
        "198.51.100.9/24",
        "198.51.100.0/24",
        "2001:db8::/32",
    ]));
    let admitted = |bench: &Bench, key| -> Vec<(IpAddr, u32)> {
        bench
            .look(key)
            .ranges
            .iter()
            .map(|(address, prefix)| ((*address).into(), *prefix))
            .collect()
    };
    for scope in [SCOPE_INSIDE, SCOPE_OUTSIDE] {
        assert_eq!(
            admitted(&bench, key("203.0.113.8", 80, scope)),
            [(ip("198.51.100.0"), 96 + 24)]
        );
        for other in [key(VIP, 80, scope), node_port(30_080, scope)] {
            assert_eq!(bench.look(other).flags & SERVICE_SOURCE_RANGES, 0);
        }
    }
    assert_eq!(
        bench.maps.ranges.len(),
        1,
        "one number for all keys of the port"
    );
    let set = bench.maps.services[&outside("203.0.113.8", 80)].set;
    bench.service(ranges(&["192.0.2.0/24"]));
    assert_eq!(
        admitted(&bench, outside("203.0.113.8", 80)),
        [(ip("192.0.2.0"), 96 + 24)]
    );
    assert_eq!(
        bench.maps.services[&outside("203.0.113.8", 80)].set,
        set,
        "the backends stay"
    );
    bench.service(ranges(&["2001:db8::/32"]));
    assert_ne!(
        bench.look(outside("203.0.113.8", 80)).flags & SERVICE_SOURCE_RANGES,
        0
    );
    assert!(bench.maps.ranges.is_empty(), "nobody by IPv4");
    bench.service(ranges(&[]));
    assert_eq!(
        bench.look(outside("203.0.113.8", 80)).flags & SERVICE_SOURCE_RANGES,
        0,
        "everybody"
    );
}

#[test]
fn session_affinity_has_its_timeout_on_every_key() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1")]);
    bench.service(with_node_port());
    let before = bench.maps.services.clone();
    bench.service(Service {
        session_affinity: Some(10_800),
        ..with_node_port()
    });
    for (key, value) in &bench.maps.services {
        assert_eq!(
            (value.affinity, value.set),
            (10_800, before[key].set),
            "the backends stay"
        );
    }
    assert!(bench.plan.gone.is_empty());
}

#[test]
fn a_port_keeps_its_number_over_changes_of_endpoints_and_policy() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1")]);
    bench.service(with_node_port());
    let numbers = |bench: &Bench| -> Vec<u32> {
        bench
            .maps
            .services
            .values()
            .map(|value| value.service)
            .collect()
    };
    let before = numbers(&bench);
    assert!(
        before.iter().all(|number| *number == before[0]),
        "one for the port, so that affinity is one"
    );
    bench.endpoints([local("10.77.0.2")]);
    bench.service(Service {
        external_traffic_local: true,
        internal_traffic_local: true,
        ..with_node_port()
    });
    assert_eq!(numbers(&bench), before);
}

#[test]
fn not_ready_addresses_are_published_if_the_service_says_so() {
    let mut bench = Bench::new();
    bench.endpoints([unready(endpoint("10.77.0.1"))]);
    bench.service(service());
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some([]));
    bench.service(Service {
        publish_not_ready_addresses: true,
        ..service()
    });
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some(["10.77.0.1"]));
}

#[test]
fn terminating_endpoints_that_serve_are_used_when_nothing_else_is_left() {
    let mut bench = Bench::new();
    bench.service(service());
    let not_serving = Endpoint {
        serving: false,
        ..draining(endpoint("10.77.0.3"))
    };
    bench.endpoints([
        endpoint("10.77.0.1"),
        draining(endpoint("10.77.0.2")),
        not_serving.clone(),
    ]);
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some(["10.77.0.1"]));
    bench.endpoints([
        draining(endpoint("10.77.0.1")),
        draining(endpoint("10.77.0.2")),
        not_serving,
    ]);
    assert_eq!(
        bench.at(inside("10.96.0.1", 80)),
        some(["10.77.0.1", "10.77.0.2"])
    );
}

#[test]
fn for_a_local_policy_terminating_endpoints_of_this_node_come_before_none() {
    let mut bench = Bench::new();
    bench.service(Service {
        external_traffic_local: true,
        ..with_node_port()
    });
    bench.endpoints([endpoint("10.77.0.1"), draining(local("10.77.0.2"))]);
    assert_eq!(
        bench.at(node_port(30_080, SCOPE_OUTSIDE)),
        some(["10.77.0.2"])
    );
    assert_eq!(
        bench.at(node_port(30_080, SCOPE_INSIDE)),
        some(["10.77.0.1"])
    );
    bench.endpoints([
        endpoint("10.77.0.1"),
        draining(local("10.77.0.2")),
        local("10.77.0.3"),
    ]);
    assert_eq!(
        bench.at(node_port(30_080, SCOPE_OUTSIDE)),
        some(["10.77.0.3"])
    );
}

#[test]
fn a_service_without_selector_has_the_endpoints_of_hand_made_slices() {
    let mut bench = Bench::new();
    bench.service(service());
    let by_hand = |address: &str| Endpoint {
        addresses: vec![ip(address)],
        ready: true,
        ..Endpoint::default()
    };
    bench.apply(
        false,
        vec![
            Event::SliceSet(name("mine"), slice([by_hand("198.51.100.1")])),
            Event::SliceSet(
                name("mine-too"),
                slice([by_hand("198.51.100.2"), by_hand("198.51.100.1")]),
            ),
        ],
    );
    assert_eq!(
        bench.at(inside("10.96.0.1", 80)),
        some(["198.51.100.1", "198.51.100.2"])
    );
    bench.apply(false, vec![Event::SliceRemoved(name("mine-too"))]);
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some(["198.51.100.1"]));
}

#[test]
fn of_services_with_the_same_external_ip_the_first_keeps_it() {
    let mut bench = Bench::new();
    let claim = |cluster: &str| Service {
        cluster_ips: vec![ip(cluster)],
        external_ips: vec![ip(VIP)],
        ..service()
    };
    let set = |bench: &mut Bench, service: &str, cluster: &str| {
        bench.apply(
            false,
            vec![Event::ServiceSet(name(service), claim(cluster))],
        );
    };
    bench.endpoints([endpoint("10.77.0.1")]);
    set(&mut bench, "web", "10.96.0.1");
    set(&mut bench, "another", "10.96.0.2");
    assert_eq!(bench.at(outside(VIP, 80)), some(["10.77.0.1"]));
    let named: Vec<String> = bench
        .plan
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    assert!(
        named
            .iter()
            .all(|problem| problem.contains("Service default/another asks for")),
        "{named:?}"
    );
    assert!(
        named
            .iter()
            .any(|problem| problem.contains("which Service default/web has")),
        "{named:?}"
    );
    bench.apply(false, vec![Event::ServiceRemoved(name("web"))]);
    assert_eq!(bench.at(outside(VIP, 80)), some([]), "the other one's turn");
}

#[test]
fn a_cluster_ip_wins_over_who_calls_it_external() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1")]);
    let thief = Service {
        cluster_ips: vec![ip("10.96.0.2")],
        external_ips: vec![ip("10.96.0.1")],
        ..service()
    };
    bench.apply(false, vec![Event::ServiceSet(name("thief"), thief)]);
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some([]));
    bench.service(service());
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some(["10.77.0.1"]));
}

#[test]
fn what_is_no_longer_picked_is_unused_and_what_is_in_no_slice_is_removed() {
    let mut bench = Bench::new();
    bench.service(with_node_port());
    bench.endpoints([endpoint("10.77.0.1"), endpoint("10.77.0.2")]);
    let of = |keys: [ServiceKey; 3], address: &str, state| {
        let mut gone: Vec<_> = keys
            .iter()
            .map(|key| (*key, address.to_owned(), state))
            .collect();
        gone.sort();
        gone
    };
    let keys = [
        inside("10.96.0.1", 80),
        node_port(30_080, SCOPE_INSIDE),
        node_port(30_080, SCOPE_OUTSIDE),
    ];
    bench.endpoints([endpoint("10.77.0.1"), draining(endpoint("10.77.0.2"))]);
    assert_eq!(bench.gone(), of(keys, "10.77.0.2", GoneState::Unused));
    let operations = bench.plan.operations.len();
    assert!(operations > 0);
    bench.endpoints([endpoint("10.77.0.1")]);
    assert_eq!(
        bench.gone(),
        of(keys, "10.77.0.2", GoneState::Removed),
        "although no set changes"
    );
    assert_eq!(bench.plan.operations, []);
    bench.endpoints([]);
    assert_eq!(bench.gone(), of(keys, "10.77.0.1", GoneState::Removed));
}

#[test]
fn a_service_that_goes_leaves_its_backends_unused() {
    let mut bench = Bench::new();
    bench.service(service());
    bench.endpoints([endpoint("10.77.0.1")]);
    bench.apply(
        false,
        vec![
            Event::ServiceRemoved(name("web")),
            Event::SliceRemoved(name("web-1")),
        ],
    );
    assert_eq!(
        bench.gone(),
        [(
            inside("10.96.0.1", 80),
            "10.77.0.1".to_owned(),
            GoneState::Unused
        )]
    );
    assert!(bench.maps.services.is_empty());
}

#[test]
fn keys_of_a_port_with_the_same_backends_share_slots_and_table() {
    let mut bench = Bench::new();
    bench.endpoints([endpoint("10.77.0.1"), endpoint("10.77.0.2")]);
    bench.service(Service {
        external_ips: vec![ip(VIP)],
        ..with_node_port()
    });
    assert_eq!(bench.maps.services.len(), 5);
    assert_eq!(bench.planner.slots_used(), 2);
    assert_eq!(bench.maps.tables.len(), 1);
    for (key, value) in &bench.maps.services {
        assert_eq!(
            value.maglev != 0,
            key.scope == SCOPE_OUTSIDE,
            "inside, a table is of no use"
        );
    }
    bench.endpoints([endpoint("10.77.0.1")]);
    assert_eq!(bench.maps.tables.len(), 1, "programs may still read it");
    bench.rest();
    assert_eq!(bench.maps.tables.len(), 0, "one backend needs none");
}
