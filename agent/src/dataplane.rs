//! The node's data plane: loads the eBPF programs, keeps their maps true to the cluster, counts drops.
//!
//! ```text
//!   config            what it is loaded with
//!   plan              pure: services and endpoints in, map operations out
//!   tables flows      doing: carry out plans; forget idle masqueraded flows
//!   objects attach    the eBPF object; where its programs are attached
//!   probe node bpffs  what must be there; what is changed on the node
//!   metrics occupancy counters and how full the tables are, for `/metrics`
//! ```
//! Dropping a [`DataPlane`] leaves everything in force: programs, links and maps are pinned. The next
//! [`DataPlane::load`] takes them over, and only [`DataPlane::unload`] removes them.

mod attach;
mod bpffs;
mod config;
mod error;
mod flows;
mod metrics;
mod node;
mod objects;
mod occupancy;
pub mod plan;
mod probe;
mod syscall;
mod tables;
mod wire;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_ebpf::address::{Address, Net};
use agent_ebpf::counter::{DropReason, EventKind, ForwardKind, Traffic};
use agent_ebpf::layout::{
    Config, POD_NETS, PROTOCOL_TCP, PROTOCOL_UDP, Pod, PodSource, SCOPE_INSIDE, SERVICE_HOST_ONLY,
    SERVICE_NETS, ServiceKey,
};
use ipnet::IpNet;

use self::attach::{Attachments, Interface};
pub use self::config::{DataPlaneConfig, NorthSouth, Routing, VXLAN_PORT, Xdp};
pub use self::error::DataPlaneError;
pub use self::node::default_uplink;
use self::objects::Objects;
use self::occupancy::Occupancy;
pub use self::plan::HostPort;
use self::plan::{Backend, Fixed, Gone};
use self::tables::{Outcome, Tables};
use self::wire::Wire;
use crate::cluster::{AppliedSender, Batch, BatchReceiver};

/// A pod's interface as the data plane must know it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    config: DataPlaneConfig,
    uplink: Option<Interface>,
    state: Mutex<State>,
}

/// Written by `follow`'s task, the sweeper and pod workers, each under the one lock, for microseconds.
#[derive(Debug)]
struct State {
    objects: Objects,
    attachments: Attachments,
    tables: Tables,
    settings: Config,
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

/// How often idle flows are looked for and the uplink's addresses are read again.
const HOUSEKEEPING: Duration = Duration::from_secs(10);
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
    Ok(Config {
        host_cookie: node::network_namespace_cookie()?,
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
        let netlink = node::Netlink::open()?;
        let uplink = match &config.uplink {
            Some(name) => Some(node::interface(&netlink, name).await?),
            None => None,
        };
        if let Some(uplink) = &uplink {
            set_uplink(
                &mut settings,
                uplink,
                node::addresses(&netlink, uplink).await?,
            );
        }
        node::add_local_address(&netlink, config.dns_listen.ip()).await?;
        bpffs::ensure(&config.pin_dir)?;
        let mut objects = Objects::load(&config.pin_dir)?;
        let dsr = config.north_south == NorthSouth::Dsr;
        let mut tables = Tables::adopt(&config.node_name, dsr, &objects, &mut settings)?;
        objects
            .config
            .set(0, Wire(settings), 0)
            .map_err(DataPlaneError::map("CONFIG"))?;
        tables.fix(&mut objects, &mut settings, dns_entries(&config));
        let mut attachments = Attachments::open(&config.pin_dir)?;
        attachments.adopt_pods(&objects)?;
        forget_vanished(&mut objects)?;
        attachments.sockets(&objects, &config.cgroup)?;
        if let Some(uplink) = &uplink {
            attachments.uplink(&mut objects, uplink)?;
        }
        let pods = objects.pods.keys().flatten().count();
        let inner = Arc::new(Inner {
            config,
            uplink,
            state: Mutex::new(State {
                objects,
                attachments,
                tables,
                settings,
                flows: 0,
                pods,
                occupancy: Occupancy::default(),
                ended: false,
            }),
        });
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
        tokio::spawn(async move {
            let mut incomplete = false;
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
                let (outcome, _gone) =
                    run(&inner, move |state| step(state, batch.as_deref())).await;
                incomplete = outcome == Outcome::Incomplete;
                if !incomplete {
                    applied.send_replace(revision);
                }
            }
        })
    }

    /// Attaches the pod programs and routes the addresses to it. Idempotent.
    ///
    /// # Errors
    /// When a map is full or the interface is gone.
    pub async fn add_pod(&self, interface: &PodInterface) -> Result<(), DataPlaneError> {
        let interface = interface.clone();
        run(&self.inner, move |state| add_pod(state, &interface)).await
    }

    /// The ports of the node that lead to a pod; none when it goes. Idempotent.
    pub async fn set_host_ports(&self, pod_uid: &str, ports: Vec<HostPort>) {
        let uid = pod_uid.to_owned();
        let (_, _gone) = run(&self.inner, move |state| {
            if state.ended {
                return (Outcome::InForce, Vec::new());
            }
            let (tables, objects) = (&mut state.tables, &mut state.objects);
            tables.host_ports(objects, &mut state.settings, &uid, &ports)
        })
        .await;
    }

    /// Idempotent.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub async fn remove_pod(&self, interface: &PodInterface) -> Result<(), DataPlaneError> {
        let interface = interface.clone();
        run(&self.inner, move |state| remove_pod(state, &interface)).await
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
            state.attachments.remove_all(self.inner.uplink.as_ref());
        }
        let netlink = node::Netlink::open()?;
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
    match tokio::task::spawn_blocking(move || work(&mut inner.state())).await {
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

fn add_pod(state: &mut State, interface: &PodInterface) -> Result<(), DataPlaneError> {
    let index = interface.host_ifindex;
    let name = attach::interface_name(index)
        .ok_or_else(|| DataPlaneError::NoInterface(format!("#{index}")))?;
    let mut source = PodSource {
        mac: interface.pod_mac,
        ..PodSource::default()
    };
    let pod = Pod {
        ifindex: index,
        pod_mac: interface.pod_mac,
        host_mac: interface.host_mac,
    };
    for address in interface.addresses.iter().copied().map(Address::from) {
        if address.is_v4() {
            source.v4 = address;
        } else {
            source.v6 = address;
        }
    }
    // What the pod may send as comes before the program that asks for it; where it is reached, last.
    state
        .objects
        .sources
        .insert(index, Wire(source), 0)
        .map_err(DataPlaneError::map("SOURCES"))?;
    let interface_names = Interface { index, name };
    state
        .attachments
        .pod(&mut state.objects, &interface_names)?;
    for address in &interface.addresses {
        state
            .objects
            .pods
            .insert(Address::from(*address).bytes(), Wire(pod), 0)
            .map_err(DataPlaneError::map("PODS"))?;
    }
    state.pods = state.objects.pods.keys().flatten().count();
    Ok(())
}

fn remove_pod(state: &mut State, interface: &PodInterface) -> Result<(), DataPlaneError> {
    for address in &interface.addresses {
        let key = Address::from(*address);
        // Given to another pod meanwhile: no longer ours to remove.
        let current = state.objects.pods.get(&key.bytes(), 0).ok();
        if current.is_some_and(|Wire(pod)| pod.ifindex == interface.host_ifindex) {
            remove_key(state.objects.pods.remove(&key.bytes()), "PODS")?;
            flows::forget(&mut state.objects, key);
        }
    }
    state.attachments.remove_pod(interface.host_ifindex);
    remove_key(
        state.objects.sources.remove(&interface.host_ifindex),
        "SOURCES",
    )?;
    state.pods = state.objects.pods.keys().flatten().count();
    Ok(())
}

/// Pods whose interface went while no agent was there.
fn forget_vanished(objects: &mut Objects) -> Result<(), DataPlaneError> {
    let is_gone = |index: u32| attach::interface_name(index).is_none();
    let pods: Vec<[u8; 16]> = objects
        .pods
        .iter()
        .flatten()
        .filter(|(_, Wire(pod))| is_gone(pod.ifindex))
        .map(|(key, _)| key)
        .collect();
    for key in pods {
        remove_key(objects.pods.remove(&key), "PODS")?;
        flows::forget(objects, Address::from_v6(key));
    }
    let sources: Vec<u32> = objects
        .sources
        .keys()
        .flatten()
        .filter(|index| is_gone(*index))
        .collect();
    for index in sources {
        remove_key(objects.sources.remove(&index), "SOURCES")?;
    }
    Ok(())
}

fn remove_key(
    result: Result<(), aya::maps::MapError>,
    map: &'static str,
) -> Result<(), DataPlaneError> {
    match result {
        Err(error) if !wire::is_missing(&error) => Err(DataPlaneError::map(map)(error)),
        _ => Ok(()),
    }
}

fn set_uplink(
    settings: &mut Config,
    uplink: &Interface,
    (v4, v6): (Option<std::net::Ipv4Addr>, Option<std::net::Ipv6Addr>),
) {
    let address = |ip: Option<IpAddr>| ip.map_or(Address::UNSPECIFIED, Address::from);
    settings.uplink = uplink.index;
    settings.uplink_v4 = address(v4.map(IpAddr::V4));
    settings.uplink_v6 = address(v6.map(IpAddr::V6));
}

/// Ends with the data plane's last handle.
async fn keep_house(inner: std::sync::Weak<Inner>) {
    let mut tick = tokio::time::interval(HOUSEKEEPING);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tick.tick().await;
    loop {
        tick.tick().await;
        let Some(inner) = inner.upgrade() else {
            return;
        };
        if inner.state().ended {
            return;
        }
        if let Some(uplink) = &inner.uplink
            && let Err(error) = refresh_uplink(&inner, uplink).await
        {
            tracing::warn!(%error, uplink = uplink.name, "cannot read the uplink's addresses");
        }
        run(&inner, |state| {
            if !state.ended {
                state.flows = flows::sweep(&mut state.objects);
                state.tables.tidy(&mut state.objects, &mut state.settings);
                occupancy::count(state);
                occupancy::warn(state);
            }
        })
        .await;
    }
}

async fn refresh_uplink(inner: &Inner, uplink: &Interface) -> Result<(), DataPlaneError> {
    let netlink = node::Netlink::open()?;
    let addresses = node::addresses(&netlink, uplink).await?;
    let mut state = inner.state();
    let mut settings = state.settings;
    set_uplink(&mut settings, uplink, addresses);
    if settings != state.settings && !state.ended {
        state
            .objects
            .config
            .set(0, Wire(settings), 0)
            .map_err(DataPlaneError::map("CONFIG"))?;
        state.settings = settings;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
