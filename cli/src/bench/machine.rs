//! Facts about the machine that a result is worth nothing without.

use std::process::Command;

use serde::Serialize;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Machine {
    pub(crate) kernel: String,
    pub(crate) processor: String,
    pub(crate) processors: usize,
    /// MiB.
    pub(crate) memory: u64,
    /// What the kernel says it runs on, if it is a virtual machine.
    pub(crate) virtualized: bool,
    /// Whether spectre and its kin are mitigated: it makes a system call's price.
    pub(crate) mitigations: String,
    pub(crate) frequency_governor: Option<String>,
    pub(crate) jit: bool,
    /// One-minute load average as the run began: what else was going on.
    pub(crate) load: f64,
    pub(crate) iptables: Option<String>,
    pub(crate) nftables: Option<String>,
    /// Compiled without optimization: figures of user space are worth nothing.
    pub(crate) unoptimized: bool,
}

fn file(path: &str) -> Option<String> {
    std::fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn field(text: &str, name: &str) -> Option<String> {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_once(':'))
        .map(|(_, value)| value.trim().to_owned())
}

/// What a program says of its version; `None` when it is not there.
pub(crate) fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Machine {
    pub(crate) fn look(iptables: &str) -> Self {
        let cpu = file("/proc/cpuinfo").unwrap_or_default();
        let memory = file("/proc/meminfo")
            .and_then(|text| field(&text, "MemTotal"))
            .and_then(|text| text.trim_end_matches(" kB").trim().parse::<u64>().ok())
            .unwrap_or(0);
        Self {
            kernel: file("/proc/sys/kernel/osrelease").unwrap_or_default(),
            processor: field(&cpu, "model name")
                .unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            memory: memory / 1024,
            virtualized: cpu.lines().any(|line| {
                line.starts_with("flags") && line.split(' ').any(|flag| flag == "hypervisor")
            }),
            mitigations: mitigations(),
            frequency_governor: file("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            jit: file("/proc/sys/net/core/bpf_jit_enable").is_none_or(|text| text != "0"),
            load: file("/proc/loadavg")
                .and_then(|text| text.split(' ').next()?.parse().ok())
                .unwrap_or(0.0),
            iptables: version(iptables),
            nftables: version("nft"),
            unoptimized: cfg!(debug_assertions),
        }
    }

    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let none = || "not there".to_owned();
        let yes = |is| if is { "yes" } else { "no" }.to_owned();
        let mut rows = vec![
            ("kernel", self.kernel.clone()),
            (
                "processor",
                format!("{} x {}", self.processors, self.processor),
            ),
            ("virtual machine", yes(self.virtualized)),
            ("memory", format!("{} MiB", self.memory)),
            ("mitigations", self.mitigations.clone()),
            ("BPF JIT", yes(self.jit)),
            ("load before the run", format!("{:.2}", self.load)),
            ("iptables", self.iptables.clone().unwrap_or_else(none)),
            ("nftables", self.nftables.clone().unwrap_or_else(none)),
        ];
        if let Some(governor) = &self.frequency_governor {
            rows.push(("frequency governor", governor.clone()));
        }
        rows
    }
}

/// Names of the weaknesses that are mitigated, or that none is.
fn mitigations() -> String {
    let directory = "/sys/devices/system/cpu/vulnerabilities";
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| {
            std::fs::read_to_string(entry.path()).is_ok_and(|text| text.starts_with("Mitigation"))
        })
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(", ")
    }
}
