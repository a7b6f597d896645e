//! Overlay mounts of an image's layers.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::userns::{self, UserNamespace};

/// mount(2) takes one page of options; some of it is for ourselves.
const MAX_OPTIONS: usize = 3900;
/// Where layers are mounted with other owners while an overlay is made of them.
const LOWER: &str = "lower";

/// Mounts `layers` (lowest first) with `dir/upper` above them at `dir/rootfs`, unless that is done. With `users` all
/// files belong to them.
pub(super) fn mount_overlay(
    layers: &[PathBuf],
    dir: &Path,
    users: Option<&UserNamespace>,
) -> io::Result<PathBuf> {
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
        copy_root(top, &upper, users)?;
    }
    let Some(users) = users else {
        overlay(layers, [upper, work], &rootfs)?;
        return Ok(rootfs);
    };
    // The overlay clones the layers' mounts: these here are needed only while it is made.
    let mapped = Mapped::new(layers, &dir.join(LOWER), users)?;
    overlay(&mapped.layers, [upper, work], &rootfs)?;
    Ok(rootfs)
}

/// Mounts of layers with other owners, gone with this.
struct Mapped {
    parent: PathBuf,
    layers: Vec<PathBuf>,
}

impl Mapped {
    fn new(layers: &[PathBuf], parent: &Path, users: &UserNamespace) -> io::Result<Self> {
        let users = users.open()?;
        let mut this = Self {
            parent: parent.to_owned(),
            layers: Vec::new(),
        };
        for (index, layer) in layers.iter().enumerate() {
            let at = parent.join(index.to_string());
            // Of an agent that died here.
            userns::unmount_mapped(&at)?;
            fs::create_dir_all(&at)?;
            this.layers.push(at.clone());
            // Read-only: nobody who cleans up here removes an image's files.
            userns::mount_mapped(layer, &at, true, users.as_fd())?;
        }
        Ok(this)
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        for at in &self.layers {
            if let Err(error) = userns::unmount_mapped(at) {
                tracing::warn!(at = %at.display(), %error, "a mapped layer stays mounted");
            }
        }
        let _ = fs::remove_dir(&self.parent);
    }
}

fn overlay(layers: &[PathBuf], mut paths: [PathBuf; 2], rootfs: &Path) -> io::Result<()> {
    let mut lower: Vec<PathBuf> = layers.iter().rev().cloned().collect();
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
        rootfs,
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )?;
    Ok(())
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

fn copy_root(from: &Path, to: &Path, users: Option<&UserNamespace>) -> io::Result<()> {
    let metadata = fs::metadata(from)?;
    let owner = |id: u32| users.map_or(id, |users| users.outside(id));
    let (uid, gid) = (owner(metadata.uid()), owner(metadata.gid()));
    std::os::unix::fs::chown(to, Some(uid), Some(gid))?;
    fs::set_permissions(to, metadata.permissions())
}

/// Unmounts `dir/rootfs` as often as it is mounted; files still in use there live on until they are closed.
pub(super) fn unmount_overlay(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir.join(LOWER)).into_iter().flatten() {
        userns::unmount_mapped(&entry?.path())?;
    }
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
