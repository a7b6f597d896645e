//! The composition root of the agent: loads the data plane, starts DNS, adopts what runs, then follows the
//! control plane; stops in the opposite order.
//!
//! `agent/preflight` says what is missing before anything is touched, `agent/local` answers on a socket of
//! this machine (metrics, image import), `agent/node_server` answers who asks through the control
//! plane's proxy, `agent/shared` and `agent/stats` are what they tell of, `agent/names` finds DNS its sockets, `agent/error` names what failed.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use ipnet::IpNet;
use nix::fcntl::Flock;
use prometheus_client::registry::Registry;
use proto::node::v1::{DataPlaneMode, Hello};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::cluster::{Batch, memory};
use crate::dataplane::{
    Attachment, DataPlane, DataPlaneConfig, NorthSouth, Routing, SETTLE_AFTER, Xdp,
};
use crate::dns::keeper::Keeper;
use crate::dns::{DnsConfig, DnsServer};
use crate::images::ImageStore;
use crate::node::{self, Heartbeat, Host, NodeFacts};
use crate::pods::{
    Clock, Context, EventType, Handlers, LogLimits, NodeMachine, Objects, PodKey, PodMetrics, Pods,
    Reporter, Resolver, Settings, Turns, UserIds, has_app_armor,
};
use crate::supervisor;
use crate::sync::{Client, ClientConfig, ClientMetrics, Intake, Outbox};

mod error;
mod local;
mod names;
mod node_server;
mod options;
mod preflight;
mod ranges;
mod shared;
mod stats;
mod usage;
mod volumes;

pub use error::AgentError;
pub use options::{LogSize, LogSizeError, PodOptions};
use shared::{Facts, Shared};

/// Where the node's DNS server listens: an address that the data plane puts on `lo` and that nothing else has, of the
/// family that it is asked by.
fn dns_listen(config: &AgentConfig) -> SocketAddr {
    let address = match config.cluster_dns {
        IpAddr::V4(_) => IpAddr::from([169, 254, 20, 10]),
        IpAddr::V6(_) => IpAddr::from([0xfd77, 0x6167, 0x676c, 0x6500, 0, 0, 0, 0x10]),
    };
    SocketAddr::new(address, 53)
}

/// What is remembered of the cluster, below the data directory.
const MEMORY: &str = "cluster";
/// Batches that a consumer has not taken yet.
const BATCHES: usize = 16;
/// How long a pod may take to end when the agent leaves nothing behind, and how long all are waited for.
const LEAVING_GRACE: Duration = Duration::from_secs(5);
const LEAVING_PATIENCE: Duration = Duration::from_secs(30);

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
    /// Where `ca.crt`, `node.crt` and `node.key` are kept and renewed; in memory alone where there is none.
    pub identity_dir: Option<PathBuf>,
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
    pub upstream_dns: Vec<SocketAddr>,
    /// Program started as `<program> keep-dns …`: the running binary.
    pub program: PathBuf,
    /// Labels that the node registers with.
    pub node_labels: BTreeMap<String, String>,
    /// Addresses of the node; those of the uplink when empty.
    pub node_addresses: Vec<IpAddr>,
    /// Where `/metrics` and `/healthz` are served, besides the socket `<run_dir>/agent.sock`.
    pub metrics_listen: Option<SocketAddr>,
    /// How packets get to pods of other nodes: the same on all nodes.
    pub routing: Routing,
    /// How traffic from outside gets to backends on other nodes: the same on all nodes.
    pub north_south: NorthSouth,
    /// Whether the uplink's driver looks at traffic from outside already.
    pub xdp: Xdp,
    /// UDP port of the overlay: the same on all nodes.
    pub vxlan_port: u16,
    /// Bytes of pods' largest IP packet; what the uplink carries, less the overlay's headers, when absent.
    pub pod_mtu: Option<u32>,
    /// Registries (`host:port`) that are spoken to without TLS, besides those on loopback addresses.
    pub insecure_registries: Vec<String>,
    pub pods: PodOptions,
}

/// What becomes of the pods when the agent stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Pods, routing and the kernel's share of load balancing go on; the next agent adopts them.
    LeavePods,
    /// All pods end and nothing of the agent stays on the machine but its data directory.
    RemoveEverything,
}

/// One pod, for status screens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PodSummary {
    pub namespace: String,
    pub name: String,
    pub phase: String,
    pub ready: bool,
    pub addresses: Vec<IpAddr>,
    pub restarts: u32,
}

/// What an agent is doing.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct AgentStatus {
    pub node_name: String,
    pub addresses: Vec<IpAddr>,
    pub connected: bool,
    /// Store revision that the data plane and DNS have in force.
    pub applied_revision: u64,
    pub attachments: Vec<Attachment>,
    pub pods: Vec<PodSummary>,
}

/// A running agent.
pub struct Agent {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    heartbeat: Arc<Heartbeat>,
    tasks: Vec<JoinHandle<()>>,
    dns: DnsServer,
    /// Keeps the DNS server's sockets when this process ends otherwise than by a shutdown that removes everything.
    dns_keeper: Option<Keeper>,
    follow: JoinHandle<()>,
    cgroup_parent: String,
    run_dir: PathBuf,
    /// Of the data directory: one agent at a time.
    _lock: Flock<std::fs::File>,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("node_name", &self.shared.facts.node_name)
            .finish_non_exhaustive()
    }
}

impl Agent {
    /// Starts everything and returns when the data plane is in force and earlier pods are adopted; the
    /// control plane may still be away.
    pub async fn start(config: AgentConfig) -> Result<Self, AgentError> {
        let runtimes = preflight::check(&config).await?;
        let lock = preflight::lock(&config.data_dir)?;
        let host = Host::read()?;
        let uplink = config.uplink.clone().or_else(node::uplink);
        let addresses = if config.node_addresses.is_empty() {
            node::addresses(uplink.as_deref())
        } else {
            config.node_addresses.clone()
        };

        // The data plane first: the address that DNS listens on is its doing, and a pod must not start
        // before its packets are looked after.
        let data_plane = DataPlane::load(data_plane_config(&config, uplink)).await?;
        let fresh = !has_entries(&config.data_dir.join("pods"));
        let started = Self::start_on(
            config,
            data_plane.clone(),
            (host, addresses, runtimes),
            lock,
        )
        .await;
        if started.is_err() && fresh {
            // No pod needs it, and whoever reads the error expects the machine as it was.
            if let Err(error) = data_plane.unload().await {
                tracing::error!(%error, "the data plane was not unloaded");
            }
        }
        started
    }

    /// The rest, with the data plane in force.
    async fn start_on(
        config: AgentConfig,
        data_plane: DataPlane,
        (host, addresses, runtimes): (Host, Vec<IpAddr>, preflight::Runtimes),
        lock: Flock<std::fs::File>,
    ) -> Result<Self, AgentError> {
        // A data plane that was adopted is at least as new as what is remembered.
        let remembered = remembered(&config.data_dir);
        let (data_plane_batches, batches) = mpsc::channel(BATCHES);
        let (applied, data_plane_applied) = watch::channel(0);
        let follow = data_plane.follow(batches, applied);
        if data_plane.is_fresh() {
            hand(&data_plane_batches, remembered.as_ref());
        }

        let (dns_batches, batches) = mpsc::channel(BATCHES);
        hand(&dns_batches, remembered.as_ref());
        let (applied, dns_applied) = watch::channel(0);
        let host_resolver = preflight::host_resolver();
        let (sockets, dns_keeper) = names::sockets(&config).await?;
        let dns = DnsServer::start_on(
            sockets,
            DnsConfig {
                listen: dns_listen(&config),
                cluster_domain: config.cluster_domain.clone(),
                upstreams: upstreams(&config, &host_resolver),
            },
            batches,
            applied,
        )
        .await?;

        let (health_batches, batches) = mpsc::channel(BATCHES);
        hand(&health_batches, remembered.as_ref());
        drop(remembered);
        let health = tokio::spawn(crate::health::follow(
            config.node_name.clone(),
            batches,
            data_plane_applied.clone(),
        ));

        let (memory_batches, batches) = mpsc::channel(BATCHES);
        let memory = tokio::spawn(memory::keep(config.data_dir.join(MEMORY), batches));

        let images = ImageStore::open(&config.data_dir.join("images"))
            .await?
            .with_insecure_registries(config.insecure_registries.clone())
            .with_mirrors(config.pods.registry_mirrors.clone());
        let outbox = Arc::new(Outbox::default());
        let objects = Arc::new(Objects::default());
        let supervisor = supervisor::install(&config.data_dir).map_err(|source| {
            let path = config.data_dir.clone();
            AgentError::Directory { path, source }
        })?;
        let machine = NodeMachine::new(images.clone(), data_plane.clone(), supervisor);
        let machine = Arc::new(machine);
        let heartbeat = Arc::new(Heartbeat::new(
            NodeFacts {
                name: config.node_name.clone(),
                host: host.clone(),
                addresses: addresses.clone(),
                labels: config.node_labels.clone(),
                runtime_version: runtimes.runc_version,
                runtime_handlers: runtimes.handlers.keys().cloned().collect(),
                not_ready: Some("the node has no pod range yet".to_owned()),
                ..NodeFacts::default()
            },
            config.data_dir.clone(),
            images.clone(),
            Arc::clone(&outbox) as Arc<dyn node::NodeReporter>,
        ));

        outbox.event(heartbeat.event(
            EventType::Normal,
            "Starting",
            "Starting kubelet.".to_owned(),
        ));

        // Networks before pods, where the range is known from an earlier life: pods are adopted though the
        // control plane is away.
        let ranges = ranges::Ranges::new(
            &config.data_dir,
            &config.run_dir,
            config.pod_cidrs.clone(),
            data_plane.pod_mtu(),
        );
        if let Some(known) = ranges.read() {
            ranges.open(&machine, known).await?;
            heartbeat.set_not_ready(None);
        }

        let metrics = PodMetrics::default();
        let client_metrics = ClientMetrics::default();
        let mut registry = Registry::default();
        data_plane.register(&mut registry);
        dns.register(&mut registry);
        let own = registry.sub_registry_with_prefix("waggle_agent");
        metrics.register(own);
        client_metrics.register(own);
        own.register(
            "events_dropped",
            "Events that were dropped because too many waited",
            outbox.dropped_events.clone(),
        );
        let known_addresses = Arc::new(ArcSwap::from_pointee(addresses));
        let context = Arc::new(Context {
            machine: Arc::clone(&machine),
            objects: Arc::clone(&objects),
            reporter: Arc::clone(&outbox) as Arc<dyn crate::pods::Reporter>,
            settings: settings(
                &config,
                &host,
                Arc::clone(&known_addresses),
                (host_resolver, runtimes.handlers),
            ),
            clock: Clock::new(),
            metrics,
            pressure: std::sync::Mutex::default(),
            shutting_down: std::sync::atomic::AtomicBool::default(),
            allocated: std::sync::Mutex::default(),
            host_ports: std::sync::Mutex::default(),
            user_ids: UserIds::default(),
            preparing: Turns::of_machine(),
            starting: Turns::of_machine(),
        });
        let pods = Arc::new(Pods::open(context).await.map_err(AgentError::Pods)?);
        let new_addresses = data_plane.node_addresses();

        let (stop, stopped) = watch::channel(false);
        let (pod_cidrs, new_ranges) = watch::channel(Vec::new());
        let volumes_of = Arc::clone(&objects);
        let intake = Intake::new(
            config.node_name.clone(),
            Arc::clone(&pods),
            objects,
            Arc::clone(&outbox),
            vec![
                data_plane_batches,
                dns_batches,
                health_batches,
                memory_batches,
            ],
            pod_cidrs,
        );
        let hello = {
            let heartbeat = Arc::clone(&heartbeat);
            let node_name = config.node_name.clone();
            let mode = mode(&config);
            Box::new(move || hello(&node_name, &heartbeat, &mode))
        };
        let evictor = options::evictor(&config, &pods, &images, &heartbeat);
        let manifests = options::manifests(&config, &pods);
        let shutdown = options::shutdown(&config, &pods, &heartbeat);
        let shared = Arc::new(Shared {
            pods,
            images,
            data_plane,
            registry,
            addresses: known_addresses,
            client: client_metrics.clone(),
            applied: [data_plane_applied, dns_applied],
            facts: Facts::new(&config, &host),
            baseline: Arc::default(),
            configuration: options::configuration(&config),
        });
        let client = Client::new(
            &ClientConfig {
                server: config.server.clone(),
                node_name: config.node_name.clone(),
                identity_dir: config.identity_dir.clone(),
                ca_pem: config.ca_pem.clone(),
                certificate_pem: config.certificate_pem.clone(),
                key_pem: config.key_pem.clone(),
            },
            intake,
            hello,
            client_metrics,
            Some(Arc::new(node_server::Server(Arc::clone(&shared)))),
        )?;
        let usage = tokio::spawn(usage::report(
            Arc::clone(&shared.pods),
            config.cgroup_parent.clone(),
            (Arc::clone(&outbox), Arc::clone(&shared.baseline)),
            stopped.clone(),
        ));
        let removal = tokio::spawn(volumes::remove(
            volumes_of,
            config.data_dir.clone(),
            Arc::clone(&outbox),
            stopped.clone(),
        ));
        let mut tasks = vec![
            health,
            usage,
            removal,
            memory,
            tokio::spawn(client.run(stopped.clone())),
            tokio::spawn(Arc::clone(&heartbeat).run(stopped.clone())),
            tokio::spawn(evictor.run(stopped.clone())),
            tokio::spawn(report_applied(
                shared.applied.clone(),
                outbox,
                stopped.clone(),
            )),
            tokio::spawn(ranges.follow(
                machine,
                Arc::clone(&heartbeat),
                new_ranges,
                stopped.clone(),
            )),
        ];
        tasks.push(tokio::spawn(manifests.run(stopped.clone())));
        tasks.push(tokio::spawn(shutdown.run(stopped.clone())));
        if config.node_addresses.is_empty() {
            tasks.push(tokio::spawn(follow_addresses(
                new_addresses,
                (Arc::clone(&heartbeat), Arc::clone(&shared)),
                stopped.clone(),
            )));
        }
        tasks
            .extend(local::serve(&config.run_dir, config.metrics_listen, &shared, &stopped).await?);
        Ok(Self {
            shared,
            stop,
            heartbeat,
            tasks,
            dns,
            dns_keeper,
            follow,
            cgroup_parent: config.cgroup_parent,
            run_dir: config.run_dir,
            _lock: lock,
        })
    }

    pub fn status(&self) -> AgentStatus {
        self.shared.status()
    }

    /// The text format of Prometheus.
    pub fn metrics(&self) -> String {
        self.shared.metrics()
    }

    /// The node's images, for `waggle image import` in the same process.
    pub fn images(&self) -> ImageStore {
        self.shared.images.clone()
    }

    /// Stops; returns the pods (`namespace/name`) that did not end in time.
    pub async fn shutdown(self, how: Shutdown) -> Vec<String> {
        if how == Shutdown::RemoveEverything {
            self.heartbeat.leave("the node is shutting down");
        }
        // First away from the control plane, so that it sees a node that has left, not pods that fail. The
        // client tells what waits before it goes.
        self.stop.send_replace(true);
        for task in self.tasks {
            let abort = task.abort_handle();
            if tokio::time::timeout(Duration::from_secs(5), task)
                .await
                .is_err()
            {
                abort.abort();
            }
        }
        let left = match how {
            Shutdown::LeavePods => {
                self.shared.pods.leave_running().await;
                Vec::new()
            }
            Shutdown::RemoveEverything => {
                self.shared
                    .pods
                    .end_all(LEAVING_GRACE, LEAVING_PATIENCE)
                    .await
            }
        };
        self.dns.stop().await;
        if how == Shutdown::RemoveEverything
            && let Some(keeper) = self.dns_keeper
        {
            keeper.end();
        }
        self.follow.abort();
        let _ = std::fs::remove_file(self.run_dir.join(local::SOCKET));
        if how == Shutdown::RemoveEverything {
            if let Err(error) = self.shared.data_plane.clone().unload().await {
                tracing::error!(%error, "the data plane was not unloaded");
            }
            match crate::runtime::remove_cgroup_parent(&self.cgroup_parent).await {
                Ok(true) => {}
                Ok(false) => tracing::warn!("cgroups of pods are left"),
                Err(error) => tracing::warn!(%error, "the pods' cgroup was not removed"),
            }
            crate::network::remove_unused_ledger(&self.run_dir);
            // Only what is empty: what is not, is somebody's.
            for dir in ["pods", "netns", names::DIRECTORY] {
                let _ = std::fs::remove_dir(self.run_dir.join(dir));
            }
            let _ = std::fs::remove_dir(&self.run_dir);
        }
        left.iter()
            .map(
                |PodKey {
                     namespace, name, ..
                 }| format!("{namespace}/{name}"),
            )
            .collect()
    }
}

/// What the agent before knew of the cluster.
fn remembered(data_dir: &std::path::Path) -> Option<Arc<Batch>> {
    let path = data_dir.join(MEMORY);
    match memory::read(&path) {
        Ok(batch) => batch.map(Arc::new),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "what the agent before knew cannot be read");
            None
        }
    }
}

/// As the first that a consumer gets.
fn hand(consumer: &mpsc::Sender<Arc<Batch>>, remembered: Option<&Arc<Batch>>) {
    if let Some(batch) = remembered {
        // A new channel has room.
        let _ = consumer.try_send(Arc::clone(batch));
    }
}

fn has_entries(dir: &std::path::Path) -> bool {
    std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some())
}

/// The configuration as the control plane shows it.
fn mode(config: &AgentConfig) -> DataPlaneMode {
    let name = |value: Result<serde_json::Value, serde_json::Error>| {
        let value = value.unwrap_or_default();
        value.as_str().unwrap_or_default().to_owned()
    };
    DataPlaneMode {
        routing: name(serde_json::to_value(config.routing)),
        north_south: name(serde_json::to_value(config.north_south)),
        xdp: name(serde_json::to_value(config.xdp)),
    }
}

fn hello(node_name: &str, heartbeat: &Heartbeat, mode: &DataPlaneMode) -> Hello {
    let node_json = serde_json::to_vec(&heartbeat.node()).unwrap_or_default();
    Hello {
        node_name: node_name.to_owned(),
        node_json: node_json.into(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        data_plane: Some(mode.clone()),
    }
}

/// The node is known by the addresses that its uplink has.
async fn follow_addresses(
    mut addresses: watch::Receiver<Vec<IpAddr>>,
    (heartbeat, shared): (Arc<Heartbeat>, Arc<Shared>),
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let now = addresses.borrow_and_update().clone();
        if !now.is_empty() && now != **shared.addresses.load() {
            shared.addresses.store(Arc::new(now.clone()));
            shared.pods.addresses_changed().await;
        }
        if !now.is_empty() {
            heartbeat.set_addresses(now);
        }
        tokio::select! {
            changed = addresses.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// The revision that every consumer has in force.
async fn report_applied(
    mut applied: [watch::Receiver<u64>; 2],
    outbox: Arc<Outbox>,
    mut stop: watch::Receiver<bool>,
) {
    loop {
        let least = applied
            .iter_mut()
            .map(|applied| *applied.borrow_and_update())
            .min()
            .unwrap_or(0);
        if least > 0 {
            outbox.applied(least);
        }
        let [first, second] = &mut applied;
        tokio::select! {
            changed = first.changed() => if changed.is_err() { return },
            changed = second.changed() => if changed.is_err() { return },
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn data_plane_config(config: &AgentConfig, uplink: Option<String>) -> DataPlaneConfig {
    DataPlaneConfig {
        node_name: config.node_name.clone(),
        pin_dir: config.run_dir.join("bpf"),
        cgroup: config
            .cgroup_attach
            .clone()
            .unwrap_or_else(preflight::unified_cgroup),
        uplink,
        pod_cidrs: config.pod_cidrs.clone(),
        service_cidrs: config.service_cidrs.clone(),
        cluster_dns: config.cluster_dns,
        dns_listen: dns_listen(config),
        routing: config.routing,
        north_south: config.north_south,
        xdp: config.xdp,
        vxlan_port: config.vxlan_port,
        node_addresses: config.node_addresses.clone(),
        pod_mtu: config.pod_mtu,
        settle_after: SETTLE_AFTER,
    }
}

fn upstreams(config: &AgentConfig, host: &Resolver) -> Vec<SocketAddr> {
    if !config.upstream_dns.is_empty() {
        return config.upstream_dns.clone();
    }
    host.nameservers
        .iter()
        .filter_map(|address| address.parse::<IpAddr>().ok())
        // Asking ourselves would go round in circles.
        .filter(|address| *address != dns_listen(config).ip() && *address != config.cluster_dns)
        .map(|address| SocketAddr::new(address, 53))
        .collect()
}

fn settings(
    config: &AgentConfig,
    host: &Host,
    node_addresses: Arc<ArcSwap<Vec<IpAddr>>>,
    (host_resolver, handlers): (Resolver, Handlers),
) -> Settings {
    let (cpu, memory) = node::allocatable(host);
    Settings {
        data_dir: config.data_dir.clone(),
        run_dir: config.run_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        node_name: config.node_name.clone(),
        node_hostname: host.hostname.clone(),
        node_addresses,
        cluster_domain: config.cluster_domain.clone(),
        cluster_dns: config.cluster_dns,
        host_resolver,
        host_hosts: std::fs::read_to_string("/etc/hosts").unwrap_or_default(),
        memory_bytes: host.memory_bytes,
        allocatable_cpu_millis: cpu,
        allocatable_memory_bytes: memory,
        allocatable_storage_bytes: node::allocatable_storage(&config.data_dir),
        max_pods: node::MAX_PODS,
        app_armor: has_app_armor(),
        allowed_sysctls: config.pods.allowed_unsafe_sysctls.clone(),
        pids_limit: config.pods.pids_limit.and_then(|it| i64::try_from(it).ok()),
        log_limits: LogLimits {
            max_bytes: config.pods.log_max_size.bytes,
            max_files: config.pods.log_max_files,
        },
        handlers,
    }
}
