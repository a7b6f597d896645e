//! Questions that were taken from the UDP socket and are not answered yet, in memory that outlives the agent: the keeper
//! holds it as it holds the sockets, and the next agent answers what it finds there. An answer that is given twice does
//! no harm.
//!
//! A worker receives into a [`Desk`], where the kernel itself writes that there is something; what has to wait for
//! somebody else is copied to a slot. So there is no moment at which a question is in neither the socket nor here, and
//! taking one costs no system call more than without. Only one agent uses the memory at a time, as with the sockets.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Queries are small; what is longer is no query.
pub(super) const MAX_QUERY: usize = 4096;
/// Workers at most.
pub(super) const DESKS: usize = 4;
/// Questions that may wait for an upstream resolver.
const SLOTS: usize = 4096;
/// Of a question that waits; a longer one, which nobody sends, is not held.
const SLOT_BYTES: usize = 1000;
/// Of everything that is shared here; another one's memory is not read.
const FORMAT: u64 = 0x7761_6767_6c65_0001;

#[repr(C)]
struct Shared {
    format: u64,
    desks: [DeskPart; DESKS],
    slots: [Slot; SLOTS],
}

/// What one call of recvmmsg(2) fills.
#[repr(C)]
struct DeskPart {
    /// Its length is not zero when there is a question that was not finished.
    message: libc::mmsghdr,
    from: libc::sockaddr_storage,
    bytes: [u8; MAX_QUERY],
}

#[repr(C)]
struct Slot {
    /// 0: free. Written last when a slot is filled.
    length: u32,
    v4: u32,
    address: [u8; 16],
    port: u16,
    padding: u16,
    scope: u32,
    bytes: [u8; SLOT_BYTES],
}

/// The memory, by its descriptor: to be handed on, and to be used by one server at a time.
#[derive(Debug)]
pub struct Questions(OwnedFd);

impl Questions {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: a string of ours; the result is checked.
        let memory = unsafe { libc::memfd_create(c"dns-questions".as_ptr(), libc::MFD_CLOEXEC) };
        if memory < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let memory = unsafe { OwnedFd::from_raw_fd(memory) };
        nix::unistd::ftruncate(&memory, size_of::<Shared>() as i64)?;
        Ok(Self(memory))
    }

    /// What somebody gave us, if it is such memory.
    pub(super) fn adopt(memory: OwnedFd) -> Option<Self> {
        let size = nix::sys::stat::fstat(&memory).ok()?.st_size;
        (size == size_of::<Shared>() as i64).then_some(Self(memory))
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// For use in this process.
    pub(super) fn open(&self) -> io::Result<Ledger> {
        // SAFETY: a new mapping of a file of that size, at an address of the kernel's choice.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                size_of::<Shared>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.0.as_raw_fd(),
                0,
            )
        };
        let shared = match NonNull::new(start) {
            Some(start) if start.as_ptr() != libc::MAP_FAILED => start.cast::<Shared>(),
            _ => return Err(io::Error::last_os_error()),
        };
        let ledger = Ledger(Arc::new(Mapping {
            shared,
            free: Mutex::new(Vec::new()),
        }));
        ledger.begin();
        Ok(ledger)
    }
}

impl From<Questions> for OwnedFd {
    fn from(questions: Questions) -> Self {
        questions.0
    }
}

#[derive(Debug)]
struct Mapping {
    shared: NonNull<Shared>,
    /// Slots; the one that was used last is used next, so that few are ever touched.
    free: Mutex<Vec<u16>>,
}

// SAFETY: a desk belongs to the one worker that took it, a slot to whom it was given from the list of free ones.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our mapping, to which nothing refers any more.
        unsafe { libc::munmap(self.shared.as_ptr().cast(), size_of::<Shared>()) };
    }
}

impl Mapping {
    fn free(&self) -> MutexGuard<'_, Vec<u16>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn desk(&self, index: usize) -> *mut DeskPart {
        // SAFETY: within the mapping; no reference is made.
        unsafe {
            (&raw mut (*self.shared.as_ptr()).desks)
                .cast::<DeskPart>()
                .add(index % DESKS)
        }
    }

    fn slot(&self, index: u16) -> *mut Slot {
        let index = usize::from(index) % SLOTS;
        // SAFETY: within the mapping; no reference is made.
        unsafe {
            (&raw mut (*self.shared.as_ptr()).slots)
                .cast::<Slot>()
                .add(index)
        }
    }
}

/// The memory, mapped.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Arc<Mapping>);

/// A question, and who asked.
pub(super) type Asked = (Vec<u8>, SocketAddr);

impl Ledger {
    /// Empties memory that is new or of another kind; knows which slots are free.
    fn begin(&self) {
        let shared = self.0.shared.as_ptr();
        // SAFETY: within the mapping, which nobody else uses.
        unsafe {
            if (&raw const (*shared).format).read_volatile() != FORMAT {
                shared.write_bytes(0, 1);
                (&raw mut (*shared).format).write_volatile(FORMAT);
            }
        }
        let free = (0..SLOTS as u16).rev().filter(|index| {
            // SAFETY: as above.
            unsafe { (&raw const (*self.0.slot(*index)).length).read_volatile() == 0 }
        });
        *self.0.free() = free.collect();
    }

    /// What an earlier agent left. It stays here until it is answered.
    pub(super) fn left(&self) -> Vec<(Asked, Option<Held>)> {
        let mut left = Vec::new();
        for index in 0..DESKS {
            let desk = Desk::at(self, index);
            if let Some((query, from)) = desk.content() {
                left.push(((query.to_vec(), from), self.hold(query, from)));
            }
        }
        for index in 0..SLOTS as u16 {
            let is_free = self.0.free().contains(&index);
            let known = left.iter().filter_map(|(_, held)| held.as_ref());
            if is_free || known.into_iter().any(|held| held.index == index) {
                continue;
            }
            let held = Held {
                ledger: self.clone(),
                index,
            };
            // What cannot be read is given back.
            if let Some(asked) = held.content() {
                left.push((asked, Some(held)));
            }
        }
        left
    }

    /// A place for one worker to receive at.
    pub(super) fn desk(&self, index: usize) -> Desk {
        let desk = Desk::at(self, index);
        desk.clear();
        desk
    }

    /// Keeps a question until what is returned is dropped; nothing if there is no room.
    pub(super) fn hold(&self, query: &[u8], from: SocketAddr) -> Option<Held> {
        if query.is_empty() || query.len() > SLOT_BYTES {
            return None;
        }
        let index = self.0.free().pop()?;
        let slot = self.0.slot(index);
        let (v4, address, scope) = match from {
            SocketAddr::V4(from) => (1, from.ip().to_ipv6_mapped().octets(), 0),
            SocketAddr::V6(from) => (0, from.ip().octets(), from.scope_id()),
        };
        // SAFETY: the slot is within the mapping and was given to us alone; the query fits.
        unsafe {
            (&raw mut (*slot).v4).write_volatile(v4);
            (&raw mut (*slot).address).write_volatile(address);
            (&raw mut (*slot).port).write_volatile(from.port());
            (&raw mut (*slot).scope).write_volatile(scope);
            let bytes = (&raw mut (*slot).bytes).cast::<u8>();
            bytes.copy_from_nonoverlapping(query.as_ptr(), query.len());
            std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::Release);
            (&raw mut (*slot).length).write_volatile(query.len() as u32);
        }
        Some(Held {
            ledger: self.clone(),
            index,
        })
    }
}

/// A question that waits for its answer; dropping it is to have answered.
#[derive(Debug)]
pub(super) struct Held {
    ledger: Ledger,
    index: u16,
}

impl Held {
    fn content(&self) -> Option<Asked> {
        let slot = self.ledger.0.slot(self.index);
        // SAFETY: within the mapping, and ours.
        let (length, v4, address, port, scope) = unsafe {
            (
                (&raw const (*slot).length).read_volatile() as usize,
                (&raw const (*slot).v4).read_volatile(),
                (&raw const (*slot).address).read_volatile(),
                (&raw const (*slot).port).read_volatile(),
                (&raw const (*slot).scope).read_volatile(),
            )
        };
        if length == 0 || length > SLOT_BYTES {
            return None;
        }
        let ip = Ipv6Addr::from(address);
        let from = match ip.to_ipv4_mapped() {
            Some(ip) if v4 == 1 => SocketAddr::from((ip, port)),
            _ => SocketAddr::V6(SocketAddrV6::new(ip, port, 0, scope)),
        };
        // SAFETY: `length` bytes of the slot, which is ours.
        let bytes = unsafe {
            let bytes = (&raw const (*slot).bytes).cast::<u8>();
            std::slice::from_raw_parts(bytes, length).to_vec()
        };
        Some((bytes, from))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let slot = self.ledger.0.slot(self.index);
        // SAFETY: within the mapping, and ours until it is in the list.
        unsafe { (&raw mut (*slot).length).write_volatile(0) };
        self.ledger.0.free().push(self.index);
    }
}

/// Where a worker receives.
#[derive(Debug)]
pub(super) struct Desk {
    ledger: Ledger,
    part: *mut DeskPart,
}

// SAFETY: it points into the ledger's mapping, which it keeps, and is used by one worker.
unsafe impl Send for Desk {}

impl Desk {
    fn at(ledger: &Ledger, index: usize) -> Self {
        Self {
            part: ledger.0.desk(index),
            ledger: ledger.clone(),
        }
    }

    /// Receives one datagram; until [`Self::clear`] it is not lost whatever happens to this process.
    pub(super) fn receive(&mut self, socket: RawFd) -> io::Result<()> {
        let part = self.part;
        let mut room = libc::iovec {
            // SAFETY: within the mapping, and ours.
            iov_base: unsafe { (&raw mut (*part).bytes).cast() },
            iov_len: MAX_QUERY,
        };
        // SAFETY: all of it is within the mapping, and ours; zero is a value of these. The pointers that the kernel
        // gets live through the call.
        let received = unsafe {
            let mut message: libc::mmsghdr = std::mem::zeroed();
            message.msg_hdr.msg_name = (&raw mut (*part).from).cast();
            message.msg_hdr.msg_namelen = size_of::<libc::sockaddr_storage>() as libc::socklen_t;
            message.msg_hdr.msg_iov = &raw mut room;
            message.msg_hdr.msg_iovlen = 1;
            (&raw mut (*part).message).write_volatile(message);
            libc::recvmmsg(
                socket,
                &raw mut (*part).message,
                1,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        match received {
            1 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The question and who asked it, if there is one.
    pub(super) fn content(&self) -> Option<(&[u8], SocketAddr)> {
        let part = self.part;
        // SAFETY: within the mapping, and ours.
        let (length, from) = unsafe {
            (
                (&raw const (*part).message.msg_len).read_volatile() as usize,
                (&raw const (*part).from).read_volatile(),
            )
        };
        if length == 0 || length > MAX_QUERY {
            return None;
        }
        // SAFETY: `length` bytes, which nobody writes before the next `receive`, for which this borrow must end.
        let query =
            unsafe { std::slice::from_raw_parts((&raw const (*part).bytes).cast(), length) };
        Some((query, address(&from)?))
    }

    /// It is answered, or held elsewhere.
    pub(super) fn clear(&self) {
        // SAFETY: within the mapping, and ours.
        unsafe { (&raw mut (*self.part).message.msg_len).write_volatile(0) };
        let _ = &self.ledger;
    }
}

fn address(from: &libc::sockaddr_storage) -> Option<SocketAddr> {
    let at = std::ptr::from_ref(from);
    match i32::from(from.ss_family) {
        libc::AF_INET => {
            // SAFETY: of this family; the storage is as large and as well aligned as any address.
            let from = unsafe { at.cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
            Some((ip, u16::from_be(from.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let from = unsafe { at.cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(from.sin6_addr.s6_addr);
            let port = u16::from_be(from.sin6_port);
            Some(SocketAddrV6::new(ip, port, 0, from.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
