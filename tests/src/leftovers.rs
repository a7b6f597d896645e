//! What a run could leave on the machine: namespaces, links, mounts, cgroups, BPF programs, processes.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use crate::process::Outcome;

/// Everything that belongs to one cluster and is still there.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Leftovers {
    pub mounts: BTreeSet<String>,
    pub cgroups: BTreeSet<String>,
    pub links: BTreeSet<String>,
    pub processes: BTreeSet<String>,
    pub attached: BTreeSet<String>,
    pub files: BTreeSet<String>,
}

impl Leftovers {
    /// Looks by identity: below the run directory and the cgroup, and in the network namespace.
    pub fn look(run_dir: &Path, cgroup: &str, netns: &crate::Netns) -> Self {
        let mut found = Self::default();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        found.mounts = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|target| Path::new(target).starts_with(run_dir))
            .map(str::to_owned)
            .collect();
        for hierarchy in hierarchies() {
            collect_cgroups(
                &hierarchy.join(cgroup.trim_start_matches('/')),
                &mut found.cgroups,
            );
        }
        let links = Outcome::of(netns.command("ip").args(["-o", "link"])).ok();
        found.links = links
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .map(|name| name.split('@').next().unwrap_or(name).to_owned())
            .filter(|name| name != "lo" && name != "uplink")
            .collect();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&*run_dir.to_string_lossy()) {
                found.processes.insert(format!(
                    "{}: {command}",
                    entry.file_name().to_string_lossy()
                ));
            }
        }
        let attached = Outcome::of(netns.command("bpftool").args(["net", "show"])).ok();
        found.attached = attached
            .lines()
            .filter(|line| {
                ["uplink", "tcx", "clsact"]
                    .iter()
                    .any(|it| line.contains(it))
            })
            .map(str::to_owned)
            .collect();
        found.files = std::fs::read_dir(run_dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().display().to_string())
            .collect();
        found
    }
}

/// Mount points of all cgroup hierarchies.
fn hierarchies() -> Vec<std::path::PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| target.into())
        })
        .collect()
}

fn collect_cgroups(directory: &Path, found: &mut BTreeSet<String>) {
    if directory.is_dir() {
        found.insert(directory.display().to_string());
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                collect_cgroups(&entry.path(), found);
            }
        }
    }
}

/// Removes an empty cgroup subtree in every hierarchy, deepest first.
pub(crate) fn remove_cgroup(name: &str) {
    for hierarchy in hierarchies() {
        let mut found = BTreeSet::new();
        collect_cgroups(&hierarchy.join(name.trim_start_matches('/')), &mut found);
        for directory in found.iter().rev() {
            let _ = std::fs::remove_dir(directory);
        }
    }
}

/// Mount point of the v2 hierarchy.
pub fn unified_cgroup() -> std::path::PathBuf {
    let mounts = Outcome::of(Command::new("cat").arg("/proc/self/mounts")).ok();
    mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ');
            let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| target.into())
        })
        .expect("a cgroup v2 hierarchy is mounted")
}
