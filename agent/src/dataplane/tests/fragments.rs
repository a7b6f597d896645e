//! Packets in fragments through what rewrites ports.

use std::net::{SocketAddr, UdpSocket};

use super::fixtures::{Bench, FAR, NEXT, POD, POD_V6, REDIRECT, SHOT};
use super::lab::{NODE, NODE_V6, OUTSIDE_V6, run_program};
use super::packets::{L4, ip, packet};
use super::*;

/// Cuts a packet's IP payload at `at`, a multiple of eight.
fn fragments(frame: &[u8], at: usize, identification: u8) -> [Vec<u8>; 2] {
    let v4 = frame[12] == 8;
    let header = if v4 { 34 } else { 54 };
    let (start, payload) = frame.split_at(header);
    let make = |part: &[u8], offset: usize, more: bool| {
        let mut fragment = start.to_vec();
        if v4 {
            fragment[16..18].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
            fragment[18..20].copy_from_slice(&[0, identification]);
            let field = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
            fragment[20..22].copy_from_slice(&field.to_be_bytes());
            fragment[24..26].copy_from_slice(&[0, 0]);
            let checksum = agent_ebpf::checksum::checksum(&fragment[14..34], 0);
            fragment[24..26].copy_from_slice(&checksum.to_be_bytes());
        } else {
            let next = std::mem::replace(&mut fragment[20], 44);
            fragment[18..20].copy_from_slice(&((8 + part.len()) as u16).to_be_bytes());
            let field = offset as u16 | u16::from(more);
            fragment.extend([next, 0]);
            fragment.extend(field.to_be_bytes());
            fragment.extend([0, 0, 0, identification]);
        }
        fragment.extend(part);
        fragment
    };
    [
        make(&payload[..at], 0, true),
        make(&payload[at..], at, false),
    ]
}

/// The packet again, for `packets::read`.
fn whole(first: &[u8], later: &[u8]) -> Vec<u8> {
    let v4 = first[12] == 8;
    let header = if v4 { 34 } else { 62 };
    let mut frame = first.to_vec();
    frame.extend(&later[header..]);
    if v4 {
        let length = (frame.len() - 14) as u16;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[20..22].copy_from_slice(&[0, 0]);
        frame[24..26].copy_from_slice(&[0, 0]);
        let checksum = agent_ebpf::checksum::checksum(&frame[14..34], 0);
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
    } else {
        frame[20] = frame[54];
        frame.drain(54..62);
        let length = (frame.len() - 54) as u16;
        frame[18..20].copy_from_slice(&length.to_be_bytes());
    }
    frame
}

#[test]
fn fragments_are_masqueraded_both_ways_in_order() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        let data = vec![5; 64];
        // `packet` gives it the identifier 0.
        let echo = |kind| L4::Icmp(kind, 0, vec![1; 40]);
        let far6 = "2001:db8:9::9";
        let cases = [
            (
                POD,
                NODE,
                FAR,
                L4::Udp(15_000, 443, data.clone()),
                L4::Udp(443, 15_000, data.clone()),
            ),
            (
                POD_V6,
                NODE_V6,
                far6,
                L4::Udp(15_000, 443, data.clone()),
                L4::Udp(443, 15_000, data.clone()),
            ),
            (POD, NODE, FAR, echo(8), echo(0)),
            (POD_V6, NODE_V6, far6, echo(128), echo(129)),
        ];
        for (number, (pod, node, far, out, back)) in cases.into_iter().enumerate() {
            let identification = number as u8 + 1;
            let [first, later] = fragments(&packet(pod, far, &out), 16, identification);
            let before = bench.counters()["fragment_unknown"];
            assert_eq!(bench.run("uplink_egress", &later).0, SHOT, "not in order");
            assert_eq!(bench.counters()["fragment_unknown"], before + 1);
            let sent = [&first, &later].map(|frame| bench.run("uplink_egress", frame));
            assert_eq!([sent[0].0, sent[1].0], [NEXT; 2]);
            let (from, to, port, ..) = super::packets::read(&whole(&sent[0].1, &sent[1].1));
            assert_eq!((from, to), (ip(node), ip(far)));

            let own = if matches!(out, L4::Udp(..)) {
                15_000
            } else {
                0
            };
            assert!(
                (10_000..30_000).contains(&port) && (own == 0 || port == own),
                "{number}: {port}"
            );
            let answer = match back {
                L4::Udp(from, _, data) => packet(far, node, &L4::Udp(from, port, data)),
                other => echo_with(&packet(far, node, &other), port),
            };
            let [first, later] = fragments(&answer, 16, identification);
            let (verdict, same) = bench.run("uplink_ingress", &later);
            assert_eq!((verdict, &same), (NEXT, &later), "perhaps the node's own");
            let received = [&first, &later].map(|frame| bench.run("uplink_ingress", frame));
            assert_eq!([received[0].0, received[1].0], [REDIRECT; 2]);
            let (from, to, first, second, _) =
                super::packets::read(&whole(&received[0].1, &received[1].1));
            assert_eq!((from, to), (ip(far), ip(pod)));
            assert_eq!(if second == 0 { first } else { second }, own);
        }
        bench.plane.unload().await.unwrap();
    });
}

/// Another identifier in an echo, the checksum changed with it.
fn echo_with(frame: &[u8], identifier: u16) -> Vec<u8> {
    let at = if frame[12] == 8 { 34 } else { 54 };
    let mut frame = frame.to_vec();
    let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let checksum =
        agent_ebpf::checksum::update(word(&frame, at + 2), word(&frame, at + 4), identifier);
    frame[at + 2..at + 4].copy_from_slice(&checksum.to_be_bytes());
    frame[at + 4..at + 6].copy_from_slice(&identifier.to_be_bytes());
    frame
}

/// Datagrams that are larger than any link's MTU, from a pod to the outside and back.
#[test]
fn large_datagrams_reach_the_outside_and_come_back() {
    lab(|lab| async move {
        run_program(&format!("ip -6 route add default via {OUTSIDE_V6}"));
        let plane = lab.load().await;
        let pod = lab.pod(&plane, "pod").await;
        lab.outside(|| run_program("ip addr add 2001:db8:9::9/128 dev lo nodad"));
        for text in ["203.0.113.9:7", "[2001:db8:9::9]:7"] {
            let at: SocketAddr = text.parse().unwrap();
            let socket = lab.outside(move || UdpSocket::bind(at).unwrap());
            let server = std::thread::spawn(move || {
                let mut data = vec![0; 16_000];
                loop {
                    let (length, from) = socket.recv_from(&mut data).unwrap();
                    if length == 0 {
                        return from;
                    }
                    socket.send_to(&data[..length], from).unwrap();
                }
            });
            let (sent, answer, own) = lab.in_pod(&pod, move || {
                let any = if at.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).unwrap();
                let patience = Duration::from_millis(300);
                socket.set_read_timeout(Some(patience)).unwrap();
                socket.connect(at).unwrap();
                let data: Vec<u8> = (0..9000u32).map(|n| (n % 251) as u8).collect();
                let mut answer = vec![0; 16_000];
                let mut came = 0;
                // Datagrams get lost: fragments that overtake the first one (where one CPU sends what waited for the
                // neighbour and another one what comes after it) do.
                for _ in 0..100 {
                    socket.send(&data).unwrap();
                    if let Ok(length) = socket.recv(&mut answer) {
                        came = length;
                        break;
                    }
                }
                answer.truncate(came);
                socket.send(&[]).unwrap();
                (data, answer, socket.local_addr().unwrap())
            });
            let from = server.join().unwrap();
            assert!(sent == answer, "{text}: {} bytes came back", answer.len());
            assert_ne!(from.ip(), own.ip(), "masqueraded");
        }
        plane.unload().await.unwrap();
    });
}
