//! Making files below a root that nothing can lead out of.
//!
//! Every parent directory is resolved by `openat2(RESOLVE_IN_ROOT)` (Linux 5.6), so symbolic links that a
//! layer brings along, absolute ones too, lead to places inside the layer; the last component is never
//! followed.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fstat, fstatat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, symlinkat, unlinkat};

/// Owner, mode and time of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) mtime: i64,
    pub(super) mtime_nanos: i64,
}

/// A layer's root, and the roots of the layers below it, topmost first.
pub(super) struct Tree {
    root: OwnedFd,
    below: Vec<OwnedFd>,
    /// The directory that was used last: archives list a directory's entries together.
    last_parent: Option<(PathBuf, OwnedFd)>,
}

/// A directory inside the tree and a name in it.
pub(super) struct Place {
    parent: OwnedFd,
    name: OsString,
}

impl Tree {
    pub(super) fn open(root: &Path, below: &[PathBuf]) -> io::Result<Self> {
        let open = |path: &Path| -> io::Result<OwnedFd> {
            let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            Ok(nix::fcntl::open(path, flags, Mode::empty())?)
        };
        Ok(Self {
            root: open(root)?,
            below: below
                .iter()
                .rev()
                .map(|p| open(p))
                .collect::<io::Result<_>>()?,
            last_parent: None,
        })
    }

    /// The place of `path`, which has normal components only; missing parents are made, looking like
    /// those in the layers below.
    pub(super) fn place(&mut self, path: &Path) -> io::Result<Place> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidFilename))?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok(Place {
            parent: self.parent(parent)?,
            name: name.to_owned(),
        })
    }

    fn parent(&mut self, path: &Path) -> io::Result<OwnedFd> {
        if let Some((last, fd)) = &self.last_parent
            && last == path
        {
            return fd.try_clone();
        }
        let fd = match in_root(&self.root, path) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_parents(path)?,
            Err(e) => return Err(e.into()),
        };
        self.last_parent = Some((path.to_path_buf(), fd.try_clone()?));
        Ok(fd)
    }

    fn make_parents(&self, path: &Path) -> io::Result<OwnedFd> {
        let mut walked = PathBuf::new();
        let mut fd = self.root.try_clone()?;
        for component in path.components() {
            let Component::Normal(name) = component else {
                return Err(io::ErrorKind::InvalidFilename.into());
            };
            walked.push(name);
            fd = match in_root(&self.root, &walked) {
                Ok(next) => next,
                Err(Errno::ENOENT | Errno::ENOTDIR) => self.make_parent(&fd, name, &walked)?,
                Err(e) => return Err(e.into()),
            };
        }
        Ok(fd)
    }

    fn make_parent(&self, dir: &OwnedFd, name: &OsStr, walked: &Path) -> io::Result<OwnedFd> {
        let place = Place {
            parent: dir.try_clone()?,
            name: name.to_owned(),
        };
        // What is in the way (a file, a dangling link, a whiteout) cannot have children.
        let was_whiteout = place.stat()?.is_some_and(|s| is_whiteout(&s));
        place.remove()?;
        let attributes = self
            .attributes_below(walked)
            .unwrap_or(Attributes::DIRECTORY);
        place.make_dir(&attributes)?;
        let fd = place.open_dir()?;
        if was_whiteout {
            set_opaque(&fd)?;
        }
        Ok(fd)
    }

    /// Attributes of a directory as the layers below show it.
    fn attributes_below(&self, path: &Path) -> Option<Attributes> {
        for layer in &self.below {
            let how = OpenHow::new()
                .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
                .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
            let Ok(fd) = openat2(layer, path, how) else {
                continue;
            };
            let stat = fstat(&fd).ok()?;
            // A file or a whiteout hides what lies deeper.
            return (stat.st_mode & libc::S_IFMT == libc::S_IFDIR).then_some(Attributes {
                uid: stat.st_uid,
                gid: stat.st_gid,
                mode: stat.st_mode & 0o7777,
                mtime: stat.st_mtime,
                mtime_nanos: stat.st_mtime_nsec,
            });
        }
        None
    }

    /// Makes the root look like that of the layer below.
    pub(super) fn inherit_root(&self) -> io::Result<()> {
        let attributes = self.attributes_below(Path::new("."));
        dress(&self.root, &attributes.unwrap_or(Attributes::DIRECTORY))
    }

    /// The root itself, as an open directory.
    pub(super) fn root(&self) -> io::Result<OwnedFd> {
        self.root.try_clone()
    }

    /// The directory at `path` as it is now, if it is one.
    pub(super) fn existing_dir(&self, path: &Path) -> io::Result<Option<OwnedFd>> {
        match in_root(&self.root, path) {
            Ok(fd) => Ok(Some(fd)),
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// The directory at `path`, made when it is missing.
    pub(super) fn parent_dir(&mut self, path: &Path) -> io::Result<OwnedFd> {
        self.parent(path)
    }

    /// To be called before a directory is removed: the remembered one may be in it.
    pub(super) fn forget_parent(&mut self) {
        self.last_parent = None;
    }
}

fn in_root(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    openat2(root, path, how)
}

impl Place {
    pub(super) fn stat(&self) -> io::Result<Option<FileStat>> {
        match fstatat(
            &self.parent,
            self.name.as_os_str(),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::ENOENT) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Removes what is there, whole trees too.
    pub(super) fn remove(&self) -> io::Result<()> {
        match unlinkat(
            &self.parent,
            self.name.as_os_str(),
            UnlinkatFlags::NoRemoveDir,
        ) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            // remove_dir_all follows no link; the prefix is the open directory itself.
            Err(Errno::EISDIR) => std::fs::remove_dir_all(self.proc_path()),
            Err(e) => Err(e.into()),
        }
    }

    fn proc_path(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.parent.as_raw_fd())).join(&self.name)
    }

    pub(super) fn make_dir(&self, attributes: &Attributes) -> io::Result<()> {
        mkdirat(&self.parent, self.name.as_os_str(), Mode::S_IRWXU)?;
        self.dress_dir(attributes)
    }

    /// Owner and mode of a directory that is there; its time is set when it is full.
    pub(super) fn dress_dir(&self, attributes: &Attributes) -> io::Result<()> {
        dress(&self.open_dir()?, attributes)
    }

    pub(super) fn open_dir(&self) -> io::Result<OwnedFd> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        Ok(openat(
            &self.parent,
            self.name.as_os_str(),
            flags,
            Mode::empty(),
        )?)
    }

    pub(super) fn create_file(&self) -> io::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        Ok(openat(&self.parent, self.name.as_os_str(), flags, mode)?.into())
    }

    pub(super) fn make_symlink(&self, target: &OsStr, attributes: &Attributes) -> io::Result<()> {
        symlinkat(target, &self.parent, self.name.as_os_str())?;
        self.dress_node(attributes)
    }

    /// A device or FIFO.
    pub(super) fn make_node(
        &self,
        kind: SFlag,
        device: libc::dev_t,
        attributes: &Attributes,
    ) -> io::Result<()> {
        mknodat(
            &self.parent,
            self.name.as_os_str(),
            kind,
            Mode::empty(),
            device,
        )?;
        self.dress_node(attributes)?;
        let mode = Mode::from_bits_truncate(attributes.mode);
        let flag = nix::sys::stat::FchmodatFlags::FollowSymlink;
        // What was just made is no link, and nobody else can reach this directory.
        Ok(nix::sys::stat::fchmodat(
            &self.parent,
            self.name.as_os_str(),
            mode,
            flag,
        )?)
    }

    /// Hides what the layers below have under this name.
    pub(super) fn make_whiteout(&self) -> io::Result<()> {
        let name = self.name.as_os_str();
        Ok(mknodat(
            &self.parent,
            name,
            SFlag::S_IFCHR,
            Mode::empty(),
            0,
        )?)
    }

    pub(super) fn link_from(&self, source: &Place) -> io::Result<()> {
        let (from, to) = (source.name.as_os_str(), self.name.as_os_str());
        Ok(linkat(
            &source.parent,
            from,
            &self.parent,
            to,
            AtFlags::empty(),
        )?)
    }

    fn dress_node(&self, attributes: &Attributes) -> io::Result<()> {
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        let name = self.name.as_os_str();
        fchownat(
            &self.parent,
            name,
            Some(uid),
            Some(gid),
            AtFlags::AT_SYMLINK_NOFOLLOW,
        )?;
        let time = attributes.time();
        utimensat(
            &self.parent,
            name,
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )?;
        Ok(())
    }
}

impl Attributes {
    /// Of a directory that nothing is known of.
    const DIRECTORY: Self = Self {
        uid: 0,
        gid: 0,
        mode: 0o755,
        mtime: 0,
        mtime_nanos: 0,
    };

    pub(super) fn time(&self) -> TimeSpec {
        TimeSpec::new(self.mtime, self.mtime_nanos)
    }
}

pub(super) fn is_whiteout(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFCHR && stat.st_rdev == 0
}

pub(super) fn is_dir(stat: &FileStat) -> bool {
    stat.st_mode & libc::S_IFMT == libc::S_IFDIR
}

/// Owner first: changing it clears set-uid bits and capabilities.
pub(super) fn dress(fd: &impl AsFd, attributes: &Attributes) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    fchown(fd, Some(uid), Some(gid))?;
    nix::sys::stat::fchmod(fd, Mode::from_bits_truncate(attributes.mode))?;
    Ok(())
}

pub(super) fn set_time(fd: &impl AsFd, attributes: &Attributes) -> io::Result<()> {
    let time = attributes.time();
    Ok(nix::sys::stat::futimens(fd, &time, &time)?)
}

/// Makes overlayfs show nothing of this directory's counterparts below.
pub(super) fn set_opaque(fd: &impl AsFd) -> io::Result<()> {
    set_xattr(fd, c"trusted.overlay.opaque".to_owned(), b"y")
}

pub(super) fn set_xattr(fd: &impl AsFd, name: CString, value: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: name is NUL-terminated, value is a valid slice of the given length, fd is open for the call.
    let result =
        unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    Errno::result(result)?;
    Ok(())
}

/// `path` with `.` and the leading slash dropped; `None` when it has `..` or a NUL. Empty is the root.
pub(super) fn normalize(path: &[u8]) -> Option<PathBuf> {
    if path.contains(&0) {
        return None;
    }
    let mut clean = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(path)).components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(clean)
}
