//! Containers through runc, each pod behind a small supervisor process that outlives the agent.
//!
//! `huge_pages` says what the kernel has of them. Pure: the OCI specification of a container (`spec`), cgroup resources (`resources`), users (`user`).
//! Doing: supervisor client (`client`), starting a sandbox (`launch`) and removing one (`sweep`),
//! commands in containers (`exec`), clients at their streams (`session`), `cgroups`, reading logs (`logs`). What runs inside the supervisor is in
//! [`crate::supervisor`].
//!
//! Deliberately not here: pods, images and networks; a container's root file system, mounts and network
//! namespace are made by others and only named here.

mod cgroups;
mod client;
mod confinement;
mod error;
mod exec;
pub(crate) mod huge_pages;
mod launch;
pub(crate) mod logs;
mod mapped;
mod propagation;
mod resources;
pub(crate) mod session;
mod spec;
mod sweep;
pub(crate) mod usage;
mod user;

#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use cgroups::Hierarchies;
use client::Client;
pub(crate) use confinement::{Confinement, PidNamespace, Propagation, Seccomp};
pub(crate) use error::RuntimeError;
pub(crate) use sweep::sweep;
pub(crate) use usage::usage;
pub(crate) use user::User;

pub(crate) use crate::supervisor::config::Sharing;
use crate::supervisor::config::{self, Config};
pub(crate) use crate::supervisor::protocol::ContainerState;
use crate::supervisor::protocol::{Answer, Call, Create, LogTarget};
use crate::userns::UserNamespace;

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
    pub(crate) sharing: Sharing,
    pub(crate) runtime: OciRuntime,
    /// Its users are its own, in the user namespace that owns `netns`: where their ids begin outside.
    pub(crate) first_id: Option<u32>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Resources {
    pub(crate) cpu_request_millis: Option<u64>,
    pub(crate) cpu_limit_millis: Option<u64>,
    pub(crate) memory_request_bytes: Option<u64>,
    pub(crate) memory_limit_bytes: Option<u64>,
    pub(crate) pids_limit: Option<i64>,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Mount {
    pub(crate) source: PathBuf,
    pub(crate) destination: PathBuf,
    pub(crate) read_only: bool,
    /// What is mounted below is read-only, too.
    pub(crate) recursive_read_only: bool,
    pub(crate) propagation: Propagation,
    /// Programs in it cannot be run.
    pub(crate) no_exec: bool,
    /// Its files belong to the pod's own users already, where it has such.
    pub(crate) mapped: bool,
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
    /// The input ends with the first client's.
    pub(crate) stdin_once: bool,
    pub(crate) annotations: BTreeMap<String, String>,
    /// Most bytes of huge pages by their size in bytes; none of the sizes that are not named.
    pub(crate) huge_pages: BTreeMap<u64, u64>,
    pub(crate) confinement: Confinement,
}

/// The program that runs containers, by the command line that runc and crun have in common.
#[derive(Debug, Clone)]
pub(crate) struct OciRuntime {
    pub(crate) program: PathBuf,
    /// How long one run of it may take.
    pub(crate) deadline: Duration,
    /// crun: where v1 hierarchies do the accounting, it wants no v2 hierarchy with controllers beside them. It is not
    /// shown any; what it runs stays in its supervisor's place there.
    pub(crate) refuses_hybrid: bool,
}

impl Default for OciRuntime {
    /// Far more time than runc needs on a loaded machine.
    fn default() -> Self {
        Self {
            program: "runc".into(),
            deadline: Duration::from_secs(30),
            refuses_hybrid: false,
        }
    }
}

/// Client of one pod's supervisor. Losing it does not end the pod: [`Sandbox::connect`] finds it again.
#[derive(Debug, Clone)]
pub(crate) struct Sandbox {
    dir: Arc<Path>,
    config: Arc<Config>,
    hierarchies: Arc<Hierarchies>,
    client: Client,
}

impl Sandbox {
    /// Starts the supervisor process (in a session of its own) and makes the pod's cgroups.
    pub(crate) async fn start(
        spec: &SandboxSpec,
        supervisor_program: &Path,
    ) -> Result<Self, RuntimeError> {
        launch::start(spec, supervisor_program).await?;
        let started = Self::connect(&spec.run_dir).await?;
        started.ok_or_else(|| RuntimeError::Gone(spec.run_dir.clone()))
    }

    /// The supervisor of a pod that was started earlier; `None` when there is none (any more).
    pub(crate) async fn connect(run_dir: &Path) -> Result<Option<Self>, RuntimeError> {
        let Some(client) = Client::connect(run_dir).await? else {
            return Ok(None);
        };
        let config = Config::read(run_dir)
            .map_err(|error| RuntimeError::io("read configuration in", run_dir, error))?;
        Ok(Some(Self {
            dir: run_dir.into(),
            config: Arc::new(config),
            hierarchies: launch::hierarchies()?,
            client,
        }))
    }

    /// `runc run`: makes the container and starts its program.
    pub(crate) async fn run(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        match self.make(spec, true).await? {
            Answer::Started => Ok(()),
            // An older supervisor, which knows only one after the other.
            Answer::Done => self.start_container(&spec.id).await,
            other => Err(self.judge(&spec.id, other)),
        }
    }

    /// `runc create`: namespaces, cgroup and mounts are there, the program is not yet started.
    ///
    /// Done already when a container of that id is created and not yet started.
    #[cfg(test)]
    pub(crate) async fn create(&self, spec: &ContainerSpec) -> Result<(), RuntimeError> {
        match self.make(spec, false).await? {
            Answer::Done => Ok(()),
            other => Err(self.judge(&spec.id, other)),
        }
    }

    async fn make(&self, spec: &ContainerSpec, start: bool) -> Result<Answer, RuntimeError> {
        if !config::valid_id(&spec.id) {
            return Err(RuntimeError::InvalidName(spec.id.clone()));
        }
        let bundle = config::bundle(&self.dir, &spec.id);
        let cgroup = format!("{}/{}", self.config.cgroup, spec.id);
        self.write_bundle(spec.clone(), bundle.clone(), cgroup.clone())
            .await?;
        let create = Create {
            id: spec.id.clone(),
            bundle,
            log: LogTarget {
                path: spec.log_path.clone(),
                max_bytes: spec.log_max_bytes,
                max_files: spec.log_max_files,
            },
            cgroups: self.hierarchies.directories(&cgroup),
            oom_events: self.hierarchies.oom_events(&cgroup),
            stdin: spec.stdin,
            stdin_once: spec.stdin_once,
            terminal: spec.terminal,
            owner: self.config.first_id,
            start,
        };
        let bundle = create.bundle.clone();
        let created = self.client.call("create", Call::Create(create)).await;
        if self.config.first_id.is_some() {
            // The container has them now, or nobody will.
            launch::blocking(move || mapped::remove(&bundle)).await?;
        }
        created
    }

    pub(crate) async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.act("start", id, Call::Start { id: id.to_owned() })
            .await
    }

    /// `Ok` also when it has ended already. SIGKILL reaches everything in the container's cgroup.
    pub(crate) async fn kill(&self, id: &str, signal: i32) -> Result<(), RuntimeError> {
        let call = Call::Kill {
            id: id.to_owned(),
            signal,
        };
        self.act("kill", id, call).await
    }

    /// Sets the limits of a running container, or of the whole pod.
    pub(crate) async fn set_resources(
        &self,
        id: Option<&str>,
        resources: &Resources,
    ) -> Result<(), RuntimeError> {
        let cgroup = match id {
            Some(id) => format!("{}/{id}", self.config.cgroup),
            None => self.config.cgroup.clone(),
        };
        let (hierarchies, resources) = (Arc::clone(&self.hierarchies), *resources);
        launch::blocking(move || cgroups::update(&hierarchies, &cgroup, &resources)).await
    }

    /// Removes an ended container (bundle, cgroup, runc state). Idempotent. One that has not ended is
    /// killed first.
    pub(crate) async fn delete(&self, id: &str) -> Result<(), RuntimeError> {
        self.act("delete", id, Call::Delete { id: id.to_owned() })
            .await
    }

    /// Every container that the supervisor knows, by id.
    pub(crate) async fn states(&self) -> Result<BTreeMap<String, ContainerState>, RuntimeError> {
        match self.client.call("states", Call::States).await? {
            Answer::States(states) => Ok(states),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Changes whenever a container changes state; the value is a counter. Also when the supervisor is
    /// lost: then [`Self::states`] says so.
    pub(crate) fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.client.changes()
    }

    /// Runs a command in a container; output is cut at `max_output` bytes. Killed at the deadline.
    ///
    /// Processes that the command leaves behind are not waited for, even if they hold its output.
    pub(crate) async fn exec(
        &self,
        id: &str,
        args: &[String],
        timeout: Duration,
        max_output: usize,
    ) -> Result<ExecOutcome, RuntimeError> {
        exec::run(&self.dir, &self.client, id, args, timeout, max_output).await
    }

    /// Kills what is left, removes the cgroups, ends the supervisor. Idempotent.
    pub(crate) async fn stop(self) -> Result<(), RuntimeError> {
        // What an orderly end does not achieve, sweeping does.
        if let Err(error) = self.act("stop", "", Call::Stop).await
            && !matches!(error, RuntimeError::Gone(_))
        {
            tracing::warn!(dir = %self.dir.display(), %error, "supervisor does not stop");
        }
        sweep(&self.dir).await.map(|_| ())
    }

    async fn act(&self, name: &'static str, id: &str, call: Call) -> Result<(), RuntimeError> {
        match self.client.call(name, call).await? {
            Answer::Done => Ok(()),
            other => Err(self.judge(id, other)),
        }
    }

    /// Of an answer that is not the one that was hoped for.
    fn judge(&self, id: &str, answer: Answer) -> RuntimeError {
        match answer {
            Answer::Failed(failure) => RuntimeError::from_failure(failure, &self.dir, id),
            other => self.unexpected(&other),
        }
    }

    fn unexpected(&self, answer: &Answer) -> RuntimeError {
        RuntimeError::supervisor(&self.dir, format!("unexpected answer {answer:?}"))
    }

    async fn write_bundle(
        &self,
        spec: ContainerSpec,
        bundle: PathBuf,
        cgroup: String,
    ) -> Result<(), RuntimeError> {
        let config = Arc::clone(&self.config);
        let own_ipc = !config.sharing.host_ipc;
        let shm = if own_ipc {
            launch::shm(&self.dir)
        } else {
            PathBuf::from("/dev/shm")
        };
        let init = self.client.init;
        // Who keeps the namespaces that the containers share.
        let keeper = match config.first_id {
            Some(_) => init.ok_or_else(|| RuntimeError::Gone(self.dir.to_path_buf()))?,
            None => self.client.pid,
        };
        let unified = self.hierarchies.is_unified();
        let limits_huge_pages = self.hierarchies.limits_huge_pages();
        launch::blocking(move || {
            let mut spec = spec;
            propagation::check(&spec.mounts)
                .map_err(|error| RuntimeError::io("make the mounts of", &bundle, error))?;
            if let (Some(first_id), Some(netns)) = (config.first_id, &config.netns) {
                let users = UserNamespace {
                    first_id,
                    netns: netns.clone(),
                };
                mapped::prepare(&mut spec, &bundle, &users)?;
            }
            let (passwd, group) = user::read_files(&spec.rootfs)
                .map_err(|error| RuntimeError::io("read users in", &spec.rootfs, error))?;
            let wanted = user::Wanted {
                user: &spec.user,
                group: spec.run_as_group,
                supplemental: &spec.supplemental_groups,
                non_root: spec.run_as_non_root,
                strict: spec.confinement.strict_groups,
            };
            let user = user::resolve(&wanted, &passwd, &group)?;
            let devices = if spec.privileged {
                launch::host_devices()
            } else {
                Vec::new()
            };
            let place = spec::Place {
                hostname: &config.hostname,
                cgroup: cgroup.into(),
                cgroup_namespace: unified,
                netns: config.netns.as_deref(),
                uts: format!("/proc/{keeper}/ns/uts").into(),
                ipc: own_ipc.then(|| format!("/proc/{keeper}/ns/ipc").into()),
                users: config.first_id.map(|first_id| spec::Users {
                    namespace: format!("/proc/{keeper}/ns/user").into(),
                    first_id,
                }),
                pid: pid_namespace(&spec.confinement.pid, init),
                shm,
                user: &user,
                capabilities: launch::host_capabilities(),
                least_oom_score: launch::least_oom_score(),
                devices,
                page_sizes: match limits_huge_pages {
                    true => huge_pages::read().into_keys().collect(),
                    false => Vec::new(),
                },
            };
            let built = spec::build(&spec, &place)?;
            launch::write_bundle(&bundle, &built)
        })
        .await
    }
}

/// As the specification has it: none for a new one.
fn pid_namespace(wanted: &PidNamespace, init: Option<u32>) -> spec::Pid {
    let of = |pid: u32| spec::Pid::Path(format!("/proc/{pid}/ns/pid").into());
    match wanted {
        PidNamespace::Own => spec::Pid::New,
        PidNamespace::Host => spec::Pid::Host,
        PidNamespace::Of(pid) => of(*pid),
        PidNamespace::Pod => init.map_or(spec::Pid::New, of),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExecOutcome {
    pub(crate) exit_code: i32,
    pub(crate) timed_out: bool,
    pub(crate) output: Vec<u8>,
}

/// The network namespace of the pod that has this run directory; none is the node's.
pub(crate) fn network_namespace(run_dir: &Path) -> Result<Option<PathBuf>, RuntimeError> {
    let config = Config::read(run_dir)
        .map_err(|error| RuntimeError::io("read configuration in", run_dir, error))?;
    Ok(config.netns)
}

/// Whom the first process of a container begins as; none while nothing was made for it.
pub(crate) fn user(run_dir: &Path, id: &str) -> Option<User> {
    let text = std::fs::read(config::bundle(run_dir, id).join("config.json")).ok()?;
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&text).ok()?;
    let user = spec.process().as_ref()?.user().clone();
    Some(User {
        uid: user.uid(),
        gid: user.gid(),
        additional_gids: user.additional_gids().clone().unwrap_or_default(),
    })
}

/// The cgroups of processes that outlive the agent.
pub(crate) fn supervisor_cgroups(
    cgroup_parent: &str,
) -> Result<Vec<std::path::PathBuf>, RuntimeError> {
    let hierarchies = launch::hierarchies()?;
    Ok(cgroups::supervisor_directories(&hierarchies, cgroup_parent))
}

/// Removes the cgroups that pods of an agent had in common, when no pod is left; `false` when one is.
pub(crate) async fn remove_cgroup_parent(cgroup_parent: &str) -> Result<bool, RuntimeError> {
    let parent = cgroup_parent.to_owned();
    launch::blocking(move || {
        let hierarchies = launch::hierarchies()?;
        Ok(cgroups::remove_parent(&hierarchies, &parent))
    })
    .await
}
