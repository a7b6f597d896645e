//! How a node treats its pods, as an operator sets it: what the kubelet has in its configuration file.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::AgentConfig;
use crate::images::ImageStore;
use crate::node::{BUS, Evictor, Heartbeat, Manifests, Shutdown, SoftThreshold, Thresholds};
use crate::pods::{NodeMachine, Pods, quantity};

/// Defaults are the kubelet's.
#[derive(Debug, Clone)]
pub struct PodOptions {
    /// Names, or patterns that end with `*`, of system controls that pods may set besides the safe ones.
    pub allowed_unsafe_sysctls: Vec<String>,
    /// Folder with manifests of pods that run whatever the control plane says.
    pub manifests: Option<PathBuf>,
    /// Processes that a pod may have.
    pub pids_limit: Option<u64>,
    /// Images are removed when more than this part of the disk is used, until no more than `image_gc_low` is.
    pub image_gc_high_percent: u8,
    pub image_gc_low_percent: u8,
    /// Memory that must be free; with less the node ends pods.
    pub eviction_memory_bytes: u64,
    /// Parts of the disk's space and of its inodes that must be free.
    pub eviction_disk_percent: u8,
    pub eviction_inodes_percent: u8,
    /// Part of the process ids that must be free.
    pub eviction_pids_percent: u8,
    /// What must be left in the long run; with less for its grace period the node ends pods, which have time to end.
    pub eviction_soft: Vec<SoftThreshold>,
    /// The longest that such a pod has to end.
    pub eviction_longest_grace: Duration,
    /// How long a pressure lasts at least, once it was noticed.
    pub pressure_transition: Duration,
    /// How long a shutdown of the machine waits for pods to end, and the part of it that critical pods have.
    pub shutdown_period: Duration,
    pub shutdown_critical: Duration,
    /// Where images of a registry are looked for first: `registry` and a mirror's `host:port`, in order.
    pub registry_mirrors: Vec<(String, String)>,
    /// Programs that run containers, by the handler that a RuntimeClass names; besides `runc`, and `crun` where it is
    /// installed.
    pub runtime_handlers: Vec<(String, PathBuf)>,
    /// A container's log goes to a new file when one is so large, and so many of them are kept.
    pub log_max_size: LogSize,
    pub log_max_files: u32,
}

/// As an operator writes it: `10Mi`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSize {
    pub(super) bytes: u64,
    shown: String,
}

#[derive(Debug, thiserror::Error)]
#[error("expected an amount of bytes more than 0, such as 10Mi, not {0:?}")]
pub struct LogSizeError(String);

impl FromStr for LogSize {
    type Err = LogSizeError;

    fn from_str(text: &str) -> Result<Self, LogSizeError> {
        let bytes = quantity::bytes(text).filter(|bytes| *bytes > 0);
        Ok(Self {
            bytes: bytes.ok_or_else(|| LogSizeError(text.to_owned()))?,
            shown: text.to_owned(),
        })
    }
}

impl Default for LogSize {
    fn default() -> Self {
        Self {
            bytes: 10 << 20,
            shown: "10Mi".to_owned(),
        }
    }
}

impl Default for PodOptions {
    fn default() -> Self {
        Self {
            allowed_unsafe_sysctls: Vec::new(),
            manifests: None,
            pids_limit: None,
            image_gc_high_percent: 85,
            image_gc_low_percent: 80,
            eviction_memory_bytes: 100 << 20,
            eviction_disk_percent: 10,
            eviction_inodes_percent: 5,
            eviction_pids_percent: 10,
            eviction_soft: Vec::new(),
            eviction_longest_grace: Duration::ZERO,
            pressure_transition: Duration::from_secs(300),
            shutdown_period: Duration::ZERO,
            shutdown_critical: Duration::ZERO,
            registry_mirrors: Vec::new(),
            runtime_handlers: Vec::new(),
            log_max_size: LogSize::default(),
            log_max_files: 5,
        }
    }
}

pub(super) fn evictor(
    config: &AgentConfig,
    pods: &Arc<Pods<NodeMachine>>,
    images: &ImageStore,
    heartbeat: &Arc<Heartbeat>,
) -> Evictor<NodeMachine> {
    let options = &config.pods;
    Evictor {
        pods: Arc::clone(pods),
        images: images.clone(),
        heartbeat: Arc::clone(heartbeat),
        data_dir: config.data_dir.clone(),
        cgroup_parent: config.cgroup_parent.clone(),
        thresholds: Thresholds {
            memory_bytes: options.eviction_memory_bytes,
            disk_percent: options.eviction_disk_percent,
            inodes_percent: options.eviction_inodes_percent,
            pids_percent: options.eviction_pids_percent,
        },
        soft: options.eviction_soft.clone(),
        longest_grace: options.eviction_longest_grace,
        transition: options.pressure_transition,
        image_gc: (options.image_gc_high_percent, options.image_gc_low_percent),
    }
}

/// The options in force in the form of a kubelet's configuration file, for `/configz`.
pub(super) fn configuration(config: &AgentConfig) -> serde_json::Value {
    let pods = &config.pods;
    let percent = |part: u8| format!("{part}%");
    serde_json::json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "staticPodPath": pods.manifests,
        "clusterDomain": config.cluster_domain,
        "clusterDNS": [config.cluster_dns],
        "maxPods": crate::node::MAX_PODS,
        "podPidsLimit": pods.pids_limit.map_or(-1, |most| i64::try_from(most).unwrap_or(i64::MAX)),
        "containerLogMaxSize": pods.log_max_size.shown,
        "containerLogMaxFiles": pods.log_max_files,
        "allowedUnsafeSysctls": pods.allowed_unsafe_sysctls,
        "imageGCHighThresholdPercent": pods.image_gc_high_percent,
        "imageGCLowThresholdPercent": pods.image_gc_low_percent,
        "evictionHard": {
            "memory.available": format!("{}Mi", pods.eviction_memory_bytes >> 20),
            "nodefs.available": percent(pods.eviction_disk_percent),
            "nodefs.inodesFree": percent(pods.eviction_inodes_percent),
            "pid.available": percent(pods.eviction_pids_percent),
        },
        "shutdownGracePeriod": format!("{}s", pods.shutdown_period.as_secs()),
        "shutdownGracePeriodCriticalPods": format!("{}s", pods.shutdown_critical.as_secs()),
        "evictionPressureTransitionPeriod": format!("{}s", pods.pressure_transition.as_secs()),
    }})
}

pub(super) fn shutdown(
    config: &AgentConfig,
    pods: &Arc<Pods<NodeMachine>>,
    heartbeat: &Arc<Heartbeat>,
) -> Shutdown<NodeMachine> {
    Shutdown {
        pods: Arc::clone(pods),
        heartbeat: Arc::clone(heartbeat),
        bus: BUS.into(),
        period: config.pods.shutdown_period,
        critical: config.pods.shutdown_critical,
    }
}

pub(super) fn manifests(
    config: &AgentConfig,
    pods: &Arc<Pods<NodeMachine>>,
) -> Manifests<NodeMachine> {
    Manifests {
        pods: Arc::clone(pods),
        node: config.node_name.clone(),
        folder: config.pods.manifests.clone(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn sizes_of_logs() {
        assert_eq!("10Mi".parse::<LogSize>().unwrap(), LogSize::default());
        assert_eq!("1500".parse::<LogSize>().unwrap().bytes, 1500);
        for wrong in ["", "0", "-1Mi", "10MiB", "much"] {
            let error = wrong.parse::<LogSize>().unwrap_err().to_string();
            assert!(error.contains(&format!("{wrong:?}")), "{error}");
        }
    }
}
