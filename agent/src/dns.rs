//! Cluster DNS on the node: hickory-server over an immutable zone that is swapped whole; other names go to
//! the upstream resolvers through a cache.

use std::net::SocketAddr;

use crate::cluster::{AppliedSender, BatchReceiver};

#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// UDP and TCP.
    pub listen: SocketAddr,
    pub cluster_domain: String,
    pub upstreams: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
}

/// A running DNS server.
#[derive(Debug)]
pub struct DnsServer {}

#[allow(unused_variables, clippy::unused_async)]
impl DnsServer {
    pub async fn start(
        config: DnsConfig,
        batches: BatchReceiver,
        applied: AppliedSender,
    ) -> Result<Self, DnsError> {
        todo!()
    }
    /// Answers what was asked already, then stops.
    pub async fn stop(self) {
        todo!()
    }
}
