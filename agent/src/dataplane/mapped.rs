//! Arrays of the kernel's that user space sees in its own memory: looking through one takes no system call per element.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};
use std::ptr::NonNull;

use agent_ebpf::layout::Plain;

/// A whole array (`BPF_F_MMAPABLE`, Linux 5.5), readable. Programs go on writing to it.
#[derive(Debug)]
pub(crate) struct Mapped<V> {
    start: NonNull<V>,
    entries: usize,
}

impl<V: Plain> Mapped<V> {
    /// # Errors
    /// When the array is not of that kind (an older binary's), or there is no room.
    pub(crate) fn new(map: BorrowedFd<'_>, entries: usize) -> io::Result<Self> {
        // Elements lie one behind the other only if their size needs no rounding.
        const { assert!(size_of::<V>().is_multiple_of(8)) };
        // SAFETY: a new mapping, at an address of the kernel's choice, that nobody else knows.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                entries * size_of::<V>(),
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                map.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => Ok(Self {
                start: start.cast(),
                entries,
            }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Copies of all elements. One that is written meanwhile may be of before and of after in parts.
    pub(crate) fn values(&self) -> impl Iterator<Item = V> + '_ {
        (0..self.entries).map(|index| {
            // SAFETY: within the mapping, which begins at a page; any bit pattern is a value (`Plain`). Volatile,
            // since programs write it at any time.
            unsafe { self.start.add(index).read_volatile() }
        })
    }
}

impl<V> Drop for Mapped<V> {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, to which nothing refers any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.entries * size_of::<V>()) };
    }
}
