//! Services at the socket.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};

use super::lab::{Feed, service, socket};
use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

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
        assert!(
            plane.drops().iter().all(|(_, count)| *count == 0),
            "{:?}",
            plane.drops()
        );
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
