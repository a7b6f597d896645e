//! What no API server should let through, and more than the tables hold.

use super::*;

#[test]
fn addresses_that_make_no_sense_are_left_out_by_name() {
    let mut bench = Bench::new();
    let nonsense = [
        "0.0.0.0",
        "127.0.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "169.254.169.254",
    ];
    bench.service(Service {
        cluster_ips: nonsense
            .iter()
            .map(|address| ip(address))
            .chain([ip("10.96.0.1")])
            .collect(),
        external_ips: vec![ip("127.0.0.1"), ip("169.254.0.1")],
        ports: vec![
            port(80),
            ServicePort {
                name: "zero".to_owned(),
                ..port(0)
            },
        ],
        ..Service::default()
    });
    let keys: Vec<&ServiceKey> = bench.maps.services.keys().collect();
    assert_eq!(keys, [&inside("10.96.0.1", 80)]);
    let mut endpoints: Vec<Endpoint> = nonsense.iter().map(|address| endpoint(address)).collect();
    endpoints.extend(["::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1", "10.77.0.3"].map(endpoint));
    endpoints.push(Endpoint {
        addresses: Vec::new(),
        ..endpoint("10.77.0.4")
    });
    bench.endpoints(endpoints);
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some(["10.77.0.3"]));
    let said = bench.plan.problems[0].to_string();
    assert_eq!(
        said,
        "EndpointSlice default/web-1: 10 entries make no sense, the first: endpoint 0.0.0.0: Unspecified address"
    );
}

#[test]
fn a_port_of_zero_and_a_port_that_is_there_twice_are_left_out_by_name() {
    let mut bench = Bench::new();
    bench.service(service());
    let port = |port| EndpointPort {
        name: String::new(),
        protocol: Protocol::Tcp,
        port,
    };
    for (ports, said) in [
        (vec![port(0), port(8080)], "port \"\" has number 0"),
        (vec![port(8080), port(9090)], "port \"\" is there twice"),
    ] {
        let slice = EndpointSlice {
            ports,
            ..slice([endpoint("10.77.0.1")])
        };
        bench.apply(
            false,
            vec![
                Event::SliceRemoved(name("web-1")),
                Event::SliceSet(name("web-1"), slice),
            ],
        );
        assert!(
            bench.plan.problems[0].to_string().ends_with(said),
            "{:?}",
            bench.plan.problems
        );
        let look = bench.look(inside("10.96.0.1", 80));
        assert_eq!(
            look.backends.into_iter().collect::<Vec<_>>(),
            [backend("10.77.0.1")]
        );
    }
}

#[test]
fn mixed_families_in_one_slice_go_to_their_own_addresses() {
    let mut bench = Bench::new();
    bench.service(Service {
        cluster_ips: vec![ip("10.96.0.1"), ip("fd00:96::1")],
        ..service()
    });
    bench.endpoints([
        endpoint("10.77.0.1"),
        endpoint("fd00:77::1"),
        endpoint("::ffff:10.77.0.2"),
    ]);
    assert_eq!(
        bench.at(inside("10.96.0.1", 80)),
        some(["10.77.0.1", "10.77.0.2"])
    );
    assert_eq!(bench.at(inside("fd00:96::1", 80)), some(["fd00:77::1"]));
}

#[test]
fn duplicates_count_once_and_ready_wins() {
    let mut bench = Bench::new();
    bench.service(service());
    bench.endpoints([
        unready(endpoint("10.77.0.1")),
        endpoint("10.77.0.1"),
        endpoint("10.77.0.1"),
    ]);
    assert_eq!(bench.at(inside("10.96.0.1", 80)), some(["10.77.0.1"]));
    assert_eq!(bench.planner.slots_used(), 1);
}

fn many(count: u32) -> Vec<Endpoint> {
    (0..count)
        .map(|number| endpoint(&std::net::Ipv4Addr::from(0x0a80_0000 + number).to_string()))
        .collect()
}

#[test]
fn hundreds_of_thousands_of_endpoints_are_cut_to_what_one_port_may_have() {
    let mut bench = Bench::new();
    let mut with_node_port = service();
    with_node_port.ports[0].node_port = Some(30_080);
    bench.service(with_node_port);
    bench.endpoints(many(300_000));
    let kept = Limits::default().backends;
    let look = bench.look(node_port(30_080, SCOPE_OUTSIDE));
    assert_eq!((look.backends.len(), look.has_table), (kept, false));
    assert!(matches!(
        bench.plan.problems[..],
        [Problem::Truncated {
            wanted: 300_000,
            kept: 65_536,
            ..
        }]
    ));
    assert!(
        !bench.planner.is_pending(),
        "the revision is in force as far as it can be"
    );
}

#[test]
fn a_service_with_more_backends_than_a_table_is_even_with_has_none() {
    let mut bench = Bench::new();
    let mut with_node_port = service();
    with_node_port.ports[0].node_port = Some(30_080);
    bench.service(with_node_port);
    for (count, has_table) in [(255, true), (256, false)] {
        bench.endpoints(many(count));
        assert_eq!(
            bench.look(node_port(30_080, SCOPE_OUTSIDE)).has_table,
            has_table,
            "{count}"
        );
    }
}

#[test]
fn what_finds_no_room_keeps_what_it_had() {
    let mut bench = Bench::with(
        false,
        Limits {
            slots: 8,
            ..Limits::default()
        },
    );
    bench.service(service());
    bench.endpoints(many(3));
    let before = bench.at(inside("10.96.0.1", 80));
    bench.endpoints(many(6));
    assert_eq!(bench.at(inside("10.96.0.1", 80)), before);
    assert!(matches!(
        bench.plan.problems[..],
        [Problem::Slots {
            wanted: 6,
            used: 3,
            size: 8,
            ..
        }]
    ));
    assert!(bench.planner.is_pending());
    bench.endpoints(many(5));
    assert_eq!(bench.look(inside("10.96.0.1", 80)).backends.len(), 5);
    assert!(!bench.planner.is_pending());
}

#[test]
fn source_ranges_that_find_no_room_let_nobody_in() {
    let mut bench = Bench::with(
        false,
        Limits {
            source_ranges: 2,
            ..Limits::default()
        },
    );
    bench.service(Service {
        load_balancer_ips: vec![ip("203.0.113.8")],
        load_balancer_source_ranges: ["10.0.0.0/8", "11.0.0.0/8", "12.0.0.0/8"]
            .map(|range| range.parse().unwrap())
            .to_vec(),
        ..service()
    });
    assert!(bench.maps.services.is_empty());
    assert!(matches!(
        bench.plan.problems[..],
        [Problem::SourceRanges { size: 2, .. }]
    ));
}

#[test]
fn without_room_for_a_table_new_flows_pick_at_random() {
    let mut bench = Bench::with(
        false,
        Limits {
            maglev_tables: 0,
            ..Limits::default()
        },
    );
    bench.endpoints(many(3));
    bench.service(Service {
        external_ips: vec![ip("203.0.113.8")],
        ..service()
    });
    let look = bench.look(outside("203.0.113.8", 80));
    assert_eq!((look.backends.len(), look.has_table), (3, false));
    assert!(matches!(
        bench.plan.problems[..],
        [Problem::Maglev { size: 0, .. }]
    ));
}
