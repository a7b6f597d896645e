//! `BPF_PROG_TEST_RUN` of what is for other nodes and comes from them: verdict, packet out, the counter that moved.
//! What came through a real tunnel is in `between`.

use agent_ebpf::overlay::{MAC, PEER_MAC};
use aya::programs::{TestRun as _, TestRunOptions};

use super::fixtures::{Bench, NEXT, OTHER, POD, POD_V6, REDIRECT, SHOT};
use super::lab::{Feed, Lab, NODE};
use super::packets::{L4, ip, packet, read};
use super::*;
use crate::cluster::{Event, Node};

const NODE_TWO: &str = "192.0.2.22";
const FAR_POD: &str = "10.77.2.9";
const FAR_POD_V6: &str = "fd00:77:0:2::9";
const OK: u32 = 0;

/// A node that knows of another one.
async fn bench(lab: &Lab, routing: Routing) -> Bench {
    let config = DataPlaneConfig {
        routing,
        pod_cidrs: ["10.77.0.0/16", "fd00:77::/48"]
            .map(|range| range.parse().unwrap())
            .to_vec(),
        ..lab.config()
    };
    let plane = DataPlane::load(config).await.unwrap();
    let bench = Bench::of(plane);
    let node = Node {
        internal_ips: vec![ip(NODE_TWO), ip("2001:db8::22")],
        pod_cidrs: vec![
            "10.77.2.0/24".parse().unwrap(),
            "fd00:77:0:2::/64".parse().unwrap(),
        ],
        zone: None,
    };
    let events = vec![Event::NodeSet("node2".to_owned(), node)];
    Feed::new(&bench.plane).apply(true, events).await;
    bench
}

/// Runs a packet through a program; returns the verdict, the packet, and the one counter that moved.
fn run(
    bench: &Bench,
    program: &'static str,
    frame: &[u8],
    segment: u32,
) -> (u32, Vec<u8>, Option<String>) {
    const GSO_SIZE: usize = 176;
    let mut context = [0u8; 192];
    context[GSO_SIZE..GSO_SIZE + 4].copy_from_slice(&segment.to_ne_bytes());
    let before = bench.counters();
    let mut out = vec![0; frame.len() + 2000];
    let result = {
        let mut state = bench.plane.inner.state();
        let classifier = state.objects.classifier(program).unwrap();
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(&context),
            ..TestRunOptions::default()
        };
        classifier.test_run(options).unwrap()
    };
    out.truncate(result.data_size_out as usize);
    let after = bench.counters().into_iter();
    let mut moved = after.filter(|(name, count)| before[name] != *count);
    let first = moved.next().map(|(name, _)| name);
    assert_eq!(moved.next(), None, "and {first:?}");
    (result.return_value, out, first)
}

fn udp(size: usize) -> L4 {
    L4::Udp(5000, 80, vec![1; size])
}

/// TCP with so many bytes, without the checksum of which nothing depends here.
fn tcp(from: &str, to: &str, size: usize) -> Vec<u8> {
    let mut frame = packet(from, to, &L4::Tcp(5000, 80, 16));
    let total = u16::try_from(size + 40).unwrap().to_be_bytes();
    if ip(from).is_ipv4() {
        frame[16..18].copy_from_slice(&total);
        frame[20] |= 0x40;
    } else {
        let payload = u16::try_from(size + 20).unwrap().to_be_bytes();
        frame[18..20].copy_from_slice(&payload);
    }
    frame.extend(vec![7; size]);
    frame
}

#[test]
fn pods_packets_for_other_nodes_go_into_the_overlay() {
    lab(|lab| async move {
        let bench = bench(&lab, Routing::Overlay).await;
        for (from, to) in [
            (POD, FAR_POD),
            (POD, NODE_TWO),
            (POD_V6, FAR_POD_V6),
            (POD_V6, "2001:db8::22"),
        ] {
            let (verdict, out, counter) = run(&bench, "pod_ingress", &packet(from, to, &udp(9)), 0);
            assert_eq!((verdict, counter), (REDIRECT, None), "{to}");
            assert_eq!(read(&out), (ip(from), ip(to), 5000, 80, 63));
            // It is counted where it leaves.
            let (verdict, out, counter) = run(&bench, "overlay_egress", &out, 0);
            assert_eq!((verdict, counter.as_deref()), (NEXT, Some("to overlay")));
            assert_eq!((&out[..6], &out[6..12]), (&MAC[..], &PEER_MAC[..]));
            assert_eq!(read(&out).4, 63);
        }
        let nowhere = packet(POD, "10.77.9.9", &udp(9));
        let refused = |program| {
            let (verdict, _, counter) = run(&bench, program, &nowhere, 0);
            assert_eq!(verdict, SHOT);
            counter.unwrap()
        };
        assert_eq!(refused("pod_ingress"), "no_such_pod");
        assert_eq!(refused("overlay_egress"), "no_such_node");
        let discovery = packet(POD_V6, "ff02::1", &L4::Icmp(135, 0, vec![0; 16]));
        let (verdict, _, counter) = run(&bench, "overlay_egress", &discovery, 0);
        assert_eq!((verdict, counter.as_deref()), (SHOT, Some("ipv6_control")));
        let last = {
            let mut frame = packet(POD, FAR_POD, &udp(9));
            frame[22] = 1;
            run(&bench, "pod_ingress", &frame, 0)
        };
        assert_eq!((last.0, last.2.as_deref()), (REDIRECT, Some("hop_limit")));
        assert_eq!(
            (read(&last.1).0, read(&last.1).1),
            (ip(NODE), ip(POD)),
            "told"
        );
        bench.plane.unload().await.unwrap();
    });
}

#[test]
fn what_did_not_come_through_a_tunnel_is_not_let_in_by_the_overlay() {
    lab(|lab| async move {
        let bench = bench(&lab, Routing::Overlay).await;
        let (verdict, _, counter) =
            run(&bench, "overlay_ingress", &packet(FAR_POD, POD, &udp(9)), 0);
        assert_eq!(verdict, SHOT);
        assert_eq!(counter.as_deref(), Some("unknown_tunnel_peer"));
        let (verdict, _, counter) = run(
            &bench,
            "overlay_ingress",
            &packet(FAR_POD, POD, &udp(9))[..36],
            0,
        );
        assert_eq!((verdict, counter.as_deref()), (SHOT, Some("malformed")));
        bench.plane.unload().await.unwrap();
    });
}

#[test]
fn what_is_too_big_for_the_overlay_is_refused_by_its_segments_size() {
    lab(|lab| async move {
        let bench = bench(&lab, Routing::Overlay).await;
        let limit = bench.plane.inner.state().settings.overlay_mtu as usize;
        assert_eq!(limit, 1450);
        for (from, to, header) in [(POD, FAR_POD, 40), (POD_V6, FAR_POD_V6, 60)] {
            let fits = limit - header;
            let to_overlay = (REDIRECT, None);
            let check = |frame: &[u8], segment: usize| {
                let segment = u32::try_from(segment).unwrap();
                let (verdict, out, counter) = run(&bench, "pod_ingress", frame, segment);
                (verdict, counter, out)
            };
            let (verdict, counter, _) = check(&tcp(from, to, fits), 0);
            assert_eq!((verdict, counter), to_overlay, "{to}: as large as may be");
            let (verdict, counter, _) = check(&tcp(from, to, 2 * fits), fits);
            assert_eq!((verdict, counter), to_overlay, "{to}: in segments");
            for (size, segment) in [(fits + 1, 0), (2 * fits, fits + 1)] {
                let (verdict, counter, out) = check(&tcp(from, to, size), segment);
                assert_eq!(
                    (verdict, counter.as_deref()),
                    (REDIRECT, Some("too_big")),
                    "{to} {size} {segment}"
                );
                let answer = agent_ebpf::packet::parse(out.as_slice()).unwrap();
                assert_eq!(IpAddr::from(answer.destination), ip(from));
                assert!(answer.is_icmp_error());
                // RFC 1191 and RFC 4443: the last two, or four, bytes before the quoted packet.
                let at = answer.l4 as usize + 6;
                assert_eq!(out[at..at + 2], u16::try_from(limit).unwrap().to_be_bytes());
            }
        }
        // IPv4 that may be cut goes as it is: it is cut outside.
        let (verdict, _, counter) =
            run(&bench, "pod_ingress", &packet(POD, FAR_POD, &udp(1500)), 0);
        assert_eq!((verdict, counter), (REDIRECT, None));
        bench.plane.unload().await.unwrap();
    });
}

#[test]
fn the_uplink_lets_pods_in_only_where_routing_is_native() {
    lab(|lab| async move {
        let native = bench(&lab, Routing::Native).await;
        let verdict = |bench: &Bench, program, from: &str, to: &str| {
            let (verdict, out, counter) = run(bench, program, &packet(from, to, &udp(9)), 0);
            (verdict, counter.unwrap_or_default(), read(&out).4)
        };
        let uplink = "uplink_ingress";
        let to_pod = (REDIRECT, "to pod".to_owned(), 63);
        assert_eq!(verdict(&native, uplink, FAR_POD, OTHER), to_pod);
        assert_eq!(verdict(&native, uplink, NODE_TWO, OTHER), to_pod);
        assert_eq!(verdict(&native, uplink, FAR_POD_V6, POD_V6), to_pod);
        // Strangers are the stack's to judge, as are packets for no pod.
        let passed = (NEXT, String::new(), 64);
        assert_eq!(verdict(&native, uplink, "198.51.100.1", OTHER), passed);
        assert_eq!(verdict(&native, uplink, FAR_POD, "192.0.2.2"), passed);
        // A router between says that the pod's packet was too large for it.
        let about = |to: &str| {
            let quoted = packet(OTHER, to, &udp(9))[14..].to_vec();
            let error = packet("198.51.100.1", OTHER, &L4::Icmp(3, 4, quoted));
            let (verdict, _, counter) = run(&native, uplink, &error, 0);
            (verdict, counter.unwrap_or_default())
        };
        assert_eq!(about(FAR_POD), (REDIRECT, "to pod".to_owned()));
        assert_eq!(about("203.0.113.9"), (NEXT, String::new()));
        // Out: by the route, with the pod's own address.
        let (code, out, counter) = run(&native, "pod_ingress", &packet(POD, FAR_POD, &udp(9)), 0);
        assert_eq!((code, counter.as_deref()), (REDIRECT, Some("to native")));
        let egress = |to: &str| {
            let frame = packet(POD, to, &udp(9));
            let (verdict, out, _) = run(&native, "uplink_egress", &frame, 0);
            assert_eq!(verdict, NEXT);
            read(&out).0
        };
        assert_eq!(read(&out).4, 63);
        assert_eq!(egress(FAR_POD), ip(POD));
        assert_eq!(egress(NODE_TWO), ip(POD));
        assert_ne!(egress("203.0.113.9"), ip(POD), "the outside sees the node");
        native.plane.unload().await.unwrap();

        let overlay = bench(&lab, Routing::Overlay).await;
        let forged = (SHOT, "spoofed_address".to_owned(), 64);
        assert_eq!(verdict(&overlay, uplink, FAR_POD, OTHER), forged);
        assert_eq!(verdict(&overlay, uplink, FAR_POD, "192.0.2.2"), forged);
        assert_eq!(verdict(&overlay, uplink, NODE_TWO, OTHER), passed);
        assert_eq!(
            verdict(&overlay, "pod_ingress", POD, "10.99.0.1"),
            (OK, "to host".to_owned(), 64)
        );
        overlay.plane.unload().await.unwrap();
    });
}
