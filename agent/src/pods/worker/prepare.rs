//! What stands around the containers: volumes, network, files, supervisor; and giving it back.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Volume;

use super::{Worker, claims};
use crate::pods::machine::{Machine, NetworkWishes, PodSandbox};
use crate::pods::mounts::{self, Medium, VolumeContent};
use crate::pods::ports;
use crate::pods::qos;
use crate::pods::{confine, files, runtime_class, tokens};
use crate::runtime::{Resources, SandboxSpec};
use crate::volumes::{atomic, group, host_path, local};

/// The kernel takes no more.
const MOST_HOSTNAME: usize = 64;

const AGAIN_AFTER: SignedDuration = SignedDuration::from_secs(1);
/// How long a token is waited for before that is worth an event.
const TOKEN_PATIENCE: SignedDuration = SignedDuration::from_secs(10);

/// Why the surroundings of the containers could not be made: the event's reason and what it says.
struct Failure {
    reason: &'static str,
    message: String,
}

impl<M: Machine> Worker<M> {
    /// Finds what an earlier agent left: its supervisor, and attempts that were being made.
    pub(super) async fn adopt(&mut self) {
        if !self.record.prepared {
            return;
        }
        self.observe().await;
        self.abandon_unmade().await;
    }

    pub(super) async fn prepare(&mut self) {
        match self.try_prepare().await {
            Ok(()) => {
                self.transient.prepared = true;
                self.transient.prepare_again = None;
                self.transient.unprepared_since = None;
                self.look = true;
                self.told.retain(|topic, _| !topic.starts_with("prepare"));
            }
            Err(failure) => {
                let now = self.now();
                self.transient.prepare_again = Some(now + AGAIN_AFTER);
                // A token is asked for by the first attempt, and is there a moment later.
                let since = *self.transient.unprepared_since.get_or_insert(now);
                let patient = now.duration_since(since) < TOKEN_PATIENCE;
                if patient && tokens::is_awaited(&failure.message) {
                    return;
                }
                self.context.metrics.prepare_errors.inc();
                // Tried every second, perhaps for days: said when there is something new to say.
                if self.event_once("prepare", None, failure.reason, failure.message.clone()) {
                    tracing::warn!(pod = %self.key.name, namespace = %self.key.namespace,
                        reason = failure.reason, "{}", failure.message);
                }
            }
        }
    }

    async fn try_prepare(&mut self) -> Result<(), Failure> {
        let fail = |reason: &'static str| move |message: String| Failure { reason, message };
        // One that was begun without stays so.
        let begun = self.record.prepared || self.record.first_id.is_some();
        if !begun && self.wants_users() {
            let first_id = self.context.user_ids.take(&self.key.uid);
            let full = "Failed to create pod sandbox: no user ids are left".to_owned();
            self.record.first_id =
                Some(first_id.ok_or_else(|| fail("FailedCreatePodSandBox")(full))?);
        }
        // Noted first: whatever happens next, there may be something to give back.
        self.record.prepared = true;
        self.save();
        let context = Arc::clone(&self.context);
        context.preparing.take(self.make_surroundings()).await
    }

    async fn make_surroundings(&mut self) -> Result<(), Failure> {
        let fail = |reason: &'static str| move |message: String| Failure { reason, message };
        let adopting = self.sandbox.is_some();
        // What a running pod has mounted stays as it is: its objects may not be known yet.
        if !adopting {
            self.make_volumes().await.map_err(fail("FailedMount"))?;
        }
        let host_network = self.host_network();
        let wishes = NetworkWishes {
            first_id: self.record.first_id,
            ..ports::wishes(&self.pod)
        };
        let (netns, addresses) = if host_network {
            (None, self.context.settings.addresses())
        } else {
            let attached = self
                .context
                .machine
                .attach_network(&self.key.uid, &wishes)
                .await
                .map_err(|error| format!("Failed to create pod sandbox: network: {error}"))
                .map_err(fail("FailedCreatePodSandBox"))?;
            (Some(attached.netns), attached.addresses)
        };
        self.record.addresses = addresses;
        self.write_files()
            .map_err(|error| format!("Failed to write the pod's files: {error}"))
            .map_err(fail("FailedCreatePodSandBox"))?;
        if self.sandbox.is_none() {
            self.connect().await;
        }
        if self.sandbox.is_none() {
            let spec = self
                .sandbox_spec(netns)
                .map_err(|error| format!("Failed to create pod sandbox: {error}"))
                .map_err(fail("FailedCreatePodSandBox"))?;
            if spec.hostname.len() > MOST_HOSTNAME {
                let message = format!(
                    "Failed to construct FQDN from Pod hostname and cluster domain, FQDN {} is too long ({MOST_HOSTNAME} \
                     characters is the max, {} characters requested)",
                    spec.hostname,
                    spec.hostname.len()
                );
                return Err(fail("FailedCreatePodSandBox")(message));
            }
            let sandbox = self
                .context
                .machine
                .start_sandbox(&spec)
                .await
                .map_err(|error| format!("Failed to create pod sandbox: {error}"))
                .map_err(fail("FailedCreatePodSandBox"))?;
            self.use_sandbox(sandbox);
            let asked = self
                .pod
                .spec
                .as_ref()
                .and_then(|spec| spec.resources.clone());
            self.record.resources = asked;
        }
        Ok(())
    }

    pub(super) fn host_network(&self) -> bool {
        self.pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.host_network == Some(true))
    }

    fn sandbox_spec(&self, netns: Option<PathBuf>) -> Result<SandboxSpec, String> {
        let spec = self.pod.spec.clone().unwrap_or_default();
        let handlers = &self.context.settings.handlers;
        let runtime = runtime_class::runtime(&self.pod, &self.context.objects, handlers)?;
        let shared = [spec.host_network, spec.host_pid, spec.host_ipc];
        if self.record.first_id.is_some() && shared.contains(&Some(true)) {
            return Err(
                "a pod with users of its own (hostUsers: false) cannot have the node's network, \
                        processes or IPC"
                    .to_owned(),
            );
        }
        Ok(SandboxSpec {
            pod_uid: self.key.uid.clone(),
            run_dir: self.dirs.run.clone(),
            netns,
            hostname: self.kernel_hostname(),
            cgroup_parent: self.context.settings.cgroup_parent.clone(),
            resources: Resources {
                pids_limit: self.context.settings.pids_limit,
                ..qos::pod_resources(&spec)
            },
            sharing: confine::sharing(&self.pod),
            first_id: self.record.first_id,
            runtime,
        })
    }

    fn wants_users(&self) -> bool {
        let spec = self.pod.spec.as_ref();
        spec.is_some_and(|spec| spec.host_users == Some(false))
    }

    fn kernel_hostname(&self) -> String {
        let settings = &self.context.settings;
        files::kernel_hostname(&self.pod, &settings.node_hostname, &settings.cluster_domain)
    }

    async fn make_volumes(&self) -> Result<(), String> {
        if !self.volumes().is_empty() {
            closed(&self.dirs.volumes()).map_err(|error| error.to_string())?;
        }
        for volume in self.volumes() {
            let made = match self.make_volume(volume) {
                Ok(Some(data)) => self.give_to_group(volume, data).await,
                Ok(None) => Ok(()),
                Err(error) => Err(error),
            };
            made.map_err(|error| {
                format!(
                    "MountVolume.SetUp failed for volume \"{}\" : {error}",
                    volume.name
                )
            })?;
        }
        Ok(())
    }

    /// What was there before the pod may be large.
    async fn give_to_group(&self, volume: &Volume, data: PathBuf) -> Result<(), String> {
        let Some(fs_group) = self.fs_group().filter(|_| !claims::is_read_only(volume)) else {
            return Ok(());
        };
        let context = self.pod.spec.as_ref();
        let context = context.and_then(|spec| spec.security_context.as_ref());
        let policy = context.and_then(|context| context.fs_group_change_policy.as_deref());
        let on_mismatch = policy == Some("OnRootMismatch");
        let given =
            tokio::task::spawn_blocking(move || group::give(&data, fs_group, on_mismatch)).await;
        given
            .map_err(|error| error.to_string())?
            .map_err(|error| format!("applyFSGroup failed: {error}"))
    }

    pub(super) fn volumes(&self) -> &[Volume] {
        self.pod
            .spec
            .as_ref()
            .and_then(|spec| spec.volumes.as_deref())
            .unwrap_or_default()
    }

    /// Returns what is to become the pod's `fsGroup`'s with all that is in it.
    fn make_volume(&self, volume: &Volume) -> Result<Option<PathBuf>, String> {
        let around = self
            .context
            .settings
            .surroundings(self.record.addresses.clone());
        let content = mounts::resolve(&self.pod, volume, &self.context.objects, &around)
            .map_err(|error| error.to_string())?;
        let dir = self.dirs.volumes().join(&volume.name);
        match content {
            VolumeContent::HostPath {
                path,
                kind,
                grouped,
            } => {
                let path = PathBuf::from(path);
                host_path::ensure(&path, &kind).map_err(|error| error.to_string())?;
                if volume.host_path.is_some() {
                    return Ok(None);
                }
                claims::point(&dir, &path).map_err(|error| error.to_string())?;
                Ok(grouped.then_some(path))
            }
            VolumeContent::Local { handle } => {
                let root = self.context.settings.data_dir.join(local::ROOT);
                let data = local::ensure(&root, &handle).map_err(|error| error.to_string())?;
                claims::point(&dir, &data).map_err(|error| error.to_string())?;
                Ok(Some(data))
            }
            VolumeContent::Image => Ok(None),
            VolumeContent::Empty { medium, size_bytes } => {
                std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
                let machine = &self.context.machine;
                match medium {
                    Medium::Disk => {}
                    Medium::Memory => {
                        let node = self.context.settings.allocatable_memory_bytes;
                        let spec = self.pod.spec.clone().unwrap_or_default();
                        let bytes = qos::memory_volume_bytes(&spec, size_bytes, node);
                        machine.mount_tmpfs(&dir, Some(bytes))?;
                    }
                    Medium::HugePages(size) => machine.mount_huge_pages(&dir, size)?,
                }
                self.open_to_all(&dir).map_err(|error| error.to_string())?;
                Ok(None)
            }
            VolumeContent::Files { memory, files } => {
                std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
                if memory {
                    self.context.machine.mount_tmpfs(&dir, None)?;
                }
                atomic::write(&dir, &files, self.fs_group()).map_err(|error| error.to_string())?;
                Ok(None)
            }
        }
    }

    fn fs_group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        u32::try_from(context.fs_group?).ok()
    }

    /// An emptyDir may be written by any user, and belongs to the pod's `fsGroup` where there is one.
    fn open_to_all(&self, dir: &Path) -> std::io::Result<()> {
        let group = self.fs_group();
        if let Some(group) = group {
            std::os::unix::fs::chown(dir, None, Some(group))?;
        }
        // The sticky bit that one in memory has stays.
        let sticky = dir.metadata()?.permissions().mode() & 0o1000;
        let mode = sticky | if group.is_some() { 0o2777 } else { 0o777 };
        std::fs::set_permissions(dir, std::fs::Permissions::from_mode(mode))
    }

    /// Writes anew what ConfigMaps, Secrets and fields give; one that is gone leaves its files as they are.
    pub(super) fn refresh_volumes(&mut self) {
        for volume in self.volumes() {
            if !mounts::is_read_only(volume) || volume.image.is_some() {
                continue;
            }
            if let Err(error) = self.make_volume(volume) {
                tracing::debug!(pod = %self.key.name, volume = %volume.name, %error,
                    "volume not refreshed");
            }
        }
    }

    /// The files that every container of the pod sees.
    fn write_files(&mut self) -> std::io::Result<()> {
        let settings = &self.context.settings;
        let spec = self.pod.spec.clone().unwrap_or_default();
        let hostname = files::hostname(&self.pod, &settings.node_hostname);
        let hosts = files::hosts(
            &self.pod,
            &hostname,
            &settings.cluster_domain,
            &self.record.addresses,
            &settings.host_hosts,
        );
        let (resolver, left_out) = files::resolver(
            &spec,
            &self.key.namespace,
            &settings.cluster_domain,
            settings.cluster_dns,
            &settings.host_resolver,
        );
        for (name, content) in [
            ("etc-hosts", hosts),
            ("etc-hostname", format!("{}\n", self.kernel_hostname())),
            ("resolv.conf", resolver.render()),
        ] {
            let path = self.dirs.data.join(name);
            // Written in place: containers have the file itself mounted.
            if std::fs::read_to_string(&path).ok().as_ref() != Some(&content) {
                std::fs::write(&path, content)?;
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644))?;
            }
        }
        for (number, message) in left_out.into_iter().enumerate() {
            self.event_once(&format!("dns {number}"), None, "DNSConfigForming", message);
        }
        Ok(())
    }

    pub(super) async fn release(&mut self) {
        match self.try_release().await {
            Ok(()) => {
                self.record.prepared = false;
                self.transient.prepared = false;
                self.transient.release_again = None;
                if self.transient.leaving.is_none() {
                    self.record.released = true;
                    self.context.release_ports(&self.key.uid);
                    self.context.allocate(&self.key.uid, None);
                }
            }
            Err(error) => {
                tracing::warn!(pod = %self.key.name, namespace = %self.key.namespace, %error,
                    "the pod's resources were not released");
                self.transient.release_again = Some(self.now() + AGAIN_AFTER);
            }
        }
    }

    async fn try_release(&mut self) -> Result<(), String> {
        if !self.record.prepared {
            return Ok(());
        }
        self.stop_probing(None);
        if self.sandbox.is_none() {
            self.connect().await;
        }
        if let Some(sandbox) = self.sandbox.clone() {
            sandbox.stop().await?;
            self.sandbox = None;
            self.changes = None;
        } else {
            self.context.machine.sweep_sandbox(&self.dirs.run).await?;
        }
        for place in grandchildren(&self.dirs.all_sub_paths()) {
            self.context.machine.unmount_sub_paths(&place)?;
        }
        let containers = self.dirs.data.join("containers");
        for dir in grandchildren(&containers) {
            self.context.machine.unmount_image(&dir).await?;
        }
        for volume in self.volumes().iter().filter(|it| it.image.is_some()) {
            let dir = self.dirs.volumes().join(&volume.name);
            self.context.machine.unmount_image(&dir).await?;
        }
        self.context.machine.unmount_below(&self.dirs.data)?;
        if !self.host_network() {
            self.context.machine.detach_network(&self.key.uid).await?;
        }
        remove(&containers)?;
        if self.transient.leaving.is_none() {
            remove(&self.dirs.volumes())?;
        }
        remove(&self.dirs.run)
    }
}

/// `containers/<name>/<attempt>` and the like.
fn grandchildren(dir: &Path) -> Vec<PathBuf> {
    let children = |dir: &Path| {
        std::fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
            .collect::<Vec<_>>()
    };
    children(dir)
        .iter()
        .flat_map(|child| children(child))
        .collect()
}

/// Makes a directory that nobody but root gets into: what is in it, Secrets for example, is often open to all.
fn closed(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o700))
}

fn remove(dir: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", dir.display()))
        }
        _ => Ok(()),
    }
}
