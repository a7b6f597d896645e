//! What privileged containers get of the host: its devices and its capabilities.

use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};

/// Directories below `/dev` that containers have their own of, and links into processes.
const SKIPPED: [&str; 5] = ["pts", "shm", "fd", "mqueue", "console"];
/// Devices lie at most this deep.
const DEPTH: usize = 4;

/// What can be looked at; a device that vanishes meanwhile is left out.
pub(crate) fn host_devices() -> Vec<LinuxDevice> {
    let mut devices = Vec::new();
    collect(Path::new("/dev"), DEPTH, &mut devices);
    devices
}

fn collect(dir: &Path, depth: usize, devices: &mut Vec<LinuxDevice>) {
    let Ok(entries) = std::fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let skipped = SKIPPED.iter().any(|name| entry.file_name() == *name);
        let Ok(kind) = entry.file_type() else {
            continue;
        };
        if skipped {
            continue;
        }
        if kind.is_dir() && depth > 1 {
            collect(&entry.path(), depth - 1, devices);
        } else if kind.is_char_device() || kind.is_block_device() {
            devices.extend(device(&entry.path()));
        }
    }
}

fn device(path: &Path) -> Option<LinuxDevice> {
    let metadata = path.symlink_metadata().ok()?;
    let kind = if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        LinuxDeviceType::C
    };
    let number = metadata.rdev();
    let mut device = LinuxDevice::default();
    device
        .set_path(path.to_owned())
        .set_typ(kind)
        .set_major(i64::from(libc::major(number)))
        .set_minor(i64::from(libc::minor(number)))
        .set_file_mode(Some(metadata.mode() & 0o7777))
        .set_uid(Some(metadata.uid()))
        .set_gid(Some(metadata.gid()));
    Some(device)
}

/// Mask of the capabilities that processes of this node may have at most; a container cannot have more.
pub(crate) fn host_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}

/// The lowest score for the OOM killer that processes can be given: without CAP_SYS_RESOURCE, as in some containers and
/// virtual machines, none that is below our own.
pub(crate) fn least_oom_score() -> i32 {
    const SYS_RESOURCE: u64 = 1 << 24;
    if host_capabilities() & SYS_RESOURCE != 0 {
        return -1000;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap_or_default();
    own.trim().parse().unwrap_or(0)
}
