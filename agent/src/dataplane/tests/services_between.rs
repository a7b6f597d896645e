//! Services whose backend is on another node than the one that is asked: over the overlay, natively, and with the
//! backend's node answering directly.

use agent_ebpf::layout::{SCOPE_INSIDE, SCOPE_LOCAL, SCOPE_OUTSIDE, ServiceValue};

use super::cluster::{Cluster, Setting, address_v4, address_v6, cluster};
use super::lab::{Background, socket};
use super::north_south::{at, expose, open_node_ports, refused, serve, server, visit};
use super::*;
use crate::network::PodNetwork;

/// The fabric's own addresses: a client outside of the cluster.
const OUTSIDE: [&str; 2] = ["192.0.2.254", "2001:db8::fe"];

fn of(pod: &PodNetwork, v4: bool) -> IpAddr {
    let mut addresses = pod.addresses.iter().copied();
    addresses.find(|address| address.is_ipv4() == v4).unwrap()
}

/// A veth takes no XDP program for packets that are larger than a page.
const JUMBO: u32 = 9000;

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
        let mut other_end = None;
        let attachments = cluster.node(1).plane().attachments();
        let in_driver = cluster.setting.xdp == Xdp::On && cluster.setting.mtu < JUMBO;
        assert_eq!(
            attachments.iter().any(|at| at.hook == "xdp up0"),
            in_driver,
            "{attachments:?}"
        );
        if in_driver {
            // A veth sends from XDP only to an end that has a program as well, and has no checksums of what its other
            // end left to a card.
            const ETHTOOL_STXCSUM: u32 = 0x17;
            other_end = Some(cluster.in_fabric(|| {
                set_offload("port1", ETHTOOL_STXCSUM, 0);
                pass_everything("port1")
            }));
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
            cluster.in_fabric(move || refused(at(client, 0), socket(asked, 30_080)));
        }
        if cluster.setting.north_south == NorthSouth::Dsr {
            assert!(forwarded(cluster, 2, "service_local") > 0);
            assert_eq!(forwarded(cluster, 1, "service_return"), 0);
        } else if in_driver {
            // All but what came before the neighbours were known.
            let (turned, rest) = ("xdp", "service_return");
            assert!(forwarded(cluster, 1, turned) > forwarded(cluster, 1, rest));
        } else {
            assert!(forwarded(cluster, 1, "service_return") > 0);
        }
        drop(other_end);
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

/// Attaches an XDP program that lets everything pass, for as long as what is returned lives.
fn pass_everything(interface: &str) -> std::os::fd::OwnedFd {
    use std::os::fd::{AsFd as _, FromRawFd as _, OwnedFd};
    const BPF_PROG_LOAD: libc::c_long = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;
    // r0 = XDP_PASS; exit
    let code: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let license = c"GPL";
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        code: u64,
        license: u64,
        rest: [u64; 13],
    }
    let mut load = Load {
        kind: BPF_PROG_TYPE_XDP,
        count: code.len() as u32,
        code: code.as_ptr() as u64,
        license: license.as_ptr() as u64,
        rest: [0; 13],
    };
    let size = size_of::<Load>() as libc::c_long;
    // SAFETY: attributes of the size that is passed, whose pointers outlive the call.
    let program = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut load, size) };
    assert!(program >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: a new descriptor that nobody else owns.
    let program = unsafe { OwnedFd::from_raw_fd(program as i32) };
    let index = nix::net::if_::if_nametoindex(interface).unwrap();
    syscall::link_create(program.as_fd(), index, syscall::AttachType::Xdp).unwrap()
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
fn where_the_driver_takes_no_program_a_node_port_is_served_all_the_same() {
    from_outside_to_another_node(Setting {
        routing: Routing::Native,
        xdp: Xdp::On,
        mtu: JUMBO,
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

#[test]
fn the_backends_node_answers_directly_natively() {
    from_outside_to_another_node(Setting {
        routing: Routing::Native,
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
                // The node that was asked hides a client of the cluster: the same ports may be in use between the same two
                // pods without it.
                let seen = if node == 1 { client } else { asked };
                assert_eq!(served.join().unwrap(), [seen; 2], "{to}");
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
