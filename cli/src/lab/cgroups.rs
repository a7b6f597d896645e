//! cgroups of a lab, in every hierarchy of the machine. Whatever is in them is the lab's.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How long killed processes may take to leave.
const DEPARTURE: Duration = Duration::from_secs(20);

/// Mount points of all hierarchies, and which of them is v2.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchies {
    v2: Option<PathBuf>,
    v1: Vec<PathBuf>,
}

fn hierarchies() -> anyhow::Result<Hierarchies> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    Ok(parse(&mounts))
}

fn parse(mounts: &str) -> Hierarchies {
    let mut found = Hierarchies {
        v2: None,
        v1: Vec::new(),
    };
    for line in mounts.lines() {
        let mut fields = line.split(' ').skip(1);
        match (fields.next(), fields.next()) {
            (Some(target), Some("cgroup2")) => {
                found.v2.get_or_insert_with(|| target.into());
            }
            (Some(target), Some("cgroup")) => found.v1.push(target.into()),
            _ => {}
        }
    }
    found
}

fn join(root: &Path, cgroup: &str) -> PathBuf {
    root.join(cgroup.trim_start_matches('/'))
}

/// The cgroup's directory in the v2 tree, to which the socket hooks attach.
pub(super) fn unified(cgroup: &str) -> anyhow::Result<PathBuf> {
    let root = hierarchies()?.v2;
    let root = root.context("no cgroup v2 hierarchy is mounted")?;
    Ok(join(&root, cgroup))
}

/// Makes the cgroup in the v2 tree and opens the file that moves whoever writes `0` to it.
pub(super) fn door(cgroup: &str) -> anyhow::Result<File> {
    let directory = unified(cgroup)?;
    std::fs::create_dir_all(&directory)
        .with_context(|| format!("create {}", directory.display()))?;
    let procs = directory.join("cgroup.procs");
    File::options()
        .write(true)
        .open(&procs)
        .with_context(|| format!("open {}", procs.display()))
}

/// Whether a process is in the cgroup or below it.
pub(super) fn is_populated(cgroup: &str) -> anyhow::Result<bool> {
    let events = unified(cgroup)?.join("cgroup.events");
    Ok(std::fs::read_to_string(events).is_ok_and(|text| text.contains("populated 1")))
}

/// Kills what is in the cgroup and below it, and removes it in every hierarchy. Idempotent.
pub(super) fn end(cgroup: &str) -> anyhow::Result<()> {
    let hierarchies = hierarchies()?;
    let deadline = Instant::now() + DEPARTURE;
    let roots = hierarchies.v2.iter().chain(&hierarchies.v1);
    let directories: Vec<PathBuf> = roots.map(|root| join(root, cgroup)).collect();
    for directory in &directories {
        while directory.exists() {
            kill(directory);
            let removed = remove_tree(directory);
            if removed.is_ok() {
                break;
            }
            if Instant::now() > deadline {
                bail!("{} is not empty after {DEPARTURE:?}", directory.display());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(())
}

/// Removes the folder of all labs where this was the last.
pub(super) fn remove_parent(cgroup: &str) -> anyhow::Result<()> {
    let hierarchies = hierarchies()?;
    for root in hierarchies.v2.iter().chain(&hierarchies.v1) {
        if let Some(parent) = join(root, cgroup).parent() {
            // Not empty: another lab is there.
            let _ = std::fs::remove_dir(parent);
        }
    }
    Ok(())
}

/// v2 kills a whole tree at once (kernel 5.14); elsewhere each process is one that the v2 tree had too, but for
/// what somebody moved by hand.
fn kill(directory: &Path) {
    if std::fs::write(directory.join("cgroup.kill"), "1").is_ok() {
        return;
    }
    for directory in tree(directory) {
        let procs = std::fs::read_to_string(directory.join("cgroup.procs"));
        for pid in procs.unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                let pid = nix::unistd::Pid::from_raw(pid);
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
            }
        }
    }
}

/// The directory and all below it, parents first.
fn tree(directory: &Path) -> Vec<PathBuf> {
    let mut found = vec![directory.to_owned()];
    let mut next = 0;
    while let Some(directory) = found.get(next).cloned() {
        next += 1;
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(
            entries
                .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|entry| entry.path()),
        );
    }
    found
}

fn remove_tree(directory: &Path) -> std::io::Result<()> {
    for directory in tree(directory).into_iter().rev() {
        match std::fs::remove_dir(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_and_unified_hosts() {
        let hybrid = "tmpfs /sys/fs/cgroup tmpfs rw 0 0\n\
            cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n\
            cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nnonsense\n";
        assert_eq!(
            parse(hybrid),
            Hierarchies {
                v2: Some("/sys/fs/cgroup/unified".into()),
                v1: vec!["/sys/fs/cgroup/memory".into()],
            }
        );
        let unified = parse("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n");
        assert_eq!(unified.v2, Some("/sys/fs/cgroup".into()));
        assert!(unified.v1.is_empty());
    }
}
