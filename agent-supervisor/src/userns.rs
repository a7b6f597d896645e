//! Whose a namespace is.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// The user namespace that owns the namespace at `path`.
///
/// # Errors
/// When there is no namespace at `path`, or it is not for this process to see.
pub fn owner(path: &Path) -> io::Result<OwnedFd> {
    /// `_IO(0xb7, 0x1)`, see ioctl_nsfs(2); since Linux 4.9.
    const NS_GET_USERNS: libc::c_ulong = 0xb701;
    let namespace = File::open(path)?;
    // SAFETY: the request takes no argument and returns a new descriptor.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS as _) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just gave it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
