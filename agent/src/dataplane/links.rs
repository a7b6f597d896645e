//! The node's interfaces and addresses, read in one go, and what follows from them: the uplink, the tunnel's ends,
//! the sizes of packets.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use agent_ebpf::address::Address;
use agent_ebpf::layout::Config;
use agent_ebpf::overlay::overhead;
use futures::TryStreamExt as _;
use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{LinkAttribute, LinkLayerType};

use super::attach::Interface;
use super::config::{DataPlaneConfig, Routing};
use super::error::DataPlaneError;
use super::node::Netlink;
use super::nodes::Vantage;

/// What an uplink is taken to carry where there is none: Ethernet's.
const USUAL_MTU: u32 = 1500;
/// RFC 8200: no IPv6 link carries less.
const LEAST_MTU: u32 = 1280;

/// An address of the node that is in use.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Assigned {
    interface: u32,
    /// With the length of its network's prefix.
    net: IpNet,
    global: bool,
    deprecated: bool,
    /// Another one takes its place soon (RFC 8981).
    temporary: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    interface: Interface,
    mtu: u32,
    ethernet: bool,
}

/// Interfaces and addresses of the network namespace.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Links {
    links: Vec<Link>,
    addresses: Vec<Assigned>,
}

/// An interface by which packets may leave the node, and what they bear then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WayOut {
    pub(crate) interface: Interface,
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

/// The node as its links make it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Here {
    pub(crate) uplink: Option<Interface>,
    /// The uplink, and every other Ethernet interface with an address.
    pub(crate) ways_out: Vec<WayOut>,
    pub(crate) uplink_v4: Option<Ipv4Addr>,
    pub(crate) uplink_v6: Option<Ipv6Addr>,
    pub(crate) node_v4: Option<Ipv4Addr>,
    pub(crate) node_v6: Option<Ipv6Addr>,
    pub(crate) locals: BTreeSet<IpAddr>,
    networks: Vec<IpNet>,
    /// Largest IP packet that goes into the overlay, bytes.
    pub(crate) overlay_mtu: u32,
    /// Largest IP packet of pods, bytes.
    pub(crate) pod_mtu: u32,
}

fn assigned(message: &AddressMessage) -> Option<Assigned> {
    let mut flags = AddressFlags::empty();
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Flags(found) => flags = *found,
            // The peer's, on point-to-point links; on others, the same.
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Local(found) => local = Some(*found),
            _ => {}
        }
    }
    if flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed) {
        return None;
    }
    Some(Assigned {
        interface: message.header.index,
        net: IpNet::new(local.or(address)?, message.header.prefix_len).ok()?,
        global: message.header.scope == AddressScope::Universe,
        deprecated: flags.contains(AddressFlags::Deprecated),
        // For IPv4 the same bit says that an address is not the first of its network.
        temporary: local.or(address)?.is_ipv6() && flags.contains(AddressFlags::Secondary),
    })
}

impl Links {
    pub(crate) async fn read(netlink: &Netlink) -> Result<Self, DataPlaneError> {
        let mut read = Self::default();
        let mut links = netlink.handle.link().get().execute();
        while let Some(link) = links
            .try_next()
            .await
            .map_err(DataPlaneError::netlink("read the interfaces"))?
        {
            let (mut name, mut mtu) = (None, USUAL_MTU);
            for attribute in link.attributes {
                match attribute {
                    LinkAttribute::IfName(found) => name = Some(found),
                    LinkAttribute::Mtu(found) => mtu = found,
                    _ => {}
                }
            }
            let index = link.header.index;
            read.links.extend(name.map(|name| Link {
                interface: Interface { index, name },
                mtu,
                ethernet: link.header.link_layer_type == LinkLayerType::Ether,
            }));
        }
        let mut addresses = netlink.handle.address().get().execute();
        while let Some(message) = addresses
            .try_next()
            .await
            .map_err(DataPlaneError::netlink("read the addresses"))?
        {
            read.addresses.extend(assigned(&message));
        }
        Ok(read)
    }

    fn link(&self, name: &str) -> Option<&Link> {
        self.links.iter().find(|link| link.interface.name == name)
    }

    /// The Ethernet interface of that name.
    pub(crate) fn ethernet(&self, name: &str) -> Result<(), DataPlaneError> {
        match self.link(name) {
            Some(link) if link.ethernet => Ok(()),
            Some(_) => Err(DataPlaneError::NotEthernet(name.to_owned())),
            None => Err(DataPlaneError::NoInterface(name.to_owned())),
        }
    }

    /// The oldest address of each family that an interface's packets may come from: one that is added changes nothing.
    fn addresses_of(&self, index: u32) -> (Option<Ipv4Addr>, Option<Ipv6Addr>) {
        let usable = self
            .addresses
            .iter()
            .filter(|found| found.interface == index && found.global && !found.deprecated);
        let (mut v4, mut v6, mut passing) = (None, None, None);
        for found in usable {
            // The kernel lists the oldest IPv4 address first, and the oldest IPv6 address last.
            match found.net.addr() {
                IpAddr::V4(address) => v4 = v4.or(Some(address)),
                IpAddr::V6(address) if found.temporary => passing = passing.or(Some(address)),
                IpAddr::V6(address) => v6 = Some(address),
            }
        }
        (v4, v6.or(passing))
    }

    /// `before` says what is left of an uplink that is gone: its size.
    pub(crate) fn here(&self, config: &DataPlaneConfig, before: &Here) -> Here {
        let uplink = config.uplink.as_ref().and_then(|name| self.link(name));
        let (uplink_v4, uplink_v6) =
            uplink.map_or((None, None), |link| self.addresses_of(link.interface.index));
        let locals: BTreeSet<IpAddr> = self
            .addresses
            .iter()
            .map(|found| found.net.addr())
            .filter(|address| !address.is_loopback())
            .collect();
        // A tunnel can only begin at an address that the node has.
        let given = || {
            config
                .node_addresses
                .iter()
                .filter(|at| locals.contains(at))
        };
        let (node_v4, node_v6) = if config.node_addresses.is_empty() {
            (uplink_v4, uplink_v6)
        } else {
            (
                given().find_map(|address| match address {
                    IpAddr::V4(address) => Some(*address),
                    IpAddr::V6(_) => None,
                }),
                given().find_map(|address| match address {
                    IpAddr::V6(address) => Some(*address),
                    IpAddr::V4(_) => None,
                }),
            )
        };
        let mut here = Here {
            ways_out: self.ways_out(uplink),
            uplink: uplink.map(|link| link.interface.clone()),
            uplink_v4,
            uplink_v6,
            node_v4,
            node_v6,
            locals,
            networks: self.networks(),
            overlay_mtu: before.overlay_mtu,
            pod_mtu: before.pod_mtu,
        };
        if uplink.is_some() || before.pod_mtu == 0 {
            here.measure(config, uplink.map_or(USUAL_MTU, |link| link.mtu));
        }
        here
    }

    fn ways_out(&self, uplink: Option<&Link>) -> Vec<WayOut> {
        let ethernet = self.links.iter().filter(|link| link.ethernet);
        ethernet
            .filter_map(|link| {
                let (v4, v6) = self.addresses_of(link.interface.index);
                let leads_out = v4.is_some() || v6.is_some() || uplink == Some(link);
                leads_out.then(|| WayOut {
                    interface: link.interface.clone(),
                    v4,
                    v6,
                })
            })
            .collect()
    }

    fn networks(&self) -> Vec<IpNet> {
        self.addresses
            .iter()
            .filter(|found| found.global && !found.net.addr().is_loopback())
            .map(|found| found.net.trunc())
            .filter(|net| net.prefix_len() < net.max_prefix_len())
            .collect()
    }
}

impl Here {
    fn measure(&mut self, config: &DataPlaneConfig, mtu: u32) {
        let wrapped = mtu.saturating_sub(overhead(self.node_v4.is_none()));
        self.overlay_mtu = wrapped.max(LEAST_MTU);
        self.pod_mtu = config.pod_mtu.unwrap_or(match config.routing {
            Routing::Overlay => self.overlay_mtu,
            Routing::Native => mtu,
        });
    }

    /// Addresses by which other nodes know this one, IPv4 first.
    pub(crate) fn node_addresses(&self) -> Vec<IpAddr> {
        let v4 = self.node_v4.map(IpAddr::V4);
        v4.into_iter().chain(self.node_v6.map(IpAddr::V6)).collect()
    }

    pub(crate) fn vantage(&self) -> Vantage {
        Vantage {
            locals: self.locals.clone(),
            v4: self.node_v4.is_some(),
            v6: self.node_v6.is_some(),
            links: self.networks.clone(),
        }
    }

    pub(crate) fn fill(&self, settings: &mut Config) {
        let address = |ip: Option<IpAddr>| ip.map_or(Address::UNSPECIFIED, Address::from);
        settings.uplink = self.uplink.as_ref().map_or(0, |uplink| uplink.index);
        settings.uplink_v4 = address(self.uplink_v4.map(IpAddr::V4));
        settings.uplink_v6 = address(self.uplink_v6.map(IpAddr::V6));
        settings.node_v4 = address(self.node_v4.map(IpAddr::V4));
        settings.node_v6 = address(self.node_v6.map(IpAddr::V6));
        settings.overlay_mtu = self.overlay_mtu;
    }
}

#[cfg(test)]
mod tests;
