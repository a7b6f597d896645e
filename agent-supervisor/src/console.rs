//! Terminals: runc makes a container's pseudo-terminal and hands its controlling side over through a socket.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Where one container's terminal is waited for.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: UnixListener,
    /// The directory, by which the socket has a name that is short enough.
    _dir: File,
    path: PathBuf,
}

impl ConsoleSocket {
    pub fn new(dir: &Path) -> io::Result<Self> {
        Self::named(dir, "console.sock")
    }

    pub fn named(dir: &Path, name: &str) -> io::Result<Self> {
        let dir = File::open(dir)?;
        let (own, fd) = (std::process::id(), dir.as_raw_fd());
        // runc finds the directory through this process, whose descriptor stays open meanwhile.
        let path = PathBuf::from(format!("/proc/{own}/fd/{fd}/{name}"));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let listener = UnixListener::bind(&path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            _dir: dir,
            path,
        })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// To wait on; the name stays as long as this value.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// The terminal, which runc has sent before it ended. Never blocks.
    pub fn receive(&self) -> io::Result<OwnedFd> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        let (_, terminal) = receive(stream.as_raw_fd(), &mut [0; 4096])?;
        terminal.ok_or_else(|| io::Error::other("runc sent no terminal"))
    }
}

/// Bytes, and a descriptor if one comes with them.
pub fn receive(socket: RawFd, bytes: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let mut parts = [IoSliceMut::new(bytes)];
    let mut space = cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket, &mut parts, Some(&mut space), flags)?;
    let mut descriptor = None;
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            // SAFETY: the kernel has just made these descriptors for this process.
            let owned = |fd: RawFd| unsafe { OwnedFd::from_raw_fd(fd) };
            // All are taken, so that all but the wanted one are closed.
            let fds: Vec<OwnedFd> = fds.into_iter().map(owned).collect();
            descriptor = descriptor.or(fds.into_iter().next());
        }
    }
    Ok((message.bytes, descriptor))
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // What cannot be removed now goes with the container's bundle.
        let _ = std::fs::remove_file(&self.path);
    }
}
