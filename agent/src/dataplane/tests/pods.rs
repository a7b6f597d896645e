//! Packets of pods: to each other, to the node, to its DNS server, to the outside; and what is refused.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, UdpSocket};

use super::lab::{
    CLUSTER_DNS, DNS_LISTEN, Lab, NODE, NODE_V6, OUTSIDE, OUTSIDE_V6, run_program, socket,
};
use super::services::{ask, serve_once};
use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

pub(super) fn udp(bind: &str) -> UdpSocket {
    let socket = UdpSocket::bind(bind).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Answers one datagram with where it came from.
pub(super) fn reflect(socket: &UdpSocket) -> SocketAddr {
    let mut buffer = [0; 64];
    let (_, from) = socket.recv_from(&mut buffer).unwrap();
    socket.send_to(from.to_string().as_bytes(), from).unwrap();
    from
}

/// Sends one datagram; returns the answer and who it is from.
pub(super) fn query(socket: &UdpSocket, to: SocketAddr) -> (String, SocketAddr) {
    socket.send_to(b"?", to).unwrap();
    let mut buffer = [0; 64];
    let (length, from) = socket.recv_from(&mut buffer).unwrap();
    (
        String::from_utf8_lossy(&buffer[..length]).into_owned(),
        from,
    )
}

/// Sends an ICMP echo request; returns who answers.
pub(super) fn ping(to: &str) -> String {
    use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType};
    let raw = nix::sys::socket::socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::empty(),
        SockProtocol::Icmp,
    );
    let socket = UdpSocket::from(raw.unwrap());
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut request = [8, 0, 0, 0, 0x77, 0x66, 0, 1, b'h', b'i'];
    let checksum = agent_ebpf::checksum::checksum(&request, 0);
    request[2..4].copy_from_slice(&checksum.to_be_bytes());
    socket
        .send_to(&request, format!("{to}:0").parse::<SocketAddr>().unwrap())
        .unwrap();
    loop {
        let mut packet = [0; 128];
        let (length, from) = socket.recv_from(&mut packet).unwrap();
        let answer = &packet[20..length];
        if answer[0] == 0 && answer[4..6] == [0x77, 0x66] {
            assert_eq!(agent_ebpf::checksum::sum(answer, 0), 0xffff);
            return from.ip().to_string();
        }
    }
}

pub(super) fn count(plane: &DataPlane, reason: &str) -> u64 {
    plane
        .drops()
        .iter()
        .find(|(name, _)| *name == reason)
        .unwrap()
        .1
}

/// Nothing was dropped but what IPv6 says of itself on a link.
pub(super) fn assert_no_drops(plane: &DataPlane) {
    let dropped: Vec<_> = plane
        .drops()
        .into_iter()
        .filter(|(reason, count)| *count > 0 && *reason != "ipv6_control")
        .collect();
    assert!(dropped.is_empty(), "{dropped:?}");
}

pub(super) fn forwarded(plane: &DataPlane, to: &str) -> u64 {
    plane
        .forwards()
        .iter()
        .find(|(name, ..)| *name == to)
        .unwrap()
        .1
}

#[test]
fn pods_and_their_node_reach_each_other() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let (one, two) = (lab.pod(&plane, "one").await, lab.pod(&plane, "two").await);
        let (a, b) = (one.addresses[0], two.addresses[0]);

        let server = lab.in_pod(&two, || udp("0.0.0.0:7000"));
        let served = std::thread::spawn(move || reflect(&server));
        let (_, from) = lab.in_pod(&one, move || query(&udp("0.0.0.0:0"), socket(b, 7000)));
        assert_eq!(from, socket(b, 7000));
        assert_eq!(
            served.join().unwrap().ip(),
            a,
            "the source is the pod's own"
        );
        assert_eq!(
            forwarded(&plane, "pod"),
            2,
            "both directions past the stack"
        );

        // The node to a pod: a kubelet's probe.
        let listener = lab.in_pod(&one, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let served = std::thread::spawn(move || serve_once(&listener, "probe"));
        assert_eq!(
            lab.on_host(move || ask(socket(a, 8080)).unwrap()).1,
            "probe"
        );
        served.join().unwrap();

        // A pod to its node.
        let listener = lab.on_host(|| TcpListener::bind("0.0.0.0:6443").unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            stream.write_all(b"node").unwrap();
            from.ip()
        });
        let node: SocketAddr = format!("{NODE}:6443").parse().unwrap();
        assert_eq!(lab.in_pod(&one, move || ask(node).unwrap()).1, "node");
        assert_eq!(served.join().unwrap(), a);

        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

#[test]
fn large_packets_and_fragments_pass_between_pods() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let (one, two) = (lab.pod(&plane, "one").await, lab.pod(&plane, "two").await);
        let b = two.addresses[0];
        let server = lab.in_pod(&two, || udp("0.0.0.0:7000"));
        lab.in_pod(&one, move || {
            udp("0.0.0.0:0")
                .send_to(&[7; 9000], socket(b, 7000))
                .unwrap();
        });
        let mut buffer = vec![0; 10_000];
        assert_eq!(server.recv(&mut buffer).unwrap(), 9000);

        let listener = lab.in_pod(&two, || TcpListener::bind("0.0.0.0:8080").unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut received = Vec::new();
            stream.read_to_end(&mut received).unwrap()
        });
        lab.in_pod(&one, move || {
            let mut stream = std::net::TcpStream::connect(socket(b, 8080)).unwrap();
            stream.write_all(&vec![1; 4 << 20]).unwrap();
        });
        assert_eq!(served.join().unwrap(), 4 << 20);
        plane.unload().await.unwrap();
    });
}

fn dns_server(lab: &Lab) -> (UdpSocket, TcpListener) {
    lab.on_host(|| (udp(DNS_LISTEN), TcpListener::bind(DNS_LISTEN).unwrap()))
}

#[test]
fn queries_to_the_cluster_dns_address_are_answered_on_the_node() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let pod = lab.pod(&plane, "pod").await;
        let address = pod.addresses[0];
        let dns: SocketAddr = format!("{CLUSTER_DNS}:53").parse().unwrap();
        let (server, listener) = dns_server(&lab);
        let served = std::thread::spawn(move || {
            let from = reflect(&server);
            reflect(&server);
            serve_once(&listener, "pod by tcp");
            serve_once(&listener, "node by tcp");
            from
        });
        let (_, from) = lab.in_pod(&pod, move || query(&udp("0.0.0.0:0"), dns));
        assert_eq!(from, dns, "the answer comes from the cluster's address");
        let (_, from) = lab.on_host(move || query(&udp("0.0.0.0:0"), dns));
        assert_eq!(from, dns, "also for processes on the node");
        assert_eq!(
            lab.in_pod(&pod, move || ask(dns).unwrap()),
            (dns, "pod by tcp".to_owned())
        );
        assert_eq!(
            lab.on_host(move || ask(dns).unwrap()),
            (dns, "node by tcp".to_owned())
        );
        assert_eq!(served.join().unwrap().ip(), address);
        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

#[test]
fn pods_reach_the_outside_with_the_nodes_address_and_no_netfilter_rule() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let (one, two) = (lab.pod(&plane, "one").await, lab.pod(&plane, "two").await);

        // UDP, two pods from the same source port to the same destination.
        let server = lab.outside(|| udp("203.0.113.9:7000"));
        let served = std::thread::spawn(move || [reflect(&server), reflect(&server)]);
        let far: SocketAddr = "203.0.113.9:7000".parse().unwrap();
        for pod in [&one, &two] {
            let (_, from) = lab.in_pod(pod, move || query(&udp("0.0.0.0:12345"), far));
            assert_eq!(from, far);
        }
        let [first, second] = served.join().unwrap();
        assert_eq!(
            (first.ip().to_string(), second.ip().to_string()),
            (NODE.to_owned(), NODE.to_owned())
        );
        assert_ne!(first.port(), second.port());
        assert_eq!(first.port(), 12345, "a port in range is kept");

        // TCP, with enough data for segmentation offload to matter.
        let listener = lab.outside(|| TcpListener::bind("203.0.113.9:80").unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            stream.write_all(&vec![b'x'; 1 << 20]).unwrap();
            from.ip().to_string()
        });
        let text = lab.in_pod(&one, || ask("203.0.113.9:80".parse().unwrap()).unwrap().1);
        assert_eq!(text.len(), 1 << 20);
        assert_eq!(served.join().unwrap(), NODE);

        // ICMP echo.
        assert_eq!(lab.in_pod(&one, || ping(OUTSIDE)), OUTSIDE);

        // The node's own traffic is left alone.
        let server = lab.outside(|| udp("203.0.113.9:7001"));
        let served = std::thread::spawn(move || reflect(&server));
        let own = lab.on_host(|| {
            let socket = udp("0.0.0.0:0");
            query(&socket, "203.0.113.9:7001".parse().unwrap());
            socket.local_addr().unwrap().port()
        });
        assert_eq!(served.join().unwrap().port(), own);

        let rules = lab.on_host(|| {
            std::process::Command::new("nft")
                .args(["list", "ruleset"])
                .output()
                .unwrap()
                .stdout
        });
        assert_eq!(String::from_utf8_lossy(&rules), "");
        let forwarding = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").unwrap();
        assert_eq!(forwarding.trim(), "0", "needs no forwarding by the node");
        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

fn mac(bytes: [u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

#[test]
fn a_pod_cannot_send_as_another() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let (one, two) = (lab.pod(&plane, "one").await, lab.pod(&plane, "two").await);
        let b = two.addresses[0];
        let listening = lab.in_pod(&two, || udp("0.0.0.0:7000"));
        lab.in_pod(&one, move || {
            run_program("ip addr add 10.77.0.200/32 dev eth0");
            udp("10.77.0.200:0")
                .send_to(b"spoofed", socket(b, 7000))
                .unwrap();
        });
        assert_eq!(count(&plane, "spoofed_address"), 1);
        let gateway = mac(one.interface.host_mac);
        lab.in_pod(&one, move || {
            run_program("ip link set eth0 address 06:00:00:00:00:01");
            run_program(&format!(
                "ip neigh replace 169.254.1.1 lladdr {gateway} dev eth0 nud permanent"
            ));
            udp("0.0.0.0:0")
                .send_to(b"spoofed", socket(b, 7000))
                .unwrap();
        });
        assert_eq!(count(&plane, "spoofed_mac"), 1);
        listening.set_nonblocking(true).unwrap();
        assert!(listening.recv(&mut [0; 16]).is_err(), "nothing arrived");
        plane.unload().await.unwrap();
    });
}

#[test]
fn what_leads_nowhere_is_counted_under_its_name() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let one = lab.pod(&plane, "one").await;
        lab.in_pod(&one, || {
            let socket = udp("0.0.0.0:0");
            socket.send_to(b"x", "10.77.0.99:1").unwrap();
        });
        assert_eq!(count(&plane, "no_such_pod"), 1);
        run_program("ip route replace blackhole 203.0.113.0/24");
        lab.in_pod(&one, || {
            let socket = udp("0.0.0.0:0");
            socket.send_to(b"x", "203.0.113.9:1").unwrap();
        });
        assert_eq!(count(&plane, "no_route"), 1);

        run_program("ip route del default");
        let error = lab.in_pod(&one, || ask("198.51.100.1:1".parse().unwrap()).unwrap_err());
        assert_eq!(
            error.kind(),
            std::io::ErrorKind::NetworkUnreachable,
            "the node's stack says so: {error}"
        );
        plane.unload().await.unwrap();
    });
}

#[test]
fn everything_works_with_ipv6() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = super::lab::Feed::new(&plane);
        let (one, two) = (lab.pod(&plane, "one").await, lab.pod(&plane, "two").await);
        let (a, b) = (one.addresses[1], two.addresses[1]);
        assert!(a.is_ipv6() && b.is_ipv6());
        let events = super::lab::service("web", "fd00:96::50", 80, &[(b, 7000)]);
        feed.apply(true, events).await;

        let server = lab.in_pod(&two, || udp("[::]:7000"));
        let served = std::thread::spawn(move || [reflect(&server), reflect(&server)]);
        let (_, from) = lab.in_pod(&one, move || query(&udp("[::]:0"), socket(b, 7000)));
        assert_eq!(from, socket(b, 7000), "pod to pod");
        let at: SocketAddr = "[fd00:96::50]:80".parse().unwrap();
        let (_, from) = lab.in_pod(&one, move || query(&udp("[::]:0"), at));
        assert_eq!(from, at, "through a ClusterIP");
        assert!(served.join().unwrap().iter().all(|from| from.ip() == a));

        let listener = lab.in_pod(&one, || TcpListener::bind("[::]:8080").unwrap());
        let served = std::thread::spawn(move || serve_once(&listener, "probe"));
        assert_eq!(
            lab.on_host(move || ask(socket(a, 8080)).unwrap()).1,
            "probe"
        );
        served.join().unwrap();

        let listener = lab.on_host(|| TcpListener::bind("[::]:6443").unwrap());
        let served = std::thread::spawn(move || serve_once(&listener, "node"));
        let node: SocketAddr = format!("[{NODE_V6}]:6443").parse().unwrap();
        assert_eq!(lab.in_pod(&one, move || ask(node).unwrap()).1, "node");
        served.join().unwrap();

        let listener = lab.outside(|| TcpListener::bind("[::]:80").unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, from) = listener.accept().unwrap();
            stream.write_all(&vec![b'x'; 1 << 20]).unwrap();
            from.ip().to_string()
        });
        let far: SocketAddr = format!("[{OUTSIDE_V6}]:80").parse().unwrap();
        assert_eq!(lab.in_pod(&one, move || ask(far).unwrap().1).len(), 1 << 20);
        assert_eq!(served.join().unwrap(), NODE_V6, "masqueraded");

        assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}
