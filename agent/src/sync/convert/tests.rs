//! Any message is converted or passed over, with a reason, and never more comes out than went in.
#![allow(clippy::unwrap_used)]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

fn bytes() -> impl Strategy<Value = Bytes> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 4),
        prop::collection::vec(any::<u8>(), 16),
        prop::collection::vec(any::<u8>(), 0..20),
    ]
    .prop_map(Bytes::from)
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,5}", "\\PC{0,8}"]
}

fn service_port() -> impl Strategy<Value = wire::ServicePort> {
    (
        text(),
        any::<i32>(),
        any::<bool>(),
        0..70_000u32,
        0..70_000u32,
    )
        .prop_map(|(name, number, known, port, node_port)| wire::ServicePort {
            name,
            protocol: if known { 6 } else { number },
            port,
            node_port,
        })
}

fn any_service() -> impl Strategy<Value = wire::Service> {
    let kind = prop_oneof![
        Just("ClusterIP".to_owned()),
        Just("NodePort".to_owned()),
        Just("ExternalName".to_owned()),
        text()
    ];
    (
        kind,
        prop::collection::vec(bytes(), 0..3),
        prop::collection::vec(service_port(), 0..4),
        prop::collection::vec(text(), 0..3),
        any::<u32>(),
        any::<bool>(),
    )
        .prop_map(|(kind, ips, ports, ranges, number, flag)| wire::Service {
            r#type: kind,
            cluster_ips: ips.clone(),
            external_ips: ips,
            ports,
            load_balancer_source_ranges: ranges,
            session_affinity_seconds: number,
            health_check_node_port: number,
            headless: flag,
            ..wire::Service::default()
        })
}

fn any_slice() -> impl Strategy<Value = wire::EndpointSlice> {
    let kind = prop_oneof![
        Just("IPv4".to_owned()),
        Just("IPv6".to_owned()),
        Just("FQDN".to_owned()),
        text()
    ];
    let endpoint = (prop::collection::vec(bytes(), 0..3), any::<bool>(), text()).prop_map(
        |(addresses, ready, pod)| wire::Endpoint {
            addresses,
            ready,
            target_pod: pod,
            ..wire::Endpoint::default()
        },
    );
    let port =
        (text(), 0..20i32, 0..70_000u32).prop_map(|(name, protocol, port)| wire::EndpointPort {
            name,
            protocol,
            port,
        });
    (
        text(),
        kind,
        prop::collection::vec(port, 0..4),
        prop::collection::vec(endpoint, 0..4),
    )
        .prop_map(
            |(service, address_type, ports, endpoints)| wire::EndpointSlice {
                service,
                address_type,
                ports,
                endpoints,
            },
        )
}

proptest! {
    #[test]
    fn services(namespace in text(), name in text(), service in prop::option::of(any_service())) {
        let mut nonsense = Vec::new();
        let change = wire::ServiceChange { namespace, name: name.clone(), service: service.clone() };
        let event = super::service(change, &mut nonsense);
        match (event, service) {
            (None, _) => prop_assert!(!nonsense.is_empty()),
            (Some(Event::ServiceRemoved(removed)), None) => prop_assert_eq!(removed.name, name),
            (Some(Event::ServiceSet(set, out)), Some(given)) => {
                prop_assert_eq!(set.name, name);
                prop_assert!(out.ports.iter().all(|port| port.port > 0));
                let lost = given.ports.len() - out.ports.len()
                    + 2 * (given.cluster_ips.len() - out.cluster_ips.len());
                prop_assert!(nonsense.len() >= lost);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn slices(namespace in text(), name in text(), slice in prop::option::of(any_slice())) {
        let mut nonsense = Vec::new();
        let change = wire::EndpointSliceChange { namespace, name, slice: slice.clone() };
        match super::slice(change, &mut nonsense) {
            None => prop_assert!(!nonsense.is_empty()),
            Some(Event::SliceSet(_, out)) => {
                let given = slice.unwrap();
                prop_assert!(out.endpoints.len() <= given.endpoints.len());
                let v4 = given.address_type == "IPv4";
                prop_assert!(out.endpoints.iter().all(|endpoint| !endpoint.addresses.is_empty()
                    && endpoint.addresses.iter().all(|ip| ip.is_ipv4() == v4)));
            }
            Some(Event::SliceRemoved(_)) => prop_assert!(
                slice.is_none_or(|slice| !["IPv4", "IPv6"].contains(&slice.address_type.as_str()))),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn nodes(name in text(), ips in prop::collection::vec(bytes(), 0..3),
             ranges in prop::collection::vec(text(), 0..3)) {
        let mut nonsense = Vec::new();
        let node = wire::Node { internal_ips: ips, pod_cidrs: ranges, zone: String::new() };
        let event = super::node(wire::NodeChange { name: name.clone(), node: Some(node) }, &mut nonsense);
        prop_assert_eq!(event.is_none(), name.is_empty());
    }
}

#[test]
fn a_whole_service() {
    let change = wire::ServiceChange {
        namespace: "ns".to_owned(),
        name: "s".to_owned(),
        service: Some(wire::Service {
            r#type: "LoadBalancer".to_owned(),
            cluster_ips: vec![Bytes::from_static(&[10, 96, 0, 1])],
            ports: vec![wire::ServicePort {
                name: "http".to_owned(),
                protocol: wire::Protocol::Tcp.into(),
                port: 80,
                node_port: 30_080,
            }],
            session_affinity_seconds: 10,
            load_balancer_source_ranges: vec!["192.0.2.0/24".to_owned(), "x".to_owned()],
            ..wire::Service::default()
        }),
    };
    let mut nonsense = Vec::new();
    let Some(Event::ServiceSet(_, service)) = service(change, &mut nonsense) else {
        panic!("no service");
    };
    assert_eq!(service.service_type, ServiceType::LoadBalancer);
    assert_eq!(
        service.cluster_ips,
        ["10.96.0.1".parse::<IpAddr>().unwrap()]
    );
    assert_eq!(service.ports[0].node_port, Some(30_080));
    assert_eq!(service.session_affinity, Some(10));
    assert_eq!(service.load_balancer_source_ranges.len(), 1);
    assert_eq!(
        nonsense,
        [Nonsense::Range {
            object: "Service ns/s".to_owned(),
            text: "x".to_owned()
        }]
    );
}

#[test]
fn ranges_that_cannot_be_read_admit_nobody() {
    let ranges = |texts: &[&str]| {
        let change = wire::ServiceChange {
            namespace: "ns".to_owned(),
            name: "s".to_owned(),
            service: Some(wire::Service {
                load_balancer_source_ranges: texts.iter().map(|&text| text.to_owned()).collect(),
                ..wire::Service::default()
            }),
        };
        let Some(Event::ServiceSet(_, service)) = service(change, &mut Vec::new()) else {
            panic!("no service");
        };
        let ranges = service.load_balancer_source_ranges;
        ranges.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(ranges(&[]), Vec::<String>::new());
    assert_eq!(ranges(&[" 192.0.2.0/24 "]), ["192.0.2.0/24"]);
    assert_eq!(ranges(&["192.0.2.0/33", "x"]), ["0.0.0.0/32"]);
}
