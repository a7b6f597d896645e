//! Senders that are told at once: by ICMP errors and TCP resets that the programs make.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpStream, UdpSocket};

use agent_ebpf::layout::{SCOPE_INSIDE, ServiceValue};

use super::fixtures::{Bench, POD, POD_V6, REDIRECT, SHOT};
use super::lab::{Feed, NODE, NODE_V6, service};
use super::packets::{L4, packet, read};
use super::*;

/// Longer than any answer takes, shorter than a client waits for none.
const PATIENCE: Duration = Duration::from_secs(10);

fn udp_error(to: SocketAddr, size: usize) -> ErrorKind {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    socket.send(&vec![7; size]).unwrap();
    socket.recv(&mut [0; 16]).unwrap_err().kind()
}

/// What a socket hook does not see (raw packets, virtual machines, pods that opted out) is refused as fast.
#[test]
fn a_service_without_endpoints_refuses_packets_at_once() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let pod = lab.pod(&plane, "pod").await;
        let mut events = service("empty", "10.96.0.80", 80, &[]);
        events.extend(service("empty6", "fd00:96::80", 80, &[]));
        feed.apply(true, events).await;
        for text in [
            "10.96.0.80:80",
            "[fd00:96::80]:80",
            // Not a Service's at all.
            "10.96.7.7:80",
            "[fd00:96::77]:80",
        ] {
            let to: SocketAddr = text.parse().unwrap();
            let refused = lab.past_hooks(&pod, move || {
                let tcp = TcpStream::connect_timeout(&to, PATIENCE)
                    .unwrap_err()
                    .kind();
                // In one packet, and in fragments.
                [tcp, udp_error(to, 10), udp_error(to, 4000)]
            });
            assert_eq!(refused, [ErrorKind::ConnectionRefused; 3], "{text}");
        }
        let drops: std::collections::BTreeMap<_, _> = plane.drops().into_iter().collect();
        // Per address one segment, one packet, and three fragments.
        assert_eq!((drops["no_endpoints"], drops["no_such_service"]), (10, 10));
        let events: std::collections::BTreeMap<_, _> = plane.events().into_iter().collect();
        assert_eq!((events["refused"], events["refusal_limited"]), (12, 0));
        plane.unload().await.unwrap();
    });
}

/// What a UDP socket learns that is connected to a Service, and then sends: its own address, its peer, the answer.
fn connected(to: SocketAddr) -> (IpAddr, SocketAddr, Result<String, ErrorKind>) {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect(to).unwrap();
    let (own, peer) = (
        socket.local_addr().unwrap().ip(),
        socket.peer_addr().unwrap(),
    );
    (own, peer, told(&socket))
}

fn told(socket: &UdpSocket) -> Result<String, ErrorKind> {
    let mut text = [0; 16];
    socket
        .send(b"hello")
        .and_then(|_| socket.recv(&mut text))
        .map(|length| String::from_utf8_lossy(&text[..length]).into_owned())
        .map_err(|error| error.kind())
}

/// As with kube-proxy: `getaddrinfo` connects a UDP socket to each address that it found, only to see where it would
/// send from, and takes an address for unreachable where that fails.
#[test]
fn a_udp_socket_is_connected_where_nobody_serves_and_what_it_sends_is_refused() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let pod = lab.pod(&plane, "pod").await;
        super::lab::run_program("ip -6 route add default via 2001:db8::1");
        let mut events = service("empty", "10.96.0.80", 80, &[]);
        events.extend(service("empty6", "fd00:96::80", 80, &[]));
        feed.apply(true, events).await;
        let empty = ["10.96.0.80:80", "[fd00:96::80]:80"];
        let none = [
            "10.96.0.80:9",
            "[fd00:96::80]:9",
            "10.96.7.7:53",
            "[fd00:96::77]:53",
        ];
        for text in empty.into_iter().chain(none) {
            let to: SocketAddr = text.parse().unwrap();
            let own = |addresses: &[IpAddr]| {
                let mut addresses = addresses.iter().copied();
                addresses.find(|own| own.is_ipv4() == to.is_ipv4()).unwrap()
            };
            let refused = Err(ErrorKind::ConnectionRefused);
            assert_eq!(
                lab.in_pod(&pod, move || connected(to)),
                (own(&pod.addresses), to, refused.clone()),
                "{text}"
            );
            let node = [NODE.parse().unwrap(), NODE_V6.parse().unwrap()];
            assert_eq!(
                lab.on_host(move || connected(to)),
                (own(&node), to, refused),
                "{text}, from the node"
            );
            // TCP is refused where it connects, and so is a datagram of a socket that is not connected.
            for kind in [
                lab.in_pod(&pod, move || TcpStream::connect(to).unwrap_err().kind()),
                lab.on_host(move || TcpStream::connect(to).unwrap_err().kind()),
                lab.in_pod(&pod, move || {
                    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                    let socket = UdpSocket::bind(any).unwrap();
                    socket.send_to(b"x", to).unwrap_err().kind()
                }),
            ] {
                assert_eq!(kind, ErrorKind::ConnectionRefused, "{text}");
            }
        }
        let drops: std::collections::BTreeMap<_, _> = plane.drops().into_iter().collect();
        // Per address two datagrams, two connections and one more datagram.
        assert_eq!((drops["no_endpoints"], drops["no_such_service"]), (10, 20));
        let events: std::collections::BTreeMap<_, _> = plane.events().into_iter().collect();
        assert_eq!((events["refused"], events["refusal_limited"]), (12, 0));
        plane.unload().await.unwrap();
    });
}

#[test]
fn a_pods_udp_socket_that_was_connected_too_early_gets_answers_once_there_is_an_endpoint() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        feed.apply(true, service("late", "10.96.0.80", 80, &[]))
            .await;
        let socket = lab.in_pod(&client, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.connect("10.96.0.80:80").unwrap();
            assert_eq!(told(&socket), Err(ErrorKind::ConnectionRefused));
            socket
        });
        let served = lab.in_pod(&server, || UdpSocket::bind("0.0.0.0:8080").unwrap());
        served.set_read_timeout(Some(PATIENCE)).unwrap();
        let served = super::services::answer(served, "pod", 1);
        let backends = [(server.addresses[0], 8080)];
        feed.apply(true, service("late", "10.96.0.80", 80, &backends))
            .await;
        assert_eq!(told(&socket), Ok("pod".to_owned()));
        served.join().unwrap();
        plane.unload().await.unwrap();
    });
}

#[test]
fn each_reason_is_counted_as_itself_and_the_answer_quotes_the_packet() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        for address in ["10.96.0.9", "fd00:96::9"] {
            let key = ServiceKey {
                address: address.parse::<IpAddr>().unwrap().into(),
                port: 80u16.to_be(),
                protocol: PROTOCOL_UDP,
                scope: SCOPE_INSIDE,
            };
            let mut state = bench.plane.inner.state();
            let services = &mut state.objects.services;
            services
                .insert(Wire(key), Wire(ServiceValue::default()), 0)
                .unwrap();
        }
        for (pod, address, quoted) in [(POD, "10.96.0.9", 42), (POD_V6, "fd00:96::9", 62)] {
            for (port, reason) in [(80, "no_endpoints"), (82, "no_such_service")] {
                for size in [0, 1, 85, 86, 87, 1400] {
                    let before = bench.counters()[reason];
                    let sent = packet(pod, address, &L4::Udp(5000, port, vec![9; size]));
                    let (verdict, told) = bench.run("pod_ingress", &sent);
                    assert_eq!(verdict, REDIRECT, "{reason}");
                    assert_eq!(bench.counters()[reason], before + 1);
                    assert_eq!(&told[..12], [&sent[6..12], &sent[..6]].concat());
                    // `read` checks the checksums.
                    let (from, to, ..) = read(&told);
                    assert_eq!(
                        (from.to_string(), to.to_string()),
                        (address.into(), pod.into())
                    );
                    let quote = &sent[14..sent.len().min(14 + 128)];
                    assert_eq!(&told[quoted..], quote, "{size}");
                }
            }
        }
        bench.plane.unload().await.unwrap();
    });
}

#[test]
fn refusals_are_limited_so_that_nobody_is_drowned_in_them() {
    lab(|lab| async move {
        let bench = Bench::new(&lab).await;
        // The allowance is a CPU's: this thread stays on its own.
        let mut cpus = nix::sched::CpuSet::new();
        cpus.set(
            nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0)).map_or(0, |own| {
                (0..nix::sched::CpuSet::count())
                    .find(|cpu| own.is_set(*cpu) == Ok(true))
                    .unwrap_or(0)
            }),
        )
        .unwrap();
        nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &cpus).unwrap();
        let sent = packet(POD, "10.96.9.9", &L4::Udp(1, 2, Vec::new()));
        let began = std::time::Instant::now();
        let mut told = 0;
        loop {
            match bench.run("pod_ingress", &sent).0 {
                REDIRECT => told += 1,
                verdict => {
                    assert_eq!(verdict, SHOT);
                    break;
                }
            }
        }
        let seconds = 2 + began.elapsed().as_secs();
        assert!(told >= 1000 && told <= 1000 * seconds, "{told}");
        let events: std::collections::BTreeMap<_, _> = bench.plane.events().into_iter().collect();
        assert_eq!((events["refused"], events["refusal_limited"]), (told, 1));
        assert_eq!(
            bench.counters()["no_such_service"],
            told + 1,
            "each counted once"
        );
        bench.plane.unload().await.unwrap();
    });
}
