//! The node's data plane: loads the eBPF programs, keeps their maps true to the cluster, counts drops.
//!
//! ```text
//!   config            what it is loaded with
//!   plan              pure: services and endpoints in, map operations out
//!   tables flows      doing: carry out plans; forget idle flows
//!   affinities        doing: forget clients whose affinity is over
//!   settle            doing: pods' programs become links when there is time
//!   upkeep            doing: what is done from time to time
//!   pods              doing: pods in the tables
//!   closing           doing: end sockets of backends that are gone
//!   namespaces sockdiag   network namespaces of node and pods, and their sockets
//!   migrate           from the maps of an older layout to this one's
//!   objects attach    the eBPF object; where its programs are attached
//!   syscall mapped    bpf(2) where aya has nothing; arrays in our own memory
//!   nodes             pure: nodes in, table entries and routes to their pods out
//!   reach             doing: follows nodes, links and addresses
//!   overlay routes links   the VXLAN device; routes to other nodes' pods; the node's interfaces
//!   probe node bpffs  what must be there; what is changed on the node
//!   metrics occupancy counters and how full the tables are, for `/metrics`
//! ```
//! Dropping a [`DataPlane`] leaves everything in force: programs, links and maps are pinned. The next
//! [`DataPlane::load`] takes them over, and only [`DataPlane::unload`] removes them.

mod affinities;
mod attach;
mod bpffs;
mod closing;
mod config;
mod error;
mod flows;
mod links;
mod mapped;
mod metrics;
mod migrate;
mod namespaces;
mod node;
mod nodes;
mod objects;
mod occupancy;
mod overlay;
pub mod plan;
mod pods;
mod probe;
mod reach;
mod routes;
mod settle;
mod sockdiag;
mod syscall;
mod tables;
mod upkeep;
mod wire;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use agent_ebpf::address::{Address, Net};
use agent_ebpf::counter::{DropReason, EventKind, ForwardKind, Traffic};
use agent_ebpf::layout::{
    CONFIG_DSR, Config, POD_NETS, PROTOCOL_TCP, PROTOCOL_UDP, SCOPE_INSIDE, SERVICE_HOST_ONLY,
    SERVICE_NETS, ServiceKey,
};
use ipnet::IpNet;
use tokio::sync::{Notify, watch};

use self::attach::Attachments;
use self::closing::Closing;
pub use self::config::{DataPlaneConfig, NorthSouth, Routing, SETTLE_AFTER, VXLAN_PORT, Xdp};
pub use self::error::DataPlaneError;
pub use self::metrics::{ProgramRuns, RunTimeStatistics};
use self::namespaces::Namespace;
pub use self::node::default_uplink;
use self::objects::Objects;
use self::occupancy::Occupancy;
pub use self::plan::HostPort;
use self::plan::{Backend, Fixed, Gone};
pub(crate) use self::pods::pod_link_name;
use self::pods::{add_pod, count_opted_out, forget_source, forget_vanished, opt_out, unreach};
use self::reach::{Reach, Reached};
use self::tables::{Outcome, Tables};
use self::upkeep::keep_house;
use self::wire::Wire;
use crate::cluster::{AppliedSender, Batch, BatchReceiver};

/// A pod's interface as the data plane must know it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct PodInterface {
    pub addresses: Vec<IpAddr>,
    /// Mount of the pod's network namespace.
    #[serde(default)]
    pub netns: PathBuf,
    /// Host side of the veth pair.
    pub host_ifindex: u32,
    pub host_mac: [u8; 6],
    pub pod_mac: [u8; 6],
}

/// One attached program, for status screens.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Attachment {
    pub program: String,
    /// `cgroup:/sys/fs/cgroup/unified`, `tcx ingress eth0`, `tc ingress wg0123456789ab`…
    pub hook: String,
}

/// Handle to the loaded data plane; dropping it leaves programs and maps in force (pinned).
#[derive(Debug, Clone)]
pub struct DataPlane {
    inner: Arc<Inner>,
}

/// A revision that the maps have, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InForce {
    /// Of the batch that was written last; 0 before the first.
    pub revision: u64,
    /// When the last of its entries was written.
    pub at: Instant,
}

impl InForce {
    fn nothing() -> Self {
        Self {
            revision: 0,
            at: Instant::now(),
        }
    }
}

#[derive(Debug)]
struct Inner {
    config: DataPlaneConfig,
    /// There was nothing to adopt.
    is_fresh: bool,
    state: Mutex<State>,
    closing: Closing,
    /// What the maps have.
    in_force: watch::Sender<InForce>,
    /// Held over a whole pass, which asks the kernel over and over; always before `state`.
    reach: tokio::sync::Mutex<Reach>,
    addresses: watch::Sender<Vec<IpAddr>>,
    pod_mtu: watch::Sender<u32>,
    pod_added: Arc<Notify>,
    /// Dropped with the last handle.
    _alive: watch::Sender<()>,
}

/// Written by `follow`'s task, the sweeper and pod workers, each under the one lock, for microseconds.
#[derive(Debug)]
struct State {
    objects: Objects,
    attachments: Attachments,
    tables: Tables,
    settings: Config,
    /// `settings` are in their map.
    configured: bool,
    reached: Reached,
    flows: usize,
    pods: usize,
    occupancy: Occupancy,
    /// Set by `unload`: nothing is written any more.
    ended: bool,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves maps that the next full batch puts right.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until changes that could not be made are tried again.
const RETRY: Duration = Duration::from_secs(1);

fn nets<const N: usize>(what: &'static str, ranges: &[IpNet]) -> Result<[Net; N], DataPlaneError> {
    if ranges.len() > N {
        return Err(DataPlaneError::TooManyRanges { what, maximum: N });
    }
    let mut nets = [Net::default(); N];
    for (net, range) in nets.iter_mut().zip(ranges) {
        *net = Net::new(range.network(), range.prefix_len());
    }
    Ok(nets)
}

fn check_ranges(config: &DataPlaneConfig) -> Result<(), DataPlaneError> {
    for pods in &config.pod_cidrs {
        for services in &config.service_cidrs {
            if pods.contains(services) || services.contains(pods) {
                return Err(DataPlaneError::Overlap(*pods, *services));
            }
        }
    }
    Ok(())
}

fn settings(config: &DataPlaneConfig) -> Result<Config, DataPlaneError> {
    check_ranges(config)?;
    let (nat_port_minimum, nat_port_maximum) = node::masquerade_ports();
    let direct = config.north_south == NorthSouth::Dsr;
    Ok(Config {
        flags: if direct { CONFIG_DSR } else { 0 },
        cluster_dns: Address::from(config.cluster_dns),
        dns_listen: Address::from(config.dns_listen.ip()),
        dns_port: config.dns_listen.port().to_be(),
        nat_port_minimum,
        nat_port_maximum,
        pod_nets: nets::<POD_NETS>("pod", &config.pod_cidrs)?,
        service_nets: nets::<SERVICE_NETS>("service", &config.service_cidrs)?,
        ..Config::default()
    })
}

/// The cluster DNS address for processes on the node itself.
fn dns_entries(config: &DataPlaneConfig) -> Vec<Fixed> {
    [PROTOCOL_UDP, PROTOCOL_TCP]
        .into_iter()
        .map(|protocol| Fixed {
            key: ServiceKey {
                address: Address::from(config.cluster_dns),
                port: 53u16.to_be(),
                protocol,
                scope: SCOPE_INSIDE,
            },
            backends: vec![Backend {
                address: Address::from(config.dns_listen.ip()),
                port: config.dns_listen.port(),
            }],
            flags: SERVICE_HOST_ONLY,
        })
        .collect()
}

impl DataPlane {
    /// Loads (or replaces, without detaching) everything.
    ///
    /// # Errors
    /// See [`DataPlaneError`]; what was in force before stays so until the last step.
    pub async fn load(config: DataPlaneConfig) -> Result<Self, DataPlaneError> {
        probe::check(&config.cgroup)?;
        let mut settings = settings(&config)?;
        let host = Namespace::own()?;
        settings.host_cookie = host.cookie;
        let netlink = node::Netlink::open()?;
        let mut reach = Reach::look(&config, &netlink).await?;
        node::add_local_address(&netlink, config.dns_listen.ip()).await?;
        bpffs::ensure(&config.pin_dir)?;
        let objects = Objects::load(&config.pin_dir)?;
        settings.opted_out = objects.opted_out.keys().flatten().count() as u32;
        let reached = reach.adopt(&config, &netlink, &objects).await?;
        let dsr = config.north_south == NorthSouth::Dsr;
        let tables = Tables::adopt(&config.node_name, dsr, &objects, &mut settings)?;
        let is_fresh = tables.planner().services() == 0 && reached.remotes.is_empty();
        let mut state = State {
            attachments: Attachments::open(&config.pin_dir)?,
            objects,
            tables,
            settings,
            configured: false,
            reached,
            flows: 0,
            pods: 0,
            occupancy: Occupancy::default(),
            ended: false,
        };
        reach.put(&config, &mut state)?;
        let fixed = dns_entries(&config);
        state
            .tables
            .fix(&mut state.objects, &mut state.settings, fixed);
        state.attachments.adopt_pods(&mut state.objects)?;
        forget_vanished(&mut state.objects)?;
        count_opted_out(&mut state)?;
        state.attachments.sockets(&state.objects, &config.cgroup)?;
        if state.objects.migration.is_under_way() {
            state.objects.note_stored_origins();
        }
        state.objects.migration.finish();
        state.pods = state.objects.pods.keys().flatten().count();
        reach.routes(&config, &netlink).await?;
        let (alive, ended) = watch::channel(());
        let inner = Arc::new(Inner {
            addresses: watch::channel(reach.node_addresses()).0,
            pod_mtu: watch::channel(reach.pod_mtu()).0,
            config,
            is_fresh,
            state: Mutex::new(state),
            reach: tokio::sync::Mutex::new(reach),
            pod_added: Arc::default(),
            _alive: alive,
            closing: Closing::new(host),
            in_force: watch::channel(InForce::nothing()).0,
        });
        tokio::spawn(reach::follow(Arc::downgrade(&inner), ended.clone()));
        tokio::spawn(settle::settle(Arc::downgrade(&inner), ended));
        tokio::spawn(keep_house(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Follows the cluster until the channel closes.
    pub fn follow(
        &self,
        mut batches: BatchReceiver,
        applied: AppliedSender,
    ) -> tokio::task::JoinHandle<()> {
        let inner = Arc::clone(&self.inner);
        let (done, reports) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(closing::report(Arc::clone(&inner), reports, applied));
        tokio::spawn(async move {
            let mut incomplete = false;
            let mut unreached = false;
            let mut revision = 0;
            loop {
                let next = if incomplete {
                    tokio::time::timeout(RETRY, batches.recv()).await
                } else {
                    Ok(batches.recv().await)
                };
                let batch = match next {
                    Ok(Some(batch)) => Some(batch),
                    Ok(None) => return,
                    Err(_) => None,
                };
                if let Some(batch) = &batch {
                    revision = batch.revision;
                }
                // Nodes first: a Service's backends may be theirs.
                let about_nodes = unreached || batch.as_deref().is_some_and(reach::concerns);
                if about_nodes {
                    unreached = !reach::apply(&inner, batch.as_deref()).await;
                }
                let (outcome, gone, at) = run(&inner, move |state| {
                    let (outcome, gone) = step(state, batch.as_deref());
                    // Here, not where this is waited for: another thread may have the processor first.
                    (outcome, gone, Instant::now())
                })
                .await;
                incomplete = outcome == Outcome::Incomplete || unreached;
                let in_force = (!incomplete).then_some(revision);
                if let Some(revision) = in_force {
                    inner.in_force.send_replace(InForce { revision, at });
                }
                if done.send((gone, in_force)).is_err() {
                    return;
                }
            }
        })
    }

    /// Attaches the pod programs and routes the addresses to it. Idempotent.
    ///
    /// # Errors
    /// When a map is full, or the interface or the network namespace is gone.
    pub async fn add_pod(&self, interface: &PodInterface) -> Result<(), DataPlaneError> {
        let index = interface.host_ifindex;
        let namespace = Namespace::at(&interface.netns).await?;
        let (interface, cookie) = (interface.clone(), namespace.cookie);
        self.inner.closing.add(index, namespace);
        run(&self.inner, move |state| add_pod(state, &interface, cookie)).await?;
        self.inner.pod_added.notify_one();
        Ok(())
    }

    /// Whether the sockets of a pod, which was added, are left alone: its packets to Services are balanced one by
    /// one instead. Idempotent.
    ///
    /// # Errors
    /// When the map is full or cannot be written, or the pod was not added.
    pub async fn opt_out(&self, interface: &PodInterface, yes: bool) -> Result<(), DataPlaneError> {
        let index = interface.host_ifindex;
        let cookie = self.inner.closing.cookie(index);
        let cookie = cookie.ok_or_else(|| DataPlaneError::NoInterface(format!("#{index}")))?;
        run(&self.inner, move |state| opt_out(state, cookie, yes)).await
    }

    /// The ports of the node that lead to a pod; none when it goes. Idempotent.
    pub async fn set_host_ports(&self, pod_uid: &str, ports: Vec<HostPort>) {
        let uid = pod_uid.to_owned();
        let (_, gone) = run(&self.inner, move |state| {
            if state.ended {
                return (Outcome::InForce, Vec::new());
            }
            let (tables, objects) = (&mut state.tables, &mut state.objects);
            tables.host_ports(objects, &mut state.settings, &uid, &ports)
        })
        .await;
        closing::close(&self.inner, gone).await;
    }

    /// Nothing is sent to the pod any more. It is still to be removed ([`Self::remove_pod`]), which takes longer. Idempotent.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub async fn unreach_pod(&self, interface: &PodInterface) -> Result<(), DataPlaneError> {
        let interface = interface.clone();
        let cookie = match self.inner.closing.remove(interface.host_ifindex) {
            Some(cookie) => Some(cookie),
            // Added by an earlier agent; without a namespace there is nothing to forget.
            None => Namespace::at(&interface.netns)
                .await
                .ok()
                .map(|namespace| namespace.cookie),
        };
        run(&self.inner, move |state| unreach(state, &interface, cookie)).await
    }

    /// Idempotent.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub async fn remove_pod(&self, interface: &PodInterface) -> Result<(), DataPlaneError> {
        self.unreach_pod(interface).await?;
        self.detach_pod(interface).await
    }

    /// Takes away the programs of a pod that nobody reaches any more ([`Self::unreach_pod`]). With tcx the kernel takes a grace
    /// period of RCU for each, and holds RTNL meanwhile; the tables are not held. Idempotent.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub async fn detach_pod(&self, interface: &PodInterface) -> Result<(), DataPlaneError> {
        let index = interface.host_ifindex;
        let departing = run(&self.inner, move |state| {
            state.attachments.forget_pod(index)
        })
        .await;
        blocking(move || departing.detach()).await;
        let interface = interface.clone();
        run(&self.inner, move |state| forget_source(state, &interface)).await
    }

    /// What new connections go by. It is reported as applied a moment later, when what talked to backends that are gone
    /// has been ended.
    pub fn in_force(&self) -> watch::Receiver<InForce> {
        self.inner.in_force.subscribe()
    }

    /// Whether nothing of the cluster was in force when it was loaded: no Service, no other node.
    pub fn is_fresh(&self) -> bool {
        self.inner.is_fresh
    }

    /// Addresses by which other nodes know this one, as they change; empty while it never had one.
    pub fn node_addresses(&self) -> watch::Receiver<Vec<IpAddr>> {
        self.inner.addresses.subscribe()
    }

    /// Bytes of pods' largest IP packet, as the uplink changes.
    pub fn pod_mtu(&self) -> watch::Receiver<u32> {
        self.inner.pod_mtu.subscribe()
    }

    pub fn attachments(&self) -> Vec<Attachment> {
        self.inner.state().attachments.list()
    }

    /// Counters by reason, summed over CPUs.
    pub fn drops(&self) -> Vec<(&'static str, u64)> {
        let state = self.inner.state();
        DropReason::ALL
            .iter()
            .map(|reason| {
                let index = *reason as u32;
                (reason.name(), sum(state.objects.drops.get(&index, 0)))
            })
            .collect()
    }

    /// Packets and bytes by kind, summed over CPUs.
    pub fn forwards(&self) -> Vec<(&'static str, u64, u64)> {
        let state = self.inner.state();
        ForwardKind::ALL
            .iter()
            .map(|kind| {
                let mut total = Traffic::default();
                if let Ok(values) = state.objects.forwards.get(&(*kind as u32), 0) {
                    for Wire(value) in values.iter() {
                        total.packets += value.packets;
                        total.bytes += value.bytes;
                    }
                }
                (kind.name(), total.packets, total.bytes)
            })
            .collect()
    }

    /// Events by kind, summed over CPUs.
    pub fn events(&self) -> Vec<(&'static str, u64)> {
        let state = self.inner.state();
        EventKind::ALL
            .iter()
            .map(|kind| {
                (
                    kind.name(),
                    sum(state.objects.events.get(&(*kind as u32), 0)),
                )
            })
            .collect()
    }

    /// Detaches and unpins everything.
    ///
    /// # Errors
    /// When something of it cannot be removed; the rest is.
    pub async fn unload(self) -> Result<(), DataPlaneError> {
        {
            let mut state = self.inner.state();
            state.ended = true;
            state.attachments.remove_all();
        }
        // Waits for a pass that is under way; the next one sees that all has ended.
        let reach = self.inner.reach.lock().await;
        let netlink = node::Netlink::open()?;
        reach.clear(&self.inner.config, &netlink).await;
        let address = self.inner.config.dns_listen.ip();
        let removed = node::remove_local_address(&netlink, address).await;
        bpffs::clear(&self.inner.config.pin_dir)?;
        removed
    }
}

fn sum(values: Result<aya::maps::PerCpuValues<u64>, aya::maps::MapError>) -> u64 {
    values.map_or(0, |values| values.iter().sum())
}

/// Runs what writes maps away from the async threads: a full table takes tens of milliseconds.
async fn run<T: Send + 'static>(
    inner: &Arc<Inner>,
    work: impl FnOnce(&mut State) -> T + Send + 'static,
) -> T {
    let inner = Arc::clone(inner);
    blocking(move || work(&mut inner.state())).await
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down, and this task with it.
            Err(_) => std::future::pending().await,
        },
    }
}

fn step(state: &mut State, batch: Option<&Batch>) -> (Outcome, Vec<Gone>) {
    if state.ended {
        return (Outcome::InForce, Vec::new());
    }
    let (tables, objects, settings) = (&mut state.tables, &mut state.objects, &mut state.settings);
    let result = match batch {
        Some(batch) => tables.apply(objects, settings, batch),
        None => tables.retry(objects, settings),
    };
    occupancy::warn(state);
    result
}

/// Any bytes as the kernel's list of sockets.
#[cfg(fuzzing)]
pub(crate) fn fuzz_sockets(bytes: &[u8]) {
    sockdiag::fuzz(bytes);
}

#[cfg(test)]
mod tests;
