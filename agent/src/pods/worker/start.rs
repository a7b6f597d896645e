//! An attempt at running a container begins.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Container;

use super::{Worker, claims};
use crate::images::{Image, Purpose};
use crate::pods::confine;
use crate::pods::container::{self, Made};
use crate::pods::environment;
use crate::pods::expand::expand;
use crate::pods::machine::{Machine, PodSandbox};
use crate::pods::mounts;
use crate::pods::plan::{ImageState, Trouble};
use crate::pods::record::{Attempt, AttemptState, Ended, PostStart, START_ERROR};
use crate::pods::report::EventType;
use crate::pods::status;
use crate::runtime::{self, Confinement, ContainerSpec, ContainerState, Mount, Propagation};
use crate::userns::UserNamespace;
use crate::volumes::host_path;

/// How long a container whose specification cannot be made is left before the next try.
const AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(10);

/// The exit code of a program that could not be started.
const NOT_STARTED: i32 = 128;

/// What the pod and its objects give an attempt.
struct Given {
    id: String,
    env: Vec<(String, String)>,
    mounts: Vec<Mount>,
    confinement: Confinement,
}

/// Why no attempt was made: nothing exists of it.
struct Refusal {
    reason: &'static str,
    message: String,
}

impl Refusal {
    fn config(error: impl std::fmt::Display) -> Self {
        Self {
            reason: "CreateContainerConfigError",
            message: error.to_string(),
        }
    }

    fn create(error: impl std::fmt::Display) -> Self {
        Self {
            reason: "CreateContainerError",
            message: error.to_string(),
        }
    }
}

impl<M: Machine> Worker<M> {
    pub(super) async fn start(&mut self, name: &str, number: u32) {
        let (Some(container), Some(image)) = (self.container(name), self.images.get(name).cloned())
        else {
            self.transient(name).image = ImageState::Unknown;
            return;
        };
        let context = Arc::clone(&self.context);
        let make = async {
            match self.make(&container, &image, number).await {
                Ok(spec) => {
                    self.transient(name).trouble = None;
                    self.create(name, &spec).await;
                }
                Err(refusal) => self.refuse(name, refusal),
            }
        };
        context.starting.take(make).await;
    }

    fn refuse(&mut self, name: &str, refusal: Refusal) {
        self.context.metrics.container_start_errors.inc();
        let again = self.now() + AGAIN_AFTER;
        self.event_once(
            "create",
            Some(name),
            "Failed",
            format!("Error: {}", refusal.message),
        );
        self.transient(name).trouble = Some(Trouble {
            reason: refusal.reason.to_owned(),
            message: refusal.message,
            again,
        });
    }

    /// Everything up to the specification; on refusal the record is as it was.
    async fn make(
        &mut self,
        container: &Container,
        image: &Image,
        number: u32,
    ) -> Result<ContainerSpec, Refusal> {
        let name = &container.name;
        let around = self
            .context
            .settings
            .surroundings(self.record.addresses.clone());
        let objects = &self.context.objects;
        let volumes = self.dirs.volumes();
        let env = environment::environment(&self.pod, container, objects, &around, &volumes)
            .map_err(Refusal::config)?;
        self.mount_image_volumes(container)
            .await
            .map_err(Refusal::create)?;
        let mounts = self
            .volume_mounts(container, number, &env)
            .map_err(Refusal::config)?;
        let id = format!("{}_{name}_{number}", self.key.uid);
        let dir = self.dirs.attempt(name, number);

        let known = self.record.containers.entry(name.clone()).or_default();
        let before = known.clone();
        if let Some(ended) = known.ended().cloned() {
            known.last = Some(ended);
            known.crash.step(self.context.clock.now());
        }
        known.image_id = image.id();
        known.resources.clone_from(&container.resources);
        known.user = None;
        known.attempt = Some(Attempt {
            number,
            id: id.clone(),
            state: AttemptState::Creating,
            kill: None,
            stop_signal: stop_signal(container, image),
            post_start: PostStart::Due,
        });
        self.save();
        let made = match self.confinement(container).await {
            Ok(confinement) => {
                let given = Given {
                    id,
                    env,
                    mounts,
                    confinement,
                };
                self.make_files(container, image, number, given, &dir).await
            }
            Err(error) => Err(Refusal::create(error)),
        };
        let spec = match made {
            Ok(made) => {
                container::container_spec(&self.pod, container, made).map_err(|error| match error {
                    container::ContainerError::NoCommand => Refusal::create(error),
                    _ => Refusal::config(format!(
                        "{error} (pod: \"{}\", container: {name})",
                        status::identity(&self.pod)
                    )),
                })
            }
            Err(refusal) => Err(refusal),
        };
        if spec.is_err() {
            self.remove_attempt_dir(&dir).await;
            self.record.containers.insert(name.clone(), before);
        }
        spec
    }

    async fn confinement(&self, container: &Container) -> Result<Confinement, String> {
        let target = match self.target_of(&container.name) {
            Some(target) => Some(self.running_pid(&target).await?),
            None => None,
        };
        let data_dir = &self.context.settings.data_dir;
        confine::confinement(&self.pod, container, data_dir, target)
    }

    /// The container whose processes an ephemeral container wants to see.
    fn target_of(&self, name: &str) -> Option<String> {
        let spec = self.pod.spec.as_ref()?;
        let mut ephemeral = spec.ephemeral_containers.iter().flatten();
        let container = ephemeral.find(|container| container.name == name)?;
        let target = container.target_container_name.clone();
        target.filter(|target| !target.is_empty())
    }

    async fn running_pid(&self, name: &str) -> Result<u32, String> {
        let missing = || format!("target container {name:?} is not running");
        let id = &self.record.attempt(name).ok_or_else(missing)?.id;
        let sandbox = self.sandbox.clone().ok_or_else(missing)?;
        match sandbox.states().await?.get(id) {
            Some(ContainerState::Running { pid, .. }) => Ok(*pid),
            _ => Err(missing()),
        }
    }

    async fn make_files<'a>(
        &'a self,
        container: &Container,
        image: &'a Image,
        number: u32,
        given: Given,
        dir: &Path,
    ) -> Result<Made<'a>, Refusal> {
        std::fs::create_dir_all(dir).map_err(Refusal::create)?;
        let termination_log = dir.join("termination-log");
        std::fs::write(&termination_log, b"").map_err(Refusal::create)?;
        // Any user of the container may leave a message.
        std::fs::set_permissions(&termination_log, std::fs::Permissions::from_mode(0o666))
            .map_err(Refusal::create)?;
        let log_path = self.dirs.log(&container.name, number);
        if let Some(parent) = log_path.parent() {
            std::fs::create_dir_all(parent).map_err(Refusal::create)?;
        }
        self.remove_old_logs(&container.name, number);
        let rootfs = self
            .context
            .machine
            .mount_image(image, dir, Purpose::Root, self.users().as_ref())
            .await
            .map_err(Refusal::create)?;
        let Given {
            id,
            env,
            mounts,
            confinement,
        } = given;
        Ok(Made {
            id,
            rootfs,
            image: &image.config,
            env,
            mounts,
            pod_dir: &self.dirs.data,
            termination_log,
            log_path,
            log_limits: self.context.settings.log_limits,
            node_memory_bytes: self.context.settings.memory_bytes,
            confinement,
        })
    }

    /// The pod's own, when it has such.
    pub(super) fn users(&self) -> Option<UserNamespace> {
        let first_id = self.record.first_id?;
        let netns = runtime::network_namespace(&self.dirs.run).ok()??;
        Some(UserNamespace { first_id, netns })
    }

    /// The log of the attempt before stays, for `logs --previous`.
    fn remove_old_logs(&self, name: &str, number: u32) {
        let keep = [number, number.saturating_sub(1)].map(|number| format!("{number}.log"));
        let dir = self.dirs.logs.join(name);
        for entry in std::fs::read_dir(&dir).into_iter().flatten().flatten() {
            let file = entry.file_name();
            let file = file.to_string_lossy();
            if !keep.iter().any(|kept| file.starts_with(kept.as_str())) {
                let _ = std::fs::remove_file(entry.path());
            }
        }
    }

    fn volume_mounts(
        &self,
        container: &Container,
        number: u32,
        env: &[(String, String)],
    ) -> Result<Vec<Mount>, String> {
        let mut mounts = Vec::new();
        // Left by a try that came to nothing.
        let sub_paths = self.dirs.sub_paths(&container.name, number);
        self.context.machine.unmount_sub_paths(&sub_paths)?;
        for mount in container.volume_mounts.iter().flatten() {
            let volume = self
                .volumes()
                .iter()
                .find(|volume| volume.name == mount.name)
                .ok_or_else(|| format!("volume {} not found", mount.name))?;
            let root = match &volume.host_path {
                Some(host_path) => {
                    let path = PathBuf::from(&host_path.path);
                    // It may have gone since the pod was begun.
                    if host_path.type_.as_deref().unwrap_or_default().is_empty() {
                        host_path::ensure(&path, "").map_err(|error| error.to_string())?;
                    }
                    path
                }
                None if volume.image.is_some() => {
                    self.dirs.volumes().join(&volume.name).join("rootfs")
                }
                None => claims::root(volume, self.dirs.volumes().join(&volume.name)),
            };
            let sub = match (&mount.sub_path, &mount.sub_path_expr) {
                (Some(sub), _) if !sub.is_empty() => Some(sub.clone()),
                (_, Some(text)) if !text.is_empty() => Some(expand(text, |name| {
                    env.iter()
                        .find(|(known, _)| known == name)
                        .map(|(_, value)| value.clone())
                })),
                _ => None,
            };
            let source = match sub {
                Some(sub) => {
                    let target = sub_paths.join(mounts.len().to_string());
                    let machine = &self.context.machine;
                    machine.mount_sub_path(&root, &sub, &target)?;
                    target
                }
                None => root,
            };
            mounts.push(Mount {
                source,
                destination: PathBuf::from(&mount.mount_path),
                read_only: mount.read_only == Some(true)
                    || mounts::is_read_only(volume)
                    || claims::is_read_only(volume),
                recursive_read_only: mount.read_only == Some(true)
                    && matches!(
                        mount.recursive_read_only.as_deref(),
                        Some("Enabled" | "IfPossible")
                    ),
                no_exec: volume.image.is_some(),
                mapped: volume.image.is_some(),
                propagation: match mount.mount_propagation.as_deref() {
                    Some("HostToContainer") => Propagation::HostToContainer,
                    Some("Bidirectional") => Propagation::Bidirectional,
                    _ => Propagation::None,
                },
            });
        }
        Ok(mounts)
    }

    async fn create(&mut self, name: &str, spec: &ContainerSpec) {
        let Some(sandbox) = self.sandbox.clone() else {
            self.transient.prepared = false;
            self.abandon_unmade().await;
            return;
        };
        if let Err(error) = sandbox.run(spec).await {
            self.not_started(name, error).await;
            return;
        }
        let user = runtime::user(&self.dirs.run, &spec.id);
        if let Some(known) = self.record.containers.get_mut(name) {
            known.user = user;
        }
        self.event(
            Some(name),
            EventType::Normal,
            "Created",
            "Container created".to_owned(),
        );
        self.started(name).await;
    }

    /// One that an agent of an earlier version had created and did not come to start.
    pub(super) async fn launch(&mut self, name: &str) {
        let Some(id) = self.record.attempt(name).map(|attempt| attempt.id.clone()) else {
            return;
        };
        let Some(sandbox) = self.sandbox.clone() else {
            self.transient.prepared = false;
            return;
        };
        if let Err(error) = sandbox.start_container(&id).await {
            self.not_started(name, error).await;
            return;
        }
        self.started(name).await;
    }

    async fn started(&mut self, name: &str) {
        self.context.metrics.containers_started.inc();
        self.transient(name).launched = Some(self.now());
        // Looked for again before the next attempt: it may have been removed or replaced meanwhile.
        self.transient(name).image = ImageState::Unknown;
        self.event(
            Some(name),
            EventType::Normal,
            "Started",
            "Container started".to_owned(),
        );
        self.observe().await;
    }

    fn set_state(&mut self, name: &str, state: AttemptState) {
        if let Some(attempt) = self
            .record
            .containers
            .get_mut(name)
            .and_then(|container| container.attempt.as_mut())
        {
            attempt.state = state;
        }
    }

    /// The runtime refused: an attempt all the same, that ended before it ran.
    async fn not_started(&mut self, name: &str, error: String) {
        self.context.metrics.container_start_errors.inc();
        let now = self.now();
        let Some((id, number)) = self
            .record
            .attempt(name)
            .map(|attempt| (attempt.id.clone(), attempt.number))
        else {
            return;
        };
        self.event(
            Some(name),
            EventType::Warning,
            "Failed",
            format!("Error: failed to start container \"{name}\": {error}"),
        );
        let ended = Ended {
            id,
            number,
            exit_code: NOT_STARTED,
            signal: None,
            reason: START_ERROR.to_owned(),
            message: Some(error),
            started_at: None,
            finished_at: now,
            noticed_at: now,
        };
        self.set_state(name, AttemptState::Ended(ended));
        self.transient(name).image = ImageState::Unknown;
        self.save();
        self.clean_attempt(name).await;
    }

    /// Attempts that an earlier agent was making: those that the supervisor goes on with are waited for, those that it
    /// knows nothing of are undone.
    pub(super) async fn abandon_unmade(&mut self) {
        let unmade: Vec<(String, Attempt)> = self
            .record
            .containers
            .iter()
            .filter_map(|(name, container)| Some((name.clone(), container.attempt.clone()?)))
            .filter(|(_, attempt)| attempt.state == AttemptState::Creating)
            .collect();
        let mut made = false;
        for (name, attempt) in unmade {
            if let Some(sandbox) = &self.sandbox
                && sandbox.start_container(&attempt.id).await.is_ok()
            {
                made = true;
                continue;
            }
            if let Some(sandbox) = &self.sandbox
                && let Err(error) = sandbox.delete(&attempt.id).await
            {
                tracing::warn!(pod = %self.key.name, container = %name, %error, "not removed");
            }
            let dir = self.dirs.attempt(&name, attempt.number);
            self.remove_attempt_dir(&dir).await;
            if let Some(known) = self.record.containers.get_mut(&name) {
                if attempt.number == known.first {
                    known.attempt = None;
                    continue;
                }
                known.attempt = known.last.take().map(|last| Attempt {
                    number: last.number,
                    id: last.id.clone(),
                    state: AttemptState::Ended(last),
                    kill: None,
                    stop_signal: None,
                    post_start: PostStart::Due,
                });
            }
        }
        self.save();
        if made {
            self.observe().await;
        }
    }

    /// Removes what the runtime holds of an attempt that has ended. What fails here is done again when the
    /// pod's resources are released.
    pub(super) async fn clean_attempt(&mut self, name: &str) {
        let Some((id, number)) = self
            .record
            .attempt(name)
            .map(|attempt| (attempt.id.clone(), attempt.number))
        else {
            return;
        };
        if let Some(sandbox) = &self.sandbox
            && let Err(error) = sandbox.delete(&id).await
        {
            tracing::warn!(pod = %self.key.name, container = name, %error, "container not deleted");
            return;
        }
        let sub_paths = self.dirs.sub_paths(name, number);
        if let Err(error) = self.context.machine.unmount_sub_paths(&sub_paths) {
            tracing::warn!(dir = %sub_paths.display(), %error, "parts of volumes not unmounted");
        }
        let dir = self.dirs.attempt(name, number);
        self.remove_attempt_dir(&dir).await;
    }

    async fn remove_attempt_dir(&self, dir: &Path) {
        if let Err(error) = self.context.machine.unmount_image(dir).await {
            tracing::warn!(dir = %dir.display(), %error, "root file system not unmounted");
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(dir = %dir.display(), %error, "directory not removed");
        }
    }
}

/// The signal that ends the program: of the pod, of the image, or SIGTERM.
fn stop_signal(container: &Container, image: &Image) -> Option<i32> {
    let own = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref());
    own.or(image.config.stop_signal().as_deref())
        .and_then(signal_number)
}

fn signal_number(text: &str) -> Option<i32> {
    let text = text.trim().to_uppercase();
    if let Ok(number) = text.parse::<i32>() {
        return (1..65).contains(&number).then_some(number);
    }
    let name = text.strip_prefix("SIG").unwrap_or(&text);
    if let Some(offset) = name.strip_prefix("RTMIN+") {
        return offset
            .parse::<i32>()
            .ok()
            .filter(|n| (0..=30).contains(n))
            .map(|n| 34 + n);
    }
    if let Some(offset) = name.strip_prefix("RTMAX-") {
        return offset
            .parse::<i32>()
            .ok()
            .filter(|n| (0..=30).contains(n))
            .map(|n| 64 - n);
    }
    format!("SIG{name}")
        .parse::<nix::sys::signal::Signal>()
        .ok()
        .map(|signal| signal as i32)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn signals_by_name_and_number() {
        for (text, number) in [
            ("SIGTERM", Some(15)),
            ("quit", Some(3)),
            ("9", Some(9)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGNONSENSE", None),
            ("0", None),
        ] {
            assert_eq!(signal_number(text), number, "{text}");
        }
    }
}
