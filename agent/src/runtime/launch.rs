//! The beginning and the end of a pod's sandbox: what is made before its supervisor starts, and removing all
//! of it, also when the supervisor has died.
//!
//! `sandbox.json` is written first and removed last, so that whatever a crash leaves can be found and removed
//! by identity: runc's state below the run directory, the pod's own cgroup, one mount.

mod host;

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use nix::mount::{MntFlags, MsFlags};
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::client;
use super::{ContainerState, Hierarchies, OciRuntime, RuntimeError, SandboxSpec, cgroups};
use crate::supervisor::cgroup::send_signal;
use crate::supervisor::config::{self, Config};
use crate::supervisor::runc::{self, Runc};
use crate::supervisor::{protocol, record};

pub(super) use host::{host_capabilities, host_devices};

/// How long a supervisor may take until it listens.
const READY: Duration = Duration::from_secs(20);
/// How long a killed process may take to be gone.
const DEATH: Duration = Duration::from_secs(5);
/// As large as containers are used to.
const SHM_OPTIONS: &str = "mode=1777,size=65536k";

/// The pod's shared memory, mounted at `/dev/shm` in its containers.
pub(super) fn shm(dir: &Path) -> PathBuf {
    dir.join("shm")
}

/// Runs work that blocks, away from the threads that must not.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RuntimeError> + Send + 'static,
) -> Result<T, RuntimeError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only when the program is ending.
            Err(error) => Err(RuntimeError::io(
                "run",
                Path::new(""),
                io::Error::other(error),
            )),
        },
    }
}

pub(super) fn hierarchies() -> Result<Hierarchies, RuntimeError> {
    let failed = |error| RuntimeError::io("read", Path::new("/proc/self/mountinfo"), error);
    Hierarchies::detect().map_err(failed)
}

/// Makes what a pod needs and starts its supervisor. On failure nothing is left.
pub(super) async fn start(
    spec: &SandboxSpec,
    program: &Path,
    runtime: &OciRuntime,
) -> Result<(), RuntimeError> {
    let dir = spec.run_dir.as_path();
    if client::Client::connect(dir).await?.is_some() {
        return Err(RuntimeError::supervisor(dir, "runs already".to_owned()));
    }
    sweep(dir).await?;
    let result = async {
        let owned = (spec.clone(), runtime.clone());
        blocking(move || prepare(&owned.0, &owned.1)).await?;
        launch(dir, program).await
    }
    .await;
    if result.is_err()
        && let Err(error) = sweep(dir).await
    {
        tracing::warn!(dir = %dir.display(), %error, "sandbox that did not start is not removed");
    }
    result
}

pub(super) fn prepare(spec: &SandboxSpec, runtime: &OciRuntime) -> Result<(), RuntimeError> {
    let dir = spec.run_dir.as_path();
    let hierarchies = hierarchies()?;
    let cgroup = cgroups::pod_cgroup(&spec.cgroup_parent, &spec.pod_uid)?;
    let config = Config {
        pod_uid: spec.pod_uid.clone(),
        hostname: spec.hostname.clone(),
        netns: spec.netns.clone(),
        runc: runtime.program.clone(),
        runc_deadline: runtime.deadline,
        cgroup: cgroup.clone(),
        own_cgroups: cgroups::supervisor_directories(&hierarchies, &spec.cgroup_parent),
    };
    make_dir(dir)?;
    let failed = |error| RuntimeError::io("write configuration in", dir, error);
    config.write(dir).map_err(failed)?;
    cgroups::create(&hierarchies, &cgroup, &spec.resources)?;
    let shm = shm(dir);
    make_dir(&shm)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    nix::mount::mount(Some("shm"), &shm, Some("tmpfs"), flags, Some(SHM_OPTIONS))
        .map_err(|error| RuntimeError::io("mount", &shm, error.into()))
}

fn make_dir(dir: &Path) -> Result<(), RuntimeError> {
    let result = std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir);
    result.map_err(|error| RuntimeError::io("make directory", dir, error))
}

/// Returns when the supervisor listens.
async fn launch(dir: &Path, program: &Path) -> Result<(), RuntimeError> {
    let failed = |error| RuntimeError::io("run", program, error);
    let child = Command::new(program)
        .args(["supervise", "--dir"])
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    let late = |_| RuntimeError::supervisor(dir, format!("not ready after {READY:?}"));
    let output = tokio::time::timeout(READY, child.wait_with_output()).await;
    let output = output.map_err(late)?.map_err(failed)?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let message = format!("does not start: {}", text.trim());
        return Err(RuntimeError::supervisor(dir, message));
    }
    Ok(())
}

/// Writes `config.json`.
pub(super) fn write_bundle(
    bundle: &Path,
    spec: &oci_spec::runtime::Spec,
) -> Result<(), RuntimeError> {
    make_dir(bundle)?;
    let path = bundle.join("config.json");
    let text = serde_json::to_vec(spec).map_err(io::Error::from);
    text.and_then(|text| std::fs::write(&path, text))
        .map_err(|error| RuntimeError::io("write", &path, error))
}

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
