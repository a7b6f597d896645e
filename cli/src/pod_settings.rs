//! Flags about a node's pods; the defaults are the kubelet's.

use std::path::PathBuf;
use std::time::Duration;

use agent::PodOptions;

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pods of a node")]
pub(crate) struct PodSettings {
    /// System controls that pods may set besides the safe ones: names, or patterns that end with `*`.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    allowed_unsafe_sysctls: Vec<String>,
    /// Folder with manifests of static pods.
    #[arg(long, value_name = "FOLDER")]
    pod_manifest_path: Option<PathBuf>,
    /// Processes that a pod may have at most.
    #[arg(long, value_name = "COUNT")]
    pod_max_pids: Option<u64>,
    /// Unused images are removed when so much of the disk is used, in percent…
    #[arg(long, default_value_t = 85, value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT")]
    image_gc_high_threshold: u8,
    /// …until no more than this is.
    #[arg(long, default_value_t = 80, value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT")]
    image_gc_low_threshold: u8,
    /// Pods are evicted when less memory than this is available, in MiB.
    #[arg(long, default_value_t = 100, value_name = "MIB")]
    eviction_memory_mib: u64,
    /// Pods are evicted when less of the disk than this is free, in percent.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT")]
    eviction_disk: u8,
    /// Pods are evicted when less of the disk's inodes than this are free, in percent.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT")]
    eviction_inodes: u8,
    /// Seconds that the node counts as short of something after it was.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    eviction_pressure_transition_seconds: u64,
    /// Where images of a registry are looked for first, `docker.io=mirror.example:5000`; may be repeated.
    #[arg(long, value_parser = mirror, value_name = "REGISTRY=MIRROR")]
    registry_mirror: Vec<(String, String)>,
}

fn mirror(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((registry, mirror)) if !registry.is_empty() && !mirror.is_empty() => {
            Ok((registry.to_owned(), mirror.to_owned()))
        }
        _ => Err("expected REGISTRY=MIRROR".to_owned()),
    }
}

impl PodSettings {
    pub(crate) fn options(&self) -> PodOptions {
        PodOptions {
            allowed_unsafe_sysctls: self.allowed_unsafe_sysctls.clone(),
            manifests: self.pod_manifest_path.clone(),
            pids_limit: self.pod_max_pids,
            image_gc_high_percent: self.image_gc_high_threshold,
            image_gc_low_percent: self.image_gc_low_threshold,
            eviction_memory_bytes: self.eviction_memory_mib << 20,
            eviction_disk_percent: self.eviction_disk,
            eviction_inodes_percent: self.eviction_inodes,
            pressure_transition: Duration::from_secs(self.eviction_pressure_transition_seconds),
            registry_mirrors: self.registry_mirror.clone(),
            ..PodOptions::default()
        }
    }
}
