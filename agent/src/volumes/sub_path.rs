//! A path inside a volume that a container may write to at any time: links in it must not lead outside, whenever they
//! are made. So the path is walked by open files, and what is found is mounted where nobody can put anything else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, mkdirat};

use crate::userns;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SubPathError {
    #[error("subPath {0:?} leaves the volume")]
    Outside(String),
    #[error("subPath {path:?}: {source}")]
    Io { path: String, source: io::Error },
}

/// Mounts what `sub` names inside `volume` on `target`, which is made. What is mounted below it is there, too.
pub(crate) fn mount_at(volume: &Path, sub: &str, target: &Path) -> Result<(), SubPathError> {
    let found = open(volume, sub)?;
    bind(&found, target).map_err(|source| SubPathError::Io {
        path: sub.to_owned(),
        source,
    })
}

/// Takes away all mounts in `place` that [`mount_at`] made, and the place. Idempotent.
pub(crate) fn unmount_all(place: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(place) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        userns::unmount_mapped(&entry?.path())?;
    }
    std::fs::remove_dir(place)
}

/// What `sub` names inside `volume`, opened as a place only; made as a directory with the volume's own mode when it is
/// not there: whoever may write to the volume may write to what is mounted of it.
pub(crate) fn open(volume: &Path, sub: &str) -> Result<File, SubPathError> {
    let outside = || SubPathError::Outside(sub.to_owned());
    let io = |source| SubPathError::Io {
        path: sub.to_owned(),
        source,
    };
    let root = volume.canonicalize().map_err(io)?;
    let top = File::open(&root).map_err(io)?;
    let permissions = top.metadata().map_err(io)?.permissions();
    let mut at = inside(&top, Path::new(".")).map_err(io)?;
    for part in Path::new(sub).components() {
        let name = match part {
            Component::Normal(name) => Path::new(name),
            Component::CurDir => continue,
            _ => return Err(outside()),
        };
        at = match inside(&at, name) {
            Ok(next) if next.metadata().map_err(io)?.is_symlink() => {
                // A dangling link counts as leading outside: nothing is made through it.
                let real = name_of(&at).join(name).canonicalize();
                let real = real.map_err(|_| outside())?;
                let below = real.strip_prefix(&root).map_err(|_| outside())?;
                followed(&top, below).map_err(|_| outside())?
            }
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                make(&at, name, permissions.clone()).map_err(io)?
            }
            Err(error) => return Err(io(error)),
        };
    }
    Ok(at)
}

/// The file itself, were it a link.
fn inside(directory: &File, name: &Path) -> io::Result<File> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    Ok(openat2(directory.as_fd(), name.as_os_str().as_bytes(), how)?.into())
}

/// Where a link was found to lead, with no other one on the way.
fn followed(top: &File, below: &Path) -> io::Result<File> {
    let path = Path::new(".").join(below);
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    Ok(openat2(top.as_fd(), path.as_os_str().as_bytes(), how)?.into())
}

fn make(directory: &File, name: &Path, permissions: std::fs::Permissions) -> io::Result<File> {
    match mkdirat(directory, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let made = inside(directory, name)?;
    if !made.metadata()?.is_dir() {
        return Err(Errno::ENOTDIR.into());
    }
    // Not at creation: the process' umask would take bits away.
    std::fs::set_permissions(
        name_of(&made),
        PermissionsExt::from_mode(permissions.mode()),
    )?;
    Ok(made)
}

fn bind(found: &File, target: &Path) -> io::Result<()> {
    if let Some(place) = target.parent() {
        std::fs::create_dir_all(place)?;
    }
    if found.metadata()?.is_dir() {
        std::fs::create_dir(target)?;
    } else {
        File::create(target)?;
    }
    let none = None::<&str>;
    let source = name_of(found);
    mount(
        Some(&source),
        target,
        none,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        none,
    )?;
    // What is unmounted here must not be unmounted where it came from.
    mount(
        none,
        target,
        none,
        MsFlags::MS_SLAVE | MsFlags::MS_REC,
        none,
    )?;
    Ok(())
}

/// A name that leads to what is open, whatever has become of its own.
fn name_of(open: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn path(volume: &Path, sub: &str) -> Result<PathBuf, SubPathError> {
        open(volume, sub).map(|open| std::fs::read_link(name_of(&open)).unwrap())
    }

    #[test]
    fn is_made_with_the_mode_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        for wanted in [0o777, 0o2777, 0o755] {
            let volume = dir.path().join(format!("{wanted:o}"));
            std::fs::create_dir(&volume).unwrap();
            std::fs::set_permissions(&volume, PermissionsExt::from_mode(wanted)).unwrap();
            assert_eq!(mode(&path(&volume, "a/b").unwrap()), wanted);
            assert_eq!(mode(&volume.join("a")), wanted);
        }
    }

    #[test]
    fn stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("nowhere", volume.join("dangling")).unwrap();
        std::fs::create_dir(volume.join("in")).unwrap();
        std::fs::write(volume.join("in/file"), "").unwrap();
        std::os::unix::fs::symlink("in", volume.join("alias")).unwrap();
        std::os::unix::fs::symlink(volume.join("in"), volume.join("whole")).unwrap();
        assert!(path(&volume, "a/b").unwrap().ends_with("v/a/b"));
        assert!(path(&volume, "alias/x").unwrap().ends_with("v/in/x"));
        assert!(path(&volume, "whole/./y").unwrap().ends_with("v/in/y"));
        let file = path(&volume, "alias/file").unwrap();
        assert!(file.ends_with("v/in/file"));
        assert!(matches!(
            open(&volume, "in/file/x"),
            Err(SubPathError::Io { .. })
        ));
        for bad in ["out", "out/passwd", "..", "a/../../x", "/etc", "dangling/x"] {
            assert!(
                matches!(open(&volume, bad), Err(SubPathError::Outside(_))),
                "{bad}"
            );
        }
    }

    /// In a mount namespace of its own, whose mounts are shared as on machines with systemd.
    fn apart(test: impl FnOnce(&Path) + Send + 'static) {
        let run = move || {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
            let dir = tempfile::tempdir().unwrap();
            let none = None::<&str>;
            let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
            mount(none, "/", none, private, none).unwrap();
            mount(Some("t"), dir.path(), Some("tmpfs"), MsFlags::empty(), none).unwrap();
            mount(none, dir.path(), none, MsFlags::MS_SHARED, none).unwrap();
            test(dir.path());
            nix::mount::umount2(dir.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        };
        std::thread::spawn(run).join().unwrap();
    }

    #[test]
    fn what_is_mounted_stays_what_it_was() {
        apart(|dir| {
            let (volume, place) = (dir.join("v"), dir.join("place"));
            std::fs::create_dir_all(volume.join("sub/below")).unwrap();
            std::fs::write(volume.join("file"), "honey").unwrap();
            let none = None::<&str>;
            let below = volume.join("sub/below");
            mount(Some("t"), &below, Some("tmpfs"), MsFlags::empty(), none).unwrap();
            std::fs::write(below.join("deep"), "").unwrap();
            mount_at(&volume, "sub", &place.join("0")).unwrap();
            mount_at(&volume, "file", &place.join("1")).unwrap();
            std::fs::rename(volume.join("sub"), volume.join("was")).unwrap();
            std::os::unix::fs::symlink("/etc", volume.join("sub")).unwrap();
            assert!(place.join("0/below/deep").exists());
            assert!(!place.join("0/passwd").exists());
            assert_eq!(std::fs::read(place.join("1")).unwrap(), b"honey");
            unmount_all(&place).unwrap();
            unmount_all(&place).unwrap();
            assert!(!place.exists());
            assert!(
                volume.join("was/below/deep").exists(),
                "still mounted there"
            );
        });
    }
}
