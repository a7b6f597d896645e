//! Cluster DNS on the node: an immutable zone that is swapped whole; other names go to the upstream
//! resolvers through a cache.
//!
//! ```text
//!   transport    UDP and TCP sockets; keeper: a process that keeps them while there is no agent
//!   custody      open TCP connections, which that process has too
//!   questions    what was asked and is not answered yet, for the next agent
//!   answer       from a request to a reply
//!   zone         the cluster's names (pure); feed makes it from the cluster's events (pure)
//!   forward      upstream resolvers and their cache
//! ```
//! Messages are hickory-server's, upstream questions hickory-resolver's. Deliberately not here: packets on
//! their way from pods to this server, which are the data plane's.

mod answer;
mod custody;
mod feed;
mod forward;
pub mod keeper;
mod metrics;
mod questions;
mod transport;
mod zone;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use hickory_proto::rr::Name;
use prometheus_client::registry::Registry;
use tokio::task::JoinHandle;

use self::answer::{Answerer, Known};
use self::feed::Feed;
use self::forward::Forward;
pub use self::forward::system_upstreams;
use self::metrics::Metrics;
pub use self::transport::DnsSockets;
use self::transport::Transport;
use self::zone::Zone;
use crate::cluster::{AppliedSender, Batch, BatchReceiver};

/// For how long after a start names that are not among the remembered ones wait for the control plane's word.
const UNSETTLED: Duration = Duration::from_secs(2);
/// How long a stopping server waits for upstream resolvers.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone)]
pub struct DnsConfig {
    /// UDP and TCP. One address, not "any": replies must come from where the question went.
    pub listen: SocketAddr,
    pub cluster_domain: String,
    /// Where other names are asked; without any they are refused. See [`system_upstreams`].
    pub upstreams: Vec<SocketAddr>,
}

#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("cluster domain {domain:?}: {detail}")]
    Domain { domain: String, detail: String },
}

/// A running DNS server.
#[derive(Debug)]
pub struct DnsServer {
    address: SocketAddr,
    sockets: DnsSockets,
    transport: Transport,
    follower: JoinHandle<()>,
    metrics: Metrics,
}

impl DnsServer {
    /// Binds (also to an address that is on no interface yet), and answers from then on.
    pub async fn start(
        config: DnsConfig,
        batches: BatchReceiver,
        applied: AppliedSender,
    ) -> Result<Self, DnsError> {
        let sockets = DnsSockets::bind(config.listen).map_err(|source| DnsError::Listen {
            address: config.listen,
            source,
        })?;
        Self::start_on(sockets, config, batches, applied).await
    }

    /// Like [`Self::start`], on sockets that are bound already (those of the agent before, say).
    #[allow(clippy::unused_async)] // needs a runtime, like start
    pub async fn start_on(
        sockets: DnsSockets,
        config: DnsConfig,
        batches: BatchReceiver,
        applied: AppliedSender,
    ) -> Result<Self, DnsError> {
        let listen_error = |source| DnsError::Listen {
            address: config.listen,
            source,
        };
        let domain = domain(&config.cluster_domain)?;
        let address = sockets.address().map_err(listen_error)?;
        let metrics = Metrics::new();
        let zone = Zone::new(domain, address.ip());
        let answerer = Arc::new(Answerer {
            zone: ArcSwap::from_pointee(zone.clone()),
            known: tokio::sync::watch::Sender::new(Known::Nothing),
            forward: Forward::new(&config.upstreams, address, metrics.clone()),
            metrics: metrics.clone(),
        });
        let kept = sockets.try_clone().map_err(listen_error)?;
        let transport = Transport::start(sockets, &answerer).map_err(listen_error)?;
        let follower = tokio::spawn(follow(Feed::new(zone), answerer, batches, applied));
        tracing::info!(%address, domain = %config.cluster_domain, "DNS answers");
        Ok(Self {
            address,
            sockets: kept,
            transport,
            follower,
            metrics,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Handles to the sockets, so that queries wait in them while no server runs.
    pub fn sockets(&self) -> std::io::Result<DnsSockets> {
        self.sockets.try_clone()
    }

    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Answers what was asked already, then stops.
    pub async fn stop(self) {
        self.transport.stop(PATIENCE).await;
        self.follower.abort();
        let _ = self.follower.await;
    }
}

/// Applies batches until the channel closes; the last zone stays in force.
async fn follow(
    mut feed: Feed,
    answerer: Arc<Answerer>,
    mut batches: BatchReceiver,
    applied: AppliedSender,
) {
    while let Some(batch) = batches.recv().await {
        answerer.swap(feed.apply(&batch), known_by(&batch));
        applied.send_replace(batch.revision);
    }
}

/// What a batch makes of what is known, if it changes that.
fn known_by(batch: &Batch) -> Option<Known> {
    if batch.is_remembered() {
        Some(Known::Remembered {
            settled: Instant::now() + UNSETTLED,
        })
    } else {
        batch.full.then_some(Known::All)
    }
}

fn domain(text: &str) -> Result<Name, DnsError> {
    let error = |detail: String| DnsError::Domain {
        domain: text.to_owned(),
        detail,
    };
    let mut name = Name::from_ascii(text.to_ascii_lowercase()).map_err(|e| error(e.to_string()))?;
    if name.num_labels() == 0 {
        return Err(error("it is empty".to_owned()));
    }
    name.set_fqdn(true);
    Ok(name)
}

/// Any bytes as a message: an answer that fits, or none.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    use std::sync::OnceLock;
    static ANSWERER: OnceLock<Answerer> = OnceLock::new();
    let from = SocketAddr::from(([127, 0, 0, 1], 1));
    let answerer = ANSWERER.get_or_init(|| {
        let metrics = Metrics::new();
        let domain = domain("cluster.local").expect("a name");
        Answerer {
            zone: ArcSwap::from_pointee(Zone::new(domain, from.ip())),
            known: tokio::sync::watch::Sender::new(Known::All),
            forward: Forward::new(&[], from, metrics.clone()),
            metrics,
        }
    });
    for protocol in [
        hickory_server::net::xfer::Protocol::Udp,
        hickory_server::net::xfer::Protocol::Tcp,
    ] {
        match transport::read(answerer, bytes, from, protocol) {
            Ok(answer::Step::Done(reply)) | Err(reply) => {
                assert!(reply.len() <= usize::from(u16::MAX));
                // A reply is never answered, or two servers could go on for ever.
                let again = transport::read(answerer, &reply, from, protocol);
                assert!(matches!(again, Err(none) if none.is_empty()));
            }
            Ok(answer::Step::Forward(_)) => {}
        }
    }
}

#[cfg(test)]
mod tests;
