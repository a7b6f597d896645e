//! Packets between nodes: every pair of pod and node, both families, both modes; what is too large, what is forged,
//! and nodes that come, go and move.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;

use super::cluster::{Cluster, Member, Setting, Underlay, cluster};
use super::lab::{run_program, socket};
use super::pods::{count, forwarded, query, reflect, udp};
use super::*;

/// Somebody with addresses: a pod, or a node.
#[derive(Clone)]
struct Party {
    node: u8,
    netns: PathBuf,
    addresses: Vec<IpAddr>,
    what: String,
}

fn pod(member: &Member, uid: &str) -> Party {
    let network = member.pod(uid);
    Party {
        node: member.number,
        netns: network.netns,
        addresses: network.addresses,
        what: format!("{uid} on node{}", member.number),
    }
}

fn host(cluster: &Cluster, number: u8) -> Party {
    Party {
        node: number,
        netns: cluster.node(number).netns.clone(),
        addresses: cluster.setting.addresses(number),
        what: format!("node{number}"),
    }
}

impl Party {
    fn address(&self, v4: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|at| at.is_ipv4() == v4)
    }

    fn start<T: Send + 'static>(
        &self,
        cluster: &Cluster,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> super::lab::Background<T> {
        cluster.node(self.node).start_in(&self.netns, work)
    }

    fn run<T: Send + 'static>(
        &self,
        cluster: &Cluster,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        self.start(cluster, work).wait()
    }
}

fn any(v4: bool, port: u16) -> String {
    if v4 {
        format!("0.0.0.0:{port}")
    } else {
        format!("[::]:{port}")
    }
}

const BULK: usize = 1 << 20;

/// A datagram there and back, one larger than any MTU, and a megabyte each way over TCP. The server sees the
/// client's own address.
fn talk(cluster: &Cluster, client: &Party, server: &Party, v4: bool) {
    let (Some(from), Some(to)) = (client.address(v4), server.address(v4)) else {
        return;
    };
    let what = format!("{} to {} ({from} to {to})", client.what, server.what);
    let bound = server.run(cluster, move || udp(&any(v4, 7000)));
    let served = std::thread::spawn(move || {
        let seen = reflect(&bound);
        let mut large = vec![0; 10_000];
        let length = bound.recv(&mut large).unwrap();
        (seen, length)
    });
    let (_, answered) = client.run(cluster, move || {
        let socket_ = udp(&any(v4, 0));
        let answer = query(&socket_, socket(to, 7000));
        socket_.send_to(&[7; 9000], socket(to, 7000)).unwrap();
        answer
    });
    assert_eq!(answered, socket(to, 7000), "{what}");
    let (seen, length) = served.join().unwrap_or_else(|_| panic!("{what}"));
    assert_eq!(seen.ip(), from, "{what}: the source is its own");
    assert_eq!(length, 9000, "{what}: in fragments");

    let listener = server.run(cluster, move || TcpListener::bind(any(v4, 7001)).unwrap());
    let served = std::thread::spawn(move || {
        let (mut stream, seen) = listener.accept().unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut got = vec![0; BULK];
        stream.read_exact(&mut got).unwrap();
        stream.write_all(&got).unwrap();
        seen
    });
    client.run(cluster, move || bulk(socket(to, 7001)));
    assert_eq!(served.join().unwrap().ip(), from, "{what}: by TCP");
}

const PATIENCE: Duration = Duration::from_secs(10);

fn bulk(to: SocketAddr) {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(&vec![1; BULK]).unwrap();
    stream.read_exact(&mut vec![0; BULK]).unwrap();
}

/// Every pod and node with every other, both ways, both families.
fn everybody_talks(setting: Setting) {
    cluster(setting, |cluster| {
        let pods: Vec<Party> = cluster.members.iter().map(|at| pod(at, "pod")).collect();
        let hosts = [host(cluster, 1), host(cluster, 2)];
        for v4 in [true, false] {
            for (one, two) in [
                (&pods[0], &pods[1]),
                (&pods[0], &hosts[1]),
                (&hosts[0], &pods[1]),
                (&pods[0], &hosts[0]),
            ] {
                talk(cluster, one, two, v4);
                talk(cluster, two, one, v4);
            }
        }
        let kind = match cluster.setting.routing {
            Routing::Overlay => "overlay",
            Routing::Native => "native",
        };
        for member in &cluster.members {
            assert!(forwarded(member.plane(), kind) > 0, "by {kind}");
            assert_eq!(forwarded(member.plane(), "uplink"), 0, "no masquerade");
        }
        cluster.assert_no_drops();
        cluster.unload();
        for member in &cluster.members {
            let left = member.on_host(|| {
                let output = std::process::Command::new("ip")
                    .args(["-o", "link"])
                    .output();
                String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
            });
            assert!(!left.contains("waggle-"), "{left}");
            assert_eq!(own_routes(member), Vec::<String>::new());
        }
    });
}

fn own_routes(member: &Member) -> Vec<String> {
    member.on_host(|| {
        ["-4", "-6"]
            .iter()
            .flat_map(|family| {
                let output = std::process::Command::new("ip")
                    .args([family, "route", "show", "proto", "119"])
                    .output()
                    .unwrap();
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                text.lines().map(str::to_owned).collect::<Vec<_>>()
            })
            .collect()
    })
}

#[test]
fn everybody_reaches_everybody_over_the_overlay() {
    everybody_talks(Setting::default());
}

#[test]
fn everybody_reaches_everybody_over_an_ipv4_underlay() {
    everybody_talks(Setting {
        underlay: Underlay::V4,
        ..Setting::default()
    });
}

#[test]
fn everybody_reaches_everybody_over_an_ipv6_underlay() {
    everybody_talks(Setting {
        underlay: Underlay::V6,
        ..Setting::default()
    });
}

#[test]
fn everybody_reaches_everybody_natively() {
    everybody_talks(Setting {
        routing: Routing::Native,
        ..Setting::default()
    });
}

#[test]
fn jumbo_frames_are_used_where_the_network_carries_them() {
    for (routing, expected) in [(Routing::Overlay, 8950), (Routing::Native, 9000)] {
        let setting = Setting {
            routing,
            mtu: 9000,
            ..Setting::default()
        };
        cluster(setting, move |cluster| {
            assert_eq!(*cluster.node(1).plane().pod_mtu().borrow(), expected);
            let (one, two) = (pod(cluster.node(1), "pod"), pod(cluster.node(2), "pod"));
            let mtu = one.run(cluster, || {
                std::fs::read_to_string("/sys/class/net/eth0/mtu").unwrap_or_default()
            });
            let _ = mtu;
            talk(cluster, &one, &two, true);
            talk(cluster, &two, &one, false);
            cluster.assert_no_drops();
            cluster.unload();
        });
    }
}
