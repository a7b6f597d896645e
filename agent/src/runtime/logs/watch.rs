//! Waiting for a directory's files to be written, made or renamed (inotify).

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A watch that is set up and not yet waited on.
#[derive(Debug)]
pub(super) struct Watch(File);

impl Watch {
    pub(super) fn new(dir: &Path) -> io::Result<Self> {
        // SAFETY: takes flags, gives a new descriptor or -1.
        let fd = unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let path = CString::new(dir.as_os_str().as_bytes())?;
        let events = libc::IN_MODIFY | libc::IN_CREATE | libc::IN_MOVED_TO | libc::IN_DELETE;
        // SAFETY: the descriptor is open, and the path a C string that outlives the call.
        if unsafe { libc::inotify_add_watch(fd.as_raw_fd(), path.as_ptr(), events) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(File::from(fd)))
    }

    pub(super) fn register(self) -> io::Result<Changes> {
        // SAFETY: the file owns its descriptor, which stays the same open one until it is dropped.
        let fd = unsafe { AsyncFd::register_with_interest(self.0, Interest::READABLE) }?;
        Ok(Changes(fd))
    }
}

#[derive(Debug)]
pub(super) struct Changes(AsyncFd<File>);

impl Changes {
    /// Forgets what has happened so far.
    pub(super) fn drain(&mut self) {
        let mut buffer = [0; 4096];
        while matches!(self.0.get_mut().read(&mut buffer), Ok(1..)) {}
    }

    /// Returns when something has happened since it was last forgotten. Cancel-safe.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let mut ready = self.0.readable_mut().await?;
            match ready.try_io(|file| file.get_mut().read(&mut buffer)) {
                Ok(result) => return result.map(|_| ()),
                Err(_would_block) => {}
            }
        }
    }
}
