//! Becoming a supervisor: out of the agent's process tree, session and cgroup, into the pod's namespaces.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::stat::Mode;
use nix::unistd::ForkResult;

use super::config::{self, Config};
use super::copied::Copied;
use super::runc::Runc;
use super::{cgroup, init, protocol, serve};

#[derive(Debug, thiserror::Error)]
pub(crate) enum DaemonError {
    #[error("{0}: {1}")]
    Step(&'static str, #[source] io::Error),
    #[error("another supervisor has this directory")]
    Taken,
    #[error("{0}")]
    Reported(String),
    #[error("ended before it was ready")]
    Died,
}

trait Step<T> {
    fn step(self, name: &'static str) -> Result<T, DaemonError>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, name: &'static str) -> Result<T, DaemonError> {
        self.map_err(|error| DaemonError::Step(name, error.into()))
    }
}

/// Starts the supervisor of a pod's run directory in a process of its own; returns when it is ready.
pub(crate) fn launch(dir: &Path, copied: Option<&OsStr>) -> Result<(), DaemonError> {
    let lock = File::create(config::lock_file(dir)).step("open lock")?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => return Err(DaemonError::Taken),
        Err(std::fs::TryLockError::Error(error)) => return Err(error).step("lock"),
    }
    let config = Config::read(dir).step("read configuration")?;
    let (mut ready, report) = io::pipe().step("make pipe")?;
    match fork(&config.own_cgroups).step("fork")? {
        ForkResult::Parent { .. } => {
            drop(report);
            let mut text = String::new();
            ready.read_to_string(&mut text).step("wait until ready")?;
            match text.as_str() {
                "ready" => Ok(()),
                "" => Err(DaemonError::Died),
                _ => Err(DaemonError::Reported(text)),
            }
        }
        ForkResult::Child => {
            drop(ready);
            let copied = copied.and_then(|text| Copied::inherited(io::stdin(), text, &config.runc));
            run(dir, &config, copied, report);
            drop(lock);
            // SAFETY: ends the process; nothing of it is used afterwards.
            unsafe { libc::_exit(0) }
        }
    }
}

/// Forks into the one cgroup that is to be entered, where the kernel does that: to move a process is dear (the kernel holds
/// up every fork and exit of the machine, for a grace period of RCU if it was not doing so already). Elsewhere the
/// child moves.
fn fork(own_cgroups: &[PathBuf]) -> io::Result<ForkResult> {
    if let [own] = own_cgroups
        && let Ok(forked) = cgroup::fork_into(own)
    {
        return Ok(forked);
    }
    // SAFETY: the program has no other thread.
    Ok(unsafe { nix::unistd::fork() }?)
}

/// The child's life: prepare, tell the waiting parent, serve.
fn run(dir: &Path, config: &Config, copied: Option<Copied>, mut report: io::PipeWriter) {
    match prepare(dir, config) {
        Ok(prepared) => {
            let told = report.write_all(b"ready");
            drop(report);
            if told.is_ok() {
                let runc = Runc::new(dir, config).with_copy(copied);
                serve::serve(dir, runc, &prepared);
            }
        }
        Err(error) => {
            let _ = report.write_all(error.to_string().as_bytes());
        }
    }
}

/// What serving begins with.
pub(crate) struct Prepared {
    pub(crate) listener: UnixListener,
    pub(crate) signals: SignalFd,
    pub(crate) init: Option<u32>,
}

fn prepare(dir: &Path, config: &Config) -> Result<Prepared, DaemonError> {
    nix::unistd::setsid().step("setsid")?;
    redirect(dir).step("redirect output")?;
    for own in &config.own_cgroups {
        cgroup::join(own).step("join cgroup")?;
    }
    // The pod's containers join these namespaces through /proc/<this process>/ns: they are there as long
    // as this process is, and nothing is left of them afterwards.
    let mut own = CloneFlags::CLONE_NEWUTS;
    // What has no namespace of its own has that of its parent, which is here.
    own.set(CloneFlags::CLONE_NEWIPC, !config.sharing.host_ipc);
    nix::sched::unshare(own).step("unshare")?;
    nix::unistd::sethostname(&config.hostname).step("set host name")?;
    nix::sys::prctl::set_child_subreaper(true).step("become subreaper")?;
    let processes = config.sharing.processes;
    let init = match (config.first_id, &config.netns) {
        (Some(_), Some(netns)) => {
            let init = init::start_for_users(netns, &config.hostname, processes);
            Some(init.step("enter the pod's user namespace")?)
        }
        _ if processes => Some(init::start().step("make process id namespace")?),
        _ => None,
    };
    // A wish: in a user namespace or without the capability the default has to do.
    let _ = std::fs::write("/proc/self/oom_score_adj", "-999");
    let mut mask = SigSet::empty();
    for signal in [
        Signal::SIGCHLD,
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
    ] {
        mask.add(signal);
    }
    // Blocked rather than ignored: what is ignored would be ignored by containers, too.
    mask.thread_set_mask().step("block signals")?;
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let signals = SignalFd::with_flags(&mask, flags).step("make signal descriptor")?;
    let listener = listen(dir).step("listen")?;
    Ok(Prepared {
        listener,
        signals,
        init,
    })
}

/// Standard input and output lead nowhere, errors to a file in the run directory.
fn redirect(dir: &Path) -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors; what was inherited without it must not reach containers.
    unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC as i32) };
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let errors = File::options()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(dir.join("supervisor.log"))?;
    for (from, to) in [(&null, 0), (&null, 1), (&errors, 2)] {
        // SAFETY: both are numbers of descriptors; the standard ones are not owned by any object here.
        if unsafe { libc::dup2(from.as_raw_fd(), to) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

fn listen(dir: &Path) -> io::Result<UnixListener> {
    // By a short relative name: a socket's path must fit in 107 bytes.
    std::env::set_current_dir(dir)?;
    match std::fs::remove_file(protocol::SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let before = nix::sys::stat::umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(protocol::SOCKET)?;
    nix::sys::stat::umask(before);
    listener.set_nonblocking(true)?;
    std::env::set_current_dir("/")?;
    Ok(listener)
}
