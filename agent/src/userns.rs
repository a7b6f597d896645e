//! User namespaces of pods (`hostUsers: false`), and mounts that show files as owned by a pod's users.
//!
//! A pod's user namespace is the one that owns its network namespace: kept alive by that one's bind mount, so there is
//! nothing of its own to keep, to find again or to remove. Mounts are mapped by the kernel (idmapped mounts, since 5.12;
//! below overlayfs since 5.19; tmpfs since 6.3), before runc sees them: runc can do that itself only from 1.2 on.
//!
//! Deliberately not here: which pod has which ids; that is `pods`'.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

pub(crate) use agent_supervisor::userns::owner;

/// Ids that a pod has of its own.
pub(crate) const RANGE: u32 = 65_536;

/// A pod's user namespace: its users and groups 0 to [`RANGE`] are those from `first_id` on outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserNamespace {
    pub(crate) first_id: u32,
    /// Of the network namespace that it owns.
    pub(crate) netns: PathBuf,
}

impl UserNamespace {
    pub(crate) fn open(&self) -> io::Result<OwnedFd> {
        owner(&self.netns)
    }

    /// The owner outside of what `id` owns inside.
    pub(crate) fn outside(&self, id: u32) -> u32 {
        if id < RANGE { self.first_id + id } else { id }
    }
}

/// Makes a user namespace and a network namespace in it, and mounts the latter on `path`, which is there.
pub(crate) fn create_with_network(first_id: u32, path: &Path) -> io::Result<()> {
    let pid = start_holder()?;
    let process = PathBuf::from(format!("/proc/{pid}"));
    let map = format!("0 {first_id} {RANGE}");
    let made = std::fs::write(process.join("uid_map"), &map)
        .and_then(|()| std::fs::write(process.join("gid_map"), &map))
        .and_then(|()| {
            let network = process.join("ns/net");
            mount(
                Some(&network),
                path,
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )
            .map_err(io::Error::from)
        });
    // It is a child that nobody else reaps, so the id is still its own.
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    let _ = waitpid(pid, None);
    made
}

/// A child in namespaces of its own that does nothing; it ends with the thread that made it.
fn start_holder() -> io::Result<Pid> {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::SIGCHLD;
    // SAFETY: without a stack of its own and without shared memory this is a fork. Other threads of this process do not
    // exist in the child, which therefore calls nothing but the kernel.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        0 => {
            // SAFETY: calls of the kernel that take numbers only; nobody uses the descriptors here.
            unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                libc::close_range(0, libc::c_uint::MAX, 0);
                loop {
                    libc::pause();
                }
            }
        }
        1.. => Ok(Pid::from_raw(i32::try_from(pid).map_err(io::Error::other)?)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// What cannot be done with a mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) read_only: bool,
    /// What is mounted below is read-only, too.
    pub(crate) recursive_read_only: bool,
    /// Programs in it cannot be run.
    pub(crate) no_exec: bool,
}

/// Mounts `source`, a directory or a file, at `target`, with owners shown as those of `users`. What is mounted below
/// `source` is there too, with its owners as they are.
pub(crate) fn mount_mapped(
    source: &Path,
    target: &Path,
    limits: Limits,
    users: BorrowedFd<'_>,
) -> io::Result<()> {
    let clone = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    let flags = clone | libc::AT_RECURSIVE as libc::c_uint;
    let (from, to) = (text(source)?, text(target)?);
    // SAFETY: a path that ends with a zero, and numbers.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, from.as_ptr(), flags) };
    let fd = i32::try_from(checked(fd)?).map_err(io::Error::other)?;
    // SAFETY: the kernel just gave it to us.
    let tree = unsafe { OwnedFd::from_raw_fd(fd) };
    // What is unmounted here must not be unmounted where it came from.
    let apart = libc::mount_attr {
        attr_set: 0,
        attr_clr: 0,
        propagation: libc::MS_SLAVE,
        userns_fd: 0,
    };
    set_attributes(&tree, libc::AT_RECURSIVE, &apart)?;
    let attribute = |wanted: bool, attribute: u64| if wanted { attribute } else { 0 };
    let access = attribute(limits.read_only, libc::MOUNT_ATTR_RDONLY)
        | attribute(limits.no_exec, libc::MOUNT_ATTR_NOEXEC);
    let mapped = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP | access,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(users.as_raw_fd()).map_err(io::Error::other)?,
    };
    set_attributes(&tree, 0, &mapped).map_err(|error| match error.raw_os_error() {
        Some(libc::EINVAL) => io::Error::new(
            io::ErrorKind::Unsupported,
            format!(
                "the file system of {} cannot show files as owned by a pod's users (idmapped mounts)",
                source.display()
            ),
        ),
        _ => error,
    })?;
    if limits.recursive_read_only {
        let read_only = libc::mount_attr {
            attr_set: libc::MOUNT_ATTR_RDONLY,
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        set_attributes(&tree, libc::AT_RECURSIVE, &read_only)?;
    }
    // SAFETY: a descriptor that is open and two paths that end with a zero.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            to.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    checked(result).map(drop)
}

fn set_attributes(
    tree: &OwnedFd,
    flags: libc::c_int,
    attributes: &libc::mount_attr,
) -> io::Result<()> {
    // SAFETY: descriptors that are open, an empty path, and a structure of the size that is given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | flags,
            std::ptr::from_ref(attributes),
            size_of::<libc::mount_attr>(),
        )
    };
    checked(result).map(drop)
}

/// Takes away what [`mount_mapped`] mounted and the place that it was mounted on. Idempotent; never follows into what
/// is mounted.
pub(crate) fn unmount_mapped(target: &Path) -> io::Result<()> {
    loop {
        match umount2(target, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => {}
            Err(Errno::EINVAL | Errno::ENOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let removed = match target.symlink_metadata() {
        Ok(facts) if facts.is_dir() => std::fs::remove_dir(target),
        Ok(_) => std::fs::remove_file(target),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Processes of a pod's users get at `path` by name: no directory on the way is closed to others.
///
/// # Errors
/// Names the first one that is.
pub(crate) fn check_open(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mut directories: Vec<&Path> = path.ancestors().skip(1).collect();
    directories.reverse();
    for directory in directories {
        let mode = std::fs::metadata(directory)?.permissions().mode();
        if mode & 0o001 == 0 {
            let message = format!(
                "a pod's users cannot get through {} (mode {:04o}; `chmod o+x` lets them)",
                directory.display(),
                mode & 0o7777
            );
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
        }
    }
    Ok(())
}

fn text(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn checked(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use std::fs::File;

    use super::*;

    #[test]
    fn files_are_shown_as_the_pods_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        File::create(at("netns")).unwrap();
        create_with_network(5 * RANGE, &at("netns")).unwrap();
        let users = UserNamespace {
            first_id: 5 * RANGE,
            netns: at("netns"),
        };
        let open = users.open().unwrap();
        std::fs::create_dir(at("data")).unwrap();
        std::fs::write(at("data/file"), "honey").unwrap();
        std::os::unix::fs::chown(at("data/file"), Some(7), Some(8)).unwrap();
        std::fs::create_dir(at("seen")).unwrap();
        std::fs::write(at("one"), "").unwrap();
        let read_only = Limits {
            read_only: true,
            ..Limits::default()
        };
        mount_mapped(&at("data"), &at("seen"), read_only, open.as_fd()).unwrap();
        mount_mapped(
            &at("data/file"),
            &at("one"),
            Limits::default(),
            open.as_fd(),
        )
        .unwrap();
        for name in ["seen/file", "one"] {
            let facts = at(name).metadata().unwrap();
            let shown = (facts.uid(), facts.gid());
            assert_eq!(shown, (users.outside(7), users.outside(8)), "{name}");
        }
        let error = mount_mapped(
            Path::new("/proc"),
            &at("seen"),
            Limits::default(),
            open.as_fd(),
        );
        let error = error.unwrap_err();
        assert!(error.to_string().contains("of /proc cannot"), "{error}");
        // Whoever removes a directory with such a mount in it does no harm.
        std::fs::remove_dir_all(at("seen")).unwrap_err();
        for name in ["seen", "one", "seen"] {
            unmount_mapped(&at(name)).unwrap();
            assert!(!at(name).exists(), "{name}");
        }
        assert_eq!(std::fs::read(at("data/file")).unwrap(), b"honey");
        unmount_mapped(&at("netns")).unwrap();
    }

    #[test]
    fn a_closed_directory_on_the_way_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("a/b");
        std::fs::create_dir_all(&inner).unwrap();
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o700)).unwrap();
        let error = check_open(&inner).unwrap_err();
        assert!(error.to_string().contains("0700"), "{error}");
        std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o711)).unwrap();
        check_open(&inner).unwrap();
    }
}
