//! The beginning of a pod's sandbox: what is made before its supervisor starts, and starting that.
//!
//! `sandbox.json` is written first and removed last, so that whatever a crash leaves can be found and removed
//! by identity (`sweep`): runc's state below the run directory, the pod's own cgroup, one mount.

mod copies;
mod host;
mod nursery;

use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::mount::MsFlags;
use tokio::process::Command;

use super::client;
use super::sweep::sweep;
use super::{Hierarchies, RuntimeError, SandboxSpec, cgroups};
use crate::supervisor::config::Config;
use crate::supervisor::copied::Copied;

pub(super) use host::{host_capabilities, host_devices, least_oom_score};

/// How long a supervisor may take until it listens.
const READY: Duration = Duration::from_secs(20);
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

/// Found once: they do not move while an agent runs, and the table that says where they are has some lines for each pod.
pub(super) fn hierarchies() -> Result<Arc<Hierarchies>, RuntimeError> {
    static FOUND: OnceLock<Arc<Hierarchies>> = OnceLock::new();
    if let Some(found) = FOUND.get() {
        return Ok(Arc::clone(found));
    }
    let failed = |error| RuntimeError::io("read", Path::new("/proc/self/mountinfo"), error);
    let found = Hierarchies::detect().map_err(failed)?;
    Ok(Arc::clone(FOUND.get_or_init(|| Arc::new(found))))
}

/// Makes what a pod needs and starts its supervisor. On failure nothing is left.
pub(super) async fn start(spec: &SandboxSpec, program: &Path) -> Result<(), RuntimeError> {
    let dir = spec.run_dir.as_path();
    if client::Client::connect(dir).await?.is_some() {
        return Err(RuntimeError::supervisor(dir, "runs already".to_owned()));
    }
    sweep(dir).await?;
    let result = async {
        let owned = spec.clone();
        blocking(move || prepare(&owned)).await?;
        let (cgroup, _) = supervisor_cgroups(spec)?;
        let runtime = spec.runtime.program.clone();
        let copied = blocking(move || Ok(copies::of(&runtime))).await?;
        launch(dir, program, copied, cgroup).await
    }
    .await;
    if result.is_err()
        && let Err(error) = sweep(dir).await
    {
        tracing::warn!(dir = %dir.display(), %error, "sandbox that did not start is not removed");
    }
    result
}

/// Where the supervisor is: the directories in which it begins, and those into which it moves.
fn supervisor_cgroups(spec: &SandboxSpec) -> Result<(Vec<PathBuf>, Vec<PathBuf>), RuntimeError> {
    let hierarchies = hierarchies()?;
    let all = cgroups::supervisor_directories(&hierarchies, &spec.cgroup_parent);
    Ok(all.into_iter().partition(|dir| hierarchies.is_v1(dir)))
}

pub(super) fn prepare(spec: &SandboxSpec) -> Result<(), RuntimeError> {
    let dir = spec.run_dir.as_path();
    let hierarchies = hierarchies()?;
    let cgroup = cgroups::pod_cgroup(&spec.cgroup_parent, &spec.pod_uid)?;
    let config = Config {
        pod_uid: spec.pod_uid.clone(),
        hostname: spec.hostname.clone(),
        netns: spec.netns.clone(),
        runc: spec.runtime.program.clone(),
        runc_deadline: spec.runtime.deadline,
        cgroup: cgroup.clone(),
        own_cgroups: supervisor_cgroups(spec)?.1,
        sharing: spec.sharing,
        first_id: spec.first_id,
        hidden: match spec.runtime.refuses_hybrid && !hierarchies.is_unified() {
            true => hierarchies.v2.clone(),
            false => None,
        },
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
async fn launch(
    dir: &Path,
    program: &Path,
    copied: Option<Arc<Copied>>,
    cgroup: Vec<PathBuf>,
) -> Result<(), RuntimeError> {
    let failed = |error| RuntimeError::io("run", program, error);
    let mut command = Command::new(program);
    command
        .arg("--dir")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if let Some(copied) = copied {
        // Not as any other file: for that the whole of this process would be copied before the program is started.
        command.stdin(copied.share().map_err(failed)?);
        command.args(copied.arguments());
    }
    let child = nursery::spawn(command, cgroup).await.map_err(failed)?;
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
