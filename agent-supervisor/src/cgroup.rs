//! What a supervisor does with cgroups: join its own, kill what is in a container's, read OOM kills.
//! Making and removing them is the agent's part.

use std::io;
use std::path::{Path, PathBuf};

/// Moves the calling process into a cgroup, which is made if need be.
pub fn join(dir: &Path) -> io::Result<()> {
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
