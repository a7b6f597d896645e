//! Packets between nodes: every pair of pod and node, both families, both modes; what is too large, what is forged,
//! and nodes that come, go and move.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;

use super::cluster::{Cluster, Member, Setting, Underlay, cluster};
use super::lab::{run_program, socket};
use super::pods::{count, forwarded, query, reflect, udp};
use super::*;
use crate::cluster::{Event, Node};

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
    let bound = server.run(cluster, move || udp(&any(v4, 0)));
    let at = socket(to, bound.local_addr().unwrap().port());
    let served = std::thread::spawn(move || {
        let seen = reflect(&bound);
        let mut large = vec![0; 10_000];
        let length = bound.recv(&mut large).unwrap();
        (seen, length)
    });
    let (_, answered) = client.run(cluster, move || {
        let socket = udp(&any(v4, 0));
        let answer = query(&socket, at);
        socket.send_to(&[7; 9000], at).unwrap();
        answer
    });
    assert_eq!(answered, at, "{what}");
    let (seen, length) = served.join().unwrap_or_else(|_| panic!("{what}"));
    assert_eq!(seen.ip(), from, "{what}: the source is its own");
    assert_eq!(length, 9000, "{what}: in fragments");
    assert_eq!(
        transfer(cluster, client, server, to).ip(),
        from,
        "{what}: by TCP"
    );
}

/// A megabyte each way; returns whom the server sees.
fn transfer(cluster: &Cluster, client: &Party, server: &Party, to: IpAddr) -> SocketAddr {
    let listener = server.run(cluster, move || {
        TcpListener::bind(any(to.is_ipv4(), 0)).unwrap()
    });
    let at = socket(to, listener.local_addr().unwrap().port());
    let served = std::thread::spawn(move || take(&listener));
    client.run(cluster, move || bulk(at));
    served.join().unwrap()
}

const PATIENCE: Duration = Duration::from_secs(10);

/// Sends back what one client sends.
pub(super) fn take(listener: &TcpListener) -> SocketAddr {
    let (mut stream, seen) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut got = vec![0; BULK];
    stream.read_exact(&mut got).unwrap();
    stream.write_all(&got).unwrap();
    seen
}

pub(super) fn bulk(to: SocketAddr) {
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

/// Until a condition that nobody tells of holds.
pub(super) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !holds() {
        assert!(std::time::Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A pod's packets are larger than what carries them: its sender learns the size, and all that may be cut is.
fn sizes_are_learned(setting: Setting) {
    cluster(setting, |cluster| {
        let (one, two) = (pod(cluster.node(1), "pod"), pod(cluster.node(2), "pod"));
        if cluster.setting.routing == Routing::Native {
            // Smaller since the pods were made.
            for member in &cluster.members {
                member.on_host(|| run_program("ip link set up0 mtu 1400"));
                let mut mtu = member.plane().pod_mtu();
                member.run(async move {
                    mtu.wait_for(|mtu| *mtu == 1400).await.unwrap();
                });
            }
        }
        for v4 in [true, false] {
            let address = two.address(v4).unwrap();
            assert_eq!(one.run(cluster, move || path_mtu(address)), 1500);
            for (from, to) in [(&one, &two), (&two, &one)] {
                let address = to.address(v4).unwrap();
                // TCP finds out, and sends again; so that what a datagram is cut to is right from the start.
                transfer(cluster, from, to, address);
                assert_eq!(
                    from.run(cluster, move || path_mtu(address)),
                    expected(cluster)
                );
            }
            talk(cluster, &one, &two, v4);
            talk(cluster, &two, &one, v4);
        }
        for member in &cluster.members {
            assert!(count(member.plane(), "too_big") > 0);
        }
        cluster.unload();
    });
}

fn expected(cluster: &Cluster) -> u32 {
    match cluster.setting.routing {
        Routing::Overlay => 1450,
        Routing::Native => 1400,
    }
}

/// What the kernel has learned of the way to an address (`IP_MTU` of a connected socket).
pub(super) fn path_mtu(to: IpAddr) -> u32 {
    use std::os::fd::AsRawFd as _;
    let socket_ = udp(&any(to.is_ipv4(), 0));
    socket_.connect(socket(to, 9)).unwrap();
    let (level, name) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU),
    };
    let mut mtu = 0u32;
    let mut length = size_of::<u32>() as libc::socklen_t;
    // SAFETY: the descriptor is open, the buffer has the length that is passed.
    let result = unsafe {
        libc::getsockopt(
            socket_.as_raw_fd(),
            level,
            name,
            (&raw mut mtu).cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    mtu
}

#[test]
fn path_mtu_is_learned_over_the_overlay() {
    sizes_are_learned(Setting {
        pod_mtu: Some(1500),
        ..Setting::default()
    });
}

#[test]
fn path_mtu_is_learned_natively() {
    sizes_are_learned(Setting {
        routing: Routing::Native,
        ..Setting::default()
    });
}

#[test]
fn a_node_that_goes_is_forgotten_and_one_that_comes_is_reached() {
    for routing in [Routing::Overlay, Routing::Native] {
        let setting = Setting {
            routing,
            ..Setting::default()
        };
        cluster(setting, |cluster| {
            let (one, two) = (pod(cluster.node(1), "pod"), pod(cluster.node(2), "pod"));
            talk(cluster, &one, &two, true);
            cluster
                .node_mut(1)
                .tell(false, vec![Event::NodeRemoved("node2".to_owned())]);
            let to = two.address(true).unwrap();
            one.run(cluster, move || {
                udp(&any(true, 0)).send_to(b"x", socket(to, 9)).unwrap();
            });
            assert_eq!(count(cluster.node(1).plane(), "no_such_pod"), 1);
            if cluster.setting.routing == Routing::Native {
                assert_eq!(own_routes(cluster.node(1)), Vec::<String>::new());
            }
            let event = cluster.event(2);
            cluster.node_mut(1).tell(false, vec![event]);
            talk(cluster, &one, &two, true);
            talk(cluster, &two, &one, false);
            cluster.unload();
        });
    }
}

#[test]
fn a_node_that_gets_another_address_is_followed() {
    for routing in [Routing::Overlay, Routing::Native] {
        let setting = Setting {
            routing,
            ..Setting::default()
        };
        cluster(setting, |cluster| {
            let (one, two) = (pod(cluster.node(1), "pod"), pod(cluster.node(2), "pod"));
            talk(cluster, &one, &two, true);
            // The uplink of node 2 gets new addresses: its own data plane notices, and says so.
            let new: [IpAddr; 2] = [
                "192.0.2.77".parse().unwrap(),
                "2001:db8::77".parse().unwrap(),
            ];
            let member = cluster.node(2);
            let mut addresses = member.plane().node_addresses();
            member.on_host(|| {
                run_program("ip addr flush dev up0 scope global");
                run_program("ip addr add 192.0.2.77/24 dev up0");
                run_program("ip addr add 2001:db8::77/64 dev up0 nodad");
            });
            member.run(async move {
                let told = addresses.wait_for(|addresses| **addresses == new);
                tokio::time::timeout(PATIENCE, told).await.unwrap().unwrap();
            });
            let locals = member.plane().inner.state().reached.locals.clone();
            assert!(
                new.iter().all(|address| locals.contains(address)),
                "{locals:?}"
            );
            assert!(
                !locals.contains(&super::cluster::address_v4(2)),
                "{locals:?}"
            );
            // And every node is told.
            let event = Event::NodeSet(
                "node2".to_owned(),
                Node {
                    internal_ips: new.to_vec(),
                    pod_cidrs: member.ranges(),
                    zone: None,
                },
            );
            for member in &mut cluster.members {
                member.tell(false, vec![event.clone()]);
            }
            for v4 in [true, false] {
                talk(cluster, &one, &two, v4);
                talk(cluster, &two, &one, v4);
            }
            let two = Party {
                addresses: new.to_vec(),
                ..host(cluster, 2)
            };
            talk(cluster, &one, &two, true);
            talk(cluster, &two, &one, false);
            cluster.unload();
        });
    }
}

#[test]
fn an_uplink_that_vanishes_and_comes_back_is_taken_up_again() {
    for routing in [Routing::Overlay, Routing::Native] {
        let setting = Setting {
            routing,
            ..Setting::default()
        };
        cluster(setting, |cluster| {
            let (one, two) = (pod(cluster.node(1), "pod"), pod(cluster.node(2), "pod"));
            talk(cluster, &one, &two, true);
            let member = cluster.node(1);
            let uplink = || member.plane().inner.state().reached.uplink.clone();
            let before = uplink().unwrap();
            member.on_host(|| run_program("ip link del up0"));
            eventually("the uplink's end is noticed", || uplink().is_none());
            assert_eq!(member.plane().inner.state().settings.uplink, 0);
            member.connect(cluster);
            let index = || uplink().map(|at| at.index);
            eventually("the new uplink is noticed", || {
                index().is_some_and(|at| at != before.index)
            });
            let addresses = cluster.setting.addresses(1);
            eventually("its addresses are noticed", || {
                let state = member.plane().inner.state();
                addresses
                    .iter()
                    .all(|address| state.reached.locals.contains(address))
                    && !state.settings.node_v6.is_unspecified()
            });
            let routes = || own_routes(member).len();
            eventually("routes are back", || routes() == 2);
            let attached: Vec<String> = member
                .plane()
                .attachments()
                .into_iter()
                .filter(|at| at.program.starts_with("uplink"))
                .map(|at| at.hook)
                .collect();
            assert_eq!(attached, ["tcx ingress up0", "tcx egress up0"]);
            for v4 in [true, false] {
                talk(cluster, &one, &two, v4);
                talk(cluster, &two, &one, v4);
            }
            // The outside as well.
            let far = cluster.in_fabric(|| udp(&format!("{}:7000", super::cluster::FAR)));
            let served = std::thread::spawn(move || reflect(&far).ip());
            let to: SocketAddr = format!("{}:7000", super::cluster::FAR).parse().unwrap();
            one.run(cluster, move || query(&udp(&any(true, 0)), to));
            assert_eq!(served.join().unwrap(), super::cluster::address_v4(1));
            cluster.unload();
        });
    }
}

#[test]
fn a_restart_makes_no_gap_between_nodes() {
    for routing in [Routing::Overlay, Routing::Native] {
        let setting = Setting {
            routing,
            ..Setting::default()
        };
        cluster(setting, |cluster| {
            let (one, two) = (pod(cluster.node(1), "pod"), pod(cluster.node(2), "pod"));
            let to = two.address(true).unwrap();
            let listener = two.run(cluster, || TcpListener::bind(any(true, 0)).unwrap());
            let at = socket(to, listener.local_addr().unwrap().port());
            let served = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() {
                    stream.write_all(&byte).unwrap();
                }
            });
            let mut stream = one.run(cluster, move || TcpStream::connect(at).unwrap());
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let mut say = |what: &str| {
                stream.write_all(b"x").unwrap();
                stream
                    .read_exact(&mut [0])
                    .unwrap_or_else(|error| panic!("{what}: {error}"));
            };
            say("at first");
            let device = |member: &Member| {
                member.on_host(|| {
                    let links = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
                    let name = links.lines().find_map(|line| {
                        let name = line.trim().split(':').next().unwrap();
                        name.starts_with("waggle-").then(|| name.to_owned())
                    });
                    name.map(|name| nix::net::if_::if_nametoindex(name.as_str()).unwrap())
                })
            };
            let before = (device(cluster.node(1)), own_routes(cluster.node(1)));
            let is_overlay = cluster.setting.routing == Routing::Overlay;
            assert_eq!(before.0.is_some(), is_overlay);
            assert_eq!(before.1.len(), 2);
            // Every change of routes from here on is written down.
            let watched = routes_watched(cluster.node(1));
            cluster.node_mut(1).leave();
            say("without agent");
            cluster.node_mut(1).load();
            say("before the agent knows any node");
            talk(cluster, &one, &two, true);
            talk(cluster, &two, &one, false);
            let events = vec![cluster.event(1), cluster.event(2)];
            cluster.node_mut(1).tell(true, events);
            say("after the full state");
            assert_eq!(
                (device(cluster.node(1)), own_routes(cluster.node(1))),
                before
            );
            assert_eq!(watched(), Vec::<String>::new(), "routes were left alone");
            drop(stream);
            served.join().unwrap();
            cluster.assert_no_drops();
            cluster.unload();
        });
    }
}

/// Starts writing down changes of our routes; the result stops it and says what they were.
fn routes_watched(member: &Member) -> impl FnOnce() -> Vec<String> + use<> {
    use nix::sys::socket::{
        AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
    };
    use std::os::fd::AsRawFd as _;
    let socket = member.on_host(|| {
        let flags = SockFlag::SOCK_NONBLOCK;
        let family = AddressFamily::Netlink;
        let socket = socket(family, SockType::Raw, flags, SockProtocol::NetlinkRoute).unwrap();
        // RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_ROUTE
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0x40 | 0x400)).unwrap();
        socket
    });
    move || {
        let mut changes = Vec::new();
        let mut buffer = [0u8; 8192];
        while let Ok(length) = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            // rtmsg begins behind the 16 bytes of nlmsghdr; its sixth byte is the protocol.
            if length > 21 && buffer[21] == 0x77 {
                changes.push(format!("{:?}", &buffer[..length]));
            }
        }
        changes
    }
}

/// A packet in VXLAN.
fn wrapped(vni: u32, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![8, 0, 0, 0];
    bytes.extend((vni << 8).to_be_bytes());
    bytes.extend(inner);
    bytes
}

#[test]
fn nobody_speaks_through_the_tunnel_for_somebody_else() {
    let setting = Setting {
        nodes: 3,
        ..Setting::default()
    };
    cluster(setting, |cluster| {
        let (one, two) = (pod(cluster.node(1), "pod"), pod(cluster.node(2), "pod"));
        let three = pod(cluster.node(3), "pod");
        let server = one.run(cluster, || udp(&any(true, 7000)));
        let text = |party: &Party| party.address(true).unwrap().to_string();
        let (to, of_two, of_three) = (text(&one), text(&two), text(&three));
        let speak = |source: &str, vni: u32| {
            let l4 = super::packets::L4::Udp(5000, 7000, b"hello".to_vec());
            wrapped(vni, &super::packets::packet(source, &to, &l4))
        };
        let tunnel: SocketAddr = format!("192.0.2.1:{VXLAN_PORT}").parse().unwrap();
        let send = move |bytes: Vec<u8>| {
            move || {
                let sent = UdpSocket::bind("0.0.0.0:0")
                    .unwrap()
                    .send_to(&bytes, tunnel);
                sent.unwrap();
            }
        };
        let vni = agent_ebpf::overlay::VNI;
        let refused = || count(cluster.node(1).plane(), "unknown_tunnel_peer");
        let node_two = host(cluster, 2);
        let mut expected = 0;
        let mut check = |what: &str, sent: &dyn Fn()| {
            sent();
            expected += 1;
            eventually(what, || refused() == expected);
        };
        check("no node at all", &|| {
            cluster.in_fabric(send(speak(&of_two, vni)))
        });
        check("a node, for another's pod", &|| {
            node_two.run(cluster, send(speak(&of_three, vni)));
        });
        check("a node, for another node", &|| {
            node_two.run(cluster, send(speak("192.0.2.3", vni)));
        });
        check("a node, for a pod of the receiver's", &|| {
            node_two.run(cluster, send(speak("10.77.1.200", vni)));
        });
        check("a node, for the outside", &|| {
            node_two.run(cluster, send(speak("198.51.100.1", vni)));
        });
        check("another network", &|| {
            node_two.run(cluster, send(speak(&of_two, vni + 1)))
        });
        check("a pod elsewhere, by itself", &|| {
            two.run(cluster, send(speak(&of_two, vni)));
        });
        check("a pod here, by itself", &|| {
            one.run(cluster, send(speak(&of_two, vni)));
        });
        server.set_nonblocking(true).unwrap();
        assert!(server.recv(&mut [0; 64]).is_err(), "nothing got through");
        // The same bytes from where they belong do.
        server.set_nonblocking(false).unwrap();
        node_two.run(cluster, send(speak(&of_two, vni)));
        let (_, from) = server.recv_from(&mut [0; 64]).unwrap();
        assert_eq!(from, format!("{of_two}:5000").parse().unwrap());
        assert_eq!(refused(), expected);

        // Past the tunnel, as it were a native network.
        let before = count(cluster.node(1).plane(), "spoofed_address");
        let forged = of_two.clone();
        cluster.in_fabric(move || {
            run_program(&format!("ip addr add {forged}/32 dev lo"));
            let socket = UdpSocket::bind((forged.as_str(), 0)).unwrap();
            socket.send_to(b"x", "192.0.2.1:9").unwrap();
        });
        eventually("a pod's address at the uplink", || {
            count(cluster.node(1).plane(), "spoofed_address") == before + 1
        });
        cluster.unload();
    });
}

#[test]
fn an_overlay_device_that_is_not_as_it_has_to_be_is_made_anew_and_one_that_is_deleted_comes_back() {
    cluster(Setting::default(), |cluster| {
        let (one, two) = (pod(cluster.node(1), "pod"), pod(cluster.node(2), "pod"));
        talk(cluster, &one, &two, true);
        let name = crate::dataplane::overlay::name(&cluster.node(1).config.pin_dir);
        let deleted = name.clone();
        let index = |member: &Member| member.plane().inner.state().settings.overlay;
        let before = index(cluster.node(1));
        cluster
            .node(1)
            .on_host(move || run_program(&format!("ip link del {deleted}")));
        let member = cluster.node(1);
        eventually("the device is back", || {
            index(member) != before && own_routes(member).len() == 2
        });
        talk(cluster, &one, &two, true);
        talk(cluster, &two, &one, false);
        // While no agent is there, somebody puts another device in its place; the port changes on all nodes.
        for number in [1, 2] {
            let member = cluster.node_mut(number);
            member.leave();
            member.config.vxlan_port = 4789;
            let name = crate::dataplane::overlay::name(&member.config.pin_dir);
            if number == 2 {
                member.on_host(move || {
                    run_program(&format!("ip link del {name}"));
                    run_program(&format!("ip link add {name} type vxlan id 5 dstport 4790"));
                });
            }
            member.load();
        }
        talk(cluster, &one, &two, true);
        talk(cluster, &two, &one, false);
        cluster.unload();
    });
}
