//! The first process of the namespace of process ids that a pod's containers share: it is there as long as the
//! supervisor is, and takes over whatever loses its parent.

use std::io;

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
