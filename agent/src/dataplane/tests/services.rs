//! Services at the socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use super::lab::{Feed, service, socket};
use super::*;

pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Serves one connection: says who it is.
pub(super) fn serve_once(listener: &TcpListener, text: &str) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(text.as_bytes()).unwrap();
}

pub(super) fn ask(address: SocketAddr) -> std::io::Result<(SocketAddr, String)> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let peer = stream.peer_addr()?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok((peer, text))
}

#[test]
fn tcp_through_a_cluster_ip_from_pod_and_host() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let backend = server.addresses[0];
        let listener = lab.in_pod(&server, || TcpListener::bind("0.0.0.0:8080").unwrap());
        feed.apply(true, service("web", "10.96.0.80", 80, &[(backend, 8080)]))
            .await;
        let cluster_ip: SocketAddr = "10.96.0.80:80".parse().unwrap();
        let served = std::thread::spawn(move || {
            for _ in 0..3 {
                serve_once(&listener, "hello");
            }
        });
        let direct = lab.in_pod(&client, move || ask(socket(backend, 8080)).unwrap());
        assert_eq!(direct, (socket(backend, 8080), "hello".to_owned()));
        let (peer, text) = lab.in_pod(&client, move || ask(cluster_ip).unwrap());
        assert_eq!(
            (peer, text.as_str()),
            (cluster_ip, "hello"),
            "getpeername shows the ClusterIP"
        );
        let (peer, text) = lab.on_host(move || ask(cluster_ip).unwrap());
        assert_eq!((peer, text.as_str()), (cluster_ip, "hello"));
        served.join().unwrap();
        super::pods::assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let client = lab.pod(&plane, "client").await;
        feed.apply(true, service("none", "10.96.0.81", 80, &[]))
            .await;
        for (address, what) in [
            ("10.96.0.81:80", "no endpoints"),
            ("10.96.0.81:81", "no such port"),
            ("10.96.7.7:80", "no such service"),
        ] {
            let error = lab.in_pod(&client, move || ask(address.parse().unwrap()).unwrap_err());
            assert_eq!(
                error.kind(),
                ErrorKind::ConnectionRefused,
                "{what}: {error}"
            );
        }
        let error = lab.in_pod(&client, || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.send_to(b"x", "10.96.0.81:80").unwrap_err()
        });
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
        let drops = plane.drops();
        let count = |name| drops.iter().find(|(reason, _)| *reason == name).unwrap().1;
        assert_eq!((count("no_endpoints"), count("no_such_service")), (2, 2));
        plane.unload().await.unwrap();
    });
}

pub(super) fn udp(bind: &str) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Answers `count` datagrams with `text`.
pub(super) fn answer(
    socket: UdpSocket,
    text: &'static str,
    count: usize,
) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        for _ in 0..count {
            let (_, from) = socket.recv_from(&mut [0; 16]).unwrap();
            socket.send_to(text.as_bytes(), from).unwrap();
        }
    })
}

pub(super) fn exchange(socket: &UdpSocket, to: SocketAddr) -> (String, SocketAddr) {
    socket.send_to(b"?", to).unwrap();
    receive(socket)
}

pub(super) fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = [0; 16];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (
        String::from_utf8_lossy(&buffer[..length]).into_owned(),
        from,
    )
}

#[test]
fn udp_connected_and_unconnected_shows_the_cluster_ip() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let client = lab.pod(&plane, "client").await;
        let server = lab.pod(&plane, "server").await;
        let backend = server.addresses[0];
        let mut events = service("one", "10.96.0.53", 5300, &[(backend, 7000)]);
        events.extend(service("two", "10.96.0.54", 5300, &[(backend, 7001)]));
        feed.apply(true, events).await;
        let one: SocketAddr = "10.96.0.53:5300".parse().unwrap();
        let two: SocketAddr = "10.96.0.54:5300".parse().unwrap();
        let (first, second) = lab.in_pod(&server, || (udp("0.0.0.0:7000"), udp("0.0.0.0:7001")));
        let served = [answer(first, "one", 4), answer(second, "two", 1)];

        lab.in_pod(&client, move || {
            let socket = udp("0.0.0.0:0");
            assert_eq!(exchange(&socket, one), ("one".to_owned(), one));
            // Another Service from the same socket.
            assert_eq!(exchange(&socket, two), ("two".to_owned(), two));
            assert_eq!(exchange(&socket, one), ("one".to_owned(), one));
            // Connected.
            let socket = udp("0.0.0.0:0");
            socket.connect(one).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), one);
            socket.send(b"?").unwrap();
            assert_eq!(receive(&socket), ("one".to_owned(), one));
            // Connected anew, to no Service.
            socket.connect(socket_of(backend)).unwrap();
            assert_eq!(socket.peer_addr().unwrap(), socket_of(backend));
            // An IPv6 socket with the IPv4-mapped address.
            let socket = udp("[::]:0");
            let mapped: SocketAddr = "[::ffff:10.96.0.53]:5300".parse().unwrap();
            assert_eq!(exchange(&socket, mapped), ("one".to_owned(), mapped));
        });
        for thread in served {
            thread.join().unwrap();
        }
        plane.unload().await.unwrap();
    });
}

fn socket_of(backend: IpAddr) -> SocketAddr {
    socket(backend, 9)
}

#[test]
fn tcp_from_an_ipv6_socket_to_the_mapped_cluster_ip() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let listener = lab.in_pod(&server, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let backends = [(server.addresses[0], 8080)];
        feed.apply(true, service("web", "10.96.0.80", 80, &backends))
            .await;
        let served = std::thread::spawn(move || serve_once(&listener, "hello"));
        let mapped: SocketAddr = "[::ffff:10.96.0.80]:80".parse().unwrap();
        let (peer, text) = lab.in_pod(&client, move || ask(mapped).unwrap());
        assert_eq!((peer, text.as_str()), (mapped, "hello"));
        served.join().unwrap();
        plane.unload().await.unwrap();
    });
}

#[test]
fn connections_spread_over_backends_and_a_udp_socket_stays_with_its_own() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let client = lab.pod(&plane, "client").await;
        let server = lab.pod(&plane, "server").await;
        let address = server.addresses[0];
        let backends: Vec<_> = (7000..7004).map(|port| (address, port)).collect();
        feed.apply(true, service("web", "10.96.0.80", 80, &backends))
            .await;
        let at: SocketAddr = "10.96.0.80:80".parse().unwrap();
        let listeners: Vec<UdpSocket> = lab.in_pod(&server, || {
            (7000..7004)
                .map(|port| udp(&format!("0.0.0.0:{port}")))
                .collect()
        });
        let sticky = lab.in_pod(&client, move || {
            for _ in 0..64 {
                udp("0.0.0.0:0").send_to(b"new", at).unwrap();
            }
            let socket = udp("0.0.0.0:0");
            socket.send_to(b"same", at).unwrap();
            socket
        });
        // The set changes: the backend that the socket uses stays as long as it is in it.
        let holder = drain(&listeners, b"same");
        let new: usize = holder.iter().map(|(new, _)| new).sum();
        assert_eq!(new, 64);
        assert!(
            holder.iter().all(|(new, _)| *new > 0),
            "every backend is picked: {holder:?}"
        );
        let used = holder.iter().position(|(_, same)| *same == 1).unwrap();
        let fewer: Vec<_> = vec![backends[used], backends[(used + 1) % 4]];
        feed.apply(true, service("web", "10.96.0.80", 80, &fewer))
            .await;
        let sticky = lab.in_pod(&client, move || {
            for _ in 0..16 {
                sticky.send_to(b"same", at).unwrap();
            }
            sticky
        });
        assert_eq!(drain(&listeners, b"same")[used].1, 16);
        // Its backend goes: the next datagram goes to another.
        let other = (used + 1) % 4;
        feed.apply(true, service("web", "10.96.0.80", 80, &[backends[other]]))
            .await;
        lab.in_pod(&client, move || sticky.send_to(b"same", at).unwrap());
        let counts = drain(&listeners, b"same");
        assert_eq!((counts[used].1, counts[other].1), (0, 1));
        plane.unload().await.unwrap();
    });
}

/// Everything that has arrived, by socket: how many datagrams were not, and how many were, `wanted`.
fn drain(sockets: &[UdpSocket], wanted: &[u8]) -> Vec<(usize, usize)> {
    sockets
        .iter()
        .map(|socket| {
            socket.set_nonblocking(true).unwrap();
            let (mut other, mut same) = (0, 0);
            let mut buffer = [0; 16];
            while let Ok(length) = socket.recv(&mut buffer) {
                if &buffer[..length] == wanted {
                    same += 1;
                } else {
                    other += 1;
                }
            }
            (other, same)
        })
        .collect()
}

#[test]
fn a_pod_reaches_itself_through_its_service() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let pod = lab.pod(&plane, "pod").await;
        let listener = lab.in_pod(&pod, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let backends = [(pod.addresses[0], 8080)];
        feed.apply(true, service("self", "10.96.0.80", 80, &backends))
            .await;
        let served = std::thread::spawn(move || serve_once(&listener, "me"));
        let at: SocketAddr = "10.96.0.80:80".parse().unwrap();
        assert_eq!(
            lab.in_pod(&pod, move || ask(at).unwrap()),
            (at, "me".to_owned())
        );
        served.join().unwrap();
        plane.unload().await.unwrap();
    });
}

/// The whole table from nothing, then one change; what it costs is for the benchmark to say, on a release
/// build: here it must be right, and not be off by orders of magnitude.
#[test]
fn thirty_thousand_services_and_then_one_change() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let backend = server.addresses[0];
        let nth = |number: u32| std::net::Ipv4Addr::from(0x0a60_0000 + 256 + number).to_string();
        let mut events = Vec::new();
        for number in 0..15_000u32 {
            let far = std::net::Ipv4Addr::from(0x0a80_0000 + number).into();
            let backends = [(far, 1), (far, 2), (far, 3)];
            events.extend(service(&format!("s{number}"), &nth(number), 80, &backends));
        }
        let started = std::time::Instant::now();
        feed.apply(true, events).await;
        let loaded = started.elapsed();
        let started = std::time::Instant::now();
        let mut change = service("s7", &nth(7), 80, &[(backend, 8080)]);
        for extra in 1..3 {
            change.push(crate::cluster::Event::SliceRemoved(super::lab::name(
                &format!("s7-{extra}"),
            )));
        }
        feed.apply(false, change).await;
        let changed = started.elapsed();
        eprintln!("30,000 service ports x 3: {loaded:?}; one change: {changed:?}");
        assert!(loaded < Duration::from_secs(20) && changed < Duration::from_secs(1));
        let listener = lab.in_pod(&server, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let served = std::thread::spawn(move || serve_once(&listener, "seven"));
        let at: SocketAddr = format!("{}:80", nth(7)).parse().unwrap();
        assert_eq!(lab.in_pod(&client, move || ask(at).unwrap().1), "seven");
        served.join().unwrap();
        let started = std::time::Instant::now();
        drop(plane);
        let plane = lab.load().await;
        eprintln!("adopted in {:?}", started.elapsed());
        assert_eq!(plane.inner.state().tables.planner().services(), 30_002);
        plane.unload().await.unwrap();
    });
}

/// While two Services change all the time, every connection gets a backend of the Service that it asked for,
/// and none is refused.
#[test]
fn changes_are_atomic_for_connections() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let client = lab.pod(&plane, "client").await;
        let far = |last: u8| IpAddr::from([10, 88, 0, last]);
        // Ports tell the Services apart: 1000 and up are one's, 2000 and up the other's.
        let sets = |round: u16| {
            let ports = |base: u16| (0..=round % 5).map(move |n| (far(round as u8), base + n));
            let mut events = Vec::new();
            for (name, address, base) in [("a", "10.96.0.1", 1000), ("b", "10.96.0.2", 2000)] {
                let backends: Vec<_> = ports(base).collect();
                let mut all = service(name, address, 80, &backends);
                for gone in backends.len()..5 {
                    let slice = super::lab::name(&format!("{name}-{gone}"));
                    all.push(crate::cluster::Event::SliceRemoved(slice));
                }
                events.extend(all);
            }
            events
        };
        feed.apply(true, sets(0)).await;
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let watch = Arc::clone(&stop);
        let connecting = lab.start_in(&client, move || {
            let mut connections = 0u32;
            while !watch.load(std::sync::atomic::Ordering::Relaxed) {
                for (at, range) in [("10.96.0.1:80", 1000..1005), ("10.96.0.2:80", 2000..2005)] {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.connect(at).expect("never refused");
                    // Closed, if its backend went in the moment since.
                    if let Some(port) = port_in_kernel(&socket) {
                        assert!(range.contains(&port), "{at} got port {port}");
                        connections += 1;
                    }
                }
            }
            connections
        });
        for round in 1..300 {
            feed.apply(false, sets(round)).await;
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        let connections = connecting.wait();
        eprintln!("{connections} connections during 300 changes");
        assert!(connections > 50);
        assert!(plane.inner.state().tables.planner().slots_used() < 4096);
        plane.unload().await.unwrap();
    });
}

/// The port that a socket is connected to in the kernel, past what getpeername says.
pub(super) fn backend_port(socket: &UdpSocket) -> u16 {
    port_in_kernel(socket).unwrap()
}

/// As [`backend_port`]; nothing if the socket was closed because its backend went.
fn port_in_kernel(socket: &UdpSocket) -> Option<u16> {
    let local = socket.local_addr().unwrap().port();
    let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
    let wanted = format!(":{local:04X}");
    let remote = table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|fields| fields[1].ends_with(&wanted))?[2]
        .to_owned();
    let port = u16::from_str_radix(remote.rsplit(':').next().unwrap(), 16).unwrap();
    (port != 0).then_some(port)
}
