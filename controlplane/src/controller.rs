//! The composition root of the control plane: opens the store, then starts what runs on it, and stops it
//! in the opposite order.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// What a control plane member is started with.
#[derive(Debug, Clone)]
pub struct ControllerConfig {
    /// Everything durable lives below this directory: `store/` and `pki/`. One process at a time owns it.
    pub data_dir: PathBuf,
    /// Address of the API server (REST and node sync on one TLS port).
    pub listen: SocketAddr,
    /// Further names and addresses for the serving certificate.
    pub extra_sans: Vec<String>,
    /// Range that ClusterIPs are taken from; IPv4 first where there are two.
    pub service_cidrs: Vec<IpNet>,
    /// Range that node pod ranges are cut from.
    pub pod_cidrs: Vec<IpNet>,
    /// Domain of cluster names, `cluster.local` by default.
    pub cluster_domain: String,
    /// Address of the `kube-dns` Service; inside the first Service range.
    pub cluster_dns: std::net::IpAddr,
}

/// Why a member did not start. Every variant names the thing that failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("data directory {path}: {source}")]
    DataDir {
        path: PathBuf,
        source: std::io::Error,
    },
}

/// A running control plane member.
#[derive(Debug)]
pub struct Controller {}
