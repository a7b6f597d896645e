//! What the data plane must know of, and change on, the node: the uplink and its addresses, the DNS
//! server's address on `lo`, the ports that masquerading may use.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;

use futures::TryStreamExt as _;
use netlink_packet_route::address::AddressScope;
use netlink_packet_route::route::{RouteAttribute, RouteMessage};
use rtnetlink::Handle;

use super::error::DataPlaneError;

/// A netlink connection whose driver ends with it.
#[derive(Debug)]
pub(crate) struct Netlink {
    pub(crate) handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Netlink {
    /// In the network namespace of the calling thread.
    pub(crate) fn open() -> Result<Self, DataPlaneError> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| DataPlaneError::System {
                action: "open a netlink socket",
                source,
            })?;
        let driver = tokio::spawn(connection);
        Ok(Self { handle, driver })
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// The interface of the default route with the lowest metric.
///
/// # Errors
/// When netlink cannot be asked.
pub async fn default_uplink() -> Result<Option<String>, DataPlaneError> {
    let netlink = Netlink::open()?;
    let mut best: Option<(u32, u32)> = None;
    for request in [
        rtnetlink::RouteMessageBuilder::<Ipv4Addr>::new().build(),
        rtnetlink::RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let mut routes = netlink.handle.route().get(request).execute();
        while let Some(route) = routes
            .try_next()
            .await
            .map_err(DataPlaneError::netlink("read the routes"))?
        {
            if let Some(candidate) = default_route(&route)
                && best.is_none_or(|found| candidate.0 < found.0)
            {
                best = Some(candidate);
            }
        }
        if best.is_some() {
            break;
        }
    }
    Ok(best.and_then(|(_, index)| super::attach::interface_name(index)))
}

/// Metric and interface of a default route in the main table.
fn default_route(route: &RouteMessage) -> Option<(u32, u32)> {
    if route.header.destination_prefix_length != 0
        || route.header.table != libc::RT_TABLE_MAIN
        || route.header.kind != netlink_packet_route::route::RouteType::Unicast
    {
        return None;
    }
    let mut metric = 0;
    let mut index = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    Some((metric, index?))
}

const LOOPBACK: u32 = 1;

/// Adds the address to `lo`, with a scope that keeps it from being chosen as a source for other traffic.
pub(crate) async fn add_local_address(
    netlink: &Netlink,
    address: IpAddr,
) -> Result<(), DataPlaneError> {
    if address.is_loopback() {
        return Ok(());
    }
    let prefix = if address.is_ipv4() { 32 } else { 128 };
    let mut request = netlink.handle.address().add(LOOPBACK, address, prefix);
    request.message_mut().header.scope = AddressScope::Host;
    match request.execute().await {
        Ok(()) => Ok(()),
        Err(error) if is_errno(&error, libc::EEXIST) => Ok(()),
        Err(source) => Err(DataPlaneError::Netlink {
            action: format!("add {address} to lo"),
            source,
        }),
    }
}

pub(crate) async fn remove_local_address(
    netlink: &Netlink,
    address: IpAddr,
) -> Result<(), DataPlaneError> {
    if address.is_loopback() {
        return Ok(());
    }
    let mut found = netlink
        .handle
        .address()
        .get()
        .set_link_index_filter(LOOPBACK)
        .set_address_filter(address)
        .execute();
    let action = || format!("remove {address} from lo");
    while let Some(message) = found
        .try_next()
        .await
        .map_err(DataPlaneError::netlink(action()))?
    {
        netlink
            .handle
            .address()
            .del(message)
            .execute()
            .await
            .map_err(DataPlaneError::netlink(action()))?;
    }
    Ok(())
}

pub(crate) fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.code.is_some_and(|code| code.get() == -errno))
}

/// `SO_NETNS_COOKIE` of the calling thread's network namespace.
pub(crate) fn network_namespace_cookie() -> Result<u64, DataPlaneError> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let failed = |source| DataPlaneError::System {
        action: "read the network namespace's cookie",
        source,
    };
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").map_err(failed)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is open, the buffer has the length that is passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 {
        return Err(DataPlaneError::KernelFeature {
            feature: "SO_NETNS_COOKIE",
            minimum: "5.14",
            detail: std::io::Error::last_os_error().to_string(),
        });
    }
    Ok(cookie)
}

/// Ports for masqueraded flows: outside those that the node's own sockets are given, and below NodePorts.
pub(crate) fn masquerade_ports() -> (u16, u16) {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    choose_ports(range.as_deref().unwrap_or("32768\t60999"))
}

fn choose_ports(local: &str) -> (u16, u16) {
    const LOWEST: u16 = 10_000;
    const BELOW_NODE_PORTS: u16 = 29_999;
    let mut numbers = local
        .split_whitespace()
        .filter_map(|word| word.parse().ok());
    let (low, high) = (
        numbers.next().unwrap_or(32_768u16),
        numbers.next().unwrap_or(60_999u16),
    );
    let below = (LOWEST, low.saturating_sub(1).min(BELOW_NODE_PORTS));
    let above = (high.saturating_add(1).max(32_768), u16::MAX);
    let size = |range: (u16, u16)| i32::from(range.1) - i32::from(range.0) + 1;
    if size(below) >= size(above) && size(below) > 0 {
        below
    } else if size(above) > 1 {
        above
    } else {
        // The node's sockets may use every port: share the lower half.
        (LOWEST, BELOW_NODE_PORTS)
    }
}

#[cfg(test)]
mod tests {
    use super::choose_ports;

    #[test]
    fn masquerade_stays_out_of_local_ports() {
        assert_eq!(choose_ports("32768\t60999\n"), (10_000, 29_999));
        assert_eq!(choose_ports("10000 29000"), (32_768, 65_535));
        assert_eq!(choose_ports("1024 65535"), (10_000, 29_999));
        assert_eq!(choose_ports("nonsense"), (10_000, 29_999));
    }
}
