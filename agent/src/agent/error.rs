//! Why an agent cannot start, in words that say what to do.

use std::net::SocketAddr;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the agent must run as root (it runs as user {0})")]
    NotRoot(u32),
    #[error("missing capability {0}: the agent cannot run pods without it")]
    Capability(&'static str),
    #[error("runc is not there ({detail}); install it, for example `apt-get install runc`")]
    RuncMissing { detail: String },
    #[error("runc {found} is too old: {minimum} or later is needed")]
    RuncTooOld {
        found: String,
        minimum: &'static str,
    },
    #[error("the runtime handler {handler:?} is no program that runs containers: {}: {detail}", program.display())]
    Handler {
        handler: String,
        program: PathBuf,
        detail: String,
    },
    #[error("no cgroup v2 hierarchy is mounted at /sys/fs/cgroup or /sys/fs/cgroup/unified")]
    NoCgroup2,
    #[error("the kernel lacks the file system {0}")]
    NoFileSystem(&'static str),
    #[error("directory {}: {source}", path.display())]
    Directory {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("another agent is running on {}", path.display())]
    Running { path: PathBuf },
    #[error("listen on {address} for metrics: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    DataPlane(#[from] crate::dataplane::DataPlaneError),
    #[error("dns: {0}")]
    Dns(#[from] crate::dns::DnsError),
    #[error("image store: {0}")]
    Images(#[from] crate::images::ImageError),
    #[error("pod networks: {0}")]
    Networks(#[from] crate::network::NetworkError),
    #[error("records of pods: {0}")]
    Pods(std::io::Error),
    #[error("{0}")]
    Host(String),
    #[error("{0}")]
    Sync(String),
}

impl From<crate::node::HostError> for AgentError {
    fn from(error: crate::node::HostError) -> Self {
        Self::Host(error.to_string())
    }
}

impl From<crate::sync::ClientError> for AgentError {
    fn from(error: crate::sync::ClientError) -> Self {
        Self::Sync(error.to_string())
    }
}
