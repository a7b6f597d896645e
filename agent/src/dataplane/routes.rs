//! The node's own routes to pods elsewhere, told from others by their protocol number.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope,
};
use rtnetlink::RouteMessageBuilder;

use super::error::DataPlaneError;
use super::node::{Netlink, is_errno};

/// `w`: nobody's in `/etc/iproute2/rt_protos`.
const PROTOCOL: RouteProtocol = RouteProtocol::Other(0x77);
/// Behind what an administrator set for the same range (0), before what the kernel gives IPv6 (1024).
const METRIC: u32 = 0x77;

/// Where a route leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// Out of an interface, to whom its program says.
    Device(u32),
    /// To the node with this address.
    Gateway(IpAddr),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) way: Way,
    /// The source of the node's own packets, if any of the family is to be preferred.
    pub(crate) source: Option<IpAddr>,
}

fn message(range: IpNet, route: &Route) -> RouteMessage {
    match range {
        IpNet::V4(range) => {
            let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(range.network(), range.prefix_len())
                .protocol(PROTOCOL)
                .priority(METRIC);
            builder = match route.way {
                Way::Device(index) => builder.output_interface(index).scope(RouteScope::Link),
                Way::Gateway(IpAddr::V4(gateway)) => builder.gateway(gateway),
                Way::Gateway(IpAddr::V6(gateway)) => builder.via(gateway),
            };
            if let Some(IpAddr::V4(source)) = route.source {
                builder = builder.pref_source(source);
            }
            builder.build()
        }
        IpNet::V6(range) => {
            let mut builder = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(range.network(), range.prefix_len())
                .protocol(PROTOCOL)
                .priority(METRIC);
            builder = match route.way {
                Way::Device(index) => builder.output_interface(index),
                Way::Gateway(IpAddr::V6(gateway)) => builder.gateway(gateway),
                // Not planned: a gateway is of its range's family.
                Way::Gateway(IpAddr::V4(_)) => builder,
            };
            if let Some(IpAddr::V6(source)) = route.source {
                builder = builder.pref_source(source);
            }
            builder.build()
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some(IpAddr::V4(*address)),
        RouteAddress::Inet6(address) => Some(IpAddr::V6(*address)),
        _ => None,
    }
}

/// Range and way of a route of ours in the main table.
fn ours(message: &RouteMessage) -> Option<(IpNet, Route)> {
    if message.header.protocol != PROTOCOL || message.header.table != libc::RT_TABLE_MAIN {
        return None;
    }
    let (mut destination, mut gateway, mut device, mut source) = (None, None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::PrefSource(address) => source = ip(address),
            _ => {}
        }
    }
    let unspecified = match message.header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        _ => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let prefix = message.header.destination_prefix_length;
    let range = IpNet::new(destination.unwrap_or(unspecified), prefix).ok()?;
    let way = gateway.map(Way::Gateway).or(device.map(Way::Device))?;
    Some((range, Route { way, source }))
}

async fn read(netlink: &Netlink) -> Result<Vec<(IpNet, Route, RouteMessage)>, DataPlaneError> {
    let mut found = Vec::new();
    for request in [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ] {
        let mut routes = netlink.handle.route().get(request).execute();
        while let Some(message) = routes
            .try_next()
            .await
            .map_err(DataPlaneError::netlink("read the routes"))?
        {
            found.extend(ours(&message).map(|(range, route)| (range, route, message)));
        }
    }
    Ok(found)
}

/// Makes our routes what is `wanted`; those that are right already are not touched. With `keep`, routes that are
/// not wanted stay.
///
/// # Errors
/// The first of them; the other routes are made all the same.
pub(crate) async fn reconcile(
    netlink: &Netlink,
    wanted: &BTreeMap<IpNet, Route>,
    keep: bool,
) -> Result<(), DataPlaneError> {
    let mut missing = wanted.clone();
    let mut stale = Vec::new();
    for (range, route, message) in read(netlink).await? {
        if wanted.get(&range) == Some(&route) {
            missing.remove(&range);
        } else {
            stale.push((range, message));
        }
    }
    let mut result = Ok(());
    for (range, route) in &missing {
        let request = netlink.handle.route().add(message(*range, route));
        if let Err(source) = request.replace().execute().await {
            let action = format!("add the route to pods in {range}");
            result = result.and(Err(DataPlaneError::Netlink { action, source }));
        }
    }
    for (range, message) in stale {
        // What was replaced is gone already.
        if missing.contains_key(&range) || (keep && !wanted.contains_key(&range)) {
            continue;
        }
        match netlink.handle.route().del(message).execute().await {
            Err(error) if is_errno(&error, libc::ESRCH) => {}
            Err(source) => {
                let action = format!("remove the route to pods in {range}");
                result = result.and(Err(DataPlaneError::Netlink { action, source }));
            }
            Ok(()) => {}
        }
    }
    result
}

/// Removes all of ours.
pub(crate) async fn clear(netlink: &Netlink) -> Result<(), DataPlaneError> {
    reconcile(netlink, &BTreeMap::new(), false).await
}
