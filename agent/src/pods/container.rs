//! From a container of a pod, its image and its environment to what the runtime is told. Pure.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use oci_spec::image::Config;

use super::expand::expand;
use super::qos;
use crate::runtime::{Confinement, ContainerSpec, Mount};

/// How much of each container's log is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogLimits {
    /// Of one file.
    pub(crate) max_bytes: u64,
    /// The one being written included.
    pub(crate) max_files: u32,
}

/// Where the message of a container's end is read from, when nothing else is said.
const TERMINATION_LOG: &str = "/dev/termination-log";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ContainerError {
    #[error("no command specified")]
    NoCommand,
    #[error("container has runAsNonRoot and image will run as root")]
    RunsAsRoot,
    #[error("container's runAsUser breaks non-root policy")]
    AsksForRoot,
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root"
    )]
    NonNumericUser(String),
}

/// What was made for the attempt before the specification can be written.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    pub(crate) id: String,
    pub(crate) rootfs: PathBuf,
    pub(crate) image: &'a Config,
    /// Of the pod; the image's is merged here.
    pub(crate) env: Vec<(String, String)>,
    /// Of volumes, in the order of `volumeMounts`.
    pub(crate) mounts: Vec<Mount>,
    /// `etc-hosts`, `etc-hostname`, `resolv.conf`.
    pub(crate) pod_dir: &'a Path,
    pub(crate) termination_log: PathBuf,
    pub(crate) log_path: PathBuf,
    pub(crate) log_limits: LogLimits,
    pub(crate) node_memory_bytes: u64,
    pub(crate) confinement: Confinement,
}

pub(crate) fn container_spec(
    pod: &Pod,
    container: &Container,
    mut made: Made<'_>,
) -> Result<ContainerSpec, ContainerError> {
    let spec = pod.spec.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let shared = spec.security_context.clone().unwrap_or_default();
    let env = merged_env(made.image, std::mem::take(&mut made.env));
    let args = arguments(container, made.image, &env)?;
    let run_as_user = own.run_as_user.or(shared.run_as_user);
    let run_as_non_root = own.run_as_non_root.or(shared.run_as_non_root) == Some(true);
    let image_user = made.image.user().clone().unwrap_or_default();
    if run_as_non_root {
        check_non_root(run_as_user, &image_user)?;
    }
    let supplemental = shared
        .supplemental_groups
        .iter()
        .flatten()
        .chain(shared.fs_group.iter())
        .filter_map(|group| u32::try_from(*group).ok())
        .collect();
    let privileged = own.privileged == Some(true);
    let read_only_root = own.read_only_root_filesystem == Some(true);
    let resources = qos::resources(container);
    let capabilities = own.capabilities.unwrap_or_default();
    let working_dir = container
        .working_dir
        .clone()
        .filter(|dir| !dir.is_empty())
        .or_else(|| {
            made.image
                .working_dir()
                .clone()
                .filter(|dir| !dir.is_empty())
        })
        .unwrap_or_else(|| "/".to_owned());
    let mut mounts = standard_mounts(container, &made, read_only_root);
    mounts.append(&mut made.mounts);
    Ok(ContainerSpec {
        id: made.id,
        rootfs: made.rootfs,
        args,
        env,
        working_dir,
        user: run_as_user.map_or(image_user, |user| user.to_string()),
        run_as_group: own
            .run_as_group
            .or(shared.run_as_group)
            .and_then(|group| u32::try_from(group).ok()),
        supplemental_groups: supplemental,
        run_as_non_root,
        read_only_root,
        privileged,
        allow_privilege_escalation: own.allow_privilege_escalation.unwrap_or(true) || privileged,
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        mounts,
        oom_score_adj: qos::oom_score_adj(&spec, container, made.node_memory_bytes),
        resources,
        log_path: made.log_path,
        log_max_bytes: made.log_limits.max_bytes,
        log_max_files: made.log_limits.max_files,
        terminal: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        annotations: BTreeMap::new(),
        huge_pages: qos::huge_pages(container),
        confinement: made.confinement,
    })
}

/// The image's variables first; the pod's replace them.
fn merged_env(image: &Config, pod: Vec<(String, String)>) -> Vec<(String, String)> {
    let mut merged: Vec<(String, String)> = Vec::new();
    for variable in image.env().iter().flatten() {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if !pod.iter().any(|(known, _)| known == name) {
            merged.push((name.to_owned(), value.to_owned()));
        }
    }
    merged.extend(pod);
    merged
}

fn arguments(
    container: &Container,
    image: &Config,
    env: &[(String, String)],
) -> Result<Vec<String>, ContainerError> {
    let given = |list: &Option<Vec<String>>| {
        list.clone().filter(|list| !list.is_empty()).map(|list| {
            list.iter()
                .map(|text| {
                    expand(text, |name| {
                        env.iter()
                            .rev()
                            .find(|(known, _)| known == name)
                            .map(|(_, value)| value.clone())
                    })
                })
                .collect::<Vec<_>>()
        })
    };
    let command = given(&container.command);
    let args = given(&container.args);
    let entrypoint = image.entrypoint().clone().unwrap_or_default();
    let all = match (command, args) {
        (Some(command), args) => [command, args.unwrap_or_default()].concat(),
        (None, Some(args)) => [entrypoint, args].concat(),
        (None, None) => [entrypoint, image.cmd().clone().unwrap_or_default()].concat(),
    };
    if all.is_empty() {
        return Err(ContainerError::NoCommand);
    }
    Ok(all)
}

fn check_non_root(run_as_user: Option<i64>, image_user: &str) -> Result<(), ContainerError> {
    if let Some(user) = run_as_user {
        return if user == 0 {
            Err(ContainerError::AsksForRoot)
        } else {
            Ok(())
        };
    }
    let user = image_user.split(':').next().unwrap_or_default();
    match user.parse::<u64>() {
        Ok(0) => Err(ContainerError::RunsAsRoot),
        Ok(_) => Ok(()),
        Err(_) if user.is_empty() => Err(ContainerError::RunsAsRoot),
        Err(_) => Err(ContainerError::NonNumericUser(user.to_owned())),
    }
}

/// The files that every container has, unless a volume is mounted there.
fn standard_mounts(container: &Container, made: &Made<'_>, read_only_root: bool) -> Vec<Mount> {
    let taken = |path: &str| {
        container
            .volume_mounts
            .iter()
            .flatten()
            .any(|mount| mount.mount_path.trim_end_matches('/') == path)
    };
    let mut mounts = Vec::new();
    for (path, file) in [
        ("/etc/hosts", "etc-hosts"),
        ("/etc/hostname", "etc-hostname"),
        ("/etc/resolv.conf", "resolv.conf"),
    ] {
        if !taken(path) && !taken("/etc") {
            mounts.push(Mount {
                source: made.pod_dir.join(file),
                destination: PathBuf::from(path),
                read_only: read_only_root,
                ..Mount::default()
            });
        }
    }
    let message = container
        .termination_message_path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or(TERMINATION_LOG);
    if !taken(message) {
        mounts.push(Mount {
            source: made.termination_log.clone(),
            destination: PathBuf::from(message),
            ..Mount::default()
        });
    }
    mounts
}

#[cfg(test)]
mod tests;
