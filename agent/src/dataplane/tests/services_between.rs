//! Services whose backend is on another node than the one that is asked: over the overlay, natively, and with the
//! backend's node answering directly.

use std::net::TcpStream;

use agent_ebpf::layout::{SCOPE_INSIDE, SCOPE_LOCAL, SCOPE_OUTSIDE, ServiceValue};

use super::cluster::{Cluster, Setting, address_v4, address_v6, cluster};
use super::lab::{Background, socket};
use super::north_south::{at, expose, open_node_ports, serve, server, udp, visit};
use super::*;
use crate::network::PodNetwork;

/// The fabric's own addresses: a client outside of the cluster.
const OUTSIDE: [&str; 2] = ["192.0.2.254", "2001:db8::fe"];

fn of(pod: &PodNetwork, v4: bool) -> IpAddr {
    let mut addresses = pod.addresses.iter().copied();
    addresses.find(|address| address.is_ipv4() == v4).unwrap()
}

/// Packets that a node sent on, by kind.
fn forwarded(cluster: &Cluster, node: u8, kind: &str) -> u64 {
    let forwards = cluster.node(node).plane().forwards();
    forwards.iter().find(|(name, ..)| *name == kind).unwrap().1
}

/// From outside to the node port of node 1, whose backend is a pod of node 2.
fn from_outside_to_another_node(setting: Setting) {
    cluster(setting, |cluster| {
        let pod = cluster.node(2).pod("server");
        for member in &cluster.members {
            open_node_ports(member.plane());
        }
        if cluster.setting.xdp == Xdp::On {
            let attachments = cluster.node(1).plane().attachments();
            assert!(
                attachments.iter().any(|at| at.hook == "xdp up0"),
                "{attachments:?}"
            );
            // A veth sends from XDP only to an end that polls (GRO), and has no checksums of what its other end left
            // to a card.
            const ETHTOOL_STXCSUM: u32 = 0x17;
            const ETHTOOL_SGRO: u32 = 0x2c;
            cluster.in_fabric(|| {
                set_offload("port1", ETHTOOL_SGRO, 1);
                set_offload("port1", ETHTOOL_STXCSUM, 0);
            });
        }
        for (v4, any, client, asked) in [
            (true, Address::ANY_V4, OUTSIDE[0], address_v4(1)),
            (false, Address::ANY_V6, OUTSIDE[1], address_v6(1)),
        ] {
            let backend = of(&pod, v4);
            let port = if v4 { 8080 } else { 8081 };
            let backends = [(backend, port)];
            let value = ServiceValue::default();
            let plane = cluster.node(1).plane();
            expose(plane, (any, 30_080, SCOPE_OUTSIDE), &backends, value);
            let plane = cluster.node(2).plane();
            expose(plane, (any, 30_080, SCOPE_LOCAL), &backends, value);
            let node = cluster.node(2);
            let (listener, datagrams) = node
                .start_in(&pod.netns, move || server(socket(backend, port)))
                .wait();
            let served = serve(listener, datagrams);
            cluster.in_fabric(move || visit(at(client, 0), socket(asked, 30_080)));
            let seen = served.join().unwrap();
            let expected: IpAddr = match cluster.setting.north_south {
                NorthSouth::Snat => asked,
                NorthSouth::Dsr => client.parse().unwrap(),
            };
            assert_eq!(seen, [expected; 2]);
            // Nobody listens any more: the client is told so, by TCP and by UDP.
            let refused = cluster.in_fabric(move || {
                let error = TcpStream::connect(socket(asked, 30_080)).unwrap_err();
                let datagrams = udp(at(client, 0));
                datagrams.connect(socket(asked, 30_080)).unwrap();
                datagrams.send(b"?").unwrap();
                [error, datagrams.recv(&mut [0; 8]).unwrap_err()]
            });
            for error in refused {
                assert_eq!(
                    error.kind(),
                    std::io::ErrorKind::ConnectionRefused,
                    "{error}"
                );
            }
        }
        if cluster.setting.north_south == NorthSouth::Dsr {
            assert!(forwarded(cluster, 2, "service_local") > 0);
            assert_eq!(forwarded(cluster, 1, "service_return"), 0);
        } else if cluster.setting.xdp == Xdp::On {
            // All but what came before the neighbours were known.
            let (turned, rest) = ("xdp", "service_return");
            assert!(forwarded(cluster, 1, turned) > forwarded(cluster, 1, rest));
        } else {
            assert!(forwarded(cluster, 1, "service_return") > 0);
        }
        cluster.assert_no_drops();
        cluster.unload();
    });
}

/// Sets what a card of a veth's other end does by itself (`SIOCETHTOOL`).
fn set_offload(interface: &str, command: u32, value: u32) {
    use std::os::fd::AsRawFd as _;
    #[repr(C)]
    struct Request {
        name: [u8; 16],
        data: *mut [u32; 2],
        rest: [u64; 2],
    }
    const SIOCETHTOOL: libc::c_ulong = 0x8946;
    let mut setting = [command, value];
    let mut request = Request {
        name: [0; 16],
        data: &raw mut setting,
        rest: [0; 2],
    };
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    let any = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // SAFETY: a request of the size that the kernel reads, whose data outlives the call.
    let result = unsafe { libc::ioctl(any.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
}

#[test]
fn a_node_port_leads_to_a_pod_of_another_node_in_the_driver() {
    from_outside_to_another_node(Setting {
        routing: Routing::Native,
        xdp: Xdp::On,
        ..Setting::default()
    });
}

#[test]
fn a_node_port_leads_to_a_pod_of_another_node_over_the_overlay() {
    from_outside_to_another_node(Setting::default());
}

#[test]
fn a_node_port_leads_to_a_pod_of_another_node_natively() {
    from_outside_to_another_node(Setting {
        routing: Routing::Native,
        ..Setting::default()
    });
}

#[test]
fn the_backends_node_answers_directly() {
    from_outside_to_another_node(Setting {
        north_south: NorthSouth::Dsr,
        ..Setting::default()
    });
}

/// Past the socket hooks: the pod's own namespace, but no cgroup.
fn past_hooks<T: Send + 'static>(
    pod: &PodNetwork,
    work: impl FnOnce() -> T + Send + 'static,
) -> Background<T> {
    super::lab::unhooked(&pod.netns, work)
}

fn from_a_pod_to_another_node(setting: Setting) {
    cluster(setting, |cluster| {
        let (one, two) = (cluster.node(1).pod("client"), cluster.node(2).pod("server"));
        for member in &cluster.members {
            open_node_ports(member.plane());
        }
        for v4 in [true, false] {
            let (any, service) = if v4 {
                ("0.0.0.0", "10.96.0.80")
            } else {
                ("::", "fd00:96::80")
            };
            let (client, backend) = (of(&one, v4), of(&two, v4));
            // A ClusterIP, translated at the client's veth; and the other node's node port, translated there.
            let address = Address::from(service.parse::<IpAddr>().unwrap());
            let wildcard = if v4 { Address::ANY_V4 } else { Address::ANY_V6 };
            let asked = if v4 { address_v4(2) } else { address_v6(2) };
            let base = if v4 { 8080 } else { 8090 };
            for (node, key, to, port) in [
                (1, (address, 80, SCOPE_INSIDE), at(service, 80), base),
                (
                    2,
                    (wildcard, 30_080, SCOPE_OUTSIDE),
                    socket(asked, 30_080),
                    base + 1,
                ),
            ] {
                let plane = cluster.node(node).plane();
                expose(plane, key, &[(backend, port)], ServiceValue::default());
                let (listener, datagrams) = cluster
                    .node(2)
                    .start_in(&two.netns, move || server(socket(backend, port)))
                    .wait();
                let served = serve(listener, datagrams);
                past_hooks(&one, move || visit(at(any, 0), to)).wait();
                assert_eq!(served.join().unwrap(), [client; 2], "{to}");
            }
        }
        cluster.assert_no_drops();
        cluster.unload();
    });
}

#[test]
fn pods_past_the_socket_hooks_reach_services_of_another_node_over_the_overlay() {
    from_a_pod_to_another_node(Setting::default());
}

#[test]
fn pods_past_the_socket_hooks_reach_services_of_another_node_natively() {
    from_a_pod_to_another_node(Setting {
        routing: Routing::Native,
        ..Setting::default()
    });
}
