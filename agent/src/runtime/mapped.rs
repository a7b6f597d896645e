//! Mounts of a container whose pod has users of its own: made with the pod's owners before the OCI runtime looks at them,
//! and taken away when the container has them.
//!
//! They lie in the bundle, `mounts/<number>`: directories and files without anything in them, removed one by one.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use super::{ContainerSpec, RuntimeError};
use crate::userns::{self, UserNamespace};

const PLACE: &str = "mounts";

/// Mounts what the container is to have, and makes these mounts the sources of the container's.
pub(super) fn prepare(
    spec: &mut ContainerSpec,
    bundle: &Path,
    users: &UserNamespace,
) -> Result<(), RuntimeError> {
    let closed = |error| RuntimeError::io("let the pod's users into", &spec.rootfs, error);
    userns::check_open(&spec.rootfs).map_err(closed)?;
    remove(bundle)?;
    let open = users.open();
    let open = open.map_err(|error| RuntimeError::io("find the owner of", &users.netns, error))?;
    let place = bundle.join(PLACE);
    let own = spec.mounts.iter_mut().enumerate();
    for (index, mount) in own.filter(|(_, mount)| !mount.mapped) {
        let target = place.join(index.to_string());
        let made = make(&mount.source, &target)
            .and_then(|()| userns::mount_mapped(&mount.source, &target, false, open.as_fd()));
        if let Err(error) = made {
            let error = RuntimeError::io("mount", &mount.source, error);
            return Err(remove(bundle).err().unwrap_or(error));
        }
        mount.source = target;
    }
    Ok(())
}

/// Of the same kind as what will be mounted there.
fn make(source: &Path, target: &Path) -> io::Result<()> {
    if source.is_dir() {
        return std::fs::create_dir_all(target);
    }
    if let Some(place) = target.parent() {
        std::fs::create_dir_all(place)?;
    }
    std::fs::File::create(target).map(drop)
}

/// Idempotent.
pub(super) fn remove(bundle: &Path) -> Result<(), RuntimeError> {
    let place = bundle.join(PLACE);
    let failed = |error| RuntimeError::io("unmount what is below", &place, error);
    let entries = match std::fs::read_dir(&place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    for entry in entries {
        userns::unmount_mapped(&entry.map_err(failed)?.path()).map_err(failed)?;
    }
    std::fs::remove_dir(&place).map_err(failed)
}
