//! What a run leaves while it runs: a directory and cgroups, both named after it. All else (namespaces, mounts,
//! programs, rules) hangs on its processes and their mount namespace, and goes with them.
//!
//! The directory holds a locked file, and the cgroup's path. A run that was killed no longer holds its lock: the
//! next one removes what it left.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

const PREFIX: &str = "waggle-bench-";
const LOCK: &str = "lock";
const CGROUP: &str = "cgroup";

/// How long the kernel may take to see processes off that are ended.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct RunDirectory {
    path: PathBuf,
    cgroup: PathBuf,
    _lock: Flock<File>,
}

impl RunDirectory {
    /// Sweeps what earlier runs left below `root`, then makes this run's own; the calling thread, and what it
    /// starts from then on, is in a mount namespace of its own.
    pub(crate) fn make(root: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        sweep(root);
        unshare(CloneFlags::CLONE_NEWNS).context("make a mount namespace (root is needed)")?;
        let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
        mount(none, "/", none, private, none).context("keep mounts to ourselves")?;
        let name = format!("{PREFIX}{}", std::process::id());
        let path = root.join(&name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        let lock = lock(&path.join(LOCK)).context("lock our own directory")?;
        let cgroup = own_cgroup()?.join(&name);
        fs::write(path.join(CGROUP), cgroup.as_os_str().as_encoded_bytes())?;
        fs::create_dir(&cgroup).with_context(|| format!("create {}", cgroup.display()))?;
        for child in ["hooked", "plain"] {
            fs::create_dir(cgroup.join(child))?;
        }
        Ok(Self {
            path,
            cgroup,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the socket hooks are attached.
    pub(crate) fn hooked(&self) -> PathBuf {
        self.cgroup.join("hooked")
    }

    /// Where they are not.
    pub(crate) fn plain(&self) -> PathBuf {
        self.cgroup.join("plain")
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        unmount_below(&self.path);
        remove_cgroup(&self.cgroup);
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// `None` when somebody holds it.
fn lock(path: &Path) -> Option<Flock<File>> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .ok()?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).ok()
}

fn is_ours(path: &Path) -> bool {
    path.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(PREFIX))
}

fn sweep(root: &Path) {
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        let path = entry.path();
        if !is_ours(&path) {
            continue;
        }
        // A directory without the file that names its cgroup is one that is just being made.
        let Ok(cgroup) = fs::read_to_string(path.join(CGROUP)) else {
            continue;
        };
        let Some(_dead) = lock(&path.join(LOCK)) else {
            continue;
        };
        eprintln!(
            "removing what a run that was cut off left: {}",
            path.display()
        );
        remove_cgroup(Path::new(&cgroup));
        // Who is still in it (in a long call of the kernel) is for a later run: it is found by this directory.
        if !Path::new(&cgroup).exists() {
            unmount_below(&path);
            let _ = fs::remove_dir_all(&path);
        }
    }
}

/// Ends whoever is in it, and removes it.
fn remove_cgroup(cgroup: &Path) {
    // A path that was cut short must not name somebody else's.
    if !is_ours(cgroup) {
        return;
    }
    let deadline = Instant::now() + PATIENCE;
    while cgroup.exists() && Instant::now() < deadline {
        // Linux 5.14; opened and not created, so that it stays what the kernel makes of it.
        if let Ok(mut kill) = File::options().write(true).open(cgroup.join("cgroup.kill")) {
            let _ = kill.write_all(b"1");
        }
        for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                let _ = fs::remove_dir(entry.path());
            }
        }
        if fs::remove_dir(cgroup).is_err() {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn unmount_below(directory: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    for target in targets.filter(|target| Path::new(target).starts_with(directory)) {
        let _ = umount2(target, MntFlags::MNT_DETACH);
    }
}

/// The cgroup v2 directory that this process is in.
fn own_cgroup() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let root = mounts
        .lines()
        .find_map(|line| {
            let mut fields = line.split(' ');
            let (_, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(target))
        })
        .context("no cgroup v2 hierarchy is mounted")?;
    let own = fs::read_to_string("/proc/self/cgroup")?;
    let own = own
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .context("this process is in no cgroup v2")?;
    Ok(root.join(own.trim_start_matches('/')))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_a_dead_run_left_is_swept_and_a_living_one_left_alone() {
        let root = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = root.path().join(name);
            let cgroup = root.path().join("cgroups").join(name);
            fs::create_dir_all(cgroup.join("hooked")).unwrap();
            fs::create_dir(&path).unwrap();
            fs::write(path.join(CGROUP), cgroup.to_str().unwrap()).unwrap();
            (path, cgroup)
        };
        let (dead, dead_cgroup) = make("waggle-bench-1");
        let (alive, alive_cgroup) = make("waggle-bench-2");
        let (foreign, foreign_cgroup) = make("somebody-else");
        let held = lock(&alive.join(LOCK)).unwrap();
        sweep(root.path());
        assert!(!dead.exists() && !dead_cgroup.exists());
        assert!(alive.exists() && alive_cgroup.exists());
        assert!(foreign.exists() && foreign_cgroup.exists());
        drop(held);
    }
}
