//! What all workers of a node share: the machine, what is known of the cluster, where to report, the clock.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::admit::Pressure;
use super::container::LogLimits;
use super::fields::Surroundings;
use super::files::Resolver;
use super::machine::WantedPort;
use super::objects::Objects;
use super::ports;
use super::report::Reporter;
use super::runtime_class::Handlers;
use super::turns::Turns;
use super::user_ids::UserIds;

/// Facts about the node that do not change while the agent runs.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) data_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
    pub(crate) cgroup_parent: String,
    pub(crate) node_name: String,
    pub(crate) node_hostname: String,
    /// The one fact that may change: see [`Self::addresses`].
    pub(crate) node_addresses: Arc<ArcSwap<Vec<IpAddr>>>,
    pub(crate) cluster_domain: String,
    pub(crate) cluster_dns: IpAddr,
    /// The node's own /etc/resolv.conf and /etc/hosts.
    pub(crate) host_resolver: Resolver,
    pub(crate) host_hosts: String,
    pub(crate) memory_bytes: u64,
    pub(crate) allocatable_cpu_millis: u64,
    pub(crate) allocatable_memory_bytes: u64,
    pub(crate) allocatable_storage_bytes: u64,
    pub(crate) max_pods: u64,
    /// Names or patterns of system controls that pods may set besides the safe ones.
    pub(crate) allowed_sysctls: Vec<String>,
    /// The host enforces AppArmor profiles.
    pub(crate) app_armor: bool,
    /// Processes that a pod may have.
    pub(crate) pids_limit: Option<i64>,
    pub(crate) log_limits: LogLimits,
    pub(crate) handlers: Handlers,
}

impl Settings {
    /// The node's, as they are now.
    pub(crate) fn addresses(&self) -> Vec<IpAddr> {
        self.node_addresses.load().to_vec()
    }

    pub(crate) fn surroundings(&self, pod_addresses: Vec<IpAddr>) -> Surroundings {
        Surroundings {
            pod_addresses,
            host_addresses: self.addresses(),
            node_name: self.node_name.clone(),
            allocatable_cpu_millis: self.allocatable_cpu_millis,
            allocatable_memory_bytes: self.allocatable_memory_bytes,
            allocatable_storage_bytes: self.allocatable_storage_bytes,
        }
    }
}

/// Wall-clock time that does not jump: read once, then carried on by the monotonic clock. Deadlines and
/// back-off are counted on it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    wall: Timestamp,
    start: Instant,
}

impl Clock {
    pub(crate) fn new() -> Self {
        Self {
            wall: Timestamp::now(),
            start: Instant::now(),
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.wall + SignedDuration::try_from(self.start.elapsed()).unwrap_or(SignedDuration::ZERO)
    }

    /// When the monotonic clock will show `at`.
    pub(crate) fn instant(&self, at: Timestamp) -> Instant {
        let after = at.duration_since(self.wall);
        self.start + std::time::Duration::try_from(after).unwrap_or_default()
    }
}

/// What a pod asks of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Share {
    pub(crate) cpu_millis: u64,
    pub(crate) memory_bytes: u64,
    pub(crate) storage_bytes: u64,
}

impl Share {
    fn plus(self, other: Self) -> Self {
        Self {
            cpu_millis: self.cpu_millis.saturating_add(other.cpu_millis),
            memory_bytes: self.memory_bytes.saturating_add(other.memory_bytes),
            storage_bytes: self.storage_bytes.saturating_add(other.storage_bytes),
        }
    }
}

/// One per agent.
pub(crate) struct Context<M> {
    pub(crate) machine: Arc<M>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) reporter: Arc<dyn Reporter>,
    pub(crate) settings: Settings,
    pub(crate) clock: Clock,
    pub(crate) metrics: super::metrics::PodMetrics,
    /// What the node is short of; written by the node's part, read when a pod begins.
    pub(crate) pressure: Mutex<Pressure>,
    /// The machine is about to go down.
    pub(crate) shutting_down: std::sync::atomic::AtomicBool,
    /// What each pod asked for and was given, by uid; each worker writes its own.
    pub(crate) allocated: Mutex<BTreeMap<String, Share>>,
    /// Ports of the node that pods have, by uid; each worker writes its own.
    pub(crate) host_ports: Mutex<BTreeMap<String, Vec<WantedPort>>>,
    pub(crate) user_ids: UserIds,
    /// At making what stands around the containers of a pod.
    pub(crate) preparing: Turns,
    /// At making a container. Turns of its own: what pods were prepared for comes before others that are not yet.
    pub(crate) starting: Turns,
}

impl<M> Context<M> {
    /// What all pods but this one have.
    pub(crate) fn allocated_to_others(&self, uid: &str) -> Share {
        let all = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let others = all.iter().filter(|(known, _)| *known != uid);
        others.fold(Share::default(), |sum, (_, share)| sum.plus(*share))
    }

    /// Gives a pod what it asks for. One that has it, or that the scheduler found a place for, keeps it; another one gets
    /// nothing when the node has too little: what, how much is asked for, is given and is there.
    pub(crate) fn reserve(
        &self,
        uid: &str,
        share: Share,
        keeps: bool,
    ) -> Result<(), (&'static str, [u64; 3])> {
        let (settings, most) = (&self.settings, self.settings.max_pods);
        let (mut pods, mut used) = (0u64, Share::default());
        let mut all = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for (_, other) in all.iter().filter(|(known, _)| *known != uid) {
            pods += 1;
            used = used.plus(*other);
        }
        let short = [
            ("pods", [1, pods, most]),
            (
                "cpu",
                [
                    share.cpu_millis,
                    used.cpu_millis,
                    settings.allocatable_cpu_millis,
                ],
            ),
            (
                "memory",
                [
                    share.memory_bytes,
                    used.memory_bytes,
                    settings.allocatable_memory_bytes,
                ],
            ),
            (
                "ephemeral-storage",
                [
                    share.storage_bytes,
                    used.storage_bytes,
                    settings.allocatable_storage_bytes,
                ],
            ),
        ];
        let short = short
            .into_iter()
            .find(|(_, [asked, used, all])| *asked > 0 && used.saturating_add(*asked) > *all);
        match short {
            Some(short) if !keeps => Err(short),
            _ => {
                all.insert(uid.to_owned(), share);
                Ok(())
            }
        }
    }

    /// `None` when the pod gives back what it has.
    pub(crate) fn allocate(&self, uid: &str, resources: Option<Share>) {
        let mut all = self
            .allocated
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        match resources {
            Some(resources) => all.insert(uid.to_owned(), resources),
            None => all.remove(uid),
        };
    }

    /// Reserves ports of the node for a pod. A pod that runs already keeps what it has; another one gets nothing
    /// when a port is taken: false.
    pub(crate) fn reserve_ports(&self, uid: &str, wanted: Vec<WantedPort>, runs: bool) -> bool {
        let mut all = self
            .host_ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let others = all.iter().filter(|(known, _)| *known != uid);
        let taken = ports::conflict(&wanted, others.flat_map(|(_, ports)| ports));
        if taken && !runs {
            return false;
        }
        if !wanted.is_empty() {
            all.insert(uid.to_owned(), wanted);
        }
        true
    }

    pub(crate) fn release_ports(&self, uid: &str) {
        let mut all = self
            .host_ports
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.remove(uid);
    }

    pub(crate) fn pressure(&self) -> Pressure {
        *self.pressure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        *self.pressure.lock().unwrap_or_else(PoisonError::into_inner) = pressure;
    }
}
