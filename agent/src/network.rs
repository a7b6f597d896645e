//! Pod networks: a network namespace, a veth pair and addresses per pod; no address twice, also after a
//! crash. Everything here is netlink and files; packets are the data plane's.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use crate::dataplane::PodInterface;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("no free address in {0:?}")]
    Exhausted(Vec<IpNet>),
}

/// A pod's network as it was set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodNetwork {
    /// Bind mount of the network namespace, for runc's `namespaces[].path`.
    pub netns: PathBuf,
    pub addresses: Vec<IpAddr>,
    pub interface: PodInterface,
}

/// Sets up and tears down pod networks, by pod uid.
#[derive(Debug, Clone)]
pub struct Networks {}

#[allow(unused_variables, clippy::unused_async)]
impl Networks {
    /// `run_dir` holds namespaces (`netns/<uid>`) and the address ledger. Reads back what is there.
    pub async fn open(
        run_dir: &Path,
        pod_cidrs: Vec<IpNet>,
        mtu: Option<u32>,
    ) -> Result<Self, NetworkError> {
        todo!()
    }
    /// Sets up the pod's network, or returns the one that it has. On failure nothing is left.
    pub async fn attach(&self, pod_uid: &str) -> Result<PodNetwork, NetworkError> {
        todo!()
    }
    /// Idempotent.
    pub async fn detach(&self, pod_uid: &str) -> Result<(), NetworkError> {
        todo!()
    }
    /// Uids that have a network, for sweeping after a crash.
    pub async fn list(&self) -> Result<Vec<String>, NetworkError> {
        todo!()
    }
}
