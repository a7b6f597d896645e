//! The VXLAN device: one for all other nodes, since each packet's tunnel is chosen by program.

use std::path::Path;

use agent_ebpf::overlay::MAC;
use futures::TryStreamExt as _;
use netlink_packet_route::link::{
    InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};
use sha2::{Digest as _, Sha256};

use super::attach::Interface;
use super::error::DataPlaneError;
use super::node::{Netlink, is_errno};

/// The same again after a crash, another one for another agent: agents differ by where they pin.
pub(crate) fn name(pin_dir: &Path) -> String {
    use std::os::unix::ffi::OsStrExt as _;
    let digest = Sha256::digest(pin_dir.as_os_str().as_bytes());
    format!("waggle-{}", hex::encode(&digest[..4]))
}

async fn find(netlink: &Netlink, name: &str) -> Result<Option<LinkMessage>, DataPlaneError> {
    let found = netlink
        .handle
        .link()
        .get()
        .match_name(name)
        .execute()
        .try_next()
        .await;
    match found {
        Err(error) if is_errno(&error, libc::ENODEV) => Ok(None),
        found => found.map_err(DataPlaneError::netlink(format!("look for {name}"))),
    }
}

/// Whether a device is what we would make.
fn fits(link: &LinkMessage, port: u16) -> bool {
    let mut mac = false;
    let mut fits = false;
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(address) => mac = *address == MAC,
            LinkAttribute::LinkInfo(infos) => {
                fits = infos.iter().any(|info| {
                    matches!(info, LinkInfo::Data(InfoData::Vxlan(data))
                        if data.contains(&InfoVxlan::CollectMetadata(true))
                            && data.contains(&InfoVxlan::Port(port)))
                });
            }
            _ => {}
        }
    }
    fits && mac && link.header.flags.contains(LinkFlags::Noarp)
}

fn mtu_of(link: &LinkMessage) -> Option<u32> {
    link.attributes
        .iter()
        .find_map(|attribute| match attribute {
            LinkAttribute::Mtu(mtu) => Some(*mtu),
            _ => None,
        })
}

/// The device if it is there.
pub(crate) async fn present(netlink: &Netlink, name: &str) -> Result<bool, DataPlaneError> {
    find(netlink, name).await.map(|found| found.is_some())
}

/// Makes the device, or takes over the one that is there.
///
/// # Errors
/// When the kernel has no VXLAN, or the port is another device's.
pub(crate) async fn ensure(
    netlink: &Netlink,
    name: &str,
    port: u16,
    mtu: u32,
) -> Result<Interface, DataPlaneError> {
    let failed = || DataPlaneError::netlink(format!("make VXLAN device {name} on port {port}"));
    let mut link = find(netlink, name).await?;
    if link.as_ref().is_some_and(|found| !fits(found, port)) {
        tracing::warn!(name, "the overlay device is not as it has to be: made anew");
        remove(netlink, name).await?;
        link = None;
    }
    if link.is_none() {
        let request = LinkMessageBuilder::<LinkVxlan>::new(name)
            .collect_metadata(true)
            .port(port)
            .learning(false)
            .address(MAC.to_vec())
            // Neighbours need no asking: all have this device's own MAC address.
            .arp(false)
            .mtu(mtu)
            .build();
        netlink
            .handle
            .link()
            .add(request)
            .execute()
            .await
            .map_err(failed())?;
        link = find(netlink, name).await?;
        quiet(name);
    }
    let link = link.ok_or_else(|| DataPlaneError::NoInterface(name.to_owned()))?;
    let index = link.header.index;
    if mtu_of(&link) != Some(mtu) || !link.header.flags.contains(LinkFlags::Up) {
        let request = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        netlink
            .handle
            .link()
            .set(request)
            .execute()
            .await
            .map_err(failed())?;
    }
    Ok(Interface {
        index,
        name: name.to_owned(),
    })
}

/// Nothing is sent but what is routed to it, and replies are checked by program, not by route.
fn quiet(name: &str) {
    for (path, value) in [
        ("ipv6", "addr_gen_mode", "1"),
        ("ipv6", "accept_ra", "0"),
        ("ipv6", "router_solicitations", "0"),
        ("ipv4", "rp_filter", "0"),
    ]
    .map(|(family, key, value)| (format!("/proc/sys/net/{family}/conf/{name}/{key}"), value))
    {
        if let Err(error) = std::fs::write(&path, value)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path, %error, "cannot set");
        }
    }
}

/// Idempotent; its routes go with it.
pub(crate) async fn remove(netlink: &Netlink, name: &str) -> Result<(), DataPlaneError> {
    let Some(link) = find(netlink, name).await? else {
        return Ok(());
    };
    match netlink.handle.link().del(link.header.index).execute().await {
        Err(error) if is_errno(&error, libc::ENODEV) => Ok(()),
        result => result.map_err(DataPlaneError::netlink(format!("remove {name}"))),
    }
}
