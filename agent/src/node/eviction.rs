//! Keeps the node alive when it runs short of memory, disk or process ids: first by removing images that nobody
//! uses, then by ending pods. Also holds pods to the disk space that they are limited to.
//!
//! Which and in what order is `eviction/plan` (pure), local limits are `eviction/local`.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::PodSpec;
use tokio::sync::watch;
use tokio::time::Instant;

use super::heartbeat::Heartbeat;
use super::host::Usage;
use crate::images::ImageStore;
use crate::pods::{EventType, Machine, Pods, Snapshot, qos, quantity};
use crate::runtime;

pub(crate) mod local;
mod plan;
mod soft;

pub(super) use plan::CRITICAL;
pub(crate) use plan::Thresholds;
use plan::{Candidate, Met, Pressures, Signal};
use soft::Soft;
pub use soft::{SoftThreshold, ThresholdError};

/// What is cheap to look at is looked at this often; directories are measured every few rounds.
const EVERY: Duration = Duration::from_secs(2);
const MEASURE_EVERY: u32 = 5;
/// How long an ended pod may take to give back what it has, before the next one is ended.
const PATIENCE: Duration = Duration::from_secs(30);
/// An image that was used a moment ago may be one that a pod is about to be made of.
const YOUNG: Duration = Duration::from_secs(120);

pub(crate) struct Evictor<M: Machine> {
    pub(crate) pods: Arc<Pods<M>>,
    pub(crate) images: ImageStore,
    pub(crate) heartbeat: Arc<Heartbeat>,
    pub(crate) data_dir: PathBuf,
    pub(crate) cgroup_parent: String,
    pub(crate) thresholds: Thresholds,
    pub(crate) soft: Vec<SoftThreshold>,
    /// The longest that a pod has to end when a soft threshold was crossed for too long.
    pub(crate) longest_grace: Duration,
    pub(crate) transition: Duration,
    /// In percent of the disk: above the first images are removed, down to the second.
    pub(crate) image_gc: (u8, u8),
}

impl<M: Machine> Evictor<M> {
    /// Until `stop` says so.
    pub(crate) async fn run(self, mut stop: watch::Receiver<bool>) {
        let begun = Instant::now();
        let mut pressures = Pressures::default();
        let mut soft = Soft::new(self.soft.clone());
        let mut round = 0u32;
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let mut usage = Usage::read(&self.data_dir);
            if self.remove_images(&usage).await {
                usage = Usage::read(&self.data_dir);
            }
            let met = self.thresholds.met(&usage);
            let (mut all, due) = soft.note(&usage, begun.elapsed());
            all.extend(met.iter().cloned());
            let pressure = pressures.note(&all, begun.elapsed(), self.transition);
            self.heartbeat.set_pressure(pressure);
            self.pods.set_pressure(pressure);
            if round.is_multiple_of(MEASURE_EVERY) {
                self.hold_to_limits().await;
            }
            round = round.wrapping_add(1);
            // What cannot wait comes first.
            if let Some(met) = met.first() {
                self.reclaim(met, None).await;
            } else if let Some(due) = due.first() {
                self.reclaim(due, Some(self.longest_grace)).await;
            }
        }
    }

    /// Whether something was removed.
    async fn remove_images(&self, usage: &Usage) -> bool {
        let used = |usage: &Usage| usage.disk_bytes.saturating_sub(usage.disk_available_bytes);
        let part = |percent: u8| usage.disk_bytes / 100 * u64::from(percent);
        let (high, low) = self.image_gc;
        if high >= 100 || usage.disk_bytes == 0 || used(usage) < part(high) {
            return false;
        }
        let goal = used(usage).saturating_sub(part(low));
        self.free_images(goal).await > 0
    }

    /// Removes images that no pod uses, those first that were not used for longest; returns how many bytes of them.
    async fn free_images(&self, goal: u64) -> u64 {
        let mut used = BTreeSet::new();
        for snapshot in self.pods.snapshots() {
            used.extend(snapshot.images());
        }
        let unused = match self.images.unused(&used, YOUNG).await {
            Ok(unused) => unused,
            Err(error) => {
                tracing::warn!(%error, "images cannot be listed");
                return 0;
            }
        };
        let mut freed = 0u64;
        for (reference, bytes) in unused {
            if freed >= goal {
                break;
            }
            match self.images.remove(&reference).await {
                Ok(()) => {
                    tracing::info!(image = %reference, bytes, "removed an image that nobody uses");
                    freed = freed.saturating_add(bytes);
                }
                Err(error) => tracing::warn!(image = %reference, %error, "image not removed"),
            }
        }
        freed
    }

    async fn reclaim(&self, met: &Met, grace: Option<Duration>) {
        tracing::warn!(resource = met.signal.resource(), available = %met.available,
            threshold = %met.threshold, "the node is short; attempting to reclaim");
        let message = format!("Attempting to reclaim {}", met.signal.resource());
        let kind = EventType::Warning;
        let event = self.heartbeat.event(kind, "EvictionThresholdMet", message);
        self.pods.tell(event);
        if matches!(met.signal, Signal::Disk | Signal::Inodes)
            && self.free_images(u64::MAX).await > 0
        {
            return;
        }
        let mut candidates = self.candidates(met.signal).await;
        plan::rank(met.signal, &mut candidates);
        let Some(first) = candidates.first() else {
            tracing::warn!(
                resource = met.signal.resource(),
                "there is no pod that could be ended"
            );
            return;
        };
        self.evict(&first.uid, plan::message(met, first), grace)
            .await;
    }

    async fn evict(&self, uid: &str, message: String, grace: Option<Duration>) {
        tracing::warn!(uid, %message, "evicting a pod");
        self.pods.evict(uid, message, grace).await;
        if let Some(mut snapshot) = self.pods.watch(uid) {
            let ended = snapshot.wait_for(|it| {
                it.as_ref()
                    .is_some_and(|it| it.status.phase.as_deref() == Some("Failed"))
            });
            // One that takes longer is not waited for: others may have to go.
            let patience = PATIENCE.max(grace.unwrap_or_default());
            let _ = tokio::time::timeout(patience, ended).await;
        }
    }

    async fn candidates(&self, signal: Signal) -> Vec<Candidate> {
        let snapshots: Vec<Snapshot> = self.pods.snapshots();
        let parent = self.cgroup_parent.clone();
        let measured = tokio::task::spawn_blocking(move || {
            let live = snapshots.into_iter().filter(is_evictable);
            live.filter_map(|snapshot| candidate(&snapshot, signal, &parent))
                .collect()
        });
        measured.await.unwrap_or_default()
    }

    async fn hold_to_limits(&self) {
        let snapshots = self.pods.snapshots();
        let measured = tokio::task::spawn_blocking(move || {
            let live = snapshots.into_iter().filter(is_evictable);
            live.filter_map(|it| Some((it.key.uid.clone(), local::exceeded(&it)?)))
                .collect::<Vec<_>>()
        });
        for (uid, message) in measured.await.unwrap_or_default() {
            self.evict(&uid, message, None).await;
        }
    }
}

fn is_evictable(snapshot: &Snapshot) -> bool {
    let phase = snapshot.status.phase.as_deref();
    let spec = snapshot.pod.spec.as_ref();
    let priority = spec.and_then(|spec| spec.priority).unwrap_or(0);
    !matches!(phase, Some("Failed" | "Succeeded")) && priority < CRITICAL && !snapshot.is_static()
}

/// What the pod asks for in all of what is short.
fn requested(spec: &PodSpec, signal: Signal) -> u64 {
    match signal {
        Signal::Memory => qos::pod_resources(spec).memory_request_bytes.unwrap_or(0),
        Signal::Disk => qos::storage_request(spec),
        Signal::Inodes | Signal::Pids => 0,
    }
}

/// `None` when it has nothing of what is short.
fn candidate(snapshot: &Snapshot, signal: Signal, parent: &str) -> Option<Candidate> {
    let spec = snapshot.pod.spec.as_ref()?;
    let uid = &snapshot.key.uid;
    let disk = matches!(signal, Signal::Disk | Signal::Inodes);
    let whole = if disk {
        let usage = local::pod_usage(snapshot);
        if signal == Signal::Disk {
            usage.bytes
        } else {
            usage.inodes
        }
    } else {
        let usage = runtime::usage(parent, uid, "")?;
        if signal == Signal::Memory {
            usage.memory_bytes
        } else {
            usage.pids
        }
    };
    let containers: Vec<(String, u64, u64)> = spec
        .containers
        .iter()
        .map(|container| {
            let requests = container
                .resources
                .as_ref()
                .and_then(|it| it.requests.as_ref());
            let requested = requests.and_then(|requests| requests.get(signal.resource()));
            let current = snapshot.containers.get(&container.name);
            let id =
                current.and_then(|it| Some(format!("{uid}_{}_{}", container.name, it.current?)));
            let used = match signal {
                Signal::Memory => id
                    .and_then(|id| runtime::usage(parent, uid, &id))
                    .map(|it| it.memory_bytes),
                Signal::Disk => Some(local::container_usage(snapshot, &container.name).bytes),
                Signal::Inodes | Signal::Pids => None,
            };
            let name = container.name.clone();
            (
                name,
                used.unwrap_or(0),
                requested.and_then(quantity::whole).unwrap_or(0),
            )
        })
        .collect();
    Some(Candidate {
        uid: uid.clone(),
        priority: spec.priority.unwrap_or(0),
        used: whole,
        requested: requested(spec, signal),
        containers,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_pod_asks_for_as_a_whole_and_for_its_sidecars_counts() {
        let spec = |more: serde_json::Value| -> PodSpec {
            let mut spec = serde_json::json!({
                "containers": [{"name": "c", "resources": {"requests": {"memory": "10", "ephemeral-storage": "5"}}}],
                "initContainers": [{"name": "s", "restartPolicy": "Always",
                    "resources": {"requests": {"memory": "3"}}}],
                "overhead": {"memory": "1"}});
            spec.as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            serde_json::from_value(spec).unwrap()
        };
        let plain = spec(serde_json::json!({}));
        assert_eq!(requested(&plain, Signal::Memory), 14);
        assert_eq!(requested(&plain, Signal::Disk), 5);
        let whole = spec(serde_json::json!({"resources": {"requests": {"memory": "100"}}}));
        assert_eq!(requested(&whole, Signal::Memory), 101);
    }
}
