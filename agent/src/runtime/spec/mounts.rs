//! A container's mounts: what every container has, then its own, outer ones before those inside them.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::Place;
use crate::runtime::{self, ContainerSpec, Propagation};

pub(super) fn build(container: &ContainerSpec, place: &Place<'_>) -> Vec<Mount> {
    let mut own: Vec<&runtime::Mount> = container.mounts.iter().collect();
    own.sort_by_key(|mount| mount.destination.components().count());
    let replaced = |path: &Path| own.iter().any(|mount| mount.destination == path);
    let mut mounts: Vec<Mount> = defaults(container, place)
        .into_iter()
        .filter(|mount| !replaced(mount.destination()))
        .collect();
    mounts.extend(own.into_iter().map(bind));
    mounts
}

/// What the root must be for its mounts to be as they are asked for; a mount below a private one is private.
pub(super) fn root_propagation(container: &ContainerSpec) -> Option<String> {
    let any = |wanted| container.mounts.iter().any(|it| it.propagation == wanted);
    if any(Propagation::Bidirectional) {
        return Some("rshared".to_owned());
    }
    any(Propagation::HostToContainer).then(|| "rslave".to_owned())
}

fn bind(mount: &runtime::Mount) -> Mount {
    let access = match (mount.read_only, mount.recursive_read_only) {
        (true, true) => "rro",
        (true, false) => "ro",
        (false, _) => "rw",
    };
    let propagation = match mount.propagation {
        Propagation::None => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    new(
        &mount.destination,
        "bind",
        mount.source.clone(),
        &["rbind", propagation, access],
    )
}

fn defaults(container: &ContainerSpec, place: &Place<'_>) -> Vec<Mount> {
    let access = if container.privileged { "rw" } else { "ro" };
    let new = |destination: &str, kind: &str, options: &[&str]| {
        new(Path::new(destination), kind, kind.into(), options)
    };
    vec![
        new("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        new(
            "/dev",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        new(
            "/dev/pts",
            "devpts",
            &[
                "nosuid",
                "noexec",
                "newinstance",
                "ptmxmode=0666",
                "mode=0620",
                "gid=5",
            ],
        ),
        new("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        new("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        new(
            "/sys/fs/cgroup",
            "cgroup",
            &["nosuid", "noexec", "nodev", "relatime", access],
        ),
        bind(&runtime::Mount {
            source: place.shm.clone(),
            destination: "/dev/shm".into(),
            ..runtime::Mount::default()
        }),
    ]
}

fn new(destination: &Path, kind: &str, source: PathBuf, options: &[&str]) -> Mount {
    let options = options.iter().map(|option| (*option).to_owned());
    let mut mount = Mount::default();
    mount
        .set_destination(destination.to_owned())
        .set_typ(Some(kind.to_owned()))
        .set_source(Some(source))
        .set_options(Some(options.collect()));
    mount
}
