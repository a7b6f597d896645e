//! Flags about a node's pods; the defaults are the kubelet's.

use std::path::PathBuf;
use std::time::Duration;

use agent::{LogSize, PodOptions, SoftThreshold};
use anyhow::Context as _;

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
    /// A container's log goes to a new file when the one being written would be larger than this.
    #[arg(long, default_value = "10Mi", value_name = "BYTES")]
    container_log_max_size: LogSize,
    /// So many files of a container's log are kept, the one being written included.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..), value_name = "COUNT")]
    container_log_max_files: u32,
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
    /// Pods are evicted when less of the process ids than this are free, in percent.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u8).range(0..=100), value_name = "PERCENT")]
    eviction_pids: u8,
    /// Pods are evicted, and have time to end, when less than this is left for a while: `memory.available<500Mi,nodefs.available<15%`;
    /// each with a period in --eviction-soft-grace-period.
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "SIGNAL<AMOUNT",
        requires = "eviction_soft_grace_period"
    )]
    eviction_soft: Vec<SoftThreshold>,
    /// How long it must have been so: `memory.available=1m30s,nodefs.available=2m`.
    #[arg(long, value_delimiter = ',', value_parser = grace_period, value_name = "SIGNAL=DURATION")]
    eviction_soft_grace_period: Vec<(String, Duration)>,
    /// The longest that a pod has to end then, in seconds.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    eviction_max_pod_grace_period: u64,
    /// Seconds that the node counts as short of something after it was.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    eviction_pressure_transition_seconds: u64,
    /// Seconds that a shutdown of the machine waits for pods to end, where systemd's logind is asked to (its InhibitDelayMaxSec is
    /// the most that it waits); 0 asks for nothing.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    shutdown_grace_period: u64,
    /// The part of them that is for pods of the priorities system-cluster-critical and system-node-critical, which end last.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    shutdown_grace_period_critical_pods: u64,
    /// Where images of a registry are looked for first, `docker.io=mirror.example:5000`; may be repeated.
    #[arg(long, value_parser = mirror, value_name = "REGISTRY=MIRROR")]
    registry_mirror: Vec<(String, String)>,
    /// A program that runs the containers of pods whose RuntimeClass has this handler, `NAME=PROGRAM`, by the command line
    /// that runc has; may be repeated. There are `runc`, and `crun` where it is installed.
    #[arg(long, value_parser = runtime_handler, value_name = "NAME=PROGRAM")]
    runtime_handler: Vec<(String, PathBuf)>,
}

fn runtime_handler(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, program)) if !name.is_empty() && !program.is_empty() => {
            Ok((name.to_owned(), program.into()))
        }
        _ => Err("expected NAME=PROGRAM".to_owned()),
    }
}

fn grace_period(text: &str) -> Result<(String, Duration), String> {
    let wrong =
        || format!("expected SIGNAL=DURATION, such as memory.available=1m30s, not {text:?}");
    let (signal, duration) = text.split_once('=').ok_or_else(wrong)?;
    let duration: jiff::SignedDuration = duration.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from(duration).map_err(|_| wrong())?;
    Ok((signal.to_owned(), duration))
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
    /// Fails for a soft threshold without a grace period.
    pub(crate) fn options(&self) -> anyhow::Result<PodOptions> {
        anyhow::ensure!(
            self.shutdown_grace_period_critical_pods <= self.shutdown_grace_period,
            "--shutdown-grace-period-critical-pods is more than --shutdown-grace-period"
        );
        let mut soft = self.eviction_soft.clone();
        for threshold in &mut soft {
            let signal = threshold.signal();
            let mut periods = self.eviction_soft_grace_period.iter();
            let period = periods.find(|(known, _)| known == signal);
            let (_, grace) = period.with_context(|| {
                format!("--eviction-soft-grace-period says nothing of {signal}")
            })?;
            threshold.grace = *grace;
        }
        Ok(PodOptions {
            allowed_unsafe_sysctls: self.allowed_unsafe_sysctls.clone(),
            manifests: self.pod_manifest_path.clone(),
            pids_limit: self.pod_max_pids,
            image_gc_high_percent: self.image_gc_high_threshold,
            image_gc_low_percent: self.image_gc_low_threshold,
            eviction_memory_bytes: self.eviction_memory_mib << 20,
            eviction_disk_percent: self.eviction_disk,
            eviction_inodes_percent: self.eviction_inodes,
            pressure_transition: Duration::from_secs(self.eviction_pressure_transition_seconds),
            shutdown_period: Duration::from_secs(self.shutdown_grace_period),
            shutdown_critical: Duration::from_secs(self.shutdown_grace_period_critical_pods),
            registry_mirrors: self.registry_mirror.clone(),
            runtime_handlers: self.runtime_handler.clone(),
            log_max_size: self.container_log_max_size.clone(),
            log_max_files: self.container_log_max_files,
            eviction_pids_percent: self.eviction_pids,
            eviction_soft: soft,
            eviction_longest_grace: Duration::from_secs(self.eviction_max_pod_grace_period),
        })
    }
}
