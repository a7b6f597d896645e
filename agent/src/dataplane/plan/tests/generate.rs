//! Random clusters, small enough for everything to collide with everything.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

pub(super) fn any_batch() -> impl Strategy<Value = Batch> {
    (
        proptest::bool::weighted(0.15),
        proptest::collection::vec(any_event(), 0..5),
    )
        .prop_map(|(full, events)| Batch {
            revision: 0,
            full,
            events,
        })
}

fn object(index: u8) -> ObjectName {
    name(&format!("object{index}"))
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u8..4, any_service()).prop_map(|(index, service)| Event::ServiceSet(object(index), service)),
        1 => (0u8..4).prop_map(|index| Event::ServiceRemoved(object(index))),
        6 => (0u8..6, any_slice()).prop_map(|(index, slice)| Event::SliceSet(object(index), slice)),
        2 => (0u8..6).prop_map(|index| Event::SliceRemoved(object(index))),
        1 => any_node().prop_map(|node| Event::NodeSet(HERE.to_owned(), node)),
        1 => Just(Event::NodeRemoved(HERE.to_owned())),
        1 => any_node().prop_map(|node| Event::NodeSet("there".to_owned(), node)),
    ]
}

fn any_node() -> impl Strategy<Value = Node> {
    (
        proptest::option::of(any_zone()),
        proptest::collection::vec(any_external(), 0..2),
        proptest::sample::subsequence(vec!["10.77.0.2/31", "fd00:77::/126", "10.77.1.0/24"], 0..3),
    )
        .prop_map(|(zone, addresses, ranges)| Node {
            zone,
            internal_ips: addresses,
            pod_cidrs: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        })
}

fn any_zone() -> impl Strategy<Value = String> {
    prop_oneof![Just("a".to_owned()), Just("b".to_owned())]
}

fn any_external() -> impl Strategy<Value = IpAddr> {
    (1u8..4, proptest::bool::weighted(0.3)).prop_map(|(last, v6)| {
        ip(&if v6 {
            format!("2001:db8::{last}")
        } else {
            format!("192.0.2.{last}")
        })
    })
}

fn any_cluster() -> impl Strategy<Value = IpAddr> {
    // Now and then what another has as its external address.
    let own = (1u8..4, proptest::bool::weighted(0.4)).prop_map(|(last, v6)| {
        ip(&if v6 {
            format!("fd00:96::{last}")
        } else {
            format!("10.96.0.{last}")
        })
    });
    prop_oneof![8 => own, 1 => any_external()]
}

fn any_protocol() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Tcp), Just(Protocol::Udp)]
}

fn any_ports() -> impl Strategy<Value = Vec<ServicePort>> {
    // Names are unique within a Service, and so are pairs of port and protocol, and of node port and protocol.
    let port = (0u16..2, any::<bool>(), proptest::option::of(0u16..3));
    proptest::collection::vec(port, 0..3).prop_map(|ports| {
        let (mut ports_seen, mut node_ports_seen) = (BTreeSet::new(), BTreeSet::new());
        let mut all = Vec::new();
        for (index, (port, udp, node_port)) in ports.into_iter().enumerate() {
            if !ports_seen.insert((port, udp))
                || node_port.is_some_and(|port| !node_ports_seen.insert((port, udp)))
            {
                continue;
            }
            all.push(ServicePort {
                name: format!("port{index}"),
                protocol: if udp { Protocol::Udp } else { Protocol::Tcp },
                port: 80 + port,
                node_port: node_port.map(|port| 30_000 + port),
            });
        }
        all
    })
}

fn any_range() -> impl Strategy<Value = ipnet::IpNet> {
    prop_oneof![
        Just("10.0.0.0/8"),
        Just("10.1.2.3/16"),
        Just("198.51.100.7/32"),
        Just("0.0.0.0/0"),
        Just("fd00::/16"),
    ]
    .prop_map(|range| range.parse().unwrap())
}

fn any_service() -> impl Strategy<Value = Service> {
    (
        proptest::collection::btree_set(any_cluster(), 0..3),
        proptest::collection::btree_set(any_external(), 0..2),
        proptest::collection::btree_set(any_external(), 0..2),
        proptest::collection::btree_set(any_range(), 0..3),
        any_ports(),
        any::<[bool; 3]>(),
        proptest::bool::weighted(0.1),
        prop_oneof![Just(None), Just(Some(10u32))],
    )
        .prop_map(
            |(
                cluster,
                external,
                balancer,
                ranges,
                ports,
                [internal, outside, publish],
                headless,
                affinity,
            )| Service {
                cluster_ips: cluster.into_iter().collect(),
                external_ips: external.into_iter().collect(),
                load_balancer_ips: balancer.into_iter().collect(),
                load_balancer_source_ranges: ranges.into_iter().collect(),
                headless,
                ports,
                internal_traffic_local: internal,
                external_traffic_local: outside,
                publish_not_ready_addresses: publish,
                session_affinity: affinity,
                ..Service::default()
            },
        )
}

/// On which node an endpoint is said to be.
fn any_place() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        2 => Just(Some(HERE.to_owned())),
        2 => Just(Some("there".to_owned())),
        1 => Just(None),
    ]
}

fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    let hints = (
        proptest::collection::vec(any_zone(), 0..2),
        prop_oneof![3 => Just(Vec::new()), 1 => Just(vec![HERE.to_owned()]), 1 => Just(vec!["there".to_owned()])],
    );
    let endpoint = (1u8..6, any::<[bool; 3]>(), any_place(), hints).prop_map(
        |(last, [ready, serving, terminating], node, (hints_zones, hints_nodes))| Endpoint {
            addresses: vec![ip(&format!("10.77.0.{last}"))],
            ready,
            serving,
            terminating,
            node,
            hints_zones,
            hints_nodes,
            ..Endpoint::default()
        },
    );
    (
        0u8..4,
        proptest::collection::vec((0u8..2, any_protocol(), 8080u16..8082), 0..3),
        proptest::collection::vec(endpoint, 0..5),
        proptest::bool::weighted(0.3),
    )
        .prop_map(|(service, ports, mut endpoints, v6)| {
            if v6 {
                for endpoint in &mut endpoints {
                    let last = endpoint.addresses[0]
                        .to_string()
                        .replace("10.77.0.", "fd00:77::");
                    endpoint.addresses = vec![ip(&last)];
                }
            }
            let mut seen = BTreeSet::new();
            EndpointSlice {
                service: object(service).name,
                ports: ports
                    .into_iter()
                    .filter(|(name, protocol, _)| seen.insert((*name, *protocol)))
                    .map(|(name, protocol, port)| EndpointPort {
                        name: format!("port{name}"),
                        protocol,
                        port,
                    })
                    .collect(),
                endpoints,
            }
        })
}

pub(super) fn any_host_ports() -> impl Strategy<Value = Vec<HostPort>> {
    let host = prop_oneof![
        3 => Just(None),
        1 => any_external().prop_map(Some),
        1 => Just(Some(ip("127.0.0.1"))),
    ];
    let port = (host, 0u16..3, any_protocol(), 1u8..6, any::<bool>());
    proptest::collection::vec(port, 0..3).prop_map(|ports| {
        ports
            .into_iter()
            .map(|(host_ip, port, protocol, last, dual)| {
                let mut addresses = vec![ip(&format!("10.88.0.{last}"))];
                if dual {
                    addresses.push(ip(&format!("fd00:88::{last}")));
                }
                HostPort {
                    host_ip,
                    port: 30_000 + port,
                    protocol,
                    addresses,
                    container_port: 9000,
                }
            })
            .collect()
    })
}
