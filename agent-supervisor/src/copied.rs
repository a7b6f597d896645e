//! A copy of the OCI runtime in memory that nobody can change, which all supervisors have in common.
//!
//! runc and crun let no container reach the file that they are: before they enter one, they copy it or mount it anew, and
//! start themselves a second time from there. When they find that they were started from a sealed copy already, they do
//! not (`is_self_cloned` in `libcontainer/nsenter/cloned_binary.c` of runc 1.1, `dmz/cloned_binary_linux.go` of 1.2 and
//! later), which spares a program start and three mounts for each container. The agent makes the copy, a supervisor
//! begins with it as its standard input. When the program is not the one any more that was copied, it is run itself.

use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{self, Read, Seek};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};

/// Since Linux 6.3: says that it is to be a program, where that may be forbidden to others (`vm.memfd_noexec`).
const MFD_EXEC: libc::c_uint = 0x10;

/// Those that runc looks for, neither fewer nor more.
const SEALS: SealFlag = SealFlag::F_SEAL_SEAL
    .union(SealFlag::F_SEAL_SHRINK)
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// Which file it is, and that it is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
}

impl Identity {
    fn of(file: &Metadata) -> Self {
        Self {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            modified: (file.mtime(), file.mtime_nsec()),
        }
    }
}

/// A program and its copy.
#[derive(Debug)]
pub struct Copied {
    /// As it was found.
    program: PathBuf,
    identity: Identity,
    copy: OwnedFd,
}

impl Copied {
    /// `None` when it is not a program of its own but a script, whose interpreter could not open the copy.
    ///
    /// # Errors
    /// When it cannot be read, or the kernel makes no such file.
    pub fn new(program: &Path) -> io::Result<Option<Self>> {
        let mut file = File::open(program)?;
        let mut magic = [0; 4];
        if file.read(&mut magic)? < magic.len() || magic != *b"\x7fELF" {
            return Ok(None);
        }
        file.rewind()?;
        let identity = Identity::of(&file.metadata()?);
        let mut copy = File::from(sealable()?);
        io::copy(&mut file, &mut copy)?;
        fcntl(&copy, FcntlArg::F_ADD_SEALS(SEALS))?;
        let copy = OwnedFd::from(copy);
        Ok(Some(Self {
            program: program.to_owned(),
            identity,
            copy,
        }))
    }

    /// Whether the program is still the one that was copied.
    pub fn is_current(&self) -> bool {
        std::fs::metadata(&self.program).is_ok_and(|now| Identity::of(&now) == self.identity)
    }

    /// What a process is to run that has this open.
    pub fn path(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.copy.as_raw_fd()).into()
    }

    /// Arguments of a supervisor that begins with it as its standard input.
    pub fn arguments(&self) -> [String; 2] {
        let Identity {
            device,
            inode,
            size,
            modified: (seconds, nanoseconds),
        } = self.identity;
        let text = format!("{device}:{inode}:{size}:{seconds}:{nanoseconds}");
        [FLAG.to_owned(), text]
    }

    /// For a process that is to have it.
    ///
    /// # Errors
    /// When too many files are open.
    pub fn share(&self) -> io::Result<OwnedFd> {
        self.copy.try_clone()
    }

    /// What a supervisor was started with: this program's copy.
    pub(crate) fn inherited(input: impl AsFd, text: &OsStr, program: &Path) -> Option<Self> {
        let mut parts = text.to_str()?.split(':');
        let mut number = || parts.next()?.parse::<i64>().ok();
        let identity = Identity {
            device: u64::try_from(number()?).ok()?,
            inode: u64::try_from(number()?).ok()?,
            size: u64::try_from(number()?).ok()?,
            modified: (number()?, number()?),
        };
        Some(Self {
            program: find(program)?,
            identity,
            copy: input.as_fd().try_clone_to_owned().ok()?,
        })
    }
}

/// Before the text of [`Copied::arguments`].
pub(crate) const FLAG: &str = "--copied-runtime";

fn sealable() -> io::Result<OwnedFd> {
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    let make = |flags| {
        // SAFETY: the name ends with a zero; nothing else is passed.
        match unsafe { libc::memfd_create(c"runc".as_ptr(), flags) } {
            -1 => Err(io::Error::last_os_error()),
            // SAFETY: the kernel has just opened it for us.
            fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        }
    };
    match make(flags | MFD_EXEC) {
        // An older kernel knows no programs that are not.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => make(flags),
        made => made,
    }
}

/// Where a program is that is started by this name.
pub fn find(program: &Path) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return Some(program.to_owned());
    }
    let path = std::env::var_os("PATH")?;
    let mut all = std::env::split_paths(&path).map(|directory| directory.join(program));
    all.find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write;
    use std::os::unix::process::CommandExt;
    use std::process::Command;

    use super::*;

    fn program(dir: &Path) -> PathBuf {
        let path = dir.join("program");
        std::fs::copy("/bin/busybox", &path).unwrap();
        path
    }

    #[test]
    fn the_copy_runs_and_cannot_be_changed() {
        let dir = tempfile::tempdir().unwrap();
        let copied = Copied::new(&program(dir.path())).unwrap().unwrap();
        std::fs::remove_file(dir.path().join("program")).unwrap();
        let mut echo = Command::new(copied.path());
        let output = echo.arg0("busybox").args(["echo", "buzz"]).output();
        assert_eq!(output.unwrap().stdout, b"buzz\n");
        let mut file = File::options().write(true).open(copied.path()).unwrap();
        assert!(file.write_all(b"#!").is_err());
        assert!(file.set_len(1).is_err());
        let seals = fcntl(&copied.copy, FcntlArg::F_GET_SEALS).unwrap();
        assert_eq!(seals, 0xf);
    }

    #[test]
    fn a_program_that_was_replaced_or_changed_is_not_current() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path());
        let copied = Copied::new(&path).unwrap().unwrap();
        assert!(copied.is_current());
        let new = dir.path().join("new");
        std::fs::copy(&path, &new).unwrap();
        std::fs::rename(&new, &path).unwrap();
        assert!(!copied.is_current());

        let copied = Copied::new(&path).unwrap().unwrap();
        std::fs::write(&path, b"\x7fELF, and shorter").unwrap();
        assert!(!copied.is_current());
        std::fs::remove_file(&path).unwrap();
        assert!(!copied.is_current());
    }

    #[test]
    fn a_script_is_not_copied() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("script");
        for text in ["#!/bin/sh\n", "", "\x7fEL"] {
            std::fs::write(&path, text).unwrap();
            assert!(Copied::new(&path).unwrap().is_none(), "{text:?}");
        }
        assert!(Copied::new(&dir.path().join("nothing")).is_err());
    }

    #[test]
    fn what_is_inherited_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = program(dir.path());
        let copied = Copied::new(&path).unwrap().unwrap();
        let [flag, text] = copied.arguments();
        assert_eq!(flag, FLAG);
        let inherited = |text: &str| {
            let input = copied.share().unwrap();
            Copied::inherited(input, OsStr::new(text), &path)
        };
        let same = inherited(&text).unwrap();
        assert_eq!(same.identity, copied.identity);
        assert!(same.is_current());
        let mut echo = Command::new(same.path());
        let output = echo.arg0("busybox").args(["echo", "buzz"]).output();
        assert_eq!(output.unwrap().stdout, b"buzz\n");
        for nonsense in ["", "2:3:4:5", "x:1:1:1:1", "-1:1:1:1:1"] {
            assert!(inherited(nonsense).is_none(), "{nonsense:?}");
        }
    }

    #[test]
    fn a_program_is_found_by_its_name() {
        assert_eq!(find(Path::new("/x/y")), Some("/x/y".into()));
        assert!(find(Path::new("sh")).unwrap().ends_with("bin/sh"));
        assert_eq!(find(Path::new("no-such-program-here")), None);
    }
}
