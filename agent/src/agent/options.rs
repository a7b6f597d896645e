//! How a node treats its pods, as an operator sets it: what the kubelet has in its configuration file.

use std::path::PathBuf;
use std::time::Duration;

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
    /// How long a pressure lasts at least, once it was noticed.
    pub pressure_transition: Duration,
    /// Where images of a registry are looked for first: `registry` and a mirror's `host:port`, in order.
    pub registry_mirrors: Vec<(String, String)>,
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
            pressure_transition: Duration::from_secs(300),
            registry_mirrors: Vec::new(),
        }
    }
}
