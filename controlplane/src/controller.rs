//! The composition root of the control plane: opens the store, then starts what runs on it, and stops it
//! in the opposite order.
//!
//! Order of start: data directory, store (whose lock tells a second process), port, certificates, the server, which says
//! that there is nothing yet (`api/waiting`), the other members (a majority of them), bootstrap objects, what runs while
//! this member leads; at last the server gets all that it serves.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::api::audit::Audit;
pub use crate::api::audit::AuditConfig;
use crate::api::cluster_status::View;
pub use crate::api::cluster_status::{ClusterStatus, DataPlane, MemberStatus, NodeStatus};
use crate::api::flow::Flow;
pub use crate::api::members::{Admission, JoinRequest};
use crate::api::server::{Door, Served, serve};
use crate::api::{Aggregator, Api, Means, Metrics, Waiting};
pub use crate::auth::TokenConfig;
use crate::auth::rbac::Rbac;
pub use crate::auth::{CaStep, NodeIdentity};
use crate::auth::{Chain, FrontProxy, Pki, PkiError, Sans, Tokens};
use crate::cache::{Cache, Subscription};
pub use crate::controllers::NodeEviction;
use crate::controllers::credentials::Keys;
use crate::controllers::{ControllerMetrics, ControllersConfig, PodRanges};
use crate::dialer::Dialer;
use crate::extension::Extensions;
use crate::nodestream::NodeStreams;
use crate::registry::bootstrap::first_address;
use crate::registry::{Registry, ServiceRanges};
use crate::scheduler::SchedulerMetrics;
use crate::store::Store;
pub use crate::store::backup::SnapshotInfo;
use crate::sync::{self, Limits, SyncMetrics};

mod check;
mod leading;
mod members;
mod roles;

use leading::Leading;
pub use members::{
    PeerSettings, accept_admission, has_member, inspect_snapshot, join_request, restore_snapshot,
};

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
    /// How long a pod that is being deleted keeps running so that no request to it is lost.
    pub termination: Termination,
    /// A node that is not heard of for this long is unreachable.
    pub node_grace: Duration,
    /// How fast nodes that are not ready are emptied.
    pub node_eviction: NodeEviction,
    /// Ports that node ports of Services are taken from.
    pub node_ports: std::ops::RangeInclusive<u16>,
    /// How large the range of each node is.
    pub node_ranges: NodeRanges,
    /// This member's name among the members.
    pub name: String,
    /// Where it listens for other members; none can join it otherwise.
    pub peers: Option<PeerSettings>,
    /// Where nodes, pods and clients reach the API; found out where it is not given.
    pub advertise: Option<SocketAddr>,
    /// What is written down of requests.
    pub audit: AuditConfig,
    /// How many requests are worked on at once; priority levels share them.
    pub max_requests: usize,
    /// How service-account tokens are signed.
    pub tokens: TokenConfig,
}

/// Prefix lengths of the ranges that nodes get for their pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeRanges {
    pub ipv4: u8,
    pub ipv6: u8,
}

impl Default for NodeRanges {
    fn default() -> Self {
        Self { ipv4: 24, ipv6: 64 }
    }
}

/// A pod that is being deleted is told to end when all connected nodes have acknowledged that it is no
/// endpoint to pick any more. Both times count within its grace period.
#[derive(Debug, Clone, Copy)]
pub struct Termination {
    /// For the nodes' acknowledgement at the most. Zero: pods are told at once.
    pub wait: Duration,
    /// After the acknowledgement, for requests that are under way.
    pub drain: Duration,
}

impl Default for Termination {
    fn default() -> Self {
        let Limits { wait, drain } = Limits::default();
        Self { wait, drain }
    }
}

/// Why a member did not start. Every variant names the thing that failed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("data directory {path}: {source}")]
    DataDir {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("data directory {path} is in use by another process ({holder})")]
    InUse { path: PathBuf, holder: String },
    #[error("store in {path}: {why}")]
    Store { path: PathBuf, why: String },
    #[error("cannot listen on {address}: {source}")]
    Listen {
        address: SocketAddr,
        source: std::io::Error,
    },
    #[error("certificates: {0}")]
    Certificates(String),
    #[error("configuration: {0}")]
    Config(String),
    #[error("writing the first objects: {0}")]
    Bootstrap(String),
}

impl From<PkiError> for StartError {
    fn from(error: PkiError) -> Self {
        Self::Certificates(error.to_string())
    }
}

/// Open requests may take this long to end when the member stops.
const DRAIN: Duration = Duration::from_secs(5);
/// Writes of the member itself are made under this name.
const MANAGER: &str = "waggle";

/// A running control plane member.
#[derive(Debug)]
pub struct Controller {
    address: SocketAddr,
    pki: Arc<Pki>,
    store: Store,
    /// Ends watches, streams and what runs while leading.
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    /// Keep the authorizer informed.
    _roles: Vec<Subscription>,
    /// Says why the member does not work any more.
    failure: watch::Receiver<Option<String>>,
}

impl Controller {
    /// Returns when the API is served.
    pub async fn start(config: ControllerConfig) -> Result<Self, StartError> {
        check::check(&config).map_err(StartError::Config)?;
        let data_dir = &config.data_dir;
        prepare(data_dir)?;
        let stop = CancellationToken::new();
        // Whoever gives the start up ends what it has begun.
        let ends = stop.clone().drop_guard();
        let store = members::begin_store(&config, &stop).await?;
        match Self::start_on(&config, store.clone(), stop).await {
            Ok(controller) => {
                ends.disarm();
                Ok(controller)
            }
            Err(error) => {
                drop(ends);
                // The next start must find the directory unlocked.
                let _ = store.close().await;
                Err(error)
            }
        }
    }

    async fn start_on(
        config: &ControllerConfig,
        store: Store,
        stop: CancellationToken,
    ) -> Result<Self, StartError> {
        let listen_error = |source| StartError::Listen {
            address: config.listen,
            source,
        };
        let audit =
            Audit::open(&config.audit).map_err(|error| StartError::Config(error.to_string()))?;
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(listen_error)?;
        let address = listener.local_addr().map_err(listen_error)?;
        let endpoints = match config.advertise {
            Some(advertised) => vec![advertised],
            None => endpoints(address),
        };
        let sans = sans(config, address, &endpoints);
        let pki = Pki::open(&config.data_dir.join("pki"), &sans, jiff::Timestamp::now())?;
        let pki = Arc::new(pki);
        let tls = Arc::new(pki.server_config()?);

        let ranges = ServiceRanges {
            cidrs: config.service_cidrs.clone(),
            node_ports: config.node_ports.clone(),
        };
        let (registry, recorder) = Registry::new(store.clone(), ranges);
        let metrics = Arc::new(Metrics::new());
        metrics.register(|all| store.register_metrics(all));
        let door = Door::new(Waiting::new(&registry, &metrics));
        let server = serve(listener, tls, door.clone(), stop.clone(), DRAIN);
        let server = tokio::spawn(server);
        members::await_store(config, &store).await?;
        registry
            .bootstrap(config.cluster_dns, &endpoints)
            .await
            .map_err(|error| StartError::Bootstrap(error.to_string()))?;
        registry
            .agree_on_authorities(&pki.authorities()?)
            .await
            .map_err(|error| StartError::Certificates(error.to_string()))?;
        // What a member needs for its start nobody may refuse.
        let streams = NodeStreams::default();
        let dialer = Dialer::new(streams.clone());
        crate::admission::attach(&registry, &dialer);

        let front_proxy = FrontProxy::open(&registry)
            .await
            .map_err(|error| StartError::Bootstrap(error.to_string()))?;
        registry
            .bootstrap_extensions(front_proxy.published(pki.ca_pem()))
            .await
            .map_err(|error| StartError::Bootstrap(error.to_string()))?;
        let extensions = Extensions::new(&registry, &dialer, front_proxy);

        registry.require_accounts();
        let tokens = Tokens::open(&registry, config.tokens.clone(), &config.cluster_domain)
            .await
            .map_err(|error| StartError::Bootstrap(error.to_string()))?;

        let following_keys = tokio::spawn(tokens.clone().follow(stop.clone()));
        let sealing = tokio::spawn(registry.clone().follow_encryption(stop.clone()));
        let renewing = tokio::spawn(Arc::clone(&pki).keep_renewed(stop.clone()));
        let bootstrap = tokio::spawn(registry.clone().keep_bootstrapped(
            config.cluster_dns,
            endpoints,
            stop.clone(),
        ));
        let client = registry.client(MANAGER);
        let cache = Cache::start(&client, &stop);
        streams.join(&store);
        let sync_metrics = SyncMetrics::default();
        let Termination { wait, drain } = config.termination;
        let limits = Limits { wait, drain };
        let credentials = sync::Credentials {
            tokens: tokens.clone(),
            pki: Arc::clone(&pki),
        };
        let (node_sync, applied) = sync::service(
            &client,
            &cache,
            &streams,
            limits,
            &sync_metrics,
            Some(credentials),
            &stop,
        );
        let rbac = Rbac::default();
        registry.set_access(Arc::new(Chain::new(rbac.clone())));
        let view = View {
            cache: cache.clone(),
            applied,
            pki: config.data_dir.join("pki"),
        };
        let leading = Leading {
            client,
            cache: cache.clone(),
            config: ControllersConfig {
                ca_pem: pki.ca_pem().to_owned(),
                node_grace: config.node_grace,
                node_eviction: config.node_eviction,
                usage: streams.usage.clone(),
                extensions: Some(extensions.clone()),
                pod_ranges: PodRanges::new(
                    config.pod_cidrs.clone(),
                    config.node_ranges.ipv4,
                    config.node_ranges.ipv6,
                ),
            },
            keys: Keys {
                tokens: tokens.clone(),
                pki: Arc::clone(&pki),
                authorizer: Chain::new(rbac.clone()),
            },
            extensions: extensions.clone(),
            controller_metrics: ControllerMetrics::default(),
            scheduler_metrics: SchedulerMetrics::default(),
        };
        metrics.register(|all| {
            sync_metrics.register(all);
            leading.controller_metrics.register(all);
            leading.scheduler_metrics.register(all);
        });
        let (flow, flows) = Flow::follow(&cache, config.max_requests);
        metrics.register(|all| flow.register(all));
        let mut roles = roles::follow(&cache, &rbac);
        roles.extend(flows);
        // Nobody is refused because the roles are not read yet.
        cache.synced().await;
        door.open(Served {
            api: Arc::new(Api::new(Means {
                registry,
                rbac,
                tokens,
                flow,
                audit,
                aggregator: Aggregator::new(&cache, extensions),
                streams,
                metrics,
                view,
                stopping: stop.clone(),
            })),
            grpc: Some(node_sync),
        });
        let leading = tokio::spawn(leading.run(stop.clone()));
        let recorder = {
            let stop = stop.clone();
            tokio::spawn(async move {
                tokio::select! { () = recorder.run() => {}, () = stop.cancelled() => {} }
            })
        };
        let (failed, failure) = watch::channel(None);
        let watchdog = tokio::spawn(watch_over(store.clone(), server, stop.clone(), failed));
        tracing::info!(%address, "control plane member is up");
        Ok(Self {
            address,
            pki,
            store,
            stop,
            tasks: vec![
                recorder,
                bootstrap,
                following_keys,
                renewing,
                sealing,
                leading,
                watchdog,
            ],
            _roles: roles,
            failure,
        })
    }

    /// Where the API is served; the port is the real one where the configuration said 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The API's address as seen from this machine.
    pub fn local_url(&self) -> String {
        let mut address = self.address;
        if address.ip().is_unspecified() {
            let loopback = match address.ip() {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            };
            address.set_ip(loopback);
        }
        format!("https://{address}")
    }

    /// By which the CA is recognized: `sha256:` and the digest of its public key.
    pub fn ca_hash(&self) -> Result<String, StartError> {
        Ok(self.pki.ca_hash()?)
    }

    /// The cluster CA, PEM.
    pub fn ca_pem(&self) -> &str {
        self.pki.ca_pem()
    }

    /// A kubeconfig for the administrator. It holds a key: write it with mode 0600.
    pub fn admin_kubeconfig(&self, server_url: &str) -> String {
        let (certificate, key) = self.pki.admin();
        kubeconfig(server_url, self.pki.ca_pem(), certificate, key)
    }

    /// Certificate and key for the node of this name.
    pub fn issue_node_identity(&self, name: &str) -> Result<NodeIdentity, StartError> {
        Ok(self.pki.issue_node(name)?)
    }

    #[cfg(test)]
    pub(crate) fn store_for_tests(&self) -> Store {
        self.store.clone()
    }

    /// Resolves, with the reason, when the member has died and should be shut down.
    pub async fn failed(&self) -> String {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => "the member's tasks have ended".to_owned(),
        }
    }

    /// Lets another member lead, ends watches, lets other requests finish for some seconds, stops what runs, and closes the store.
    pub async fn shutdown(self) {
        self.store.hand_over().await;
        self.stop.cancel();
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::warn!(%error, "a task ended badly");
            }
        }
        if let Err(error) = self.store.close().await {
            tracing::warn!(%error, "closing the store");
        }
    }
}

/// Certificate and key for the node of this name, by the CA in a member's data directory, whether the member
/// runs or not; a member that has not started yet will use the CA that is made here.
///
/// # Errors
/// When the CA is damaged or cannot be written.
pub fn issue_node_identity(data_dir: &Path, name: &str) -> Result<NodeIdentity, StartError> {
    prepare(data_dir)?;
    let directory = data_dir.join("pki");
    Ok(crate::auth::issue_node(
        &directory,
        name,
        jiff::Timestamp::now(),
    )?)
}

/// Takes a step to a new CA with the files of a member that is stopped (see `auth/pki/rotation.rs`).
///
/// # Errors
/// When it is not the next step, or the files cannot be written.
pub fn rotate_ca(data_dir: &Path, step: CaStep) -> Result<(), StartError> {
    let directory = data_dir.join("pki");
    Ok(crate::auth::rotate_ca(
        &directory,
        step,
        jiff::Timestamp::now(),
    )?)
}

/// Waits for the server to end. An end that nobody asked for, or a store that fails, is a failure.
async fn watch_over(
    store: Store,
    server: JoinHandle<()>,
    stop: CancellationToken,
    failed: watch::Sender<Option<String>>,
) {
    let mut failure = store.failure();
    let mut server = server;
    tokio::select! {
        result = &mut server => {
            if !stop.is_cancelled() {
                let why = result.err().map_or_else(String::new, |error| format!(": {error}"));
                failed.send_replace(Some(format!("the API server has ended{why}")));
            }
            return;
        }
        Ok(reason) = failure.wait_for(Option::is_some) => {
            let why = reason.as_ref().map_or_else(String::new, ToString::to_string);
            tracing::error!(why, "the store has failed");
            failed.send_replace(Some(why));
        }
        () = stop.cancelled() => {}
    }
    let _ = server.await;
}

fn prepare(data_dir: &Path) -> Result<(), StartError> {
    let failed = |source| StartError::DataDir {
        path: data_dir.to_owned(),
        source,
    };
    std::fs::create_dir_all(data_dir).map_err(failed)?;
    std::fs::read_dir(data_dir).map(drop).map_err(failed)
}

/// The addresses under which others reach this member: the one it listens on, or those of the ways out, at
/// most one of each family.
fn endpoints(listening: SocketAddr) -> Vec<SocketAddr> {
    let ip = listening.ip();
    if ip.is_loopback() {
        return Vec::new();
    }
    if !ip.is_unspecified() {
        return vec![listening];
    }
    // Connecting a UDP socket sends nothing; it makes the kernel choose the source address.
    let ways: &[(&str, &str)] = match ip {
        IpAddr::V4(_) => &[("0.0.0.0:0", "192.0.2.1:9")],
        // A socket on `::` takes both families.
        IpAddr::V6(_) => &[("0.0.0.0:0", "192.0.2.1:9"), ("[::]:0", "[2001:db8::1]:9")],
    };
    let source = |(local, documentation): &(&str, &str)| {
        let socket = UdpSocket::bind(local).ok()?;
        socket.connect(documentation).ok()?;
        let source = socket.local_addr().ok()?.ip();
        let usable = !source.is_unspecified() && !source.is_loopback();
        usable.then(|| SocketAddr::new(source, listening.port()))
    };
    ways.iter().filter_map(source).collect()
}

fn sans(config: &ControllerConfig, listening: SocketAddr, endpoints: &[SocketAddr]) -> Sans {
    let mut sans = Sans::default();
    for name in [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "localhost",
    ] {
        sans.add(name);
    }
    sans.add(&format!("kubernetes.default.svc.{}", config.cluster_domain));
    sans.add("127.0.0.1");
    sans.add("::1");
    for address in config.service_cidrs.iter().filter_map(first_address) {
        sans.add(&address.to_string());
    }
    for address in std::iter::once(&listening).chain(endpoints) {
        if !address.ip().is_unspecified() {
            sans.add(&address.ip().to_string());
        }
    }
    for extra in &config.extra_sans {
        sans.add(extra);
    }
    sans
}

/// The administrator's, as that of a member which has not started is.
#[cfg(test)]
pub(crate) fn admin_kubeconfig_of(pki: &Path, server: &str) -> String {
    let pki = Pki::open(pki, &Sans::default(), jiff::Timestamp::now()).expect("its files");
    let (certificate, key) = pki.admin();
    kubeconfig(server, pki.ca_pem(), certificate, key)
}

fn kubeconfig(server: &str, ca: &str, certificate: &str, key: &str) -> String {
    let [ca, certificate, key] = [ca, certificate, key].map(|pem| STANDARD.encode(pem));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: waggle
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: admin
  user:
    client-certificate-data: {certificate}
    client-key-data: {key}
contexts:
- name: waggle
  context:
    cluster: waggle
    user: admin
current-context: waggle
"
    )
}
