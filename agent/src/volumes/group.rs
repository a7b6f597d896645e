//! A volume that was there before its pod becomes its `fsGroup`'s: all files in it, or only where its root is not yet.
//!
//! Others may write to the volume meanwhile, so no link is followed and nothing is named by a path that they could
//! change: each file is opened below the volume's root first.

use std::fs::{File, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat2};
use nix::unistd::{Gid, fchownat};

/// What the group may do at least: read and write, and enter directories, whose files are the group's in turn.
const FILE: u32 = 0o660;
const DIRECTORY: u32 = 0o2770;

/// Gives the volume at `root` to `group`; with `on_mismatch` alone only if its root is not as it would be.
pub(crate) fn give(root: &Path, group: u32, on_mismatch: bool) -> io::Result<()> {
    let top = File::open(root)?;
    let found = top.metadata()?;
    let fits = found.gid() == group && found.mode() & DIRECTORY == DIRECTORY;
    if on_mismatch && fits {
        return Ok(());
    }
    let mut directories = vec![PathBuf::from(".")];
    while let Some(directory) = directories.pop() {
        let Some(open) = below(&top, &directory)? else {
            continue;
        };
        for entry in std::fs::read_dir(through(&open))? {
            let path = directory.join(entry?.file_name());
            let Some(open) = below(&top, &path)? else {
                continue;
            };
            if one(&open, group)? {
                directories.push(path);
            }
        }
    }
    // Last, so that whoever finds the root as it should be may take the rest for done.
    below(&top, Path::new("."))?.map_or(Ok(()), |open| one(&open, group).map(drop))
}

/// The file itself, were it a link; `None` when it has vanished or something else is in its place.
fn below(top: &File, path: &Path) -> io::Result<Option<File>> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    // Only the last part may be a link: those before it were directories a moment ago.
    match openat2(top.as_fd(), path.as_os_str().as_bytes(), how) {
        Ok(open) => Ok(Some(open.into())),
        Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EXDEV) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether it is a directory.
fn one(open: &File, group: u32) -> io::Result<bool> {
    let found = open.metadata()?;
    let is_link = found.is_symlink();
    fchownat(
        open,
        "",
        None,
        Some(Gid::from_raw(group)),
        AtFlags::AT_EMPTY_PATH,
    )?;
    if !is_link {
        let more = if found.is_dir() { DIRECTORY } else { FILE };
        let mode = found.mode() & 0o7777 | more;
        std::fs::set_permissions(through(open), Permissions::from_mode(mode))?;
    }
    Ok(found.is_dir())
}

/// A name that leads to what is open, whatever has become of its own.
fn through(open: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn all_of_a_volume_is_the_groups_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        std::fs::create_dir_all(at("v/deep/er")).unwrap();
        std::fs::create_dir(at("outside")).unwrap();
        std::fs::write(at("outside/f"), "").unwrap();
        std::fs::write(at("v/deep/er/f"), "").unwrap();
        std::fs::set_permissions(at("v/deep/er/f"), Permissions::from_mode(0o4711)).unwrap();
        symlink(at("outside"), at("v/out")).unwrap();
        symlink(at("outside/f"), at("v/deep/file")).unwrap();
        let of = |path: &str| {
            let found = at(path).symlink_metadata().unwrap();
            (found.gid(), found.mode() & 0o7777)
        };
        let outside = (of("outside"), of("outside/f"));
        give(&at("v"), 4321, false).unwrap();
        for path in ["v", "v/deep", "v/deep/er"] {
            assert_eq!(of(path), (4321, 0o2775), "{path}");
        }
        assert_eq!(of("v/deep/er/f"), (4321, 0o4771));
        assert_eq!((of("v/out").0, of("v/deep/file").0), (4321, 4321));
        assert_eq!((of("outside"), of("outside/f")), outside);

        std::fs::write(at("v/later"), "").unwrap();
        std::os::unix::fs::chown(at("v/later"), None, Some(0)).unwrap();
        give(&at("v"), 4321, true).unwrap();
        assert_eq!(of("v/later").0, 0, "the root is as it should be");
        give(&at("v"), 4322, true).unwrap();
        assert_eq!(of("v/later").0, 4322);
        give(&at("none"), 1, true).unwrap_err();
    }
}
