//! Processes that outlive the command that starts them, each in its network namespace and cgroup, with a host
//! name and a session of its own.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns, unshare};

use super::{cgroups, netns};
use crate::process::ProcessId;

/// Where a process runs.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// The caller's when absent.
    pub(super) netns: Option<&'a Path>,
    pub(super) cgroup: &'a str,
    pub(super) hostname: Option<&'a str>,
}

/// What is opened before the fork, so that little is left to do after it.
pub(super) struct Entrance {
    netns: Option<File>,
    door: File,
    hostname: Option<String>,
}

impl Surroundings<'_> {
    pub(super) fn open(&self) -> anyhow::Result<Entrance> {
        Ok(Entrance {
            netns: self.netns.map(netns::open).transpose()?,
            door: cgroups::door(self.cgroup)?,
            hostname: self.hostname.map(str::to_owned),
        })
    }
}

impl Entrance {
    /// Moves the calling process, which has one thread, in.
    pub(super) fn enter(&self) -> std::io::Result<()> {
        (&self.door).write_all(b"0")?;
        if let Some(namespace) = &self.netns {
            setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)?;
        }
        if let Some(hostname) = &self.hostname {
            unshare(CloneFlags::CLONE_NEWUTS)?;
            nix::unistd::sethostname(hostname)?;
        }
        Ok(())
    }
}

/// Starts this very program with other arguments; what it prints is appended to `log`.
pub(super) fn start(
    surroundings: &Surroundings<'_>,
    arguments: &[String],
    log: &Path,
    stdin: Option<OwnedFd>,
) -> anyhow::Result<ProcessId> {
    let entrance = surroundings.open()?;
    if let Some(parent) = log.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    }
    let output = File::options()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let program = std::env::current_exe().context("this program")?;
    let mut command = Command::new(&program);
    command
        .args(arguments)
        .current_dir("/")
        .stdin(stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(output.try_clone()?)
        .stderr(output);
    // SAFETY: system calls and writes to open descriptors alone; nothing of the parent is touched and nothing
    // allocated, but for the error of a call that fails.
    unsafe {
        command.pre_exec(move || {
            nix::unistd::setsid()?;
            entrance.enter()
        });
    }
    let child = command
        .spawn()
        .with_context(|| format!("start {} {}", program.display(), arguments.join(" ")))?;
    let pid = i32::try_from(child.id()).context("a process id")?;
    // One that has ended already is told from those that run by its start time as well.
    Ok(ProcessId::of(pid).unwrap_or(ProcessId {
        pid,
        start_ticks: 0,
    }))
}
