//! What the node and its pods use, as kubelets publish it: measured when somebody asks. Rates are taken from the last
//! report to the control plane ([`Baseline`]), which is some seconds old.
//!
//! `stats/summary` and `stats/exposition` are the forms (pure).

mod exposition;
mod summary;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;

pub(super) use exposition::{cadvisor, resource};
pub(super) use summary::summary;

use super::Shared;
use crate::network::{AllCounters, Counters};
use crate::node::{self, Usage};
use crate::pods::Snapshot;
use crate::runtime::Hierarchies;
use crate::runtime::usage::{self as cgroup, Detail};
use crate::volumes::usage::DiskUsage;

/// A rate over less time says nothing.
const LEAST: Duration = Duration::from_secs(1);

/// CPU time that was used up to an earlier moment: of the node (the empty name) and of containers by their ids.
#[derive(Debug, Default)]
pub(super) struct Baseline(Mutex<Option<(Instant, BTreeMap<String, u64>)>>);

impl Baseline {
    pub(super) fn note(&self, at: Instant, cpu_nanos: BTreeMap<String, u64>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, cpu_nanos));
    }

    /// Nanoseconds of CPU time in a second.
    fn rate(&self, id: &str, now: Instant, cpu_nanos: u64) -> Option<u64> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (then, all) = known.as_ref()?;
        let past = now.saturating_duration_since(*then);
        let used = cpu_nanos.checked_sub(*all.get(id)?)?;
        (past >= LEAST)
            .then(|| u128::from(used) * 1_000_000_000 / past.as_nanos())
            .and_then(|rate| u64::try_from(rate).ok())
    }
}

/// One look at everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Measured {
    node: NodeUse,
    pods: Vec<PodUse>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct NodeUse {
    name: String,
    at: Timestamp,
    /// When the machine was started.
    since: Timestamp,
    cpus: u64,
    memory_total_bytes: u64,
    used: Detail,
    cpu_rate: Option<u64>,
    machine: Usage,
    image_bytes: u64,
    uplink: Option<(String, Counters)>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct PodUse {
    namespace: String,
    name: String,
    uid: String,
    since: Option<Timestamp>,
    /// Of the pod's cgroup: its containers together.
    used: Detail,
    network: Option<Counters>,
    disk: DiskUsage,
    volumes: Vec<(String, DiskUsage)>,
    containers: Vec<ContainerUse>,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct ContainerUse {
    name: String,
    image: String,
    id: String,
    since: Option<Timestamp>,
    used: Detail,
    cpu_rate: Option<u64>,
    written: DiskUsage,
    logs: DiskUsage,
}

/// Reads cgroups and, with `disk`, directories.
pub(super) async fn measure(shared: &Shared, disk: bool) -> Measured {
    let image_bytes = match shared.images.list().await {
        Ok(images) => images.iter().map(|image| image.size_bytes).sum(),
        Err(_) => 0,
    };
    let snapshots = shared.pods.snapshots();
    let facts = shared.facts.clone();
    let now = Instant::now();
    let measured = tokio::task::spawn_blocking(move || {
        let hierarchies = Hierarchies::detect().unwrap_or_default();
        let counters = AllCounters::read();
        let of_pod = |snapshot: &Snapshot| {
            pod(
                snapshot,
                &hierarchies,
                &facts.cgroup_parent,
                &counters,
                disk,
            )
        };
        let pods: Vec<PodUse> = snapshots.iter().filter_map(of_pod).collect();
        let uplink = facts.uplink.clone();
        Measured {
            node: NodeUse {
                name: facts.node_name.clone(),
                at: Timestamp::now(),
                since: facts.booted,
                cpus: facts.cpus,
                memory_total_bytes: facts.memory_bytes,
                used: machine(),
                cpu_rate: None,
                machine: Usage::read(&facts.data_dir),
                image_bytes,
                uplink: uplink.and_then(|name| {
                    let counters = counters.of_interface(&name)?;
                    Some((name, counters))
                }),
            },
            pods,
        }
    });
    let mut measured = measured.await.unwrap_or_default();
    let node = &mut measured.node;
    node.cpu_rate = shared.baseline.rate("", now, node.used.cpu_nanos);
    for container in measured.pods.iter_mut().flat_map(|pod| &mut pod.containers) {
        let used = container.used.cpu_nanos;
        container.cpu_rate = shared.baseline.rate(&container.id, now, used);
    }
    measured
}

fn machine() -> Detail {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let meminfo = read("/proc/meminfo");
    let used = cgroup::machine(&read("/proc/stat"), &meminfo);
    let vmstat = read("/proc/vmstat");
    let count = |key: &str| cgroup::line(&vmstat, key).unwrap_or(0);
    let bytes = |key: &str| node::meminfo_bytes(&meminfo, key).unwrap_or(0);
    Detail {
        cpu_nanos: used.cpu_nanos,
        memory_bytes: bytes("MemTotal").saturating_sub(bytes("MemFree")),
        working_set_bytes: used.memory_bytes,
        rss_bytes: bytes("AnonPages"),
        cache_bytes: bytes("Cached"),
        page_faults: count("pgfault"),
        major_page_faults: count("pgmajfault"),
        ..Detail::default()
    }
}

/// `None` of a pod that runs nothing.
fn pod(
    snapshot: &Snapshot,
    hierarchies: &Hierarchies,
    parent: &str,
    counters: &AllCounters,
    disk: bool,
) -> Option<PodUse> {
    let uid = &snapshot.key.uid;
    let cgroup = format!("/{}/pod{uid}", parent.trim_matches('/'));
    let used = cgroup::detail(hierarchies, &cgroup)?;
    let status = &snapshot.status;
    let statuses = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let containers = statuses
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|status| {
            let running = status.state.as_ref()?.running.as_ref()?;
            let id = status.container_id.as_deref()?.strip_prefix("runc://")?;
            let upper = |number: u32| snapshot.dirs.attempt(&status.name, number).join("upper");
            let known = snapshot.containers.get(&status.name);
            Some(ContainerUse {
                name: status.name.clone(),
                image: status.image.clone(),
                used: cgroup::detail(hierarchies, &format!("{cgroup}/{id}"))?,
                id: id.to_owned(),
                since: running.started_at.as_ref().map(|time| time.0),
                cpu_rate: None,
                written: size(disk, known.and_then(|it| it.current).map(upper).as_deref()),
                logs: size(disk, Some(&snapshot.dirs.logs.join(&status.name))),
            })
        });
    let spec = snapshot.pod.spec.as_ref();
    let volumes = spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let volumes = volumes.filter(|volume| disk && volume.host_path.is_none());
    Some(PodUse {
        namespace: snapshot.key.namespace.clone(),
        name: snapshot.key.name.clone(),
        uid: uid.clone(),
        since: status.start_time.as_ref().map(|time| time.0),
        used,
        network: counters.of_pod(uid),
        disk: if disk {
            node::pod_disk_usage(snapshot)
        } else {
            DiskUsage::default()
        },
        volumes: volumes
            .map(|volume| {
                let dir = snapshot.dirs.volumes().join(&volume.name);
                (volume.name.clone(), size(true, Some(&dir)))
            })
            .collect(),
        containers: containers.collect(),
    })
}

fn size(wanted: bool, dir: Option<&Path>) -> DiskUsage {
    match dir {
        Some(dir) if wanted => crate::volumes::usage::of(dir),
        _ => DiskUsage::default(),
    }
}
