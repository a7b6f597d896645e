//! The controlling side of a pseudo-terminal.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

nix::ioctl_write_ptr_bad!(set_size, libc::TIOCSWINSZ, libc::winsize);

/// Shared by who reads and who writes.
#[derive(Debug, Clone)]
pub(crate) struct Terminal(Arc<AsyncFd<File>>);

impl Terminal {
    pub(super) fn new(descriptor: OwnedFd) -> io::Result<Self> {
        fcntl(&descriptor, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let file = File::from(descriptor);
        // SAFETY: the file owns its descriptor, which stays the same and open until the registration is dropped.
        let registered = unsafe { AsyncFd::register(file) }?;
        Ok(Self(Arc::new(registered)))
    }

    /// 0 when no process has it any more. Cancel-safe.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self
            .0
            .async_io(Interest::READABLE, |mut file| file.read(buffer))
            .await;
        hung_up(read)
    }

    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        hung_up(self.0.get_ref().read(buffer))
    }

    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let write = |mut file: &File| file.write(bytes);
            let length = self.0.async_io(Interest::WRITABLE, write).await?;
            bytes = &bytes[length..];
        }
        Ok(())
    }

    pub(crate) fn resize(&self, columns: u16, rows: u16) -> io::Result<()> {
        let size = libc::winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        // SAFETY: the descriptor is open and the structure lives for the call, which only reads it.
        unsafe { set_size(self.0.get_ref().as_raw_fd(), &raw const size) }?;
        Ok(())
    }
}

fn hung_up(read: io::Result<usize>) -> io::Result<usize> {
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(0),
        other => other,
    }
}
