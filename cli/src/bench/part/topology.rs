//! What surrounds a node, the same for every data plane: two pods on veth pairs (the agent's own), an uplink, the
//! world behind it.
//!
//! Everything is in network namespaces of the run; the mounts that name them are in its mount namespace, and go
//! with its last process.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use agent::network::{Networks, PodNetwork};
use anyhow::Context as _;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::{Handle, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::bench::services::{NODE, OUTSIDE, POD_RANGES};

pub(super) const UPLINK: &str = "uplink";
const WORLD: &str = "world";
const LOOPBACK: u32 = 1;
/// As on Ethernet, the same for every data plane: no tunnel's overhead comes into it.
const MTU: u32 = 1500;

pub(super) struct Topology {
    pub(super) client: PodNetwork,
    pub(super) server: PodNetwork,
    pub(super) outside: PathBuf,
}

/// A netlink connection whose driver ends with it.
struct Netlink {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Netlink {
    fn open() -> anyhow::Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().context("open a netlink socket")?;
        Ok(Self {
            handle,
            driver: tokio::spawn(connection),
        })
    }

    async fn up(&self, index: u32) -> anyhow::Result<()> {
        let message = LinkUnspec::new_with_index(index).up().build();
        self.handle
            .link()
            .set(message)
            .execute()
            .await
            .context("bring an interface up")
    }

    async fn address(&self, index: u32, address: &str) -> anyhow::Result<()> {
        let address: IpAddr = address.parse()?;
        let prefix = if address.is_ipv4() { 24 } else { 64 };
        self.handle
            .address()
            .add(index, address, prefix)
            .execute()
            .await
            .with_context(|| format!("add the address {address}"))
    }

    async fn route(&self, to: &str, via: &str) -> anyhow::Result<()> {
        let to: ipnet::IpNet = to.parse()?;
        let message = match (to, via.parse()?) {
            (ipnet::IpNet::V4(to), IpAddr::V4(via)) => RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .gateway(via)
                .build(),
            (ipnet::IpNet::V6(to), IpAddr::V6(via)) => RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.network(), to.prefix_len())
                .gateway(via)
                .build(),
            _ => anyhow::bail!("a route of two families"),
        };
        self.handle
            .route()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("add a route to {to}"))
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// A setting of the calling thread's network namespace.
fn set(path: &str, value: &str) -> anyhow::Result<()> {
    std::fs::write(path, value).with_context(|| format!("set {path}"))
}

/// No duplicate address detection: it would delay addresses that nobody else can have. Before interfaces are made.
fn quick_addresses() -> anyhow::Result<()> {
    for which in ["default", "all"] {
        set(&format!("/proc/sys/net/ipv6/conf/{which}/accept_dad"), "0")?;
    }
    Ok(())
}

/// Makes the calling process's network namespace a node. `forwards`: the kernel routes between its interfaces (a
/// data plane of programs does so itself).
pub(super) async fn make(directory: &Path, forwards: bool) -> anyhow::Result<Topology> {
    quick_addresses()?;
    let netlink = Netlink::open()?;
    netlink.up(LOOPBACK).await?;
    let outside = directory.join("outside");
    outside_namespace(&outside)?;
    uplink(&netlink, &outside).await?;
    if forwards {
        set("/proc/sys/net/ipv4/ip_forward", "1")?;
        set("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
    }
    let ranges = POD_RANGES.map(|range| range.parse().expect("a constant"));
    let networks = Networks::open(&directory.join("run"), ranges.to_vec(), Some(MTU)).await?;
    let client = networks.attach("client").await?;
    let server = networks.attach("server").await?;
    Ok(Topology {
        client,
        server,
        outside,
    })
}

/// Makes a network namespace and mounts it on `path`.
fn outside_namespace(path: &Path) -> anyhow::Result<()> {
    File::create(path).with_context(|| format!("create {}", path.display()))?;
    in_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        quick_addresses()?;
        let (none, kind) = (None::<&str>, MsFlags::MS_BIND);
        mount(Some("/proc/thread-self/ns/net"), path, none, kind, none)
            .with_context(|| format!("mount a network namespace on {}", path.display()))
    })
}

fn in_thread<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join())
        .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

async fn uplink(netlink: &Netlink, outside: &Path) -> anyhow::Result<()> {
    let target = File::open(outside)?;
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(WORLD.to_owned())
        .setns_by_fd(target.as_raw_fd())
        .build();
    let pair = LinkMessageBuilder::<LinkVeth>::new(UPLINK, WORLD)
        .set_info_data(rtnetlink::packet_route::link::InfoData::Veth(
            rtnetlink::packet_route::link::InfoVeth::Peer(peer),
        ))
        .build();
    netlink
        .handle
        .link()
        .add(pair)
        .execute()
        .await
        .context("make the uplink")?;
    let index = nix::net::if_::if_nametoindex(UPLINK).context("find the uplink")?;
    netlink.up(index).await?;
    for address in NODE {
        netlink.address(index, address).await?;
    }
    in_thread(|| world(&target))?;
    for (everywhere, via) in ["0.0.0.0/0", "::/0"].into_iter().zip(OUTSIDE) {
        netlink.route(everywhere, via).await?;
    }
    Ok(())
}

/// The other end of the uplink: knows the way to the pods, as a router of the network would.
fn world(namespace: &File) -> anyhow::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWNET).context("enter the outside")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    runtime.block_on(async {
        let netlink = Netlink::open()?;
        netlink.up(LOOPBACK).await?;
        let index = nix::net::if_::if_nametoindex(WORLD).context("find the uplink's peer")?;
        netlink.up(index).await?;
        for address in OUTSIDE {
            netlink.address(index, address).await?;
        }
        for (range, via) in POD_RANGES.into_iter().zip(NODE) {
            netlink.route(range, via).await?;
        }
        Ok(())
    })
}
