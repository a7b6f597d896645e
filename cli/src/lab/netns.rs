//! Network namespaces of a lab: kept by a bind mount each, set up by iproute2.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Makes a namespace and mounts it on `path`.
pub(super) fn create(path: &Path) -> anyhow::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    File::create(path).with_context(|| format!("create {}", path.display()))?;
    let made = on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        for (setting, value) in [
            // A packet for a service comes in by one node and its answer may leave by another.
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv4/fib_multipath_hash_policy", "1"),
            ("ipv6/fib_multipath_hash_policy", "1"),
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
        ] {
            // Kernels without a family have no such file; then nothing is asked of that family either.
            let _ = std::fs::write(Path::new("/proc/sys/net").join(setting), value);
        }
        mount(
            Some("/proc/thread-self/ns/net"),
            path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )
        .with_context(|| format!("mount a network namespace on {}", path.display()))
    });
    if made.is_err() {
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Sets `/proc/sys/net/…` in the namespace.
pub(super) fn set(netns: &Path, settings: &[&str], value: &str) -> anyhow::Result<()> {
    inside(netns, || {
        for setting in settings {
            let path = Path::new("/proc/sys/net").join(setting);
            std::fs::write(&path, value).with_context(|| format!("write {}", path.display()))?;
        }
        Ok(())
    })
}

/// A thread's namespaces end with it: the caller's stay as they are.
pub(super) fn on_own_thread<T: Send>(
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Does it in the namespace, which this thread does not enter.
pub(super) fn inside<T: Send>(
    path: &Path,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    on_own_thread(|| {
        let namespace = open(path)?;
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter {}", path.display()))?;
        work()
    })
}

pub(super) fn open(path: &Path) -> anyhow::Result<File> {
    File::open(path).with_context(|| format!("open {}", path.display()))
}

/// Takes the namespace's name away; it ends with its last process. Idempotent.
pub(super) fn remove(path: &Path) -> anyhow::Result<()> {
    while umount2(path, MntFlags::MNT_DETACH).is_ok() {}
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// Gives `ip` one command a line, in the namespace.
pub(super) fn ip(netns: &Path, script: &str) -> anyhow::Result<()> {
    let namespace = open(netns)?;
    let mut command = Command::new("ip");
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: setns is a system call and touches nothing of the parent; the descriptor outlives the fork.
    unsafe {
        command.pre_exec(move || {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
        });
    }
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            bail!("`ip` is not here: install iproute2")
        }
        Err(error) => return Err(error).context("start `ip`"),
    };
    if let Some(mut input) = child.stdin.take() {
        input.write_all(script.as_bytes()).context("tell `ip`")?;
    }
    let output = child.wait_with_output().context("wait for `ip`")?;
    ensure!(
        output.status.success(),
        "in {}: {}",
        netns.display(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
