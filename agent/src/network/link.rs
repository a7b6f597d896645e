//! A pod's veth pair: made in one request, configured inside the pod's namespace, then the host's routes.
//!
//! Inside there is one neighbour, a link-local gateway that is the host side whatever its name; so a pod
//! needs no ARP, and sends everything to the program at the host side.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::{Duration, Instant};

use futures::TryStreamExt as _;
use netlink_packet_route::address::AddressFlags;
use netlink_packet_route::link::{
    AfSpecInet, AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InetDevConf, InfoData, InfoKind,
    InfoVeth, LinkAttribute, State as LinkState,
};
use netlink_packet_route::neighbour::NeighbourState;
use netlink_packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use sha2::{Digest as _, Sha256};

use super::{Counters, NetworkError, namespace};
use crate::dataplane::{PodInterface, pod_link_name};

const POD_SIDE: &str = "eth0";
const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
/// A pair that does not come up within this time does not come up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names and MAC addresses of a pair, from the pod's uid: the same again after a crash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) host: String,
    host_mac: [u8; 6],
    pod_mac: [u8; 6],
}

impl Names {
    pub(super) fn of(uid: &str) -> Self {
        let digest = Sha256::digest(uid.as_bytes());
        let mac = |first: u8, at: usize| {
            // Locally administered, unicast.
            [
                first,
                digest[at],
                digest[at + 1],
                digest[at + 2],
                digest[at + 3],
                digest[at + 4],
            ]
        };
        Self {
            host: pod_link_name(std::array::from_fn(|at| digest[at])),
            host_mac: mac(0x02, 8),
            pod_mac: mac(0x06, 16),
        }
    }
}

/// The table of /proc/net/dev: sixteen numbers after each name.
pub(super) fn counters(table: &str) -> BTreeMap<String, Counters> {
    let rows = table.lines().filter_map(|line| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<u64> = numbers
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()
            .ok()?;
        let counters = match numbers.as_slice() {
            [rb, rp, re, rd, _, _, _, _, sb, sp, se, sd, ..] => Counters {
                received_bytes: *rb,
                received_packets: *rp,
                receive_errors: *re,
                received_drops: *rd,
                sent_bytes: *sb,
                sent_packets: *sp,
                send_errors: *se,
                sent_drops: *sd,
            },
            _ => return None,
        };
        Some((name.trim().to_owned(), counters))
    });
    rows.collect()
}

pub(super) fn index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}

/// Runs requests on a netlink connection in the calling thread's network namespace.
struct Connection {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Connection {
    fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(NetworkError::system("open a netlink socket"))?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
        })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

fn netlink(uid: &str, action: &'static str) -> impl FnOnce(rtnetlink::Error) -> NetworkError {
    let uid = uid.to_owned();
    move |source| NetworkError::Netlink {
        action,
        uid,
        source,
    }
}

/// Makes the pair and configures both sides, on a thread of its own ([`namespace::create`]).
pub(super) fn create(
    uid: &str,
    netns: &Path,
    addresses: &[IpAddr],
    mtu: Option<u32>,
) -> Result<PodInterface, NetworkError> {
    let names = Names::of(uid);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(NetworkError::system("start a runtime"))?;
    let _entered = runtime.enter();
    let connection = Connection::open()?;
    let handle = &connection.handle;
    runtime.block_on(add_pair(uid, handle, netns, &names, mtu))?;
    let host_ifindex = runtime.block_on(open_host_side(uid, handle, &names, addresses))?;
    namespace::visit(netns, || {
        runtime.block_on(inside_pod(uid, addresses, names.host_mac))
    })?;
    runtime.block_on(lead_to_pod(uid, handle, (host_ifindex, &names), addresses))?;
    Ok(PodInterface {
        addresses: addresses.to_vec(),
        netns: netns.to_owned(),
        host_ifindex,
        host_mac: names.host_mac,
        pod_mac: names.pod_mac,
    })
}

async fn add_pair(
    uid: &str,
    handle: &Handle,
    netns: &Path,
    names: &Names,
    mtu: Option<u32>,
) -> Result<(), NetworkError> {
    let target = File::open(netns).map_err(NetworkError::file("open", netns))?;
    let mut peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_SIDE.to_owned())
        .address(names.pod_mac.to_vec())
        .setns_by_fd(target.as_raw_fd());
    let mut pair = LinkMessageBuilder::<LinkVeth>::new_with_info_kind(InfoKind::Veth)
        .name(names.host.clone())
        .address(names.host_mac.to_vec());
    if let Some(mtu) = mtu {
        peer = peer.mtu(mtu);
        pair = pair.mtu(mtu);
    }
    let pair = pair
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer.build())))
        .build();
    let added = handle.link().add(pair).execute().await;
    added.map_err(netlink(uid, "make a veth pair"))
}

async fn inside_pod(
    uid: &str,
    addresses: &[IpAddr],
    gateway_mac: [u8; 6],
) -> Result<(), NetworkError> {
    let connection = Connection::open()?;
    let handle = &connection.handle;
    up(handle, 1).await.map_err(netlink(uid, "bring up lo"))?;
    let index = index(POD_SIDE).ok_or_else(|| {
        NetworkError::system("find eth0 in the pod")(std::io::Error::last_os_error())
    })?;
    quiet_v6(uid, handle, (POD_SIDE, index), addresses).await?;
    up(handle, index)
        .await
        .map_err(netlink(uid, "bring up eth0"))?;
    for address in addresses {
        let prefix = if address.is_ipv4() { 32 } else { 128 };
        let mut request = handle.address().add(index, *address, prefix);
        // The address is the pod's alone: no duplicate address detection, which would delay its use.
        if address.is_ipv6() {
            request.message_mut().header.flags =
                netlink_packet_route::address::AddressHeaderFlags::from_bits_truncate(
                    AddressFlags::Nodad.bits() as u8,
                );
        }
        request
            .execute()
            .await
            .map_err(netlink(uid, "add an address"))?;
        let gateway = match address {
            IpAddr::V4(_) => IpAddr::V4(GATEWAY_V4),
            IpAddr::V6(_) => IpAddr::V6(GATEWAY_V6),
        };
        handle
            .neighbours()
            .add(index, gateway)
            .state(NeighbourState::Permanent)
            .link_layer_address(&gateway_mac)
            .replace()
            .execute()
            .await
            .map_err(netlink(uid, "add the gateway's neighbour entry"))?;
        default_route(handle, index, gateway)
            .await
            .map_err(netlink(uid, "add the default route"))?;
    }
    Ok(())
}

async fn default_route(
    handle: &Handle,
    index: u32,
    gateway: IpAddr,
) -> Result<(), rtnetlink::Error> {
    let message = match gateway {
        IpAddr::V4(gateway) => {
            let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(gateway, 32)
                .output_interface(index)
                .scope(RouteScope::Link)
                .build();
            handle.route().add(to_gateway).replace().execute().await?;
            RouteMessageBuilder::<Ipv4Addr>::new()
                .gateway(gateway)
                .output_interface(index)
                .build()
        }
        IpAddr::V6(gateway) => RouteMessageBuilder::<Ipv6Addr>::new()
            .gateway(gateway)
            .output_interface(index)
            .build(),
    };
    handle.route().add(message).replace().execute().await
}

async fn open_host_side(
    uid: &str,
    handle: &Handle,
    names: &Names,
    addresses: &[IpAddr],
) -> Result<u32, NetworkError> {
    let index = index(&names.host).ok_or_else(|| {
        NetworkError::system("find the host side of a veth pair")(std::io::Error::last_os_error())
    })?;
    // Route look-ups by the program at this interface are look-ups for forwarding. It is our own interface: nothing is
    // forwarded that the program has not let pass.
    let mut forwarding = InetDevConf::default();
    forwarding.forwarding = 1;
    let forwarding = AfSpecUnspec::Inet(vec![AfSpecInet::DevConfRequest(forwarding)]);
    configure(handle, index, forwarding)
        .await
        .map_err(netlink(uid, "let the host side forward"))?;
    if has_v6(addresses) {
        let path = format!("/proc/sys/net/ipv6/conf/{}/forwarding", names.host);
        set(&path, "1");
    }
    quiet_v6(uid, handle, (&names.host, index), addresses).await?;
    up(handle, index)
        .await
        .map_err(netlink(uid, "bring up the host side"))?;
    Ok(index)
}

/// Routes and neighbours, so that the node asks nobody where the pod is.
async fn lead_to_pod(
    uid: &str,
    handle: &Handle,
    (index, names): (u32, &Names),
    addresses: &[IpAddr],
) -> Result<(), NetworkError> {
    for address in addresses {
        let message = match address {
            IpAddr::V4(address) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(*address, 32)
                .output_interface(index)
                .scope(RouteScope::Link)
                .build(),
            IpAddr::V6(address) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(*address, 128)
                .output_interface(index)
                .build(),
        };
        handle
            .route()
            .add(message)
            .replace()
            .execute()
            .await
            .map_err(netlink(uid, "add the route to the pod"))?;
        handle
            .neighbours()
            .add(index, *address)
            .state(NeighbourState::Permanent)
            .link_layer_address(&names.pod_mac)
            .replace()
            .execute()
            .await
            .map_err(netlink(uid, "add the pod's neighbour entry"))?;
    }
    Ok(())
}

/// Until the host side sends. The side that is brought up last, the pod's, does so at once; the kernel lets the other one
/// send some time later, and drops what it is given until then.
pub(super) async fn carries(uid: &str, index: u32) -> Result<(), NetworkError> {
    let connection = Connection::open()?;
    let handle = &connection.handle;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut found = handle.link().get().match_index(index).execute();
        let link = found
            .try_next()
            .await
            .map_err(netlink(uid, "look at the host side"))?;
        let is_up = |attribute: &LinkAttribute| {
            matches!(attribute, LinkAttribute::OperState(LinkState::Up))
        };
        if link.is_some_and(|link| link.attributes.iter().any(is_up)) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let late = std::io::ErrorKind::TimedOut.into();
            return Err(NetworkError::system("wait for a veth pair")(late));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn up(handle: &Handle, index: u32) -> Result<(), rtnetlink::Error> {
    let message = LinkUnspec::new_with_index(index).up().build();
    handle.link().set(message).execute().await
}

fn has_v6(addresses: &[IpAddr]) -> bool {
    addresses.iter().any(IpAddr::is_ipv6)
}

/// Neither link-local addresses nor router solicitations: the pair needs none, and they would be dropped.
async fn quiet_v6(
    uid: &str,
    handle: &Handle,
    (interface, index): (&str, u32),
    addresses: &[IpAddr],
) -> Result<(), NetworkError> {
    let directory = format!("/proc/sys/net/ipv6/conf/{interface}");
    if !has_v6(addresses) {
        set(&format!("{directory}/disable_ipv6"), "1");
        return Ok(());
    }
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    configure(handle, index, AfSpecUnspec::Inet6(vec![none]))
        .await
        .map_err(netlink(uid, "keep link-local addresses away"))?;
    set(&format!("{directory}/accept_ra"), "0");
    set(&format!("{directory}/router_solicitations"), "0");
    Ok(())
}

/// Settings of an address family by a request, which waits for its turn. Files of `/proc/sys` that stand for the same do
/// not wait for RTNL: their system call begins anew until nobody else has it, at full speed.
async fn configure(
    handle: &Handle,
    index: u32,
    settings: AfSpecUnspec,
) -> Result<(), rtnetlink::Error> {
    let message = LinkUnspec::new_with_index(index)
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![settings]))
        .build();
    handle.link().set(message).execute().await
}

/// Best effort: a kernel without IPv6 has no such file.
fn set(path: &str, value: &str) {
    if let Err(error) = std::fs::write(path, value)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path, %error, "cannot set");
    }
}

/// Removes the pair, and with it its routes. Idempotent.
pub(super) async fn remove(uid: &str) -> Result<(), NetworkError> {
    let names = Names::of(uid);
    let connection = Connection::open()?;
    let found = connection
        .handle
        .link()
        .get()
        .match_name(names.host)
        .execute()
        .try_next()
        .await;
    let Ok(Some(link)) = found else {
        return Ok(());
    };
    match connection
        .handle
        .link()
        .del(link.header.index)
        .execute()
        .await
    {
        Ok(()) => Ok(()),
        // Its namespace went, and took it along.
        Err(rtnetlink::Error::NetlinkError(message))
            if message.code.is_some_and(|code| code.get() == -libc::ENODEV) =>
        {
            Ok(())
        }
        Err(source) => Err(netlink(uid, "remove a veth pair")(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    #[test]
    fn names_fit_and_differ() {
        let one = Names::of("0b8f3c1e-9f5d-4d5f-8d57-6d7d3f0f3a11");
        let other = Names::of("0b8f3c1e-9f5d-4d5f-8d57-6d7d3f0f3a12");
        assert!(one.host.len() <= 15);
        assert_ne!(one.host, other.host);
        assert_ne!(one.pod_mac, one.host_mac);
        assert_eq!(one, Names::of("0b8f3c1e-9f5d-4d5f-8d57-6d7d3f0f3a11"));
        for mac in [one.pod_mac, one.host_mac] {
            assert_eq!(mac[0] & 3, 2, "locally administered, unicast");
        }
    }
}
