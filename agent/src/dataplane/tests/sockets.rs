//! What else sockets are told: ports of the node, affinity, source ranges, and to be left alone.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use agent_ebpf::layout::{
    AffinityKey, AffinityValue, MAX_AFFINITIES, SERVICE_SOURCE_RANGES, ServiceValue, SourceRange,
};

use super::lab::{Feed, Lab, NODE, NODE_V6, service};
use super::services::{answer, ask, backend_port, exchange, serve_once, udp};
use super::*;
use crate::cluster::{Event, Protocol};
use crate::network::PodNetwork;

fn at(address: &str) -> SocketAddr {
    address.parse().unwrap()
}

/// Ports 30080 of the node, TCP and UDP, for a pod's 8080.
async fn node_port(plane: &DataPlane, pod: &PodNetwork, host_ip: Option<&str>) {
    let ports = [Protocol::Tcp, Protocol::Udp].map(|protocol| HostPort {
        host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        port: 30_080,
        protocol,
        addresses: pod.addresses.clone(),
        container_port: 8080,
    });
    plane.set_host_ports("pod", ports.to_vec()).await;
}

/// Answers so many connections and datagrams at a pod's 8080.
fn serve(
    lab: &Lab,
    pod: &PodNetwork,
    tcp: usize,
    datagrams: usize,
) -> Vec<std::thread::JoinHandle<()>> {
    let (listener, socket) = lab.in_pod(pod, || {
        (TcpListener::bind("[::]:8080").unwrap(), udp("[::]:8080"))
    });
    let connections = std::thread::spawn(move || {
        for _ in 0..tcp {
            serve_once(&listener, "pod");
        }
    });
    vec![connections, answer(socket, "pod", datagrams)]
}

#[test]
fn a_node_port_on_loopback_is_for_the_nodes_own_processes_and_on_its_addresses_for_pods_too() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        node_port(&plane, &server, None).await;
        let node = format!("{NODE}:30080");
        let node_v6 = format!("[{NODE_V6}]:30080");
        let on_host = [
            "127.0.0.1:30080",
            "[::1]:30080",
            "[::ffff:127.0.0.1]:30080",
            "127.9.9.9:30080",
        ];
        let served = serve(&lab, &server, on_host.len() + 6, on_host.len() + 2);
        for to in on_host {
            let (peer, text) = lab.on_host(move || ask(at(to)).unwrap());
            assert_eq!((peer, text.as_str()), (at(to), "pod"), "TCP");
            let exchanged = lab.on_host(move || {
                let bind = if at(to).is_ipv4() {
                    "0.0.0.0:0"
                } else {
                    "[::]:0"
                };
                exchange(&udp(bind), at(to))
            });
            assert_eq!(exchanged, ("pod".to_owned(), at(to)), "UDP");
        }
        // The unspecified address is loopback.
        for (to, shown) in [
            ("0.0.0.0:30080", "127.0.0.1:30080"),
            ("[::]:30080", "[::1]:30080"),
        ] {
            let asked = lab.on_host(move || ask(at(to)).unwrap());
            assert_eq!(asked, (at(shown), "pod".to_owned()));
        }
        for to in [node, node_v6] {
            let to = at(&to);
            for asked in [
                lab.on_host(move || ask(to).unwrap()),
                lab.in_pod(&client, move || ask(to).unwrap()),
            ] {
                assert_eq!(asked, (to, "pod".to_owned()));
            }
            let exchanged = lab.in_pod(&client, move || {
                let bind = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                exchange(&udp(bind), to)
            });
            assert_eq!(exchanged, ("pod".to_owned(), to));
        }
        for thread in served {
            thread.join().unwrap();
        }
        // A pod's loopback is its own: nobody is there, and then its own process is.
        for to in [
            "127.0.0.1:30080",
            "[::1]:30080",
            "0.0.0.0:30080",
            "[::]:30080",
        ] {
            let refused = lab.in_pod(&client, move || ask(at(to)).unwrap_err());
            assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{to}");
            let own = lab.in_pod(&client, move || TcpListener::bind(at(to)).unwrap());
            let served = std::thread::spawn(move || serve_once(&own, "own"));
            assert_eq!(
                lab.in_pod(&client, move || ask(at(to)).unwrap().1),
                "own",
                "{to}"
            );
            served.join().unwrap();
        }
        // Nothing from outside gets to loopback addresses (CVE-2020-8558): that would need this switch.
        for interface in ["all", "default", "up0", "lo"] {
            let path = format!("/proc/sys/net/ipv4/conf/{interface}/route_localnet");
            let switch = lab.on_host(move || std::fs::read_to_string(path).unwrap());
            assert_eq!(switch.trim(), "0", "{interface}");
        }
        super::pods::assert_no_drops(&plane);
        plane.unload().await.unwrap();
    });
}

#[test]
fn a_host_port_with_an_address_is_there_only_and_goes_with_its_pod() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        node_port(&plane, &server, Some("127.0.0.1")).await;
        let served = serve(&lab, &server, 1, 0);
        assert_eq!(lab.on_host(|| ask(at("127.0.0.1:30080")).unwrap().1), "pod");
        for thread in served {
            thread.join().unwrap();
        }
        let refused = |to: &'static str| lab.on_host(move || ask(at(to)).unwrap_err().kind());
        assert_eq!(refused("127.0.0.2:30080"), ErrorKind::ConnectionRefused);
        let in_pod = lab.in_pod(&client, || ask(at("127.0.0.1:30080")).unwrap_err().kind());
        assert_eq!(in_pod, ErrorKind::ConnectionRefused);
        plane.set_host_ports("pod", Vec::new()).await;
        assert_eq!(refused("127.0.0.1:30080"), ErrorKind::ConnectionRefused);
        plane.unload().await.unwrap();
    });
}

/// A Service with ClientIP affinity and backends at far ports from 1000.
fn sticky(backends: impl Iterator<Item = u16>) -> Vec<Event> {
    let far = |port| ("10.88.0.1".parse().unwrap(), port);
    let backends: Vec<_> = backends.map(far).collect();
    let mut events = service("sticky", "10.96.0.80", 80, &backends);
    if let Event::ServiceSet(_, service) = &mut events[0] {
        service.session_affinity = Some(10);
    }
    events
}

/// The backend that a new connection of the pod gets, by its port.
fn picked(lab: &Lab, pod: &PodNetwork) -> u16 {
    lab.in_pod(pod, || {
        let socket = udp("0.0.0.0:0");
        socket.connect(at("10.96.0.80:80")).unwrap();
        backend_port(&socket)
    })
}

#[test]
fn affinity_keeps_a_client_on_its_backend_while_it_is_there() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let pods = [lab.pod(&plane, "a").await, lab.pod(&plane, "b").await];
        // More backends than are searched.
        feed.apply(true, sticky(1000..1200)).await;
        for pod in &pods {
            let first = picked(&lab, pod);
            for _ in 0..8 {
                assert_eq!(picked(&lab, pod), first);
            }
            // Datagrams of unconnected sockets, and TCP, have keys of their own or the same; never another backend.
            let again = lab.in_pod(pod, || {
                let socket = udp("0.0.0.0:0");
                socket.send_to(b"x", at("10.96.0.80:80")).unwrap();
                socket.connect(at("10.96.0.80:80")).unwrap();
                backend_port(&socket)
            });
            assert_eq!(again, first);
        }
        assert_eq!(plane.inner.state().objects.affinities.entries().len(), 2);
        let first = picked(&lab, &pods[0]);
        // Others go and come: it stays, wherever in the set it is by now.
        feed.apply(
            true,
            sticky((1000..1200).filter(|port| *port > 1020 || *port == first)),
        )
        .await;
        assert_eq!(picked(&lab, &pods[0]), first);
        feed.apply(true, sticky(990..1200)).await;
        assert_eq!(picked(&lab, &pods[0]), first);
        // Its own goes: another, and that one from then on.
        feed.apply(true, sticky((1000..1200).filter(|port| *port != first)))
            .await;
        let other = picked(&lab, &pods[0]);
        assert_ne!(other, first);
        feed.apply(true, sticky(1000..1200)).await;
        assert_eq!(picked(&lab, &pods[0]), other);
        plane.unload().await.unwrap();
    });
}

/// Makes all clients' last connections so many seconds older.
fn age(plane: &DataPlane, seconds: u32) {
    let affinities = Arc::clone(&plane.inner.state().objects.affinities);
    for (key, value) in affinities.entries() {
        let seen = value.seen - seconds;
        affinities.set(key, AffinityValue { seen, ..value });
    }
}

#[test]
fn affinity_expires_is_refreshed_and_swept() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let pod = lab.pod(&plane, "pod").await;
        feed.apply(true, sticky(1000..1004)).await;
        let entry = || plane.inner.state().objects.affinities.entries()[0].1;
        let first = picked(&lab, &pod);
        let before = entry();
        // Almost over: kept, and the time starts anew.
        age(&plane, 9);
        assert_eq!(picked(&lab, &pod), first);
        assert!(entry().seen >= before.seen, "refreshed");
        // Over: random again, so that sooner or later it is another.
        let mut others = BTreeSet::new();
        for _ in 0..64 {
            age(&plane, 11);
            let seen = entry().seen;
            others.insert(picked(&lab, &pod));
            assert!(entry().seen >= seen + 11, "kept from now on");
        }
        assert!(others.len() > 1, "{others:?}");
        upkeep::sweep_affinities(&plane.inner).await;
        let left = || plane.inner.state().objects.affinities.entries().len();
        assert_eq!(left(), 1, "it is kept");
        age(&plane, 11);
        upkeep::sweep_affinities(&plane.inner).await;
        assert_eq!(left(), 0);
        // Without the Service there is nobody to be kept on.
        picked(&lab, &pod);
        feed.apply(true, Vec::new()).await;
        upkeep::sweep_affinities(&plane.inner).await;
        assert!(plane.inner.state().objects.affinities.entries().is_empty());
        plane.unload().await.unwrap();
    });
}

#[test]
fn a_full_affinity_table_is_counted_and_refuses_nobody() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let pod = lab.pod(&plane, "pod").await;
        feed.apply(true, sticky(1000..1004)).await;
        let affinities = Arc::clone(&plane.inner.state().objects.affinities);
        for client in 0..MAX_AFFINITIES as u64 {
            affinities.set(
                AffinityKey::of_namespace(u64::MAX - client, 0),
                AffinityValue::default(),
            );
        }
        let got: BTreeSet<u16> = (0..64).map(|_| picked(&lab, &pod)).collect();
        assert!(got.len() > 1, "random: {got:?}");
        let events = plane.events();
        let full = events
            .iter()
            .find(|(name, _)| *name == "affinity_table_full");
        assert_eq!(full.unwrap().1, 64);
        plane.unload().await.unwrap();
    });
}

#[test]
fn source_ranges_hold_inside_the_cluster_too() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (one, other) = (lab.pod(&plane, "one").await, lab.pod(&plane, "other").await);
        let far = "10.88.0.1".parse().unwrap();
        feed.apply(true, service("web", "198.51.100.7", 80, &[(far, 1000)]))
            .await;
        let allow = |address: IpAddr| {
            let mut state = plane.inner.state();
            let key = ServiceKey {
                address: Address::from("198.51.100.7".parse::<IpAddr>().unwrap()),
                port: 80u16.to_be(),
                protocol: PROTOCOL_UDP,
                scope: SCOPE_INSIDE,
            };
            let Wire(value) = state.objects.services.get(&Wire(key), 0).unwrap();
            let range = SourceRange {
                service: value.service,
                address: Address::from(address),
            };
            let key_of_range = aya::maps::lpm_trie::Key::new(32 + 128, Wire(range));
            state
                .objects
                .source_ranges
                .insert(&key_of_range, 1, 0)
                .unwrap();
            let flags = SERVICE_SOURCE_RANGES;
            let value = ServiceValue { flags, ..value };
            state
                .objects
                .services
                .insert(Wire(key), Wire(value), 0)
                .unwrap();
        };
        allow(one.addresses[0]);
        let connect = || {
            UdpSocket::bind("0.0.0.0:0")
                .unwrap()
                .connect(at("198.51.100.7:80"))
        };
        assert!(lab.in_pod(&one, connect).is_ok());
        for refused in [lab.in_pod(&other, connect), lab.on_host(connect)] {
            assert_eq!(refused.unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
        let drops = plane.drops();
        let count = |name| drops.iter().find(|(reason, _)| *reason == name).unwrap().1;
        assert_eq!(count("source_range"), 2);
        allow(NODE.parse().unwrap());
        assert!(lab.on_host(connect).is_ok());
        plane.unload().await.unwrap();
    });
}

#[test]
fn an_opted_out_pods_sockets_are_left_alone() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let backends = [(server.addresses[0], 8080)];
        feed.apply(true, service("web", "10.96.0.80", 80, &backends))
            .await;
        // The port that the kernel has for a socket that is connected to the Service's port 80.
        let connected = |pod: &PodNetwork| {
            lab.in_pod(pod, || {
                let socket = udp("0.0.0.0:0");
                socket.connect(at("10.96.0.80:80")).unwrap();
                backend_port(&socket)
            })
        };
        assert_eq!(connected(&client), 8080);
        plane.opt_out(&client.interface, true).await.unwrap();
        assert_eq!(connected(&client), 80, "as the program asked");
        assert_eq!(connected(&server), 8080, "others are not concerned");
        // Its packets get there all the same.
        let served = serve(&lab, &server, 1, 1);
        let asked = lab.in_pod(&client, || ask(at("10.96.0.80:80")).unwrap());
        assert_eq!(asked, (at("10.96.0.80:80"), "pod".to_owned()));
        let exchanged = lab.in_pod(&client, || exchange(&udp("0.0.0.0:0"), at("10.96.0.80:80")));
        assert_eq!(exchanged, ("pod".to_owned(), at("10.96.0.80:80")));
        for thread in served {
            thread.join().unwrap();
        }
        // The next agent's data plane knows it from the maps, before anybody tells.
        drop((feed, plane));
        let plane = lab.load().await;
        assert_eq!(connected(&client), 80);
        plane.add_pod(&client.interface).await.unwrap();
        plane.opt_out(&client.interface, false).await.unwrap();
        assert_eq!(connected(&client), 8080);
        plane.opt_out(&client.interface, true).await.unwrap();
        plane.remove_pod(&client.interface).await.unwrap();
        assert_eq!(
            plane.inner.state().settings.opted_out,
            0,
            "gone with the pod"
        );
        plane.unload().await.unwrap();
    });
}
