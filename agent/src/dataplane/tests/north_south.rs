//! From outside to Services, and from pods to Services past the socket hooks: real sockets, the whole way.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use agent_ebpf::layout::{
    MAX_SLOTS, SCOPE_INSIDE, SCOPE_OUTSIDE, SERVICE_FOREIGN, ServiceValue, Slot,
};

use super::lab::{Lab, NODE, NODE_V6, OUTSIDE, run_program, socket};
use super::pods::assert_no_drops;
use super::services::{ask, serve_once};
use super::*;

const PATIENCE: Duration = Duration::from_secs(5);
/// Addresses that the network leads to the node, and that are nobody's.
const BALANCER: &str = "198.51.100.50";
const BALANCER_V6: &str = "2001:db8:50::1";
/// Outside, where a backend elsewhere in the cluster would be.
const ELSEWHERE: &str = "10.88.0.9";
const CLIENT: &str = "203.0.113.9";
const CLIENT_V6: &str = "2001:db8::1";

/// Puts a Service port of both protocols straight into the maps.
pub(super) fn expose(
    plane: &DataPlane,
    (address, port, scope): (Address, u16, u8),
    backends: &[(IpAddr, u16)],
    value: ServiceValue,
) {
    let mut guard = plane.inner.state();
    let state = &mut *guard;
    let taken = state
        .objects
        .services
        .iter()
        .flatten()
        .filter(|(_, Wire(value))| value.set >= 1000)
        .count() as u32;
    for (number, protocol) in [PROTOCOL_TCP, PROTOCOL_UDP].into_iter().enumerate() {
        let set = 1000 + taken + number as u32;
        let base = MAX_SLOTS as u32 - 64 * (set - 999);
        for (index, (address, port)) in backends.iter().enumerate() {
            let slot = Slot {
                address: Address::from(*address),
                port: port.to_be(),
                flags: 0,
                set,
            };
            let index = base + index as u32;
            let slots = std::os::fd::AsFd::as_fd(&state.objects.slots_fd);
            syscall::array_update_batch(slots, &[index], &[slot]).unwrap();
        }
        let key = ServiceKey {
            address,
            port: port.to_be(),
            protocol,
            scope,
        };
        let value = ServiceValue {
            base,
            count: backends.len() as u32,
            set,
            service: set,
            ..value
        };
        state
            .objects
            .services
            .insert(Wire(key), Wire(value), 0)
            .unwrap();
    }
}

/// Where the node ports are: the planner says so when there are any.
pub(super) fn open_node_ports(plane: &DataPlane) {
    let mut guard = plane.inner.state();
    let state = &mut *guard;
    state.settings.node_port_minimum = 30_000;
    state.settings.node_port_maximum = 32_767;
    let settings = state.settings;
    state.objects.config.set(0, Wire(settings), 0).unwrap();
}

/// The network leads the balancer's addresses to the node.
fn route_outside(lab: &Lab) {
    lab.outside(|| {
        run_program(&format!("ip route add {BALANCER}/32 via {NODE}"));
        run_program(&format!("ip -6 route add {BALANCER_V6}/128 via {NODE_V6}"));
        run_program(&format!("ip addr add {ELSEWHERE}/32 dev lo"));
    });
}

pub(super) fn at(address: &str, port: u16) -> SocketAddr {
    socket(address.parse().unwrap(), port)
}

pub(super) fn udp(bind: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Answers one connection and one datagram; returns whom it saw.
pub(super) fn serve(
    listener: TcpListener,
    datagrams: UdpSocket,
) -> std::thread::JoinHandle<[IpAddr; 2]> {
    std::thread::spawn(move || {
        use std::io::Write as _;
        let (mut stream, first) = listener.accept().unwrap();
        stream.write_all(&vec![b'x'; 300_000]).unwrap();
        drop(stream);
        let (_, second) = datagrams.recv_from(&mut [0; 16]).unwrap();
        datagrams.send_to(b"pong", second).unwrap();
        [first.ip(), second.ip()]
    })
}

/// Asks by TCP and by UDP, and finds that who was asked answers.
pub(super) fn visit(from: SocketAddr, to: SocketAddr) {
    assert_eq!(ask(to).unwrap().1.len(), 300_000, "{to}");
    let socket = udp(from);
    socket.connect(to).unwrap();
    socket.send(b"ping").unwrap();
    let mut buffer = [0; 16];
    let length = socket.recv(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"pong", "{to}");
}

/// Finds that nobody listens, by TCP and by UDP. A program that another test starts may hold on to the sockets that were
/// closed for a moment.
pub(super) fn refused(from: SocketAddr, to: SocketAddr) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let wait = || assert!(std::time::Instant::now() < deadline, "{to} is not refused");
    let error = loop {
        match std::net::TcpStream::connect(to) {
            Ok(_) => wait(),
            // The last holder let go of it while it was being answered.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => wait(),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{to}: {error}");
    let socket = udp(from);
    let moment = Duration::from_millis(100);
    socket.set_read_timeout(Some(moment)).unwrap();
    socket.connect(to).unwrap();
    loop {
        let answer = socket.send(b"ping").and_then(|_| socket.recv(&mut [0; 16]));
        match answer.map_err(|error| error.kind()) {
            Err(ErrorKind::ConnectionRefused) => return,
            Err(ErrorKind::WouldBlock) => wait(),
            other => panic!("{to}: {other:?}"),
        }
    }
}

/// A server of both protocols at `at`, in a pod or elsewhere.
pub(super) fn server(at: SocketAddr) -> (TcpListener, UdpSocket) {
    (TcpListener::bind(at).unwrap(), udp(at))
}

fn address(text: &str) -> Address {
    Address::from(text.parse::<IpAddr>().unwrap())
}

#[test]
fn a_pod_here_is_reached_from_outside_and_sees_its_client() {
    lab(|lab| async move {
        let plane = lab.load().await;
        open_node_ports(&plane);
        route_outside(&lab);
        let pod = lab.pod(&plane, "server").await;
        let foreign = ServiceValue {
            flags: SERVICE_FOREIGN,
            ..ServiceValue::default()
        };
        for (v4, any, balancer, node, client) in [
            (true, Address::ANY_V4, BALANCER, NODE, OUTSIDE),
            (false, Address::ANY_V6, BALANCER_V6, NODE_V6, CLIENT_V6),
        ] {
            let own = pod
                .addresses
                .iter()
                .copied()
                .find(|a| a.is_ipv4() == v4)
                .unwrap();
            // A port each: a program that another test starts may hold on to a closed socket for a moment.
            expose(
                &plane,
                (any, 30_080, SCOPE_OUTSIDE),
                &[(own, 8080)],
                ServiceValue::default(),
            );
            let key = (address(balancer), 80, SCOPE_OUTSIDE);
            expose(&plane, key, &[(own, 8081)], foreign);
            for (target, port) in [(at(node, 30_080), 8080), (at(balancer, 80), 8081)] {
                let (listener, datagrams) = lab.in_pod(&pod, move || server(socket(own, port)));
                let served = serve(listener, datagrams);
                lab.outside(move || visit(at(client, 0), target));
                let client: IpAddr = client.parse().unwrap();
                assert_eq!(served.join().unwrap(), [client; 2], "{target}");
            }
        }
        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

#[test]
fn a_backend_elsewhere_is_reached_with_the_nodes_address() {
    lab(|lab| async move {
        let plane = lab.load().await;
        open_node_ports(&plane);
        route_outside(&lab);
        let backends = [(ELSEWHERE.parse().unwrap(), 8080)];
        expose(
            &plane,
            (Address::ANY_V4, 30_080, SCOPE_OUTSIDE),
            &backends,
            ServiceValue::default(),
        );
        let (listener, datagrams) = lab.outside(|| server(at(ELSEWHERE, 8080)));
        let served = serve(listener, datagrams);
        lab.outside(|| visit(at(CLIENT, 0), at(NODE, 30_080)));
        let node: IpAddr = NODE.parse().unwrap();
        assert_eq!(served.join().unwrap(), [node; 2]);
        // Nobody listens there any more: the backend's refusal reaches the client, as the Service's.
        lab.outside(|| refused(at(CLIENT, 0), at(NODE, 30_080)));
        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

#[test]
fn a_backend_that_is_a_process_of_the_node_is_reached() {
    lab(|lab| async move {
        let plane = lab.load().await;
        open_node_ports(&plane);
        let pod = lab.pod(&plane, "client").await;
        for (key, port) in [
            ((Address::ANY_V4, 30_080, SCOPE_OUTSIDE), 8080),
            ((address("10.96.0.80"), 80, SCOPE_INSIDE), 8081),
        ] {
            let backends = [(NODE.parse().unwrap(), port)];
            expose(&plane, key, &backends, ServiceValue::default());
        }
        let node = at(NODE, 8080);
        let (listener, datagrams) = lab.on_host(move || server(node));
        let served = serve(listener, datagrams);
        lab.outside(|| visit(at(OUTSIDE, 0), at(NODE, 30_080)));
        assert_eq!(
            served.join().unwrap(),
            [OUTSIDE.parse::<IpAddr>().unwrap(); 2]
        );

        let node = at(NODE, 8081);
        let (listener, datagrams) = lab.on_host(move || server(node));
        let served = serve(listener, datagrams);
        lab.past_hooks(&pod, || visit(at("0.0.0.0", 0), at("10.96.0.80", 80)));
        assert_eq!(served.join().unwrap(), [pod.addresses[0]; 2]);
        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

#[test]
fn without_endpoints_a_node_port_is_refused_by_the_node() {
    lab(|lab| async move {
        let plane = lab.load().await;
        open_node_ports(&plane);
        expose(
            &plane,
            (Address::ANY_V4, 30_080, SCOPE_OUTSIDE),
            &[],
            ServiceValue::default(),
        );
        let error = lab.outside(|| ask(at(NODE, 30_080)).unwrap_err());
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
        plane.unload().await.unwrap();
    });
}

#[test]
fn past_the_socket_hooks_pods_are_balanced_packet_by_packet() {
    lab(|lab| async move {
        let plane = lab.load().await;
        open_node_ports(&plane);
        route_outside(&lab);
        let (client, other) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "other").await,
        );
        for v4 in [true, false] {
            let of = |pod: &crate::network::PodNetwork| {
                pod.addresses
                    .iter()
                    .copied()
                    .find(|a| a.is_ipv4() == v4)
                    .unwrap()
            };
            let (any, service, node) = if v4 {
                ("0.0.0.0", "10.96.0.80", NODE)
            } else {
                ("::", "fd00:96::80", NODE_V6)
            };
            // Another pod, by ClusterIP; it sees who asks.
            let (theirs, own) = (of(&other), of(&client));
            let key = |port| (address(service), port, SCOPE_INSIDE);
            expose(&plane, key(80), &[(theirs, 8080)], ServiceValue::default());
            let (listener, datagrams) = lab.in_pod(&other, move || server(socket(theirs, 8080)));
            let served = serve(listener, datagrams);
            lab.past_hooks(&client, move || visit(at(any, 0), at(service, 80)));
            assert_eq!(served.join().unwrap(), [own; 2]);
            // Itself: it sees the node.
            expose(&plane, key(81), &[(own, 8081)], ServiceValue::default());
            let (listener, datagrams) = lab.in_pod(&client, move || server(socket(own, 8081)));
            let served = serve(listener, datagrams);
            lab.past_hooks(&client, move || visit(at(any, 0), at(service, 81)));
            assert_eq!(served.join().unwrap(), [node.parse::<IpAddr>().unwrap(); 2]);
        }
        // Outside the cluster: it sees the node.
        let backends = [(ELSEWHERE.parse().unwrap(), 8080)];
        expose(
            &plane,
            (address("10.96.0.80"), 82, SCOPE_INSIDE),
            &backends,
            ServiceValue::default(),
        );
        let (listener, datagrams) = lab.outside(|| server(at(ELSEWHERE, 8080)));
        let served = serve(listener, datagrams);
        lab.past_hooks(&client, || visit(at("0.0.0.0", 0), at("10.96.0.80", 82)));
        assert_eq!(served.join().unwrap(), [NODE.parse::<IpAddr>().unwrap(); 2]);
        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

/// One backend behind two Services, one source port: both connections work at the same time.
#[test]
fn two_services_with_one_backend_do_not_mix() {
    lab(|lab| async move {
        let plane = lab.load().await;
        open_node_ports(&plane);
        let (client, other) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "other").await,
        );
        let theirs = other.addresses[0];
        for last in ["10.96.0.80", "10.96.0.81"] {
            let key = (address(last), 80, SCOPE_INSIDE);
            expose(&plane, key, &[(theirs, 8080)], ServiceValue::default());
        }
        let server = lab.in_pod(&other, move || udp(socket(theirs, 8080)));
        let served = std::thread::spawn(move || {
            let mut from = Vec::new();
            for _ in 0..2 {
                from.push(server.recv_from(&mut [0; 16]).unwrap().1);
            }
            for (number, to) in from.iter().enumerate() {
                server.send_to(&[number as u8], to).unwrap();
            }
            from
        });
        lab.past_hooks(&client, || {
            let socket = udp(at("0.0.0.0", 12_345));
            for to in ["10.96.0.80", "10.96.0.81"] {
                socket.send_to(b"?", at(to, 80)).unwrap();
            }
            let mut buffer = [0; 16];
            for (number, service) in ["10.96.0.80", "10.96.0.81"].iter().enumerate() {
                let (_, from) = socket.recv_from(&mut buffer).unwrap();
                assert_eq!((from, buffer[0]), (at(service, 80), number as u8));
            }
        });
        let from = served.join().unwrap();
        assert_eq!(from[0].port(), 12_345);
        assert_ne!(from[1].port(), 12_345);
        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

/// The next tenant of an address gets nothing of what was meant for the one before.
#[test]
fn a_pod_that_goes_takes_its_flows_along() {
    lab(|lab| async move {
        let plane = lab.load().await;
        open_node_ports(&plane);
        let pod = lab.pod(&plane, "server").await;
        let own = pod.addresses[0];
        let key = (Address::ANY_V4, 30_080, SCOPE_OUTSIDE);
        expose(&plane, key, &[(own, 8080)], ServiceValue::default());
        let listener = lab.in_pod(&pod, move || TcpListener::bind(socket(own, 8080)).unwrap());
        let served = std::thread::spawn(move || serve_once(&listener, "hello"));
        let text = lab.outside(|| ask(at(NODE, 30_080)).unwrap().1);
        assert_eq!(text, "hello");
        served.join().unwrap();
        let flows = Arc::clone(&plane.inner.state().objects.flows);
        assert_eq!(flows.entries().len(), 2);
        plane.remove_pod(&pod.interface).await.unwrap();
        assert_eq!(flows.entries().len(), 0);
        plane.unload().await.unwrap();
    });
}
