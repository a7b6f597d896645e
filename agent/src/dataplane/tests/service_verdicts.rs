//! `BPF_PROG_TEST_RUN` of what comes in for Services and of what pods send to them: verdict, packet out, counters.

use agent_ebpf::layout::{
    FlowKey, FlowValue, MAX_FLOWS, PROTOCOL_SCTP, SCOPE_INSIDE, SCOPE_OUTSIDE, SERVICE_FOREIGN,
    SERVICE_HOST_PORT, SERVICE_LOCAL, SERVICE_SOURCE_RANGES, ServiceValue,
};

use super::fixtures::{Bench, NEXT, OK, OTHER, POD, REDIRECT, SHOT};
use super::lab::NODE;
use super::north_south::{expose, open_node_ports};
use super::packets::{L4, ip, packet, read};
use super::*;

const CLIENT: &str = "198.51.100.7";
const BALANCER: &str = "203.0.113.50";
const FAR: &str = "203.0.113.9";

fn udp(from: u16, to: u16) -> L4 {
    L4::Udp(from, to, b"payload".to_vec())
}

fn value(flags: u32) -> ServiceValue {
    ServiceValue {
        flags,
        ..ServiceValue::default()
    }
}

fn address(text: &str) -> Address {
    ip(text).into()
}

fn services(plane: &DataPlane) {
    open_node_ports(plane);
    let here = [(ip(OTHER), 8080)];
    let outside = |text, port| (address(text), port, SCOPE_OUTSIDE);
    let inside = |text, port| (address(text), port, SCOPE_INSIDE);
    expose(
        plane,
        (Address::ANY_V4, 30_080, SCOPE_OUTSIDE),
        &here,
        value(0),
    );
    expose(
        plane,
        (Address::ANY_V4, 30_081, SCOPE_OUTSIDE),
        &[(ip(FAR), 8080)],
        value(0),
    );
    expose(
        plane,
        (Address::ANY_V4, 30_082, SCOPE_OUTSIDE),
        &[(ip(NODE), 8080)],
        value(0),
    );
    expose(
        plane,
        (Address::ANY_V4, 30_083, SCOPE_OUTSIDE),
        &[],
        value(0),
    );
    expose(
        plane,
        (Address::ANY_V4, 30_084, SCOPE_OUTSIDE),
        &here,
        value(SERVICE_HOST_PORT),
    );
    expose(plane, outside(BALANCER, 80), &here, value(SERVICE_FOREIGN));
    expose(plane, outside(BALANCER, 81), &[], value(SERVICE_FOREIGN));
    expose(
        plane,
        outside(BALANCER, 82),
        &[],
        value(SERVICE_FOREIGN | SERVICE_LOCAL),
    );
    expose(
        plane,
        outside(BALANCER, 83),
        &here,
        value(SERVICE_SOURCE_RANGES),
    );
    expose(plane, inside("10.96.0.80", 80), &here, value(0));
    expose(
        plane,
        inside("10.96.0.80", 81),
        &[(ip(POD), 8080)],
        value(0),
    );
    expose(
        plane,
        inside("10.96.0.80", 82),
        &[(ip(FAR), 8080)],
        value(0),
    );
    expose(plane, inside("10.96.0.80", 83), &[], value(0));
}

/// Program, packet, verdict, counters that move, and the packet out (its addresses, ports and hop limit).
type Case<'a> = (
    &'a str,
    &'static str,
    Vec<u8>,
    u32,
    &'a [&'a str],
    Option<(&'a str, &'a str, u16, u16, u8)>,
);

fn check(bench: &Bench, (what, program, frame, verdict, counters, out): Case<'_>) -> Vec<u8> {
    let before = bench.counters();
    let (result, packet) = bench.run(program, &frame);
    assert_eq!(result, verdict, "verdict: {what}");
    let after = bench.counters();
    let moved = after
        .iter()
        .filter(|(name, count)| before[*name] != **count);
    let moved: Vec<&str> = moved.map(|(name, _)| name.as_str()).collect();
    assert_eq!(moved, counters, "counters: {what}");
    match out {
        Some((source, destination, from, to, hops)) => {
            assert_eq!(
                read(&packet),
                (ip(source), ip(destination), from, to, hops),
                "{what}"
            );
        }
        None if result != REDIRECT => assert_eq!(packet, frame, "unchanged: {what}"),
        None => {}
    }
    packet
}

#[test]
fn every_verdict_about_services() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        services(&bench.plane);
        let (uplink, pod) = ("uplink_ingress", "pod_ingress");
        let from_client = |to, l4: &L4| packet(CLIENT, to, l4);
        let cases: Vec<Case<'_>> = vec![
            (
                "node port, pod here",
                uplink,
                from_client(NODE, &udp(5000, 30_080)),
                REDIRECT,
                &["to service_local"],
                Some((CLIENT, OTHER, 5000, 8080, 63)),
            ),
            (
                "backend elsewhere",
                uplink,
                from_client(NODE, &udp(15_000, 30_081)),
                REDIRECT,
                &["to service_remote"],
                Some((NODE, FAR, 15_000, 8080, 63)),
            ),
            (
                "the answer from elsewhere",
                uplink,
                packet(FAR, NODE, &udp(8080, 15_000)),
                REDIRECT,
                &["to service_return"],
                Some((NODE, CLIENT, 30_081, 15_000, 63)),
            ),
            (
                "backend on the node itself",
                uplink,
                from_client(NODE, &udp(5002, 30_082)),
                OK,
                &["to service_local"],
                Some((CLIENT, NODE, 5002, 8080, 64)),
            ),
            (
                "the node's answer",
                "uplink_egress",
                packet(NODE, CLIENT, &udp(8080, 5002)),
                NEXT,
                &[],
                Some((NODE, CLIENT, 30_082, 5002, 64)),
            ),
            (
                "no endpoints on the node's address",
                uplink,
                from_client(NODE, &udp(1, 30_083)),
                NEXT,
                &[],
                None,
            ),
            (
                "hostPort",
                uplink,
                from_client(NODE, &L4::Tcp(5000, 30_084, 2)),
                REDIRECT,
                &["to service_local"],
                Some((CLIENT, OTHER, 5000, 8080, 63)),
            ),
            (
                "no such node port",
                uplink,
                from_client(NODE, &udp(1, 30_099)),
                NEXT,
                &[],
                None,
            ),
            (
                "a node port's number on another address",
                uplink,
                from_client("192.0.2.99", &udp(1, 30_080)),
                NEXT,
                &[],
                None,
            ),
            (
                "balancer",
                uplink,
                from_client(BALANCER, &L4::Tcp(5001, 80, 2)),
                REDIRECT,
                &["to service_local"],
                Some((CLIENT, OTHER, 5001, 8080, 63)),
            ),
            (
                "balancer without endpoints",
                uplink,
                from_client(BALANCER, &L4::Tcp(5000, 81, 2)),
                REDIRECT,
                &["no_endpoints"],
                Some((BALANCER, CLIENT, 81, 5000, 64)),
            ),
            (
                "no endpoint here",
                uplink,
                from_client(BALANCER, &udp(5000, 82)),
                SHOT,
                &["no_local_endpoints"],
                None,
            ),
            (
                "not in the source ranges",
                uplink,
                from_client(BALANCER, &udp(5000, 83)),
                SHOT,
                &["source_range"],
                None,
            ),
            (
                "a stray reset",
                uplink,
                from_client(BALANCER, &L4::Tcp(5077, 80, 4)),
                NEXT,
                &[],
                None,
            ),
            (
                "at its last hop",
                uplink,
                {
                    let mut frame = from_client(NODE, &udp(5000, 30_080));
                    frame[22] = 1;
                    frame
                },
                REDIRECT,
                &["hop_limit"],
                Some((NODE, CLIENT, 0, 0, 64)),
            ),
            (
                "from a pod, another pod",
                pod,
                packet(POD, "10.96.0.80", &udp(5000, 80)),
                REDIRECT,
                &["to pod"],
                Some((POD, OTHER, 5000, 8080, 64)),
            ),
            (
                "from a pod, itself",
                pod,
                packet(POD, "10.96.0.80", &udp(15_100, 81)),
                REDIRECT,
                &["to pod"],
                Some((NODE, POD, 15_100, 8080, 64)),
            ),
            (
                "its answer to itself",
                pod,
                packet(POD, NODE, &udp(8080, 15_100)),
                REDIRECT,
                &["to pod"],
                Some(("10.96.0.80", POD, 81, 15_100, 64)),
            ),
            (
                "from a pod, outside",
                pod,
                packet(POD, "10.96.0.80", &udp(15_200, 82)),
                REDIRECT,
                &["to uplink"],
                Some((NODE, FAR, 15_200, 8080, 63)),
            ),
            (
                "from a pod, nobody",
                pod,
                packet(POD, "10.96.0.80", &L4::Tcp(5000, 83, 2)),
                REDIRECT,
                &["no_endpoints"],
                Some(("10.96.0.80", POD, 83, 5000, 64)),
            ),
        ];
        for case in cases {
            let (what, sent) = (case.0, case.2.clone());
            let out = check(&bench, case);
            if what == "at its last hop" {
                assert_eq!(out[42..], sent[14..], "as its sender knows it");
            }
        }
        bench.plane.unload().await.unwrap();
    });
}

/// A port cannot be changed in an SCTP packet: its checksum is no sum.
#[test]
fn sctp_goes_through_where_its_ports_stay() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        open_node_ports(&bench.plane);
        let key = |port| (address(BALANCER), port, SCOPE_OUTSIDE);
        expose(&bench.plane, key(9000), &[(ip(OTHER), 9000)], value(0));
        expose(&bench.plane, key(9001), &[(ip(OTHER), 9000)], value(0));
        {
            let mut state = bench.plane.inner.state();
            let found: Vec<_> = state.objects.services.iter().flatten().collect();
            for (Wire(key), value) in found {
                let key = ServiceKey {
                    protocol: PROTOCOL_SCTP,
                    ..key
                };
                state.objects.services.insert(Wire(key), value, 0).unwrap();
            }
        }
        let sctp = |from: u16, to: u16| {
            let mut frame = packet(CLIENT, BALANCER, &L4::Other(PROTOCOL_SCTP));
            frame[34..36].copy_from_slice(&from.to_be_bytes());
            frame[36..38].copy_from_slice(&to.to_be_bytes());
            frame
        };
        let (verdict, out) = bench.run("uplink_ingress", &sctp(5000, 9000));
        assert_eq!(verdict, REDIRECT);
        let parsed = agent_ebpf::packet::parse(out.as_slice()).unwrap();
        assert_eq!(IpAddr::from(parsed.destination), ip(OTHER));
        assert_eq!(
            out[34..],
            sctp(5000, 9000)[34..],
            "nothing behind the IP header changes"
        );
        assert_eq!(bench.run("uplink_ingress", &sctp(5001, 9001)).0, SHOT);
        assert_eq!(bench.counters()["sctp_port"], 1);
        let flows = Arc::clone(&bench.plane.inner.state().objects.flows);
        assert_eq!(
            flows.entries().len(),
            2,
            "what is refused leaves nothing behind"
        );
        bench.plane.unload().await.unwrap();
    });
}

/// The backend's ICMP error comes from the Service, about what the client sent; a router's comes from the router.
#[test]
fn errors_about_services_are_for_whom_they_concern() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        services(&bench.plane);
        let sent = packet(CLIENT, NODE, &udp(15_000, 30_081));
        let (_, forwarded) = bench.run("uplink_ingress", &sent);
        let embedded = |told: &[u8]| {
            let outer = agent_ebpf::packet::parse(told).unwrap();
            let inner = agent_ebpf::packet::embedded(told, &outer).unwrap();
            let ports = [inner.source_port, inner.destination_port].map(u16::from_be);
            (
                IpAddr::from(inner.source),
                IpAddr::from(inner.destination),
                ports,
            )
        };
        for (from, known) in [(FAR, NODE), ("192.0.2.200", "192.0.2.200")] {
            let error = packet(from, NODE, &L4::Icmp(3, 3, forwarded[14..].to_vec()));
            let (verdict, told) = bench.run("uplink_ingress", &error);
            assert_eq!(verdict, REDIRECT, "{from}");
            assert_eq!((read(&told).0, read(&told).1), (ip(known), ip(CLIENT)));
            assert_eq!(embedded(&told), (ip(CLIENT), ip(NODE), [15_000, 30_081]));
        }
        // From outside, about an answer of a pod: the pod learns of it.
        let (_, _) = bench.run("uplink_ingress", &packet(CLIENT, NODE, &udp(5000, 30_080)));
        let answer = packet(NODE, CLIENT, &udp(30_080, 5000));
        let error = packet("192.0.2.200", NODE, &L4::Icmp(3, 4, answer[14..].to_vec()));
        let (verdict, told) = bench.run("uplink_ingress", &error);
        assert_eq!((verdict, read(&told).1), (REDIRECT, ip(OTHER)));
        assert_eq!(embedded(&told), (ip(OTHER), ip(CLIENT), [8080, 5000]));
        bench.plane.unload().await.unwrap();
    });
}

#[test]
fn a_full_table_is_a_drop_with_a_name_and_live_flows_stay() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        services(&bench.plane);
        let live = packet(CLIENT, NODE, &udp(15_000, 30_081));
        assert_eq!(bench.run("uplink_ingress", &live).0, REDIRECT);
        let table = Arc::clone(&bench.plane.inner.state().objects.flows);
        let value = FlowValue {
            seen: flows::now(),
            ..FlowValue::default()
        };
        let keys: Vec<FlowKey> = (0..MAX_FLOWS as u32 - 3)
            .map(|number| FlowKey {
                source: Address {
                    words: [1, 2, 3, number],
                },
                ..FlowKey::default()
            })
            .collect();
        table.set_all(&keys, &vec![value; keys.len()]);
        // Room for one entry is none for a flow of two, and what was entered of it goes again.
        let new = packet(CLIENT, NODE, &udp(15_001, 30_081));
        for _ in 0..2 {
            assert_eq!(bench.run("uplink_ingress", &new).0, SHOT);
        }
        assert_eq!(bench.counters()["flow_table_full"], 2);
        assert_eq!(bench.run("uplink_ingress", &live).0, REDIRECT);
        let occupancy = table.sweep(flows::now(), true);
        assert_eq!((occupancy.entries, occupancy.removed), (MAX_FLOWS - 1, 0));
        assert!(occupancy.is_pressed());
        bench.plane.unload().await.unwrap();
    });
}
