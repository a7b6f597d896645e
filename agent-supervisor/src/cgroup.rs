//! What a supervisor does with cgroups: join its own, kill what is in a container's, read OOM kills.
//! Making and removing them is the agent's part.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};

use nix::unistd::{ForkResult, Pid};

/// Of `clone3(2)`; in libc 0.2.191 its type is too small for it.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Forks a process of one thread into a cgroup of v2 (Linux 5.7), which is made if need be.
pub(crate) fn fork_into(dir: &Path) -> io::Result<ForkResult> {
    std::fs::create_dir_all(dir)?;
    let directory = File::open(dir)?;
    let number = |fd: RawFd| u64::try_from(fd).map_err(io::Error::other);
    let arguments = libc::clone_args {
        flags: CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: number(libc::SIGCHLD)?,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: number(directory.as_raw_fd())?,
    };
    // SAFETY: without a stack of its own and without shared memory this is a fork. This process has one thread, so that
    // all locks are as free in the child as they are here.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &arguments, size_of_val(&arguments)) };
    match pid {
        0 => Ok(ForkResult::Child),
        1.. => Ok(ForkResult::Parent {
            child: Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?),
        }),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Moves the calling process into a cgroup, which is made if need be, unless it is there.
pub fn join(dir: &Path) -> io::Result<()> {
    if is_in(dir) {
        return Ok(());
    }
    // The directory may be removed by the end of another pod just before it is used.
    for _ in 0..10 {
        std::fs::create_dir_all(dir)?;
        match std::fs::write(dir.join("cgroup.procs"), "0") {
            Err(error)
                if error.kind() == io::ErrorKind::NotFound
                    || error.raw_os_error() == Some(libc::ENODEV) => {}
            result => return result,
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

/// Whether the calling process is in a cgroup of v2, by the end of its path; of v1 that is not looked at.
fn is_in(dir: &Path) -> bool {
    let text = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix("0::/"));
    let is_v2 = dir.join("cgroup.type").exists();
    is_v2 && own.is_some_and(|own| !own.is_empty() && dir.ends_with(own))
}

/// Sends SIGKILL to every process in the cgroup itself; `true` when there was one.
pub fn kill(dir: &Path) -> bool {
    let pids = processes(dir);
    if pids.is_empty() {
        return false;
    }
    if std::fs::write(dir.join("cgroup.kill"), "1").is_err() {
        for pid in pids {
            send_signal(pid, libc::SIGKILL);
        }
    }
    true
}

pub fn kill_all(dirs: &[PathBuf]) {
    for dir in dirs {
        kill(dir);
    }
}

fn processes(dir: &Path) -> Vec<u32> {
    let text = std::fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    // Zero is a process that this process id namespace does not show.
    text.lines()
        .filter_map(|line| line.parse().ok())
        .filter(|pid| *pid > 1 && *pid != std::process::id())
        .collect()
}

/// `true` when the process was there to be signalled.
pub fn send_signal(pid: u32, signal: i32) -> bool {
    let Ok(pid) = libc::pid_t::try_from(pid) else {
        return false;
    };
    // SAFETY: kill takes numbers only and touches no memory of this process.
    unsafe { libc::kill(pid, signal) == 0 }
}

/// Sends SIGKILL to a process group, by its leader: a child that is not yet reaped.
pub fn kill_group(leader: u32) {
    if let Ok(leader) = libc::pid_t::try_from(leader)
        && leader > 1
    {
        // SAFETY: kill takes numbers only and touches no memory of this process.
        unsafe { libc::kill(-leader, libc::SIGKILL) };
    }
}

/// How many processes of a cgroup the kernel killed for want of memory: `memory.events` of v2 and
/// `memory.oom_control` of v1 have the count in a line of the same form.
pub fn oom_kills(events: &str) -> u64 {
    events
        .lines()
        .filter_map(|line| line.strip_prefix("oom_kill "))
        .find_map(|count| count.trim().parse().ok())
        .unwrap_or(0)
}
