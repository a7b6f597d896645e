//! `BPF_PROG_TEST_RUN`: a packet in; the verdict, the packet out and the counters that moved.

use std::collections::BTreeMap;

use agent_ebpf::checksum::sum;
use agent_ebpf::layout::{Pod, PodSource};
use aya::programs::{TestRun as _, TestRunOptions};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::lab::{CLUSTER_DNS, DNS_LISTEN, NODE, NODE_V6, run_program};
use super::packets::{HOST_MAC, L4, POD_MAC, ip, packet, read};
use super::*;

/// The interface that test packets come from: `lo` of the test's namespace.
const INTERFACE: u32 = 1;
pub(super) const POD: &str = "10.77.0.2";
pub(super) const POD_V6: &str = "fd00:77::2";
pub(super) const OTHER: &str = "10.77.0.3";
pub(super) const FAR: &str = "203.0.113.9";
const OTHER_MAC: [u8; 6] = [6, 0, 0, 0, 0, 3];
const OTHER_HOST_MAC: [u8; 6] = [2, 0, 0, 0, 0, 3];
const OTHER_INTERFACE: u32 = 77;

pub(super) const OK: u32 = 0;
pub(super) const SHOT: u32 = 2;
pub(super) const REDIRECT: u32 = 7;
pub(super) const NEXT: u32 = u32::MAX;

pub(super) struct Bench {
    pub(super) plane: DataPlane,
}

impl Bench {
    /// A loaded data plane that takes `lo` for a pod's veth, and knows another pod.
    pub(super) async fn new(lab: &super::lab::Lab) -> Self {
        Self::of(lab.load().await)
    }

    pub(super) fn of(plane: DataPlane) -> Self {
        run_program("ip addr replace 10.99.0.1/24 dev lo");
        for path in ["ipv4/conf/lo/forwarding", "ipv6/conf/lo/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{path}"), "1").unwrap();
        }
        run_program("ip -6 route replace default via 2001:db8::1");
        {
            let mut state = plane.inner.state();
            let source = PodSource {
                v4: ip(POD).into(),
                v6: ip(POD_V6).into(),
                mac: POD_MAC,
                flags: 0,
            };
            state
                .objects
                .sources
                .insert(INTERFACE, Wire(source), 0)
                .unwrap();
            let pods = [
                (POD, INTERFACE, POD_MAC, HOST_MAC),
                (POD_V6, INTERFACE, POD_MAC, HOST_MAC),
                (OTHER, OTHER_INTERFACE, OTHER_MAC, OTHER_HOST_MAC),
            ];
            for (address, ifindex, pod_mac, host_mac) in pods {
                let pod = Pod {
                    ifindex,
                    pod_mac,
                    host_mac,
                };
                let key = Address::from(ip(address)).bytes();
                state.objects.pods.insert(key, Wire(pod), 0).unwrap();
            }
        }
        Self { plane }
    }

    pub(super) fn run(&self, program: &'static str, frame: &[u8]) -> (u32, Vec<u8>) {
        let mut state = self.plane.inner.state();
        let classifier = state.objects.classifier(program).unwrap();
        let mut out = vec![0; frame.len() + 64];
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ..TestRunOptions::default()
        };
        let result = classifier.test_run(options).unwrap();
        out.truncate(result.data_size_out as usize);
        (result.return_value, out)
    }

    /// All counters by name; a bare name is a drop.
    pub(super) fn counters(&self) -> BTreeMap<String, u64> {
        let drops = self.plane.drops().into_iter();
        let forwards = self.plane.forwards().into_iter();
        drops
            .map(|(name, count)| (name.to_owned(), count))
            .chain(forwards.map(|(name, packets, _)| (format!("to {name}"), packets)))
            .collect()
    }
}

/// What is expected of one packet.
struct Fixture {
    what: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    verdict: u32,
    /// The one counter that moves.
    counter: Option<&'static str>,
    /// Addresses, ports and hop limit of the packet out; unchanged bytes if none.
    out: Option<(&'static str, &'static str, u16, u16, u8)>,
}

fn fixture(
    what: &'static str,
    program: &'static str,
    frame: Vec<u8>,
    verdict: u32,
    counter: Option<&'static str>,
    out: Option<(&'static str, &'static str, u16, u16, u8)>,
) -> Fixture {
    Fixture {
        what,
        program,
        frame,
        verdict,
        counter,
        out,
    }
}

fn changed(mut frame: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
    frame[at] = byte;
    frame
}

fn fixtures() -> Vec<Fixture> {
    use L4::{Echo, Icmp, Other, Tcp, Udp};
    let udp = |from, to| Udp(from, to, b"payload".to_vec());
    let from_pod = |to: &str, l4: &L4| packet(POD, to, l4);
    let dns = DNS_LISTEN.strip_suffix(":53").unwrap();
    let pod = "pod_ingress";
    let unreachable = packet(NODE, FAR, &udp(15_000, 443))[14..].to_vec();
    vec![
        fixture(
            "to another pod",
            pod,
            from_pod(OTHER, &udp(5000, 80)),
            REDIRECT,
            Some("to pod"),
            Some((POD, OTHER, 5000, 80, 64)),
        ),
        fixture(
            "to the node",
            pod,
            from_pod("10.99.0.1", &Tcp(5000, 6443, 2)),
            OK,
            Some("to host"),
            None,
        ),
        fixture(
            "a query",
            pod,
            from_pod(CLUSTER_DNS, &udp(5000, 53)),
            OK,
            Some("to dns"),
            Some((POD, dns, 5000, 53, 64)),
        ),
        fixture(
            "a query by TCP",
            pod,
            from_pod(CLUSTER_DNS, &Tcp(5000, 53, 2)),
            OK,
            Some("to dns"),
            Some((POD, dns, 5000, 53, 64)),
        ),
        fixture(
            "to the outside",
            pod,
            from_pod(FAR, &Tcp(5000, 443, 2)),
            REDIRECT,
            Some("to uplink"),
            Some((POD, FAR, 5000, 443, 63)),
        ),
        fixture(
            "to the outside by IPv6",
            pod,
            packet(POD_V6, "2001:db8:9::9", &Tcp(5000, 443, 2)),
            REDIRECT,
            Some("to uplink"),
            Some((POD_V6, "2001:db8:9::9", 5000, 443, 63)),
        ),
        fixture(
            "at its last hop",
            pod,
            changed(from_pod(FAR, &udp(1, 2)), 22, 1),
            REDIRECT,
            Some("hop_limit"),
            Some((NODE, POD, 0, 0, 64)),
        ),
        fixture(
            "at its last hop by IPv6",
            pod,
            changed(packet(POD_V6, "2001:db8:9::9", &udp(1, 2)), 21, 1),
            REDIRECT,
            Some("hop_limit"),
            Some((NODE_V6, POD_V6, 0, 0, 64)),
        ),
        fixture(
            "as another address",
            pod,
            packet(OTHER, FAR, &udp(1, 2)),
            SHOT,
            Some("spoofed_address"),
            None,
        ),
        fixture(
            "as the node",
            pod,
            packet(NODE, FAR, &udp(1, 2)),
            SHOT,
            Some("spoofed_address"),
            None,
        ),
        fixture(
            "as another IPv6 address",
            pod,
            packet("fd00:77::3", "2001:db8::1", &udp(1, 2)),
            SHOT,
            Some("spoofed_address"),
            None,
        ),
        fixture(
            "as another MAC",
            pod,
            changed(from_pod(FAR, &udp(1, 2)), 11, 9),
            SHOT,
            Some("spoofed_mac"),
            None,
        ),
        fixture(
            "ARP",
            pod,
            changed(changed(from_pod(FAR, &udp(1, 2)), 12, 8), 13, 6),
            SHOT,
            Some("not_ip"),
            None,
        ),
        fixture(
            "cut short",
            pod,
            from_pod(FAR, &udp(1, 2))[..36].to_vec(),
            SHOT,
            Some("malformed"),
            None,
        ),
        fixture(
            "no such pod",
            pod,
            from_pod("10.77.0.99", &udp(1, 2)),
            SHOT,
            Some("no_such_pod"),
            None,
        ),
        fixture(
            "no such service",
            pod,
            from_pod("10.96.9.9", &udp(1, 2)),
            REDIRECT,
            Some("no_such_service"),
            Some(("10.96.9.9", POD, 0, 0, 64)),
        ),
        fixture(
            "no such service by IPv6",
            pod,
            packet(POD_V6, "fd00:96::99", &udp(1, 2)),
            REDIRECT,
            Some("no_such_service"),
            Some(("fd00:96::99", POD_V6, 0, 0, 64)),
        ),
        fixture(
            "no such service by TCP",
            pod,
            from_pod("10.96.9.9", &Tcp(5000, 80, 2)),
            REDIRECT,
            Some("no_such_service"),
            Some(("10.96.9.9", POD, 80, 5000, 64)),
        ),
        fixture(
            "no such service by TCP and IPv6",
            pod,
            packet(POD_V6, "fd00:96::99", &Tcp(5000, 80, 2)),
            REDIRECT,
            Some("no_such_service"),
            Some(("fd00:96::99", POD_V6, 80, 5000, 64)),
        ),
        fixture(
            "a reset to no service",
            pod,
            from_pod("10.96.9.9", &Tcp(5000, 80, 4)),
            SHOT,
            Some("no_such_service"),
            None,
        ),
        fixture(
            "an error to no service",
            pod,
            from_pod("10.96.9.9", &Icmp(3, 3, unreachable.clone())),
            SHOT,
            Some("no_such_service"),
            None,
        ),
        fixture(
            "a later fragment to no service",
            pod,
            changed(from_pod("10.96.9.9", &udp(1, 2)), 21, 1),
            SHOT,
            Some("fragment_unknown"),
            None,
        ),
        fixture(
            "the cluster DNS address, another port",
            pod,
            from_pod(CLUSTER_DNS, &udp(1, 54)),
            REDIRECT,
            Some("no_such_service"),
            Some((CLUSTER_DNS, POD, 0, 0, 64)),
        ),
        fixture(
            "neighbour discovery",
            pod,
            packet(POD_V6, "ff02::1", &Icmp(135, 0, vec![0; 16])),
            SHOT,
            Some("ipv6_control"),
            None,
        ),
        fixture(
            "an answer of the DNS server",
            "pod_egress",
            packet(dns, POD, &udp(53, 5000)),
            NEXT,
            None,
            Some((CLUSTER_DNS, POD, 53, 5000, 64)),
        ),
        fixture(
            "another packet to a pod",
            "pod_egress",
            packet(NODE, POD, &udp(53, 5000)),
            NEXT,
            None,
            None,
        ),
        fixture(
            "out of the uplink",
            "uplink_egress",
            from_pod(FAR, &udp(15_000, 443)),
            NEXT,
            None,
            Some((NODE, FAR, 15_000, 443, 64)),
        ),
        fixture(
            "out of the uplink by IPv6",
            "uplink_egress",
            packet(POD_V6, "2001:db8:9::9", &Tcp(15_001, 443, 2)),
            NEXT,
            None,
            Some((NODE_V6, "2001:db8:9::9", 15_001, 443, 64)),
        ),
        fixture(
            "an echo out of the uplink",
            "uplink_egress",
            from_pod(FAR, &Echo(8, 15_002)),
            NEXT,
            None,
            Some((NODE, FAR, 15_002, 0, 64)),
        ),
        fixture(
            "the node's own packet",
            "uplink_egress",
            packet(NODE, FAR, &udp(1, 2)),
            NEXT,
            None,
            None,
        ),
        fixture(
            "to a service that is none",
            "uplink_egress",
            packet(NODE, "10.96.9.9", &udp(1, 2)),
            REDIRECT,
            Some("no_such_service"),
            Some(("10.96.9.9", NODE, 0, 0, 64)),
        ),
        fixture(
            "to a service that is none by IPv6 and TCP",
            "uplink_egress",
            packet(NODE_V6, "fd00:96::99", &Tcp(5000, 80, 2)),
            REDIRECT,
            Some("no_such_service"),
            Some(("fd00:96::99", NODE_V6, 80, 5000, 64)),
        ),
        fixture(
            "between pods of two nodes",
            "uplink_egress",
            packet(POD, "10.77.0.99", &udp(1, 2)),
            NEXT,
            None,
            None,
        ),
        fixture(
            "a protocol without ports",
            "uplink_egress",
            from_pod(FAR, &Other(47)),
            SHOT,
            Some("masquerade_protocol"),
            None,
        ),
        fixture(
            "an answer",
            "uplink_ingress",
            packet(FAR, NODE, &udp(443, 15_000)),
            REDIRECT,
            Some("to return"),
            Some((FAR, POD, 443, 15_000, 63)),
        ),
        fixture(
            "an answer by IPv6",
            "uplink_ingress",
            packet("2001:db8:9::9", NODE_V6, &Tcp(443, 15_001, 18)),
            REDIRECT,
            Some("to return"),
            Some(("2001:db8:9::9", POD_V6, 443, 15_001, 63)),
        ),
        fixture(
            "an echo's answer",
            "uplink_ingress",
            packet(FAR, NODE, &Echo(0, 15_002)),
            REDIRECT,
            Some("to return"),
            Some((FAR, POD, 15_002, 0, 63)),
        ),
        fixture(
            "no answer: for the node",
            "uplink_ingress",
            packet(FAR, NODE, &udp(443, 15_100)),
            NEXT,
            None,
            None,
        ),
        fixture(
            "for another address",
            "uplink_ingress",
            packet(FAR, "192.0.2.77", &udp(443, 15_000)),
            NEXT,
            None,
            None,
        ),
        fixture(
            "an error about a pod's flow",
            "uplink_ingress",
            packet("198.51.100.1", NODE, &Icmp(3, 4, unreachable.clone())),
            REDIRECT,
            Some("to return"),
            Some(("198.51.100.1", POD, 0, 0, 63)),
        ),
        fixture(
            "an error about the node's flow",
            "uplink_ingress",
            packet(
                "198.51.100.1",
                NODE,
                &Icmp(3, 4, packet(NODE, FAR, &udp(40_000, 443))[14..].to_vec()),
            ),
            NEXT,
            None,
            None,
        ),
        fixture(
            "ARP at the uplink",
            "uplink_ingress",
            changed(changed(packet(FAR, NODE, &udp(1, 2)), 12, 8), 13, 6),
            NEXT,
            None,
            None,
        ),
    ]
}

#[test]
fn every_verdict() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        for fixture in fixtures() {
            let what = fixture.what;
            let before = bench.counters();
            let (verdict, out) = bench.run(fixture.program, &fixture.frame);
            assert_eq!(verdict, fixture.verdict, "verdict: {what}");
            let moved: Vec<String> = bench
                .counters()
                .into_iter()
                .filter(|(name, count)| before[name] != *count)
                .map(|(name, _)| name)
                .collect();
            let expected: Vec<&str> = fixture.counter.into_iter().collect();
            assert_eq!(moved, expected, "counters: {what}");
            match fixture.out {
                Some((source, destination, from, to, hops)) => {
                    assert_eq!(
                        read(&out),
                        (ip(source), ip(destination), from, to, hops),
                        "out: {what}"
                    );
                }
                None => assert_eq!(out, fixture.frame, "out: {what}"),
            }
            if fixture.verdict == REDIRECT && fixture.counter == Some("to pod") {
                assert_eq!(
                    (&out[..6], &out[6..12]),
                    (&OTHER_MAC[..], &OTHER_HOST_MAC[..]),
                    "{what}"
                );
            }
        }
        bench.plane.unload().await.unwrap();
    });
}

/// Any flow of the pod, out and back: the outside sees the node, checksums are right, the pod sees its own
/// address and port again.
#[test]
fn masquerade_there_and_back() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        let flows = (
            any::<bool>(),
            0u8..3,
            1u16..,
            1u16..,
            any::<u32>(),
            proptest::collection::vec(any::<u8>(), 0..64),
        );
        let mut runner = TestRunner::new(ProptestConfig {
            cases: 300,
            failure_persistence: None,
            ..ProptestConfig::default()
        });
        let checked = runner.run(&flows, |(v4, kind, from, to, far, data)| {
            let (pod, node, far) = if v4 {
                (
                    POD,
                    NODE,
                    std::net::Ipv4Addr::from(0x0800_0000 | (far >> 8)).to_string(),
                )
            } else {
                (
                    POD_V6,
                    NODE_V6,
                    std::net::Ipv6Addr::from(0x2001_0db9 << 96 | u128::from(far)).to_string(),
                )
            };
            let (out, back): (L4, &dyn Fn(u16) -> L4) = match kind {
                0 => (L4::Udp(from, to, data.clone()), &|port| {
                    L4::Udp(to, port, data.clone())
                }),
                1 => (L4::Tcp(from, to, 2), &|port| L4::Tcp(to, port, 18)),
                _ if v4 => (L4::Echo(8, from), &|port| L4::Echo(0, port)),
                _ => (L4::Echo(128, from), &|port| L4::Echo(129, port)),
            };
            let (verdict, sent) = bench.run("uplink_egress", &packet(pod, &far, &out));
            prop_assert_eq!(verdict, NEXT);
            let (source, destination, port, ..) = read(&sent);
            prop_assert_eq!((source, destination), (ip(node), ip(&far)));
            prop_assert!((10_000..30_000).contains(&port));
            // The same flow keeps its port.
            let (_, again) = bench.run("uplink_egress", &packet(pod, &far, &out));
            prop_assert_eq!(read(&again).2, port);
            let (verdict, received) = bench.run("uplink_ingress", &packet(&far, node, &back(port)));
            prop_assert_eq!(verdict, REDIRECT);
            let (source, destination, first, second, _) = read(&received);
            prop_assert_eq!((source, destination), (ip(&far), ip(pod)));
            prop_assert_eq!(if kind == 2 { first } else { second }, from);

            // A router on the way cannot pass the packet on, and says so.
            let (router, error) = if v4 {
                ("198.51.100.1", L4::Icmp(3, 4, sent[14..].to_vec()))
            } else {
                ("2001:db8:1::1", L4::Icmp(2, 0, sent[14..].to_vec()))
            };
            let (verdict, told) = bench.run("uplink_ingress", &packet(router, node, &error));
            prop_assert_eq!(verdict, REDIRECT);
            prop_assert_eq!(read(&told).1, ip(pod));
            let outer = agent_ebpf::packet::parse(told.as_slice()).unwrap();
            let inner = agent_ebpf::packet::embedded(told.as_slice(), &outer).unwrap();
            prop_assert_eq!(IpAddr::from(inner.source), ip(pod));
            prop_assert_eq!(IpAddr::from(inner.destination), ip(&far));
            prop_assert_eq!(u16::from_be(inner.source_port), from);
            if v4 {
                let header = inner.l3 as usize..inner.l3 as usize + 20;
                prop_assert_eq!(sum(&told[header], 0), 0xffff, "inner IP checksum");
            }
            Ok(())
        });
        checked.unwrap();
        bench.plane.unload().await.unwrap();
    });
}

#[test]
fn ports_run_out_by_name_and_idle_flows_make_room() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        {
            let mut state = bench.plane.inner.state();
            let mut settings = state.settings;
            settings.nat_port_minimum = 20_000;
            settings.nat_port_maximum = 20_003;
            state.objects.config.set(0, Wire(settings), 0).unwrap();
        }
        let send = |port| {
            bench
                .run(
                    "uplink_egress",
                    &packet(POD, FAR, &L4::Udp(port, 443, Vec::new())),
                )
                .0
        };
        let sent = (1..=64).filter(|port| send(*port) == NEXT).count();
        assert_eq!(sent, 4, "one flow for each port");
        assert_eq!(bench.counters()["flow_ports"], 60);
        // To another destination the same ports are free.
        let elsewhere = packet(POD, "203.0.113.10", &L4::Udp(1, 443, Vec::new()));
        assert_eq!(bench.run("uplink_egress", &elsewhere).0, NEXT);

        make_idle(&bench.plane);
        assert_eq!(send(1), NEXT);
        bench.plane.unload().await.unwrap();
    });
}

/// Makes all flows look as if they had been idle since boot, and sweeps.
fn make_idle(plane: &DataPlane) {
    let table = Arc::clone(&plane.inner.state().objects.flows);
    let left = |occupancy: flows::Occupancy| occupancy.entries;
    assert_eq!(
        left(table.sweep(flows::now(), false)),
        10,
        "nothing is idle yet"
    );
    for (key, value) in table.entries() {
        table.set(key, agent_ebpf::layout::FlowValue { seen: 0, ..value });
    }
    // The machine has been up for longer than a UDP flow without answer is kept.
    assert_eq!(left(table.sweep(flows::now(), false)), 0);
    assert_eq!(table.entries().len(), 0);
}
