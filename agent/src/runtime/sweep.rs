//! Removing a pod's sandbox with everything in it, whatever state it is in: its supervisor may have ended, hang,
//! or be just starting.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use nix::mount::MntFlags;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::client;
use super::launch::{blocking, hierarchies, shm};
use super::{ContainerState, RuntimeError, cgroups, mapped};
use crate::supervisor::cgroup::send_signal;
use crate::supervisor::config::{self, Config};
use crate::supervisor::runc::{self, Runc};
use crate::supervisor::{protocol, record};

/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(5);

/// Removes everything that a pod's sandbox has left, its supervisor and containers included. Idempotent.
///
/// Says how its containers ended; those that nobody saw end count as killed now.
pub(crate) async fn sweep(
    run_dir: &Path,
) -> Result<BTreeMap<String, ContainerState>, RuntimeError> {
    let failed = |error| RuntimeError::io("sweep", run_dir, error);
    let config = match Config::read(run_dir) {
        Ok(config) => config,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(failed(error)),
    };
    let _lock = end_supervisor(run_dir).await.map_err(failed)?;
    let hierarchies = hierarchies()?;
    let cgroup = config.cgroup.clone();
    // First, so that runc finds nothing alive; runc knows what else it has made.
    blocking(move || cgroups::remove(&hierarchies, &cgroup)).await?;
    let records = record::read_all(run_dir).map_err(failed)?;
    let finished_at = SystemTime::now();
    for id in containers(run_dir).map_err(failed)? {
        delete(run_dir, &config, &id).await?;
    }
    let dir = run_dir.to_owned();
    blocking(move || remove_files(&dir)).await?;
    let killed = ContainerState::Exited {
        code: 128 + libc::SIGKILL,
        signal: Some(libc::SIGKILL),
        oom_killed: false,
        started_at: None,
        finished_at,
    };
    let states = records.into_iter();
    Ok(states
        .map(|(id, state)| (id, state.unwrap_or(killed.clone())))
        .collect())
}

/// Kills the supervisor of a directory, whatever it is doing. With the lock that this returns no other one
/// can start; an agent that died just now may have begun to start one.
async fn end_supervisor(dir: &Path) -> io::Result<std::fs::File> {
    let lock = std::fs::File::create(config::lock_file(dir))?;
    let deadline = tokio::time::Instant::now() + DEATH;
    loop {
        kill_listener(dir).await?;
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(std::fs::TryLockError::Error(error)) => return Err(error),
            Err(std::fs::TryLockError::WouldBlock) if tokio::time::Instant::now() >= deadline => {
                let message = "supervisor does not listen and does not end";
                return Err(io::Error::new(io::ErrorKind::TimedOut, message));
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
}

async fn kill_listener(dir: &Path) -> io::Result<()> {
    let mut stream = match client::connect(dir).await {
        Ok(stream) => stream,
        Err(error) if client::nobody_listens(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    // The kernel's word on who listens; it is alive as long as the connection is.
    let pid = stream.peer_cred()?.pid();
    if let Some(pid) = pid.and_then(|pid| u32::try_from(pid).ok()) {
        send_signal(pid, libc::SIGKILL);
    }
    let mut buffer = [0; 64];
    let closed = async { while matches!(stream.read(&mut buffer).await, Ok(1..)) {} };
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "supervisor does not end");
    tokio::time::timeout(DEATH, closed).await.map_err(late)
}

/// Containers that runc knows in this directory.
fn containers(dir: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(config::runc_root(dir)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    let names: io::Result<Vec<_>> = names.collect();
    Ok(names?.into_iter().flatten().collect())
}

async fn delete(dir: &Path, config: &Config, id: &str) -> Result<(), RuntimeError> {
    let error = |message| RuntimeError::Runc {
        verb: "delete",
        container: id.to_owned(),
        message,
    };
    let log = dir.join("sweep.log");
    let runc = Runc::new(dir, config);
    let mut command = Command::from(runc.command(Some(&log)));
    command.args(["delete", "--force", id]).kill_on_drop(true);
    let late = |_| error(format!("timed out after {:?}", runc.deadline));
    let status = tokio::time::timeout(runc.deadline, command.status()).await;
    match status.map_err(late)? {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(error(runc::failure(&log, &[], &status.to_string()))),
        Err(failed) => Err(error(failed.to_string())),
    }
}

/// The files by name: the directory may hold others', and mounts of others.
fn remove_files(dir: &Path) -> Result<(), RuntimeError> {
    let shm = shm(dir);
    match nix::mount::umount2(&shm, MntFlags::MNT_DETACH) {
        // Not mounted, or not even made.
        Ok(()) | Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => {}
        Err(error) => return Err(RuntimeError::io("unmount", &shm, error.into())),
    }
    let failed = |error| RuntimeError::io("clean", dir, error);
    for id in record::read_all(dir).map_err(failed)?.into_keys() {
        mapped::remove(&config::bundle(dir, &id))?;
        record::remove_bundle(&config::bundle(dir, &id));
    }
    for name in ["runc", "exec"] {
        match std::fs::remove_dir_all(dir.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
    }
    for name in ["containers", "shm"] {
        let _ = std::fs::remove_dir(dir.join(name));
    }
    for name in [
        "supervisor.log",
        "supervisor.lock",
        "sweep.log",
        protocol::SOCKET,
    ] {
        let _ = std::fs::remove_file(dir.join(name));
    }
    Config::remove(dir).map_err(failed)?;
    // Stays when somebody else has something in it.
    let _ = std::fs::remove_dir(dir);
    Ok(())
}
