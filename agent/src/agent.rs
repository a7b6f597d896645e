//! The composition root of the agent: loads the data plane, starts DNS, adopts what runs, then follows the
//! control plane; stops in the opposite order.

use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;

/// What an agent is started with.
#[derive(Debug, Clone)]
pub struct AgentConfig {
    pub node_name: String,
    /// Durable: images, pod state, logs (`images/`, `pods/`, `logs/`).
    pub data_dir: PathBuf,
    /// Gone after a reboot: sockets, pinned namespaces, bpf pins (`/run/waggle` by default).
    pub run_dir: PathBuf,
    /// `https://host:port` of the control plane.
    pub server: String,
    /// PEM: cluster CA, this node's certificate (`system:node:<name>`) and key.
    pub ca_pem: Vec<u8>,
    pub certificate_pem: Vec<u8>,
    pub key_pem: Vec<u8>,
    /// Below which cgroups are made: `<root>/waggle/<pod uid>/<container>` in every hierarchy.
    pub cgroup_parent: String,
    /// Where cgroup programs attach; the v2 root by default, so that host processes reach Services too.
    pub cgroup_attach: Option<PathBuf>,
    /// Interface to the outside; the one with the default route when absent.
    pub uplink: Option<String>,
    pub cluster_domain: String,
    pub cluster_dns: IpAddr,
    pub service_cidrs: Vec<IpNet>,
    /// All pod ranges of the cluster: what is not in them is masqueraded.
    pub pod_cidrs: Vec<IpNet>,
    /// Resolvers for names outside the cluster; from /etc/resolv.conf when empty.
    pub upstream_dns: Vec<std::net::SocketAddr>,
    /// Program started as `<program> supervise …` for each pod; the running binary by default.
    pub supervisor_program: PathBuf,
    /// Labels that the node registers with.
    pub node_labels: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, thiserror::Error)]
pub enum AgentError {}

/// A running agent.
#[derive(Debug)]
pub struct Agent {}
