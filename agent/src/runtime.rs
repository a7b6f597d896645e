//! Containers through runc, each pod behind a small supervisor process that outlives the agent.
//!
//! Pure: the OCI specification of a container (`runtime/spec.rs`), cgroup resources
//! (`runtime/resources.rs`). Doing: supervisor client, runc, cgroups, log files.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::SystemTime;

#[derive(Debug, thiserror::Error)]
pub(crate) enum RuntimeError {
    /// runc said no; the message is runc's last error.
    #[error("runc {verb} {container}: {message}")]
    Runc {
        verb: &'static str,
        container: String,
        message: String,
    },
}

/// What a pod needs before its first container: made once per pod incarnation.
#[derive(Debug, Clone)]
pub(crate) struct SandboxSpec {
    pub(crate) pod_uid: String,
    /// Holds `supervisor.sock`, container bundles and exit records (`<run_dir>/pods/<uid>`).
    pub(crate) run_dir: PathBuf,
    /// Network namespace to join; the host's when absent.
    pub(crate) netns: Option<PathBuf>,
    pub(crate) hostname: String,
    pub(crate) cgroup_parent: String,
    /// Sum of the containers' requests and limits, for the pod's cgroup.
    pub(crate) resources: Resources,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu_request_millis: Option<u64>,
    pub(crate) cpu_limit_millis: Option<u64>,
    pub(crate) memory_request_bytes: Option<u64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) pids_limit: Option<i64>,
}

#[derive(Debug, Clone)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) destination: PathBuf,
    pub(crate) read_only: bool,
}

/// Everything needed to create one container; all values final (no references left).
#[derive(Debug, Clone)]
pub(crate) struct ContainerSpec {
    /// Unique per attempt: `<pod uid>_<name>_<restart count>`.
    pub(crate) id: String,
    pub(crate) rootfs: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: String,
    /// As in the image configuration or the pod: `user`, `uid`, `uid:gid`; resolved against the root file
    /// system's passwd and group.
    pub(crate) user: String,
    pub(crate) run_as_group: Option<u32>,
    pub(crate) supplemental_groups: Vec<u32>,
    pub(crate) run_as_non_root: bool,
    pub(crate) read_only_root: bool,
    pub(crate) privileged: bool,
    pub(crate) allow_privilege_escalation: bool,
    pub(crate) add_capabilities: Vec<String>,
    pub(crate) drop_capabilities: Vec<String>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) resources: Resources,
    pub(crate) oom_score_adj: i32,
    pub(crate) log_path: PathBuf,
    pub(crate) log_max_bytes: u64,
    pub(crate) log_max_files: u32,
    pub(crate) terminal: bool,
    pub(crate) stdin: bool,
    pub(crate) annotations: BTreeMap<String, String>,
}

#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) enum ContainerState {
    Created,
    Running {
        pid: u32,
        started_at: SystemTime,
    },
    Exited {
        code: i32,
        signal: Option<i32>,
        oom_killed: bool,
        started_at: Option<SystemTime>,
        finished_at: SystemTime,
    },
}

/// Client of one pod's supervisor. Losing it does not end the pod: [`Sandbox::connect`] finds it again.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {}

#[allow(unused_variables, clippy::unused_async)]
impl Sandbox {
    /// Starts the supervisor process (in a session of its own) and makes the pod's cgroups.
    pub(crate) async fn start(
        spec: &SandboxSpec,
        supervisor_program: &std::path::Path,
    ) -> Result<Self, RuntimeError> {
        todo!()
    }
    /// The supervisor of a pod that was started earlier; `None` when there is none (any more).
    pub(crate) async fn connect(run_dir: &std::path::Path) -> Result<Option<Self>, RuntimeError> {
        todo!()
    }
    /// `runc create`: namespaces, cgroup and mounts are there, the program is not yet started.
    pub(crate) async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        todo!()
    }
    pub(crate) async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        todo!()
    }
    /// `Ok` also when it has ended already.
    pub(crate) async fn kill(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        todo!()
    }
    /// Removes an ended container (bundle, cgroup, runc state). Idempotent.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        todo!()
    }
    /// Every container that the supervisor knows, by id.
    pub(crate) async fn states(&self) -> Result<BTreeMap<String, ContainerState>, RuntimeError> {
        todo!()
    }
    /// Changes whenever a container changes state; the value is a counter.
    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        todo!()
    }
    /// Runs a command in a container; output is cut at `max_output` bytes. Killed at the deadline.
    pub(crate) async fn exec(
        &self,
        id: &str,
        args: &[String],
        timeout: std::time::Duration,
        max_output: usize,
    ) -> Result<ExecOutcome, RuntimeError> {
        todo!()
    }
    /// Kills what is left, removes the cgroups, ends the supervisor. Idempotent.
    pub(crate) async fn stop(self) -> Result<(), RuntimeError> {
        todo!()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecOutcome {
    pub(crate) exit_code: i32,
    pub(crate) timed_out: bool,
    pub(crate) output: Vec<u8>,
}
