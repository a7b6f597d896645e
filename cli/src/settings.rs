//! Arguments that several roles share, with the same names and defaults everywhere.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::pod_settings::PodSettings;

/// Facts of the cluster: the same on every controller and every agent.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ClusterSettings {
    /// Range that ClusterIPs are taken from; give it twice for dual stack.
    #[arg(long = "service-cidr", default_value = "10.96.0.0/16")]
    pub(crate) service_cidrs: Vec<IpNet>,
    /// Range that the nodes' pod ranges are cut from; give it twice for dual stack.
    #[arg(long = "pod-cidr", default_value = "10.244.0.0/16")]
    pub(crate) pod_cidrs: Vec<IpNet>,
    /// Domain of cluster names.
    #[arg(long, default_value = "cluster.local")]
    pub(crate) cluster_domain: String,
    /// Address that pods send their DNS queries to; the tenth of the first Service range by default.
    #[arg(long)]
    cluster_dns: Option<IpAddr>,
}

impl ClusterSettings {
    pub(crate) fn cluster_dns(&self) -> anyhow::Result<IpAddr> {
        if let Some(address) = self.cluster_dns {
            return Ok(address);
        }
        let first = self
            .service_cidrs
            .first()
            .ok_or_else(|| anyhow::anyhow!("--service-cidr is empty"))?;
        tenth(first)
            .ok_or_else(|| anyhow::anyhow!("--service-cidr {first} is too small for a DNS address"))
    }
}

/// The address that ends in ten: the first one of a range counts as zero, in IPv6 as in IPv4.
fn tenth(range: &IpNet) -> Option<IpAddr> {
    let address = match range.network() {
        IpAddr::V4(first) => IpAddr::from(u32::from(first).checked_add(10)?.to_be_bytes()),
        IpAddr::V6(first) => IpAddr::from(u128::from(first).checked_add(10)?.to_be_bytes()),
    };
    range.contains(&address).then_some(address)
}

/// Facts of this node.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeSettings {
    /// Name of the node; the host name by default.
    #[arg(long)]
    node_name: Option<String>,
    /// Sockets, network namespaces and BPF pins: gone after a reboot.
    #[arg(long, default_value = "/run/waggle")]
    pub(crate) run_dir: PathBuf,
    /// cgroup below which pods are put, in every hierarchy.
    #[arg(long, default_value = "/waggle")]
    pub(crate) cgroup_parent: String,
    /// cgroup v2 directory whose processes reach Services; the whole machine by default.
    #[arg(long)]
    pub(crate) cgroup_attach: Option<PathBuf>,
    /// Interface to the outside; the one with the default route by default.
    #[arg(long)]
    pub(crate) uplink: Option<String>,
    /// Resolver for names outside the cluster (address:port); those of /etc/resolv.conf by default.
    #[arg(long = "upstream-dns")]
    pub(crate) upstream_dns: Vec<SocketAddr>,
    /// Address of the node; those of the uplink by default.
    #[arg(long = "node-address")]
    pub(crate) node_addresses: Vec<IpAddr>,
    /// Registry (host:port) that is spoken to without TLS; those on loopback are anyway.
    #[arg(long = "insecure-registry")]
    pub(crate) insecure_registries: Vec<String>,
    #[command(flatten)]
    pub(crate) pods: PodSettings,
    /// Label of the node, key=value.
    #[arg(long = "node-label", value_parser = parse_label)]
    pub(crate) node_labels: Vec<(String, String)>,
}

impl NodeSettings {
    pub(crate) fn node_name(&self) -> anyhow::Result<String> {
        if let Some(name) = &self.node_name {
            return Ok(name.clone());
        }
        let name = nix::unistd::gethostname()?.to_string_lossy().to_lowercase();
        Ok(name)
    }
}

/// How this node moves packets.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NetworkSettings {
    /// How packets get to pods of other nodes; the same on every node.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) routing: Routing,
    /// How traffic from outside gets to backends on other nodes; the same on every node.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) north_south: NorthSouth,
    /// Whether the uplink's driver looks at traffic from outside already.
    #[arg(long, value_enum, default_value_t)]
    pub(crate) xdp: Xdp,
    /// UDP port of the overlay; the same on every node.
    #[arg(long, default_value_t = agent::dataplane::VXLAN_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) vxlan_port: u16,
    /// Bytes of pods' largest IP packet; the uplink's, less the overlay's headers, by default.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1280..=65_535))]
    pub(crate) pod_mtu: Option<u32>,
}

impl NetworkSettings {
    /// The arguments that mean these settings.
    pub(crate) fn arguments(&self) -> Vec<String> {
        fn name(value: &impl clap::ValueEnum) -> String {
            value
                .to_possible_value()
                .map(|value| value.get_name().to_owned())
                .unwrap_or_default()
        }
        let mut arguments = vec![
            format!("--routing={}", name(&self.routing)),
            format!("--north-south={}", name(&self.north_south)),
            format!("--xdp={}", name(&self.xdp)),
            format!("--vxlan-port={}", self.vxlan_port),
        ];
        arguments.extend(self.pod_mtu.map(|mtu| format!("--pod-mtu={mtu}")));
        arguments
    }
}

/// `--routing`
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub(crate) enum Routing {
    /// In VXLAN between the nodes
    #[default]
    Overlay,
    /// Unwrapped: nodes share a link, or the network routes pods' ranges
    Native,
}

impl From<Routing> for agent::dataplane::Routing {
    fn from(routing: Routing) -> Self {
        match routing {
            Routing::Overlay => Self::Overlay,
            Routing::Native => Self::Native,
        }
    }
}

/// `--north-south`
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub(crate) enum NorthSouth {
    /// With the node's address as source
    #[default]
    Snat,
    /// With the client's address; the backend's node answers
    Dsr,
}

impl From<NorthSouth> for agent::dataplane::NorthSouth {
    fn from(north_south: NorthSouth) -> Self {
        match north_south {
            NorthSouth::Snat => Self::Snat,
            NorthSouth::Dsr => Self::Dsr,
        }
    }
}

/// `--xdp`
#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
pub(crate) enum Xdp {
    #[default]
    Off,
    On,
}

impl From<Xdp> for agent::dataplane::Xdp {
    fn from(xdp: Xdp) -> Self {
        match xdp {
            Xdp::Off => Self::Off,
            Xdp::On => Self::On,
        }
    }
}

fn parse_label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not key=value"))?;
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    Ok((key.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn the_dns_address_ends_in_ten_in_both_families() {
        let of = |range: &str| tenth(&range.parse().unwrap()).map(|address| address.to_string());
        assert_eq!(of("10.96.0.0/16").as_deref(), Some("10.96.0.10"));
        assert_eq!(of("fd00:10:96::/112").as_deref(), Some("fd00:10:96::a"));
        assert_eq!(of("10.96.0.0/28").as_deref(), Some("10.96.0.10"));
        assert_eq!(of("10.96.0.0/29"), None);
        assert_eq!(of("fd00:10:96::/125"), None);
        assert_eq!(of("255.255.255.252/30"), None);
    }
}
