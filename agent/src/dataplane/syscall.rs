//! The few bpf(2) commands that aya does not offer: links by raw descriptor (so that one piece of code
//! creates, pins, finds again and updates cgroup and tcx links alike) and batched map updates.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

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
    fn call(mut self, command: libc::c_long) -> io::Result<libc::c_long> {
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
    Attributes::new()
        .u32(0, raw(program))
        .u32(4, target)
        .u32(8, attach_type as u32)
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
pub(crate) fn map_update_batch<K: agent_ebpf::layout::Plain, V: agent_ebpf::layout::Plain>(
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
pub(crate) fn array_update_batch<V: agent_ebpf::layout::Plain>(
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
