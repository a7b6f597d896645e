//! The node's data plane: loads the eBPF programs, keeps their maps true to the cluster, counts drops.
//!
//! Pure planning (`dataplane/plan*`: services and endpoints in, map changes out) is apart from doing.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::cluster::{AppliedSender, BatchReceiver};

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
    pub dns_listen: std::net::SocketAddr,
}

#[derive(Debug, thiserror::Error)]
pub enum DataPlaneError {
    /// A kernel that lacks something; names it and the minimum version.
    #[error("the kernel lacks {feature} (needs Linux {minimum}): {detail}")]
    KernelFeature {
        feature: &'static str,
        minimum: &'static str,
        detail: String,
    },
    #[error("missing capability {0}")]
    Capability(&'static str),
}

/// A pod's interface as the data plane must know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodInterface {
    pub addresses: Vec<IpAddr>,
    /// Host side of the veth pair.
    pub host_ifindex: u32,
    pub host_mac: [u8; 6],
    pub pod_mac: [u8; 6],
}

/// One attached program, for status screens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Attachment {
    pub program: String,
    /// `cgroup:/sys/fs/cgroup/unified`, `tcx ingress eth0`…
    pub hook: String,
}

/// Handle to the loaded data plane; dropping it leaves programs and maps in force (pinned).
#[derive(Debug, Clone)]
pub struct DataPlane {
    #[allow(dead_code)]
    inner: Arc<()>,
}

#[allow(unused_variables, clippy::unused_async)]
impl DataPlane {
    /// Loads (or replaces, without detaching) everything.
    pub async fn load(config: DataPlaneConfig) -> Result<Self, DataPlaneError> {
        todo!()
    }
    /// Follows the cluster until the channel closes.
    pub fn follow(
        &self,
        batches: BatchReceiver,
        applied: AppliedSender,
    ) -> tokio::task::JoinHandle<()> {
        todo!()
    }
    /// Attaches the pod programs and routes the addresses to it. Idempotent.
    pub async fn add_pod(&self, interface: &PodInterface) -> Result<(), DataPlaneError> {
        todo!()
    }
    pub async fn remove_pod(&self, interface: &PodInterface) -> Result<(), DataPlaneError> {
        todo!()
    }
    pub fn attachments(&self) -> Vec<Attachment> {
        todo!()
    }
    /// Counters by reason, summed over CPUs.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        todo!()
    }
    /// Detaches and unpins everything.
    pub async fn unload(self) -> Result<(), DataPlaneError> {
        todo!()
    }
}
