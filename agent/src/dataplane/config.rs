//! What a data plane is loaded with.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

#[derive(Debug, Clone)]
pub struct DataPlaneConfig {
    pub node_name: String,
    /// Where programs, links and maps are pinned (a bpf file system is mounted there when there is none).
    pub pin_dir: PathBuf,
    /// cgroup v2 directory that the socket hooks attach to.
    pub cgroup: PathBuf,
    /// Interface to the outside, if there is one.
    pub uplink: Option<String>,
    pub pod_cidrs: Vec<IpNet>,
    pub service_cidrs: Vec<IpNet>,
    /// Queries to these addresses, port 53, go to `dns_listen`.
    pub cluster_dns: IpAddr,
    /// Where the node's DNS server listens: a link-local address on `lo` that the data plane adds.
    pub dns_listen: SocketAddr,
    pub routing: Routing,
    pub north_south: NorthSouth,
    pub xdp: Xdp,
    /// UDP port of the overlay, the same on every node.
    pub vxlan_port: u16,
    /// Addresses by which other nodes know this one; those of the uplink, followed as they change, when empty.
    pub node_addresses: Vec<IpAddr>,
    /// Bytes of the largest IP packet of pods; what the uplink carries, less the overlay's headers, when absent.
    pub pod_mtu: Option<u32>,
    /// How long no pod has begun or ended before programs at pods' interfaces, which begin as clsact filters, become tcx
    /// links where there are such.
    pub settle_after: Duration,
}

/// Of [`DataPlaneConfig::settle_after`]: after a roll-out's next pod has come, or will not.
pub const SETTLE_AFTER: Duration = Duration::from_secs(1);

/// UDP port of the overlay unless another is asked for: Linux' own default for VXLAN.
pub const VXLAN_PORT: u16 = 8472;

/// How packets get to pods of other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Routing {
    /// In VXLAN (RFC 7348) between the nodes: needs nothing of the network but that nodes reach each other.
    #[default]
    Overlay,
    /// As they are: the nodes share a link, or the network knows the pods' ranges.
    Native,
}

/// How traffic from outside gets to a backend on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NorthSouth {
    /// With this node's address as its source; answers come back through this node.
    #[default]
    Snat,
    /// With the client's address; the backend's node answers the client directly.
    Dsr,
}

/// Whether traffic from outside is looked at in the uplink's driver already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Xdp {
    #[default]
    Off,
    On,
}
