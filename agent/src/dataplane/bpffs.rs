//! A BPF file system where the pins are: the one that is mounted there, or our own.

use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::statfs::statfs;

use super::error::DataPlaneError;

/// `BPF_FS_MAGIC`
const MAGIC: i64 = 0xcafe_4a11;

fn is_bpffs(directory: &Path) -> bool {
    #[allow(
        clippy::unnecessary_cast,
        reason = "the type differs between architectures"
    )]
    statfs(directory).is_ok_and(|at| at.filesystem_type().0 as i64 == MAGIC)
}

/// Makes sure that `directory` is in a BPF file system.
pub(crate) fn ensure(directory: &Path) -> Result<(), DataPlaneError> {
    std::fs::create_dir_all(directory).map_err(DataPlaneError::file("create", directory))?;
    if is_bpffs(directory) {
        return Ok(());
    }
    mount(
        Some("bpf"),
        directory,
        Some("bpf"),
        MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
        Some("mode=0700"),
    )
    .map_err(|errno| DataPlaneError::file("mount a BPF file system on", directory)(errno.into()))
}

/// Removes what is below `directory`, unmounts it if it is a mount point of its own, and removes it.
pub(crate) fn clear(directory: &Path) -> Result<(), DataPlaneError> {
    if !directory.exists() {
        return Ok(());
    }
    if is_bpffs(directory) {
        remove_below(directory);
        if is_mount_point(directory) {
            umount2(directory, MntFlags::MNT_DETACH)
                .map_err(|errno| DataPlaneError::file("unmount", directory)(errno.into()))?;
        }
    }
    match std::fs::remove_dir(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(DataPlaneError::file("remove", directory)(error))
        }
        _ => Ok(()),
    }
}

fn is_mount_point(directory: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let device = |path: &Path| std::fs::metadata(path).map(|data| data.dev()).ok();
    device(directory) != directory.parent().and_then(device)
}

fn remove_below(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let path = entry.path();
        // Made by the kernel in each new bpf file system (maps.debug, progs.debug); they go with it.
        if path
            .extension()
            .is_some_and(|extension| extension == "debug")
        {
            continue;
        }
        let removed = if path.is_dir() {
            remove_below(&path);
            std::fs::remove_dir(&path)
        } else {
            std::fs::remove_file(&path)
        };
        if let Err(error) = removed {
            tracing::warn!(path = %path.display(), %error, "cannot remove pin");
        }
    }
}
