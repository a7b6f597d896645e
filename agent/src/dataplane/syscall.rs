//! The few bpf(2) commands that aya does not offer: links by raw descriptor (so that one piece of code
//! creates, pins, finds again and updates cgroup and tcx links alike) and maps in batches.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use agent_ebpf::layout::Plain;

const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_MAP_DELETE_ELEM: libc::c_long = 3;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// In the driver, or not at all: behind a socket buffer tc does the same for less.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// `union bpf_attr` is larger on every kernel that we run on; the kernel wants zeroes behind what it knows.
const ATTRIBUTES: usize = 128;

/// Where in the kernel a program is called; the values are `enum bpf_attach_type`'s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum AttachType {
    Connect4 = 10,
    Connect6 = 11,
    SendMsg4 = 14,
    SendMsg6 = 15,
    RecvMsg4 = 19,
    RecvMsg6 = 20,
    GetPeerName4 = 29,
    GetPeerName6 = 30,
    SockRelease = 34,
    Xdp = 37,
    TcxIngress = 46,
    TcxEgress = 47,
}

#[repr(C, align(8))]
struct Attributes([u8; ATTRIBUTES]);

impl Attributes {
    fn new() -> Self {
        Self([0; ATTRIBUTES])
    }
    fn u32(mut self, offset: usize, value: u32) -> Self {
        self.0[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn u64(mut self, offset: usize, value: u64) -> Self {
        self.0[offset..offset + 8].copy_from_slice(&value.to_ne_bytes());
        self
    }
    fn read_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(&self.0[offset..offset + 4]);
        u32::from_ne_bytes(bytes)
    }
    fn call(mut self, command: libc::c_long) -> io::Result<libc::c_long> {
        self.call_again(command)
    }
    /// As [`Self::call`], for commands that answer in the attributes.
    fn call_again(&mut self, command: libc::c_long) -> io::Result<libc::c_long> {
        // SAFETY: the attributes outlive the call; pointers in them are the callers' responsibility.
        let result = unsafe {
            libc::syscall(
                libc::SYS_bpf,
                command,
                self.0.as_mut_ptr(),
                ATTRIBUTES as libc::c_long,
            )
        };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(result)
        }
    }
    fn open(self, command: libc::c_long) -> io::Result<OwnedFd> {
        let descriptor = self.call(command)? as i32;
        // SAFETY: these commands return a new descriptor that nobody else owns.
        Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
    }
}

fn raw(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Attaches a program to a cgroup (by descriptor) or an interface (by index). It stays attached as long as
/// the link's descriptor or a pin of it exists.
pub(crate) fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: AttachType,
) -> io::Result<OwnedFd> {
    let flags = match attach_type {
        AttachType::Xdp => XDP_FLAGS_DRV_MODE,
        _ => 0,
    };
    Attributes::new()
        .u32(0, raw(program))
        .u32(4, target)
        .u32(8, attach_type as u32)
        .u32(12, flags)
        .open(BPF_LINK_CREATE)
}

/// Replaces the program of a link, with no moment in between.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    Attributes::new()
        .u32(0, raw(link))
        .u32(4, raw(program))
        .call(BPF_LINK_UPDATE)
        .map(drop)
}

/// The number of the program that a link calls.
pub(crate) fn link_program(link: BorrowedFd<'_>) -> io::Result<u32> {
    // The start of `struct bpf_link_info`: type, id, prog_id.
    let mut info = [0u32; 3];
    Attributes::new()
        .u32(0, raw(link))
        .u32(4, size_of_val(&info) as u32)
        .u64(8, info.as_mut_ptr() as u64)
        .call(BPF_OBJ_GET_INFO_BY_FD)?;
    Ok(info[2])
}

pub(crate) fn object_pin(object: BorrowedFd<'_>, at: &Path) -> io::Result<()> {
    let at = path(at)?;
    Attributes::new()
        .u64(0, at.as_ptr() as u64)
        .u32(8, raw(object))
        .call(BPF_OBJ_PIN)
        .map(drop)
}

pub(crate) fn object_get(at: &Path) -> io::Result<OwnedFd> {
    let at = path(at)?;
    Attributes::new()
        .u64(0, at.as_ptr() as u64)
        .open(BPF_OBJ_GET)
}

/// Sets many elements in one call (Linux 5.6). On error some of them are set.
pub(crate) fn map_update_batch<K: Plain, V: Plain>(
    map: BorrowedFd<'_>,
    keys: &[K],
    values: &[V],
) -> io::Result<()> {
    update_batch(
        map,
        keys.as_ptr() as u64,
        values.as_ptr() as u64,
        keys.len().min(values.len()),
    )
}

/// As [`map_update_batch`], for arrays, whose keys are indices.
pub(crate) fn array_update_batch<V: Plain>(
    map: BorrowedFd<'_>,
    indices: &[u32],
    values: &[V],
) -> io::Result<()> {
    update_batch(
        map,
        indices.as_ptr() as u64,
        values.as_ptr() as u64,
        indices.len().min(values.len()),
    )
}

/// Elements that are read in one call.
const SCANNED: usize = 4096;

/// Reads a whole map, many elements a call (Linux 5.6; 5.13 for longest-prefix match tables). Elements that come or go
/// meanwhile may be missed, or seen twice.
#[derive(Debug)]
pub(crate) struct Scan<'a> {
    map: BorrowedFd<'a>,
    key_size: usize,
    value_size: usize,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(map: BorrowedFd<'a>, key_size: usize, value_size: usize) -> Self {
        Self {
            map,
            key_size,
            value_size,
        }
    }

    /// Of a map whose keys and values are of these types.
    pub(crate) fn of<K: Plain, V: Plain>(map: BorrowedFd<'a>) -> Self {
        Self::new(map, size_of::<K>(), size_of::<V>())
    }

    /// Of an array of this type.
    pub(crate) fn array<V: Plain>(map: BorrowedFd<'a>) -> Self {
        Self::new(map, size_of::<u32>(), size_of::<V>())
    }

    /// How many elements there are.
    pub(crate) fn count(&self) -> io::Result<usize> {
        let mut total = 0;
        self.pages(|keys, _| total += keys.len() / self.key_size)?;
        Ok(total)
    }

    /// Calls `with` with each element. Key and value have the sizes that the scan was made with.
    pub(crate) fn for_each<K: Plain, V: Plain>(
        &self,
        mut with: impl FnMut(K, V),
    ) -> io::Result<()> {
        assert_eq!(
            (self.key_size, self.value_size),
            (size_of::<K>(), size_of::<V>())
        );
        self.pages(|keys, values| {
            let keys = keys.chunks_exact(size_of::<K>());
            for (key, value) in keys.zip(values.chunks_exact(size_of::<V>())) {
                // SAFETY: both have the size of their type, of which any bit pattern is a value (`Plain`).
                with(
                    unsafe { key.as_ptr().cast::<K>().read_unaligned() },
                    unsafe { value.as_ptr().cast::<V>().read_unaligned() },
                );
            }
        })
    }

    /// Calls `with` with the values of an array, in their order.
    pub(crate) fn for_each_value<V: Plain>(&self, mut with: impl FnMut(V)) -> io::Result<()> {
        assert_eq!(self.value_size, size_of::<V>());
        self.pages(|_, values| {
            for value in values.chunks_exact(size_of::<V>()) {
                // SAFETY: it has the size of its type, of which any bit pattern is a value (`Plain`).
                with(unsafe { value.as_ptr().cast::<V>().read_unaligned() });
            }
        })
    }

    fn pages(&self, mut with: impl FnMut(&[u8], &[u8])) -> io::Result<()> {
        let mut room = SCANNED;
        let mut keys = vec![0u8; room * self.key_size];
        let mut values = vec![0u8; room * self.value_size];
        // Where the kernel goes on: a bucket's number, or a key.
        let (mut from, mut to) = (
            vec![0u8; self.key_size.max(8)],
            vec![0u8; self.key_size.max(8)],
        );
        let mut is_first = true;
        loop {
            let mut attributes = Attributes::new()
                .u64(0, if is_first { 0 } else { from.as_ptr() as u64 })
                .u64(8, to.as_mut_ptr() as u64)
                .u64(16, keys.as_mut_ptr() as u64)
                .u64(24, values.as_mut_ptr() as u64)
                .u32(32, room as u32)
                .u32(36, raw(self.map));
            let result = attributes.call_again(BPF_MAP_LOOKUP_BATCH);
            let error = result.as_ref().err().and_then(io::Error::raw_os_error);
            if error == Some(libc::ENOSPC) {
                // A bucket of the hash table has more elements than there was room for.
                room *= 2;
                keys.resize(room * self.key_size, 0);
                values.resize(room * self.value_size, 0);
                continue;
            }
            let is_last = error == Some(libc::ENOENT);
            if !is_last {
                result?;
            }
            let count = (attributes.read_u32(32) as usize).min(room);
            with(
                &keys[..count * self.key_size],
                &values[..count * self.value_size],
            );
            if is_last || count == 0 {
                return Ok(());
            }
            std::mem::swap(&mut from, &mut to);
            is_first = false;
        }
    }
}

fn update_batch(map: BorrowedFd<'_>, keys: u64, values: u64, count: usize) -> io::Result<()> {
    if count == 0 {
        return Ok(());
    }
    let count = u32::try_from(count).map_err(io::Error::other)?;
    Attributes::new()
        .u64(16, keys)
        .u64(24, values)
        .u32(32, count)
        .u32(36, raw(map))
        .call(BPF_MAP_UPDATE_BATCH)
        .map(drop)
}

/// The value of a key of a hash map, if it has one.
pub(crate) fn map_lookup<K: Plain, V: Plain + Default>(
    map: BorrowedFd<'_>,
    key: &K,
) -> io::Result<Option<V>> {
    let mut value = V::default();
    let found = Attributes::new()
        .u32(0, raw(map))
        .u64(8, core::ptr::from_ref(key) as u64)
        .u64(16, (&raw mut value) as u64)
        .call(BPF_MAP_LOOKUP_ELEM);
    match found {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// # Errors
/// `ENOENT` when there is no such key.
pub(crate) fn map_delete<K: Plain>(map: BorrowedFd<'_>, key: &K) -> io::Result<()> {
    Attributes::new()
        .u32(0, raw(map))
        .u64(8, core::ptr::from_ref(key) as u64)
        .call(BPF_MAP_DELETE_ELEM)
        .map(drop)
}
