//! The process that keeps what a pod's containers share: the first one of their namespace of process ids, where it takes
//! over whatever loses its parent, and, for a pod with users of its own, of the namespaces that must belong to them. It is
//! there as long as the supervisor is.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use crate::userns;

/// Returns the new process's id.
pub(super) fn start() -> io::Result<u32> {
    let flags = libc::CLONE_NEWPID | libc::SIGCHLD;
    // SAFETY: without a stack of its own and without shared memory this is a fork; this process has one thread, and
    // the child calls nothing but the kernel.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    match pid {
        0 => wait(),
        1.. => u32::try_from(pid).map_err(io::Error::other),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The same in the user namespace that owns the network namespace `netns`, with namespaces for IPC, for the host name
/// and, with `processes`, for process ids that belong to it. Returns the new process's id.
///
/// Entering a user namespace is for good, so a child does it; the process that stays is a child of this one all the same.
pub(super) fn start_for_users(netns: &Path, hostname: &str, processes: bool) -> io::Result<u32> {
    let users = userns::owner(netns)?;
    let hostname = CString::new(hostname)?;
    let (mut told, mut tell) = io::pipe()?;
    // SAFETY: as in `start`; the child calls nothing but the kernel.
    let child = unsafe { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) };
    match child {
        0 => {
            let answer = enter(&users, &hostname, processes);
            // Eight bytes fit into a pipe that nobody has written to.
            let _ = tell.write_all(&answer.to_ne_bytes());
            // SAFETY: ends the process; nothing of it is used afterwards.
            unsafe { libc::_exit(0) }
        }
        1.. => {
            drop(tell);
            let mut answer = [0; 8];
            let read = told.read_exact(&mut answer);
            let child = i32::try_from(child).map_err(io::Error::other)?;
            nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None)?;
            read?;
            match i64::from_ne_bytes(answer) {
                pid @ 1.. => u32::try_from(pid).map_err(io::Error::other),
                error => Err(io::Error::from_raw_os_error(
                    i32::try_from(-error).unwrap_or(libc::EIO),
                )),
            }
        }
        _ => Err(io::Error::last_os_error()),
    }
}

/// The id of the process that stays, or a negative error number. Does not return in that process.
fn enter(users: &OwnedFd, hostname: &CString, processes: bool) -> i64 {
    let failed = || {
        -i64::from(
            io::Error::last_os_error()
                .raw_os_error()
                .unwrap_or(libc::EIO),
        )
    };
    // SAFETY: calls of the kernel with an open descriptor, numbers, and a text with its length. The user's own calls are
    // made directly: there is one thread.
    unsafe {
        if libc::setns(users.as_raw_fd(), libc::CLONE_NEWUSER) < 0
            || libc::syscall(libc::SYS_setgroups, 0, 0) < 0
            || libc::syscall(libc::SYS_setresgid, 0, 0, 0) < 0
            || libc::syscall(libc::SYS_setresuid, 0, 0, 0) < 0
        {
            return failed();
        }
        let own = if processes { libc::CLONE_NEWPID } else { 0 };
        let flags = libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | own | libc::CLONE_PARENT;
        let flags = flags | libc::SIGCHLD;
        match libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) {
            0 => {
                libc::sethostname(hostname.as_ptr(), hostname.as_bytes().len());
                wait()
            }
            pid @ 1.. => pid,
            _ => failed(),
        }
    }
}

/// Signals from inside do nothing to a first process that does not ask for them.
fn wait() -> ! {
    // SAFETY: calls of the kernel that take numbers and one static string only. The descriptors that are closed
    // (the supervisor's lock among them) are used by nobody here.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::prctl(libc::PR_SET_NAME, c"pause".as_ptr());
        libc::close_range(0, libc::c_uint::MAX, 0);
        // Children that nobody waits for do not stay.
        libc::signal(libc::SIGCHLD, libc::SIG_IGN);
        loop {
            libc::pause();
        }
    }
}
