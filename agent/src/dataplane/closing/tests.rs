//! Tests of `closing`: whose sockets are concerned. That they are closed is tested in `dataplane/tests/closing.rs`.
#![allow(clippy::unwrap_used)]

use std::net::IpAddr;

use super::super::plan::Backend;
use super::*;

fn address(ip: &str) -> Address {
    Address::from(ip.parse::<IpAddr>().unwrap())
}

fn key(ip: &str, port: u16, protocol: u8) -> ServiceKey {
    ServiceKey {
        address: address(ip),
        port: port.to_be(),
        protocol,
        scope: SCOPE_INSIDE,
    }
}

fn gone(key: ServiceKey, ip: &str, port: u16, state: GoneState) -> Gone {
    let backend = Backend {
        address: address(ip),
        port,
    };
    Gone {
        key,
        backend,
        state,
    }
}

fn through(service: (&str, u16), backend: (&str, u16)) -> SocketOrigin {
    SocketOrigin {
        service: address(service.0),
        service_port: service.1.to_be(),
        backend: address(backend.0),
        backend_port: backend.1.to_be(),
        set: 1,
    }
}

const POD: (&str, u16) = ("10.0.0.1", 8080);

fn is_concerned(gone: &[Gone], protocol: u8, origin: &SocketOrigin) -> bool {
    let peer = (address(POD.0), POD.1.to_be());
    let own = key("10.96.0.9", 30_080, protocol);
    Wanted::of(protocol, gone).concerns(peer, origin, protocol, |key| *key == own)
}

#[test]
fn only_what_went_through_the_service_to_the_backend() {
    let service = ("10.96.0.1", 80);
    let all = [gone(
        key(service.0, service.1, PROTOCOL_TCP),
        POD.0,
        POD.1,
        GoneState::Removed,
    )];
    let concerned = |origin: &SocketOrigin| is_concerned(&all, PROTOCOL_TCP, origin);
    assert!(concerned(&through(service, POD)));
    assert!(
        !concerned(&through(("10.96.0.2", 80), POD)),
        "another Service"
    );
    assert!(
        !concerned(&through(("10.96.0.1", 81), POD)),
        "another port of it"
    );
    assert!(
        !concerned(&through(service, ("10.0.0.2", 8080))),
        "connected anew since"
    );
    assert!(!concerned(&SocketOrigin::default()), "to the pod itself");
    let forgotten = SocketOrigin {
        service_port: 0,
        ..through(service, POD)
    };
    assert!(!concerned(&forgotten));
    assert!(!is_concerned(&all, PROTOCOL_UDP, &through(service, POD)));
}

#[test]
fn tcp_lives_as_long_as_the_backend_and_udp_as_long_as_it_is_used() {
    let service = ("10.96.0.1", 80);
    for (protocol, state, ends) in [
        (PROTOCOL_TCP, GoneState::Unused, false),
        (PROTOCOL_TCP, GoneState::Removed, true),
        (PROTOCOL_UDP, GoneState::Unused, true),
        (PROTOCOL_UDP, GoneState::Removed, true),
    ] {
        let all = [gone(
            key(service.0, service.1, protocol),
            POD.0,
            POD.1,
            state,
        )];
        assert_eq!(
            is_concerned(&all, protocol, &through(service, POD)),
            ends,
            "{protocol} {state:?}"
        );
    }
}

#[test]
fn a_node_port_is_every_address_but_those_of_services() {
    let all = [gone(
        key("0.0.0.0", 30_080, PROTOCOL_TCP),
        POD.0,
        POD.1,
        GoneState::Removed,
    )];
    let concerned =
        |service: &str| is_concerned(&all, PROTOCOL_TCP, &through((service, 30_080), POD));
    assert!(concerned("127.0.0.1"));
    assert!(concerned("192.0.2.2"));
    assert!(
        !concerned("10.96.0.9"),
        "a ClusterIP that has the same port"
    );
    assert!(!concerned("::1"), "the other family");
}

#[test]
fn what_came_from_outside_has_no_socket_here() {
    let outside = ServiceKey {
        scope: agent_ebpf::layout::SCOPE_OUTSIDE,
        ..key("10.96.0.1", 80, PROTOCOL_TCP)
    };
    let all = [gone(outside, POD.0, POD.1, GoneState::Removed)];
    assert!(!is_concerned(
        &all,
        PROTOCOL_TCP,
        &through(("10.96.0.1", 80), POD)
    ));
}

#[test]
fn translated_udp_flows_go_with_the_backend_of_their_service() {
    let flow = |service: (&str, u16), kind: u16, flags: u16| {
        let from = FlowKey {
            source: address("10.0.0.7"),
            destination: address(service.0),
            source_port: 5,
            destination_port: service.1.to_be(),
            protocol: PROTOCOL_UDP,
            padding: [0; 3],
        };
        let to = FlowKey {
            destination: address(POD.0),
            destination_port: POD.1.to_be(),
            ..from
        };
        let value = FlowValue {
            to,
            kind,
            flags,
            ..FlowValue::default()
        };
        (from, value)
    };
    let inside = key("10.96.0.1", 53, PROTOCOL_UDP);
    let gone = HashMap::from([((address(POD.0), POD.1.to_be()), vec![inside])]);
    let goes = |(key, value): (FlowKey, FlowValue)| is_gone(&gone, &key, &value, |_| false);
    let service = ("10.96.0.1", 53);
    assert!(goes(flow(service, FLOW_KIND_POD_SERVICE, 0)));
    assert!(
        !goes(flow(("10.96.0.2", 53), FLOW_KIND_POD_SERVICE, 0)),
        "another Service"
    );
    assert!(
        !goes(flow(service, agent_ebpf::layout::FLOW_KIND_LOCAL, 0)),
        "from outside"
    );
    assert!(!goes(flow(service, FLOW_KIND_MASQUERADE, 0)));
    assert!(!goes(flow(
        service,
        FLOW_KIND_POD_SERVICE,
        agent_ebpf::layout::FLOW_REVERSE
    )));
    let (key, mut value) = flow(service, FLOW_KIND_POD_SERVICE, 0);
    value.to.destination_port = 9;
    assert!(!goes((key, value)), "another backend");
}
