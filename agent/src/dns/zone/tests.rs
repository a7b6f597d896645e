//! The specification as a table, and the zone against a plain reference under random change.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::Arc;

use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use super::*;
use crate::cluster::{
    Batch, Endpoint, EndpointPort, EndpointSlice, Event, Node, Protocol, Service, ServicePort,
    ServiceType,
};
use crate::dns::feed::Feed;

pub(crate) fn object(namespace: &str, name: &str) -> ObjectName {
    ObjectName {
        namespace: namespace.into(),
        name: name.into(),
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn cluster_ip(ips: &[&str], ports: &[(&str, Protocol, u16)]) -> Service {
    Service {
        cluster_ips: ips.iter().map(|i| ip(i)).collect(),
        ports: ports
            .iter()
            .map(|(name, protocol, port)| ServicePort {
                name: (*name).into(),
                protocol: *protocol,
                port: *port,
                node_port: None,
            })
            .collect(),
        ..Service::default()
    }
}

fn headless() -> Service {
    Service {
        headless: true,
        ..Service::default()
    }
}

fn external(name: &str) -> Service {
    Service {
        service_type: ServiceType::ExternalName,
        external_name: Some(name.into()),
        ..Service::default()
    }
}

fn endpoint(address: &str, hostname: Option<&str>, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip(address)],
        ready,
        serving: ready,
        hostname: hostname.map(Into::into),
        ..Endpoint::default()
    }
}

fn slice(
    service: &str,
    ports: &[(&str, Protocol, u16)],
    endpoints: Vec<Endpoint>,
) -> EndpointSlice {
    EndpointSlice {
        service: service.into(),
        ports: ports
            .iter()
            .map(|(name, protocol, port)| EndpointPort {
                name: (*name).into(),
                protocol: *protocol,
                port: *port,
            })
            .collect(),
        endpoints,
    }
}

/// A cluster with one of everything that the specification speaks of.
pub(crate) fn example() -> Batch {
    use Protocol::{Sctp, Tcp, Udp};
    let set = |ns: &str, name: &str, service| Event::ServiceSet(object(ns, name), service);
    let slices = |ns: &str, name: &str, slice| Event::SliceSet(object(ns, name), slice);
    let not_ready = Service {
        publish_not_ready_addresses: true,
        ..headless()
    };
    Batch {
        revision: 7,
        full: true,
        events: vec![
            set(
                "default",
                "web",
                cluster_ip(
                    &["10.96.0.10", "fd00:96::10"],
                    &[("http", Tcp, 80), ("quic", Udp, 443), ("sig", Sctp, 9)],
                ),
            ),
            slices(
                "default",
                "web-1",
                slice(
                    "web",
                    &[("http", Tcp, 8080)],
                    vec![
                        endpoint("10.0.0.7", None, true),
                        endpoint("10.0.0.8", None, false),
                    ],
                ),
            ),
            set(
                "default",
                "plain",
                cluster_ip(&["10.96.0.11"], &[("", Tcp, 80)]),
            ),
            set("default", "db", headless()),
            slices(
                "default",
                "db-1",
                slice(
                    "db",
                    &[("sql", Tcp, 5432)],
                    vec![
                        endpoint("10.0.0.1", Some("db-0"), true),
                        endpoint("10.0.0.2", Some("db-1"), true),
                        endpoint("10.0.0.3", Some("db-2"), false),
                        endpoint("10.0.0.4", None, true),
                    ],
                ),
            ),
            slices(
                "default",
                "db-v6",
                slice(
                    "db",
                    &[("sql", Tcp, 5432)],
                    vec![endpoint("fd00::1", Some("db-0"), true)],
                ),
            ),
            set("default", "empty", headless()),
            set("default", "eager", not_ready),
            slices(
                "default",
                "eager-1",
                slice("eager", &[], vec![endpoint("10.0.1.1", None, false)]),
            ),
            set("other", "out", external("www.Example.com")),
            set("other", "in", external("web.default.svc.cluster.local")),
            Event::NodeSet(
                "n1".into(),
                Node {
                    pod_cidrs: vec!["10.0.0.0/24".parse().unwrap(), "fd00::/64".parse().unwrap()],
                    ..Node::default()
                },
            ),
        ],
    }
}

fn zone_of(batch: &Batch) -> Arc<Zone> {
    let domain = Name::from_str("cluster.local.").unwrap();
    Feed::new(Zone::new(domain, ip("169.254.20.10"))).apply(batch)
}

/// An answer as text: sorted records, or what there is instead.
fn ask(zone: &Zone, name: &str, kind: RecordType) -> String {
    let name = Name::from_str(name).unwrap();
    match zone.lookup(&name, kind) {
        Answer::NoName => "NXDOMAIN".into(),
        Answer::Elsewhere => "elsewhere".into(),
        Answer::Alias { target, .. } => format!("CNAME {target}"),
        Answer::Records { answers, .. } => {
            let mut all: Vec<String> = answers
                .iter()
                .map(|r| {
                    assert_eq!((r.name.to_string(), r.ttl), (name.to_string(), TTL));
                    format!("{} {}", r.record_type(), r.data)
                })
                .collect();
            all.sort();
            if all.is_empty() {
                "NODATA".into()
            } else {
                all.join(", ")
            }
        }
    }
}

#[test]
fn names_of_the_specification() {
    use RecordType::{A, AAAA, CNAME, MX, NS, PTR, SOA, SRV, TXT};
    let zone = zone_of(&example());
    let soa = "SOA ns.dns.cluster.local. hostmaster.cluster.local. 7 7200 1800 86400 5";
    let table = [
        // The zone itself.
        ("cluster.local.", SOA, soa),
        ("cluster.local.", NS, "NS ns.dns.cluster.local."),
        ("ns.dns.cluster.local.", A, "A 169.254.20.10"),
        ("cluster.local.", A, "NODATA"),
        ("svc.cluster.local.", A, "NODATA"),
        ("default.svc.cluster.local.", A, "NODATA"),
        ("nowhere.svc.cluster.local.", A, "NXDOMAIN"),
        ("dns-version.cluster.local.", TXT, "TXT 1.1.0"),
        ("dns-version.cluster.local.", A, "NODATA"),
        // ClusterIP.
        ("web.default.svc.cluster.local.", A, "A 10.96.0.10"),
        ("WEB.Default.svc.Cluster.LOCAL.", A, "A 10.96.0.10"),
        ("web.default.svc.cluster.local.", AAAA, "AAAA fd00:96::10"),
        ("plain.default.svc.cluster.local.", AAAA, "NODATA"),
        ("web.default.svc.cluster.local.", MX, "NODATA"),
        ("web.default.svc.cluster.local.", SRV, "NODATA"),
        ("web.other.svc.cluster.local.", A, "NXDOMAIN"),
        ("*.default.svc.cluster.local.", A, "NXDOMAIN"),
        (
            "_http._tcp.web.default.svc.cluster.local.",
            SRV,
            "SRV 0 100 80 web.default.svc.cluster.local.",
        ),
        (
            "_quic._udp.web.default.svc.cluster.local.",
            SRV,
            "SRV 0 100 443 web.default.svc.cluster.local.",
        ),
        (
            "_sig._sctp.web.default.svc.cluster.local.",
            SRV,
            "SRV 0 100 9 web.default.svc.cluster.local.",
        ),
        ("_http._udp.web.default.svc.cluster.local.", SRV, "NXDOMAIN"),
        ("_http._tcp.web.default.svc.cluster.local.", A, "NODATA"),
        ("_tcp.web.default.svc.cluster.local.", SRV, "NODATA"),
        ("http._tcp.web.default.svc.cluster.local.", SRV, "NXDOMAIN"),
        ("_._tcp.plain.default.svc.cluster.local.", SRV, "NXDOMAIN"),
        (
            "10.0.96.10.in-addr.arpa.",
            PTR,
            "PTR web.default.svc.cluster.local.",
        ),
        ("10.0.96.10.in-addr.arpa.", A, "NODATA"),
        // Endpoints of a ClusterIP Service have names too.
        ("10-0-0-7.web.default.svc.cluster.local.", A, "A 10.0.0.7"),
        ("10-0-0-8.web.default.svc.cluster.local.", A, "NXDOMAIN"),
        (
            "7.0.0.10.in-addr.arpa.",
            PTR,
            "PTR 10-0-0-7.web.default.svc.cluster.local.",
        ),
        // Headless.
        (
            "db.default.svc.cluster.local.",
            A,
            "A 10.0.0.1, A 10.0.0.2, A 10.0.0.4",
        ),
        ("db.default.svc.cluster.local.", AAAA, "AAAA fd00::1"),
        ("db-0.db.default.svc.cluster.local.", A, "A 10.0.0.1"),
        ("db-0.db.default.svc.cluster.local.", AAAA, "AAAA fd00::1"),
        ("db-2.db.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("10-0-0-4.db.default.svc.cluster.local.", A, "A 10.0.0.4"),
        ("10-0-0-1.db.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("empty.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("eager.default.svc.cluster.local.", A, "A 10.0.1.1"),
        (
            "1.0.0.10.in-addr.arpa.",
            PTR,
            "PTR db-0.db.default.svc.cluster.local.",
        ),
        (
            "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa.",
            PTR,
            "PTR db-0.db.default.svc.cluster.local.",
        ),
        ("3.0.0.10.in-addr.arpa.", PTR, "NXDOMAIN"),
        ("1.0.0.10.in-addr.arpa.", A, "NODATA"),
        // ExternalName.
        ("out.other.svc.cluster.local.", A, "CNAME www.Example.com."),
        (
            "out.other.svc.cluster.local.",
            CNAME,
            "CNAME www.Example.com.",
        ),
        (
            "in.other.svc.cluster.local.",
            A,
            "CNAME web.default.svc.cluster.local.",
        ),
        // Pods.
        ("10-0-0-99.default.pod.cluster.local.", A, "A 10.0.0.99"),
        ("fd00--9.default.pod.cluster.local.", AAAA, "AAAA fd00::9"),
        ("10-0-1-1.default.pod.cluster.local.", A, "A 10.0.1.1"),
        ("10-0-1-1.other.pod.cluster.local.", A, "NXDOMAIN"),
        ("192-0-2-1.default.pod.cluster.local.", A, "NXDOMAIN"),
        // A namespace without a Service: nodes are not told of it.
        ("10-0-0-99.quiet.pod.cluster.local.", A, "A 10.0.0.99"),
        ("quiet.pod.cluster.local.", A, "NODATA"),
        ("no_label.pod.cluster.local.", A, "NXDOMAIN"),
        ("10-0-0-99.no_label.pod.cluster.local.", A, "NXDOMAIN"),
        ("nonsense.default.pod.cluster.local.", A, "NXDOMAIN"),
        // Others' names.
        ("www.example.com.", A, "elsewhere"),
        ("www.example.com.default.svc.cluster.local.", A, "NXDOMAIN"),
        ("xcluster.local.", A, "elsewhere"),
        ("local.", A, "elsewhere"),
        (".", NS, "elsewhere"),
        ("1.2.0.192.in-addr.arpa.", PTR, "elsewhere"),
        ("0.10.in-addr.arpa.", PTR, "elsewhere"),
    ];
    for (name, kind, expected) in table {
        assert_eq!(ask(&zone, name, kind), expected, "{name} {kind}");
    }
}

#[test]
fn service_records_bring_the_addresses_along() {
    let zone = zone_of(&example());
    let name = Name::from_str("_sql._tcp.db.default.svc.cluster.local.").unwrap();
    let Answer::Records {
        answers,
        additionals,
    } = zone.lookup(&name, RecordType::SRV)
    else {
        panic!("records")
    };
    let mut targets: Vec<String> = answers.iter().map(|r| r.data.to_string()).collect();
    targets.sort();
    assert_eq!(
        targets,
        [
            "0 33 5432 10-0-0-4.db.default.svc.cluster.local.",
            "0 33 5432 db-0.db.default.svc.cluster.local.",
            "0 33 5432 db-1.db.default.svc.cluster.local.",
        ]
    );
    let addresses: BTreeSet<String> = additionals
        .iter()
        .map(|r| format!("{} {}", r.name, r.data))
        .collect();
    assert_eq!(addresses.len(), 4);
    assert!(addresses.contains("db-0.db.default.svc.cluster.local. fd00::1"));
}

#[test]
fn negative_answers_name_the_right_authority() {
    let zone = zone_of(&example());
    for (question, owner) in [
        ("nobody.default.svc.cluster.local.", "cluster.local."),
        ("77.0.0.10.in-addr.arpa.", "0.0.10.in-addr.arpa."),
    ] {
        let soa = zone.soa(&Name::from_str(question).unwrap());
        assert_eq!(soa.name.to_string(), owner);
        assert_eq!(soa.ttl, TTL);
    }
}

#[test]
fn a_change_copies_little() {
    let domain = Name::from_str("cluster.local.").unwrap();
    let mut feed = Feed::new(Zone::new(domain, ip("169.254.20.10")));
    let events = (0..10_000_u32)
        .map(|n| {
            let address = std::net::Ipv4Addr::from(0x0a60_0000 + n).to_string();
            let service = cluster_ip(&[&address], &[]);
            Event::ServiceSet(
                object(&format!("ns-{}", n % 50), &format!("s-{n}")),
                service,
            )
        })
        .collect();
    let before = feed.apply(&Batch {
        revision: 1,
        full: true,
        events,
    });
    let name = "s-5.ns-5.svc.cluster.local.";
    let changed = cluster_ip(&["10.200.0.1"], &[]);
    let after = feed.apply(&Batch {
        revision: 2,
        full: false,
        events: vec![Event::ServiceSet(object("ns-5", "s-5"), changed)],
    });
    assert_eq!(
        ask(&before, name, RecordType::A),
        "A 10.96.0.5",
        "a zone never changes"
    );
    assert_eq!(ask(&after, name, RecordType::A), "A 10.200.0.1");
    assert_eq!(after.sizes(), (10_000, 10_000, 50));
    assert!(after.services.shared_shards(&before.services) >= 255);
    assert!(after.reverse.shared_shards(&before.reverse) >= 254);
}

#[test]
fn dashes_are_reversible() {
    for text in [
        "10.0.0.1",
        "::1",
        "fd00::",
        "fd00::1",
        "2001:db8:1:2:3:4:5:6",
        "::",
    ] {
        let label = service::dashed(ip(text));
        assert!(!label.starts_with('-') && !label.ends_with('-'), "{label}");
        assert_eq!(service::undashed(&label), Some(ip(text)), "{label}");
    }
}

/// Everything the zone should know, worked out from the whole state at once.
fn reference(
    services: &BTreeMap<ObjectName, Service>,
    slices: &BTreeMap<ObjectName, EndpointSlice>,
) -> BTreeMap<(String, RecordType), BTreeSet<String>> {
    let mut all: BTreeMap<(String, RecordType), BTreeSet<String>> = BTreeMap::new();
    let mut add = |name: String, kind: RecordType, data: String| {
        all.entry((name, kind)).or_default().insert(data);
    };
    let kind_of = |ip: &IpAddr| {
        if ip.is_ipv4() {
            RecordType::A
        } else {
            RecordType::AAAA
        }
    };
    for (object, service) in services {
        let base = format!("{}.{}.svc.cluster.local.", object.name, object.namespace);
        for ip in &service.cluster_ips {
            add(base.clone(), kind_of(ip), ip.to_string());
            add(Name::from(*ip).to_string(), RecordType::PTR, base.clone());
        }
        for (name, slice) in slices {
            if name.namespace != object.namespace || slice.service != object.name {
                continue;
            }
            for endpoint in slice.endpoints.iter().filter(|e| e.ready) {
                for ip in &endpoint.addresses {
                    let label = endpoint
                        .hostname
                        .clone()
                        .unwrap_or_else(|| ip.to_string().replace('.', "-"));
                    let host = format!("{label}.{base}");
                    add(host.clone(), kind_of(ip), ip.to_string());
                    add(Name::from(*ip).to_string(), RecordType::PTR, host);
                    if service.headless {
                        add(base.clone(), kind_of(ip), ip.to_string());
                    }
                }
            }
        }
    }
    all
}

fn random_endpoint() -> impl Strategy<Value = Endpoint> {
    (1..8_u8, proptest::option::of(0..3_u8), any::<bool>()).prop_map(|(address, host, ready)| {
        let host = host.map(|h| format!("h-{h}"));
        endpoint(&format!("10.0.0.{address}"), host.as_deref(), ready)
    })
}

fn random_event() -> impl Strategy<Value = Event> {
    let name = (0..2_u8, 0..3_u8)
        .prop_map(|(namespace, name)| object(&format!("ns-{namespace}"), &format!("s-{name}")));
    let service = prop_oneof![
        Just(headless()),
        (1..6_u8).prop_map(|n| cluster_ip(&[&format!("10.96.0.{n}")], &[])),
    ];
    let endpoints = proptest::collection::vec(random_endpoint(), 0..4);
    prop_oneof![
        3 => (name.clone(), service).prop_map(|(name, service)| Event::ServiceSet(name, service)),
        1 => name.clone().prop_map(Event::ServiceRemoved),
        4 => (name.clone(), 0..3_u8, endpoints).prop_map(|(name, n, endpoints)| {
            // A slice may change its Service.
            let slice = slice(&format!("s-{n}"), &[], endpoints);
            Event::SliceSet(object(&name.namespace, &format!("slice-{}", name.name)), slice)
        }),
        1 => name.prop_map(|name| {
            Event::SliceRemoved(object(&name.namespace, &format!("slice-{}", name.name)))
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn the_zone_equals_a_plain_reference_after_any_change(
        batches in proptest::collection::vec(
            (proptest::collection::vec(random_event(), 0..6), proptest::bool::weighted(0.15)), 1..12)
    ) {
        let domain = Name::from_str("cluster.local.").unwrap();
        let mut feed = Feed::new(Zone::new(domain, ip("169.254.20.10")));
        let (mut services, mut slices) = (BTreeMap::new(), BTreeMap::new());
        let mut seen = BTreeSet::new();
        for (revision, (events, full)) in batches.into_iter().enumerate() {
            if full {
                services.clear();
                slices.clear();
            }
            for event in &events {
                match event.clone() {
                    Event::ServiceSet(name, service) => drop(services.insert(name, service)),
                    Event::ServiceRemoved(name) => drop(services.remove(&name)),
                    Event::SliceSet(name, slice) => drop(slices.insert(name, slice)),
                    Event::SliceRemoved(name) => drop(slices.remove(&name)),
                    _ => {}
                }
            }
            let zone = feed.apply(&Batch { revision: revision as u64, full, events });
            let expected = reference(&services, &slices);
            seen.extend(expected.keys().cloned());
            for (name, kind) in &seen {
                let Answer::Records { answers, .. } =
                    zone.lookup(&Name::from_str(name).unwrap(), *kind)
                else {
                    prop_assert!(!expected.contains_key(&(name.clone(), *kind)), "{} {}", name, kind);
                    continue;
                };
                let found: BTreeSet<String> = answers.iter().map(|r| r.data.to_string()).collect();
                prop_assert_eq!(found.len(), answers.len(), "no record twice: {}", name);
                let wanted = expected.get(&(name.clone(), *kind)).cloned().unwrap_or_default();
                prop_assert_eq!(found, wanted, "{} {}", name, kind);
            }
        }
    }

    #[test]
    fn no_name_makes_it_panic(
        labels in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..20), 0..7),
        ours in any::<bool>(),
        kind in any::<u16>(),
    ) {
        let zone = zone_of(&example());
        let mut labels: Vec<&[u8]> = labels.iter().map(Vec::as_slice).collect();
        if ours {
            labels.extend([b"svc".as_slice(), b"cluster", b"local"]);
        }
        if let Ok(name) = Name::from_labels(labels) {
            let _ = zone.lookup(&name, RecordType::from(kind));
            let _ = zone.soa(&name);
        }
    }
}
