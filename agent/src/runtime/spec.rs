//! The OCI specification of a container (pure): what runc is told, from a [`ContainerSpec`] and the place
//! where it is to run.

mod capabilities;
mod mounts;
mod seccomp;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxDevice, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp,
    Process, Root, Spec,
};

use super::user::User;
use super::{ContainerSpec, Seccomp, resources};
use crate::userns;

pub(crate) use capabilities::UnknownCapability;

const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a container's processes should not see…
const MASKED: [&str; 10] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
/// …and not write.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Where a container runs: what it shares with its pod, and facts about the node.
#[derive(Debug, Clone)]
pub(crate) struct Place<'a> {
    pub(crate) hostname: &'a str,
    /// The container's cgroup, as a path inside each hierarchy.
    pub(crate) cgroup: PathBuf,
    /// The container sees its own cgroup as the root: on v2 hosts.
    pub(crate) cgroup_namespace: bool,
    /// The host's when absent.
    pub(crate) netns: Option<&'a Path>,
    pub(crate) uts: PathBuf,
    /// The host's when absent.
    pub(crate) ipc: Option<PathBuf>,
    pub(crate) pid: Pid,
    /// The pod's own.
    pub(crate) users: Option<Users>,
    /// The pod's `/dev/shm`.
    pub(crate) shm: PathBuf,
    pub(crate) user: &'a User,
    /// Mask of the capabilities that the node itself has.
    pub(crate) capabilities: u64,
    /// The lowest score for the OOM killer that the node may give.
    pub(crate) least_oom_score: i32,
    /// The host's devices, for privileged containers.
    pub(crate) devices: Vec<LinuxDevice>,
    /// Sizes in bytes of the huge pages that a cgroup can be limited to.
    pub(crate) page_sizes: Vec<u64>,
}

/// A user namespace, which is there; 65,536 ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Users {
    pub(crate) namespace: PathBuf,
    pub(crate) first_id: u32,
}

/// The process id namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Pid {
    New,
    Host,
    Path(PathBuf),
}

pub(crate) fn build(
    container: &ContainerSpec,
    place: &Place<'_>,
) -> Result<Spec, UnknownCapability> {
    let mut root = Root::default();
    root.set_path(container.rootfs.clone())
        .set_readonly(Some(container.read_only_root));
    let mut spec = Spec::default();
    spec.set_version("1.0.2".to_owned())
        .set_root(Some(root))
        .set_hostname(None)
        .set_process(Some(process(container, place)?))
        .set_mounts(Some(mounts::build(container, place)))
        .set_linux(Some(linux(container, place)?))
        .set_annotations(Some(container.annotations.clone().into_iter().collect()));
    Ok(spec)
}

fn process(container: &ContainerSpec, place: &Place<'_>) -> Result<Process, UnknownCapability> {
    let mut user = oci_spec::runtime::User::default();
    user.set_uid(place.user.uid)
        .set_gid(place.user.gid)
        .set_additional_gids(Some(place.user.additional_gids.clone()));
    let cwd = match container.working_dir.as_str() {
        "" => "/",
        dir => dir,
    };
    let no_new_privileges = !container.allow_privilege_escalation && !container.privileged;
    let mut process = Process::default();
    process
        .set_terminal(Some(container.terminal))
        .set_user(user)
        .set_args(Some(container.args.clone()))
        .set_env(Some(environment(container, place.hostname)))
        .set_cwd(cwd.into())
        .set_capabilities(Some(capabilities::build(container, place.capabilities)?))
        .set_rlimits(None)
        .set_no_new_privileges(Some(no_new_privileges))
        .set_apparmor_profile(container.confinement.app_armor.clone())
        .set_oom_score_adj(Some(container.oom_score_adj.max(place.least_oom_score)));
    Ok(process)
}

fn environment(container: &ContainerSpec, hostname: &str) -> Vec<String> {
    let has = |name: &str| container.env.iter().any(|(key, _)| key == name);
    let mut environment = Vec::with_capacity(container.env.len() + 3);
    if !has("PATH") {
        environment.push(DEFAULT_PATH.to_owned());
    }
    if !has("HOSTNAME") {
        environment.push(format!("HOSTNAME={hostname}"));
    }
    if container.terminal && !has("TERM") {
        environment.push("TERM=xterm".to_owned());
    }
    let given = container.env.iter();
    environment.extend(given.map(|(key, value)| format!("{key}={value}")));
    environment
}

fn linux(container: &ContainerSpec, place: &Place<'_>) -> Result<Linux, UnknownCapability> {
    let mut linux = Linux::default();
    let paths = |paths: &[&str]| {
        let confinement = &container.confinement;
        let open = container.privileged || confinement.unmasked_proc;
        let shown = if open { &[] } else { paths };
        Some(shown.iter().map(|path| (*path).to_owned()).collect())
    };
    let mut resources = resources::container(&container.resources, container.privileged);
    resources.set_hugepage_limits(resources::huge_pages(
        &container.huge_pages,
        &place.page_sizes,
    ));
    linux
        .set_namespaces(Some(namespaces(place)))
        .set_resources(Some(resources))
        .set_cgroups_path(Some(place.cgroup.clone()))
        .set_masked_paths(paths(&MASKED))
        .set_readonly_paths(paths(&READ_ONLY));
    if let Some(users) = &place.users {
        let map = LinuxIdMappingBuilder::default()
            .host_id(users.first_id)
            .size(userns::RANGE)
            .build()
            .expect("every part has a default");
        linux
            .set_uid_mappings(Some(vec![map]))
            .set_gid_mappings(Some(vec![map]));
    }
    if container.privileged {
        linux.set_devices(Some(place.devices.clone()));
    }
    let confinement = &container.confinement;
    if !confinement.sysctls.is_empty() {
        linux.set_sysctl(Some(confinement.sysctls.clone().into_iter().collect()));
    }
    linux
        .set_seccomp(seccomp(container, place)?)
        .set_rootfs_propagation(mounts::root_propagation(container));
    Ok(linux)
}

/// Privileged containers are not confined, whatever they ask for.
fn seccomp(
    container: &ContainerSpec,
    place: &Place<'_>,
) -> Result<Option<LinuxSeccomp>, UnknownCapability> {
    Ok(match &container.confinement.seccomp {
        _ if container.privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::Profile(profile) => Some(profile.as_ref().clone()),
        Seccomp::RuntimeDefault => {
            let capabilities = capabilities::build(container, place.capabilities)?;
            let bounding = capabilities.bounding().clone().unwrap_or_default();
            Some(seccomp::runtime_default(&bounding))
        }
    })
}

fn namespaces(place: &Place<'_>) -> Vec<LinuxNamespace> {
    let namespace = |kind, path: Option<&Path>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(kind).set_path(path.map(Path::to_owned));
        namespace
    };
    let pid = match &place.pid {
        Pid::New => Some(namespace(LinuxNamespaceType::Pid, None)),
        Pid::Path(path) => Some(namespace(LinuxNamespaceType::Pid, Some(path))),
        Pid::Host => None,
    };
    let users = place.users.as_ref();
    let users = users.map(|it| namespace(LinuxNamespaceType::User, Some(&it.namespace)));
    // Whoever joins the others must be at home in this one.
    let mut namespaces: Vec<LinuxNamespace> = users.into_iter().chain(pid).collect();
    namespaces.push(namespace(LinuxNamespaceType::Mount, None));
    if let Some(ipc) = &place.ipc {
        namespaces.push(namespace(LinuxNamespaceType::Ipc, Some(ipc)));
    }
    namespaces.push(namespace(LinuxNamespaceType::Uts, Some(&place.uts)));
    if let Some(netns) = place.netns {
        namespaces.push(namespace(LinuxNamespaceType::Network, Some(netns)));
    }
    if place.cgroup_namespace {
        namespaces.push(namespace(LinuxNamespaceType::Cgroup, None));
    }
    namespaces
}
