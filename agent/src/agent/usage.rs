//! Tells the control plane now and then what the node and its pods use.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use proto::node::v1 as wire;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::stats::Baseline;
use crate::pods::Pods;
use crate::runtime::{Hierarchies, usage};
use crate::sync::Outbox;

/// Two reports make a rate; autoscalers look every 15 s.
const EVERY: Duration = Duration::from_secs(10);

/// The containers of a pod that run: name, identity and age.
#[derive(Debug)]
struct Running {
    namespace: String,
    name: String,
    uid: String,
    containers: Vec<(String, String, Duration)>,
}

fn running<M: crate::pods::Machine>(pods: &Pods<M>) -> Vec<Running> {
    let now = Timestamp::now();
    let all = pods.snapshots().into_iter().map(|pod| {
        let statuses = pod
            .status
            .container_statuses
            .iter()
            .chain(&pod.status.init_container_statuses)
            .flatten();
        let containers = statuses.filter_map(|status| {
            let running = status.state.as_ref()?.running.as_ref()?;
            let id = status.container_id.as_deref()?.strip_prefix("runc://")?;
            let age = running
                .started_at
                .as_ref()
                .and_then(|at| Duration::try_from(now.duration_since(at.0)).ok())
                .unwrap_or_default();
            Some((status.name.clone(), id.to_owned(), age))
        });
        Running {
            containers: containers.collect(),
            namespace: pod.key.namespace,
            name: pod.key.name,
            uid: pod.key.uid,
        }
    });
    all.filter(|pod| !pod.containers.is_empty()).collect()
}

/// Reads files only.
fn measure(hierarchies: &Hierarchies, parent: &str, pods: Vec<Running>) -> wire::Usage {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let machine = usage::machine(&read("/proc/stat"), &read("/proc/meminfo"));
    let parent = parent.trim_matches('/');
    let pods = pods.into_iter().filter_map(|pod| {
        let containers: Vec<wire::ContainerUsage> = pod
            .containers
            .into_iter()
            .filter_map(|(name, id, age)| {
                let cgroup = format!("/{parent}/pod{}/{id}", pod.uid);
                let used = usage::of(hierarchies, &cgroup)?;
                Some(wire::ContainerUsage {
                    name,
                    cpu_nanos: used.cpu_nanos,
                    memory_bytes: used.memory_bytes,
                    age_millis: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                })
            })
            .collect();
        (!containers.is_empty()).then_some(wire::PodUsage {
            namespace: pod.namespace,
            name: pod.name,
            uid: pod.uid,
            containers,
        })
    });
    wire::Usage {
        cpu_nanos: machine.cpu_nanos,
        memory_bytes: machine.memory_bytes,
        pods: pods.collect(),
    }
}

/// The identity of each container: by the pod's uid and the container's name.
fn ids(running: &[Running]) -> BTreeMap<(String, String), String> {
    let of = |pod: &Running| {
        let uid = pod.uid.clone();
        let containers = pod.containers.clone().into_iter();
        containers.map(move |(name, id, _)| ((uid.clone(), name), id))
    };
    running.iter().flat_map(of).collect()
}

/// CPU time by the containers' identities; that of the node has no name.
fn cpu_by_id(
    usage: &wire::Usage,
    ids: &BTreeMap<(String, String), String>,
) -> BTreeMap<String, u64> {
    let of = |pod: &wire::PodUsage| {
        let containers = pod.containers.iter().filter_map(|container| {
            let id = ids.get(&(pod.uid.clone(), container.name.clone()))?;
            Some((id.clone(), container.cpu_nanos))
        });
        containers.collect::<Vec<_>>()
    };
    let node = std::iter::once((String::new(), usage.cpu_nanos));
    usage.pods.iter().flat_map(of).chain(node).collect()
}

pub(super) async fn report<M: crate::pods::Machine>(
    pods: Arc<Pods<M>>,
    cgroup_parent: String,
    (outbox, baseline): (Arc<Outbox>, Arc<Baseline>),
    mut stop: watch::Receiver<bool>,
) {
    let hierarchies = match Hierarchies::detect() {
        Ok(hierarchies) => Arc::new(hierarchies),
        Err(error) => {
            tracing::warn!(%error, "usage is not reported: the mount table cannot be read");
            return;
        }
    };
    let mut tick = tokio::time::interval(EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let running = running(&pods);
        let ids = ids(&running);
        let at = Instant::now();
        let (hierarchies, parent) = (Arc::clone(&hierarchies), cgroup_parent.clone());
        let measured =
            tokio::task::spawn_blocking(move || measure(&hierarchies, &parent, running)).await;
        if let Ok(usage) = measured {
            baseline.note(at, cpu_by_id(&usage, &ids));
            outbox.usage(usage);
        }
    }
}
