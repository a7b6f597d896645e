//! Sockets to backends that are gone: those that went through the Service are closed, all others live on.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};

use agent_ebpf::layout::{ORIGIN_PLACES, OriginPlace};

use super::lab::{Feed, Lab, name, service, socket};
use super::services::{PATIENCE, answer, exchange, receive, udp};
use super::*;
use crate::cluster::Event;
use crate::network::PodNetwork;

const WEB: &str = "10.96.0.80:80";
const SHOP: &str = "10.96.0.81:80";

/// Both ends of a TCP connection.
struct Connection {
    client: TcpStream,
    server: TcpStream,
}

impl Connection {
    fn is_alive(&mut self) -> bool {
        let sent = self.server.write_all(b"x");
        let mut byte = [0];
        sent.is_ok() && self.client.read_exact(&mut byte).is_ok()
    }

    /// Waits for the end, which must be an abort.
    fn assert_closed(&mut self, what: &str) {
        let error = self.client.read(&mut [0]).expect_err(what);
        assert_eq!(
            error.kind(),
            ErrorKind::ConnectionAborted,
            "{what}: {error}"
        );
        let told = self.server.read(&mut [0]).expect_err(what);
        assert_eq!(
            told.kind(),
            ErrorKind::ConnectionReset,
            "{what}: the server is told"
        );
    }
}

fn connect(
    lab: &Lab,
    pod: Option<&PodNetwork>,
    to: SocketAddr,
    listener: &TcpListener,
) -> Connection {
    let dial = move || TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    let client = match pod {
        Some(pod) => lab.in_pod(pod, dial),
        None => lab.on_host(dial),
    };
    let server = listener.accept().unwrap().0;
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    Connection { client, server }
}

fn connected_udp(lab: &Lab, pod: &PodNetwork, to: SocketAddr) -> UdpSocket {
    lab.in_pod(pod, move || {
        let socket = udp(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" });
        socket.connect(to).unwrap();
        socket
    })
}

fn assert_closed_udp(socket: &UdpSocket) {
    let error = socket.recv(&mut [0; 4]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionAborted, "{error}");
}

/// A pod's TCP and UDP port 8080.
fn listen(lab: &Lab, pod: &PodNetwork) -> (TcpListener, UdpSocket) {
    lab.in_pod(pod, || {
        (TcpListener::bind("[::]:8080").unwrap(), udp("[::]:8080"))
    })
}

fn closed(plane: &DataPlane, what: &str) -> u64 {
    let counts = plane.inner.closing.counts.list();
    counts
        .into_iter()
        .find(|(name, _)| *name == what)
        .unwrap()
        .1
}

#[test]
fn a_removed_backend_closes_its_sockets_and_only_those() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server, other) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
            lab.pod(&plane, "other").await,
        );
        let (listener, datagrams) = listen(&lab, &server);
        let (_, other_datagrams) = listen(&lab, &other);
        let backend = server.addresses[0];
        let (web, shop): (SocketAddr, SocketAddr) = (WEB.parse().unwrap(), SHOP.parse().unwrap());
        let mut events = service("web", "10.96.0.80", 80, &[(backend, 8080)]);
        events.extend(service("shop", "10.96.0.81", 80, &[(backend, 8080)]));
        feed.apply(true, events).await;

        let mapped: SocketAddr = "[::ffff:10.96.0.80]:80".parse().unwrap();
        let direct = socket(backend, 8080);
        let tcp = |pod, to| connect(&lab, pod, to, &listener);
        let mut ended = [
            ("a pod's", tcp(Some(&client), web)),
            ("the node's", tcp(None, web)),
            ("an IPv6 socket's", tcp(Some(&client), mapped)),
            ("half closed", tcp(Some(&client), web)),
        ];
        ended[3].1.client.shutdown(Shutdown::Write).unwrap();
        let mut alive = [
            ("to the pod itself", tcp(Some(&client), direct)),
            ("to the pod itself, from the node", tcp(None, direct)),
            ("through another Service", tcp(Some(&client), shop)),
        ];
        let udp_ended = [web, mapped].map(|to| connected_udp(&lab, &client, to));
        let udp_alive = [direct, shop].map(|to| connected_udp(&lab, &client, to));
        let unconnected = lab.in_pod(&client, move || {
            let socket = udp("0.0.0.0:0");
            socket.send_to(b"?", web).unwrap();
            socket
        });
        receive(&datagrams);
        for (what, connection) in &mut alive {
            assert!(connection.is_alive(), "{what}");
        }

        let mut change = service("web", "10.96.0.80", 80, &[(other.addresses[0], 8080)]);
        change.truncate(2);
        feed.apply(false, change).await;
        // The revision is applied: it is done, not under way.
        assert_eq!(closed(&plane, "tcp_closed"), ended.len() as u64);
        assert_eq!(closed(&plane, "udp_closed"), udp_ended.len() as u64);
        for (what, connection) in &mut ended[..3] {
            connection.assert_closed(what);
        }
        udp_ended.iter().for_each(assert_closed_udp);
        for (what, connection) in &mut alive {
            assert!(connection.is_alive(), "{what}");
        }
        for socket in &udp_alive {
            socket.send(b"?").unwrap();
            assert_eq!(receive(&datagrams).0, "?");
        }
        let unconnected = lab.in_pod(&client, move || {
            unconnected.send_to(b"new", web).unwrap();
            unconnected
        });
        assert_eq!(receive(&other_datagrams).0, "new");
        // The client's end of the other Service's connection says who it is connected to, still.
        assert_eq!(
            lab.in_pod(&client, move || alive[2].1.client.peer_addr().unwrap()),
            shop
        );
        drop(unconnected);
        assert_eq!(
            closed(&plane, "failed") + closed(&plane, "unsupported_by_kernel"),
            0
        );
        plane.unload().await.unwrap();
    });
}

#[test]
fn a_backend_that_is_only_not_picked_any_more_keeps_its_tcp_connections_and_loses_its_udp() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let (listener, _datagrams) = listen(&lab, &server);
        let backend = server.addresses[0];
        let web: SocketAddr = WEB.parse().unwrap();
        feed.apply(true, service("web", "10.96.0.80", 80, &[(backend, 8080)]))
            .await;
        let mut connection = connect(&lab, Some(&client), web, &listener);
        let datagrams = connected_udp(&lab, &client, web);
        // It terminates, and another one is there.
        let far = "10.88.0.1".parse().unwrap();
        let mut change = service("web", "10.96.0.80", 80, &[(backend, 8080), (far, 8080)]);
        if let Event::SliceSet(_, slice) = &mut change[1] {
            slice.endpoints[0].ready = false;
            slice.endpoints[0].terminating = true;
        }
        feed.apply(false, change).await;
        assert_eq!(
            (closed(&plane, "tcp_closed"), closed(&plane, "udp_closed")),
            (0, 1)
        );
        assert_closed_udp(&datagrams);
        assert!(connection.is_alive());
        // It is gone.
        feed.apply(false, vec![Event::SliceRemoved(name("web-0"))])
            .await;
        connection.assert_closed("removed");
        plane.unload().await.unwrap();
    });
}

/// Takes all places for origins away, or gives them back.
fn places(plane: &DataPlane, owners: u64) {
    let mut state = plane.inner.state();
    for index in 0..ORIGIN_PLACES as u32 {
        let place = OriginPlace {
            owners,
            cookie: u64::MAX,
            ..OriginPlace::default()
        };
        state
            .objects
            .origin_places
            .set(index, Wire(place), 0)
            .unwrap();
    }
}

fn taken(plane: &DataPlane) -> usize {
    let state = plane.inner.state();
    let places = state.objects.origin_places.iter().flatten();
    places.filter(|Wire(place)| place.owners != 0).count()
}

#[test]
fn a_socket_whose_place_is_taken_is_remembered_and_closed_all_the_same() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let (listener, datagrams) = listen(&lab, &server);
        let backend = server.addresses[0];
        let web: SocketAddr = WEB.parse().unwrap();
        let set = service("web", "10.96.0.80", 80, &[(backend, 8080)]);
        feed.apply(true, set.clone()).await;
        places(&plane, 1);
        let mut connection = connect(&lab, Some(&client), web, &listener);
        assert_eq!(connection.client.peer_addr().unwrap(), web);
        let socket = connected_udp(&lab, &client, web);
        let shown = lab.in_pod(&client, move || {
            let shown = socket.peer_addr().unwrap();
            // Connected anew, to the pod itself: no longer the Service's.
            socket.connect(SocketAddr::new(backend, 8080)).unwrap();
            (shown, socket.peer_addr().unwrap(), socket)
        });
        assert_eq!((shown.0, shown.1), (web, SocketAddr::new(backend, 8080)));
        feed.apply(false, vec![Event::SliceRemoved(name("web-0"))])
            .await;
        connection.assert_closed("from the storage");
        shown.2.send(b"?").unwrap();
        assert_eq!(receive(&datagrams).0, "?");

        // Places are given back when sockets are closed.
        places(&plane, 0);
        feed.apply(false, set).await;
        let connection = connect(&lab, Some(&client), web, &listener);
        let socket = connected_udp(&lab, &client, web);
        assert_eq!(taken(&plane), 2);
        drop((connection, socket));
        // Another test may be starting a program, which has all descriptors until it is that program.
        let begun = std::time::Instant::now();
        while taken(&plane) != 0 {
            assert!(begun.elapsed() < PATIENCE, "given back");
            std::thread::yield_now();
        }
        plane.unload().await.unwrap();
    });
}

#[test]
fn one_backend_behind_two_services_from_the_same_source_port() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
        );
        let (_, datagrams) = listen(&lab, &server);
        let backend = server.addresses[0];
        let (web, shop): (SocketAddr, SocketAddr) = (WEB.parse().unwrap(), SHOP.parse().unwrap());
        let mut events = service("web", "10.96.0.80", 80, &[(backend, 8080)]);
        events.extend(service("shop", "10.96.0.81", 80, &[(backend, 8080)]));
        feed.apply(true, events).await;
        lab.in_pod(&client, move || {
            let answers = answer(datagrams, "pod", 5);
            let socket = udp("0.0.0.0:5353");
            for to in [web, shop, web, web, shop] {
                assert_eq!(exchange(&socket, to), ("pod".to_owned(), to));
            }
            answers.join().unwrap();
        });
        plane.unload().await.unwrap();
    });
}

#[test]
fn translated_udp_flows_of_a_gone_backend_are_forgotten() {
    lab(|lab| async move {
        let plane = lab.load().await;
        let mut feed = Feed::new(&plane);
        let (client, server, other) = (
            lab.pod(&plane, "client").await,
            lab.pod(&plane, "server").await,
            lab.pod(&plane, "other").await,
        );
        let (_, at_server) = listen(&lab, &server);
        let (_, at_other) = listen(&lab, &other);
        plane.opt_out(&client.interface, true).await.unwrap();
        let web: SocketAddr = WEB.parse().unwrap();
        feed.apply(
            true,
            service("web", "10.96.0.80", 80, &[(server.addresses[0], 8080)]),
        )
        .await;
        let socket = connected_udp(&lab, &client, web);
        socket.send(b"1").unwrap();
        assert_eq!(receive(&at_server).0, "1");
        let flows = || plane.inner.state().objects.flows.entries().len();
        assert_eq!(flows(), 2);
        let mut change = service("web", "10.96.0.80", 80, &[(other.addresses[0], 8080)]);
        change.truncate(2);
        feed.apply(false, change).await;
        assert_eq!(flows(), 0, "gone at once");
        // The same socket, the same packets: to where the Service leads now.
        socket.send(b"2").unwrap();
        assert_eq!(receive(&at_other).0, "2");
        plane.unload().await.unwrap();
    });
}
