//! Overlay mounts of an image's layers.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// mount(2) takes one page of options; some of it is for ourselves.
const MAX_OPTIONS: usize = 3900;

/// Mounts `layers` (lowest first) with `dir/upper` above them at `dir/rootfs`, unless that is done.
pub(super) fn mount_overlay(layers: &[PathBuf], dir: &Path) -> io::Result<PathBuf> {
    let rootfs = dir.join("rootfs");
    let (upper, work) = (dir.join("upper"), dir.join("work"));
    let is_new = !upper.exists();
    for path in [&rootfs, &upper, &work] {
        fs::create_dir_all(path)?;
    }
    if is_mount_point(&rootfs)? {
        return Ok(rootfs);
    }
    // The root directory of the container is that of `upper`: it must look like the image's, until the
    // container makes it look otherwise.
    if let Some(top) = layers.last().filter(|_| is_new) {
        copy_root(top, &upper)?;
    }
    let mut lower: Vec<PathBuf> = layers.iter().rev().cloned().collect();
    let mut paths = [upper, work];
    let mut open = Vec::new();
    let readable = options(&lower, &paths);
    let options = match readable {
        Some(options) => options,
        // Too long, or with characters that mean something here: name the directories by descriptor.
        None => {
            for path in lower.iter_mut().chain(paths.iter_mut()) {
                let file = File::open(&*path)?;
                *path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
                open.push(file);
            }
            options(&lower, &paths).ok_or(io::ErrorKind::ArgumentListTooLong)?
        }
    };
    mount(
        Some("overlay"),
        &rootfs,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    Ok(rootfs)
}

fn options(lower: &[PathBuf], [upper, work]: &[PathBuf; 2]) -> Option<String> {
    let plain = |path: &PathBuf| {
        let text = path.to_str()?;
        (!text.contains([':', ',', '\\', '"'])).then(|| text.to_owned())
    };
    let lower: Vec<String> = lower.iter().map(plain).collect::<Option<_>>()?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off",
        lower.join(":"),
        plain(upper)?,
        plain(work)?
    );
    (options.len() <= MAX_OPTIONS).then_some(options)
}

fn copy_root(from: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::metadata(from)?;
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(to, metadata.permissions())
}

/// Unmounts `dir/rootfs` as often as it is mounted; files still in use there live on until they are closed.
pub(super) fn unmount_overlay(dir: &Path) -> io::Result<()> {
    let rootfs = dir.join("rootfs");
    loop {
        match umount2(&rootfs, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
            Err(e) => return Err(e.into()),
        }
    }
}

/// A mount point is on another device than its parent.
fn is_mount_point(path: &Path) -> io::Result<bool> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    Ok(fs::metadata(path)?.dev() != fs::metadata(parent)?.dev())
}
