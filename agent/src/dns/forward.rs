//! Names outside the cluster: asked of the upstream resolvers, each question once at a time, and kept for
//! as long as they say.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Record, RecordType};
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::{ResponseCache, TokioResolver, TtlConfig};
use tokio::sync::Semaphore;

use super::metrics::Metrics;

/// Of one server; then the next is asked.
const SERVER_TIMEOUT: Duration = Duration::from_millis(1500);
/// Clients give up after 5 s: they should hear of a failure before.
const TOTAL_TIMEOUT: Duration = Duration::from_secs(4);
const CACHE_ENTRIES: u64 = 10_000;
const MAX_TTL: Duration = Duration::from_secs(300);
const MAX_NEGATIVE_TTL: Duration = Duration::from_secs(30);
/// Different questions under way.
const MAX_UNDER_WAY: usize = 1024;

/// What came of a forwarded question.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) code: ResponseCode,
    pub(crate) answers: Vec<Record>,
    pub(crate) authorities: Vec<Record>,
}

impl Outcome {
    fn failure(code: ResponseCode) -> Self {
        Self {
            code,
            answers: Vec::new(),
            authorities: Vec::new(),
        }
    }
}

type Pending = Shared<BoxFuture<'static, Outcome>>;

/// Without upstreams every question is refused at once.
#[derive(Clone)]
pub(crate) struct Forward {
    upstream: Option<Arc<Upstream>>,
    metrics: Metrics,
}

struct Upstream {
    resolver: TokioResolver,
    cache: ResponseCache,
    /// The same question asked again waits for the first: so a loop of resolvers ends here, too.
    under_way: Mutex<HashMap<Query, Pending>>,
    permits: Semaphore,
}

impl Forward {
    pub(crate) fn new(upstreams: &[SocketAddr], listen: SocketAddr, metrics: Metrics) -> Self {
        let servers: Vec<NameServerConfig> = upstreams
            .iter()
            .filter(|upstream| {
                let ourselves = is_ourselves(**upstream, listen);
                if ourselves {
                    tracing::warn!(%upstream, "upstream resolver skipped: it is this server");
                }
                !ourselves
            })
            .map(|upstream| server(*upstream))
            .collect();
        let upstream = (!servers.is_empty()).then(|| upstream(servers)).flatten();
        if upstream.is_none() {
            tracing::warn!("no upstream resolver: names outside the cluster are refused");
        }
        Self {
            upstream: upstream.map(Arc::new),
            metrics,
        }
    }

    pub(crate) async fn lookup(&self, query: Query) -> Outcome {
        let Some(upstream) = self.upstream.clone() else {
            return Outcome::failure(ResponseCode::Refused);
        };
        if let Some(cached) = upstream.cache.get(&query, Instant::now()) {
            self.metrics.cache_hits.inc();
            return outcome(cached);
        }
        self.metrics.cache_misses.inc();
        self.share(&upstream, query).await
    }

    /// Joins the question if it is under way, and starts it otherwise.
    fn share(&self, upstream: &Arc<Upstream>, query: Query) -> Pending {
        let mut under_way = upstream
            .under_way
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(pending) = under_way.get(&query) {
            return pending.clone();
        }
        let (upstream, metrics, question) = (upstream.clone(), self.metrics.clone(), query.clone());
        // A task of its own: it goes on when those who asked first have given up.
        let task = tokio::spawn(async move {
            let outcome = upstream.ask(&question, &metrics).await;
            let mut under_way = upstream
                .under_way
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            under_way.remove(&question);
            outcome
        });
        let pending = task
            .map(|joined| joined.unwrap_or_else(|_| Outcome::failure(ResponseCode::ServFail)))
            .boxed()
            .shared();
        under_way.insert(query, pending.clone());
        pending
    }
}

impl Upstream {
    async fn ask(&self, query: &Query, metrics: &Metrics) -> Outcome {
        let Ok(_permit) = self.permits.try_acquire() else {
            metrics.overloaded.inc();
            return Outcome::failure(ResponseCode::ServFail);
        };
        let lookup = self
            .resolver
            .lookup(query.name().clone(), query.query_type());
        let result = match tokio::time::timeout(TOTAL_TIMEOUT, lookup).await {
            Ok(Ok(lookup)) => Ok(lookup.message().clone()),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(NetError::Timeout),
        };
        let outcome = outcome(result.clone());
        if outcome.code == ResponseCode::ServFail {
            metrics.forward_failures.inc();
            if let Err(error) = &result {
                tracing::debug!(name = %query.name(), %error, "upstream resolvers failed");
            }
        }
        self.cache.insert(query.clone(), result, Instant::now());
        outcome
    }
}

fn upstream(servers: Vec<NameServerConfig>) -> Option<Upstream> {
    let config = ResolverConfig::from_name_servers(servers);
    let provider = TokioRuntimeProvider::default();
    let mut builder = TokioResolver::builder_with_config(config, provider);
    let options = builder.options_mut();
    options.timeout = SERVER_TIMEOUT;
    options.attempts = 1;
    // Our own cache counts its hits; one is enough.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.preserve_intermediates = true;
    options.edns0 = true;
    options.positive_max_ttl = Some(MAX_TTL);
    options.negative_max_ttl = Some(MAX_NEGATIVE_TTL);
    let ttls = TtlConfig::from_opts(options);
    let resolver = match builder.build() {
        Ok(resolver) => resolver,
        Err(error) => {
            tracing::error!(%error, "upstream resolvers cannot be used");
            return None;
        }
    };
    Some(Upstream {
        resolver,
        cache: ResponseCache::new(CACHE_ENTRIES, ttls),
        under_way: Mutex::default(),
        permits: Semaphore::new(MAX_UNDER_WAY),
    })
}

fn server(address: SocketAddr) -> NameServerConfig {
    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
    let connections = connections
        .into_iter()
        .map(|mut connection| {
            connection.port = address.port();
            connection
        })
        .collect();
    NameServerConfig::new(address.ip(), true, connections)
}

fn is_ourselves(upstream: SocketAddr, listen: SocketAddr) -> bool {
    let same_host = upstream.ip() == listen.ip()
        || (listen.ip().is_unspecified() && upstream.ip().is_loopback())
        || upstream.ip().is_unspecified();
    same_host && upstream.port() == listen.port()
}

fn outcome(result: Result<Message, NetError>) -> Outcome {
    match result {
        Ok(message) => Outcome {
            code: message.metadata.response_code,
            answers: message.answers,
            authorities: Vec::new(),
        },
        Err(NetError::Dns(DnsError::NoRecordsFound(none))) => Outcome {
            code: none.response_code,
            answers: Vec::new(),
            authorities: none
                .soa
                .map(|soa| soa.into_record_of_rdata())
                .into_iter()
                .collect(),
        },
        Err(NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused))) => {
            Outcome::failure(ResponseCode::Refused)
        }
        Err(_) => Outcome::failure(ResponseCode::ServFail),
    }
}

/// Whether a question may be passed on: zone transfers and "everything" may not.
pub(crate) fn is_forwardable(kind: RecordType) -> bool {
    !matches!(
        kind,
        RecordType::ANY | RecordType::AXFR | RecordType::IXFR | RecordType::OPT | RecordType::TSIG
    )
}

/// The name servers of a `resolv.conf`, for [`super::DnsConfig::upstreams`].
pub fn system_upstreams(path: &Path) -> std::io::Result<Vec<SocketAddr>> {
    Ok(parse_resolv_conf(&fs::read_to_string(path)?))
}

fn parse_resolv_conf(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        if words.next() != Some("nameserver") {
            continue;
        }
        // Link-local servers come with an interface, which a socket address of ours does not keep.
        let Some(Ok(ip)) = words.next().map(str::parse::<IpAddr>) else {
            continue;
        };
        let server = SocketAddr::new(ip, 53);
        if !servers.contains(&server) {
            servers.push(server);
        }
    }
    servers
}

#[cfg(test)]
mod tests;
