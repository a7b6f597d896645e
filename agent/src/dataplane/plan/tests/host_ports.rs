//! hostPorts of this node's pods.

use agent_ebpf::layout::SERVICE_HOST_PORT;

use super::*;

fn host_port(host_ip: Option<&str>, port: u16, address: &str) -> HostPort {
    HostPort {
        host_ip: host_ip.map(ip),
        port,
        protocol: Protocol::Tcp,
        addresses: vec![ip(address)],
        container_port: 8080,
    }
}

#[test]
fn a_host_port_is_on_every_address_of_the_node() {
    let mut bench = Bench::new();
    let both = HostPort {
        addresses: vec![ip("10.88.0.1"), ip("fd00:88::1")],
        ..host_port(None, 8000, "10.88.0.1")
    };
    bench.host_ports("a", &[both]);
    for scope in [SCOPE_INSIDE, SCOPE_OUTSIDE] {
        assert_eq!(bench.at(node_port(8000, scope)), some(["10.88.0.1"]));
        assert_eq!(bench.at(key("::", 8000, scope)), some(["fd00:88::1"]));
        assert_eq!(bench.look(node_port(8000, scope)).flags, SERVICE_HOST_PORT);
    }
    assert_eq!(bench.maps.node_ports, Some((8000, 8000)));
    bench.host_ports("a", &[]);
    assert!(bench.maps.services.is_empty());
    assert_eq!(bench.gone().len(), 4);
    assert!(
        bench
            .gone()
            .iter()
            .all(|(_, _, state)| *state == GoneState::Removed)
    );
}

#[test]
fn a_host_port_with_a_host_ip_is_on_that_address_alone() {
    let mut bench = Bench::new();
    bench.host_ports(
        "a",
        &[
            host_port(Some("192.0.2.1"), 8000, "10.88.0.1"),
            host_port(Some("0.0.0.0"), 8001, "10.88.0.1"),
        ],
    );
    assert_eq!(bench.at(outside("192.0.2.1", 8000)), some(["10.88.0.1"]));
    assert_eq!(bench.at(node_port(8000, SCOPE_OUTSIDE)), None);
    assert_eq!(
        bench.at(node_port(8001, SCOPE_OUTSIDE)),
        some(["10.88.0.1"])
    );
    assert_eq!(bench.maps.node_ports, Some((8001, 8001)));
}

#[test]
fn a_host_port_on_loopback_is_not_for_the_outside() {
    let mut bench = Bench::new();
    bench.host_ports("a", &[host_port(Some("127.0.0.1"), 8000, "10.88.0.1")]);
    assert_eq!(bench.at(inside("127.0.0.1", 8000)), some(["10.88.0.1"]));
    assert_eq!(bench.at(outside("127.0.0.1", 8000)), None);
}

#[test]
fn a_host_ip_of_the_other_family_is_not_the_pods() {
    let mut bench = Bench::new();
    bench.host_ports("a", &[host_port(Some("2001:db8::1"), 8000, "10.88.0.1")]);
    assert!(bench.maps.services.is_empty());
}

#[test]
fn of_two_pods_with_the_same_host_port_the_first_keeps_it() {
    let mut bench = Bench::new();
    assert_eq!(
        bench.host_ports("a", &[host_port(None, 8000, "10.88.0.1")]),
        []
    );
    let problems = bench.host_ports(
        "b",
        &[
            host_port(None, 8000, "10.88.0.2"),
            host_port(None, 8001, "10.88.0.2"),
        ],
    );
    assert_eq!(problems.len(), 2);
    assert!(problems[0].to_string().starts_with("pod b asks for"));
    assert!(problems[0].to_string().ends_with("which pod a has"));
    assert_eq!(
        bench.at(node_port(8000, SCOPE_OUTSIDE)),
        some(["10.88.0.1"])
    );
    assert_eq!(
        bench.at(node_port(8001, SCOPE_OUTSIDE)),
        some(["10.88.0.2"])
    );
    bench.host_ports("a", &[]);
    assert_eq!(
        bench.at(node_port(8000, SCOPE_OUTSIDE)),
        some(["10.88.0.2"])
    );
}

#[test]
fn a_node_port_that_was_there_first_is_not_taken_by_a_host_port() {
    let mut bench = Bench::new();
    let mut with_node_port = service();
    with_node_port.ports[0].node_port = Some(30_080);
    bench.endpoints([endpoint("10.77.0.1")]);
    bench.service(with_node_port);
    let problems = bench.host_ports("a", &[host_port(None, 30_080, "10.88.0.1")]);
    assert!(
        problems[0]
            .to_string()
            .ends_with("which Service default/web has"),
        "{problems:?}"
    );
    assert_eq!(
        bench.at(node_port(30_080, SCOPE_OUTSIDE)),
        some(["10.77.0.1"])
    );
    bench.apply(false, vec![Event::ServiceRemoved(name("web"))]);
    assert_eq!(
        bench.at(node_port(30_080, SCOPE_OUTSIDE)),
        some(["10.88.0.1"])
    );
}

#[test]
fn a_pods_host_ports_come_together_or_not_at_all() {
    let limits = Limits {
        services: 3,
        ..Limits::default()
    };
    let mut bench = Bench::with(false, limits);
    bench.host_ports(
        "a",
        &[
            host_port(None, 8000, "10.88.0.1"),
            host_port(None, 8001, "10.88.0.1"),
        ],
    );
    assert!(bench.maps.services.is_empty());
    assert!(matches!(
        bench.plan.problems[..],
        [Problem::Services { size: 3, .. }]
    ));
    assert!(bench.planner.is_pending());
    bench.host_ports("a", &[host_port(None, 8000, "10.88.0.1")]);
    assert_eq!(bench.maps.services.len(), 2);
    assert!(!bench.planner.is_pending());
}
