//! The kernel's list of sockets (netlink `SOCK_DIAG`), and ending some of them. Only what closing needs: sockets by
//! where they are connected to, what the programs remember of them, and `SOCK_DESTROY` (Linux 4.5, UDP 4.9).
//!
//! Layouts are of the kernel's `linux/inet_diag.h`, `linux/sock_diag.h` and `linux/netlink.h`. Numbers are in the
//! machine's order, addresses and ports in network order. No crate does this with socket storages.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::time::Duration;

use agent_ebpf::address::Address;
use agent_ebpf::layout::SocketOrigin;

const NETLINK_SOCK_DIAG: libc::c_int = 4;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;

const REQ_BYTECODE: u16 = 1;
const REQ_SK_BPF_STORAGES: u16 = 2;
const STORAGE_REQ_MAP_FD: u16 = 1;
const SK_BPF_STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const STORAGE_MAP_VALUE: u16 = 3;

const BC_JMP: u8 = 1;
const BC_D_COND: u8 = 8;

/// Header of every netlink message, and of a socket's entry up to its attributes.
const HEADER: usize = 16;
const ENTRY: usize = 72;
/// Where in an entry the socket's identity is, and how long it is.
const ID: usize = 4;
const ID_LENGTH: usize = 48;

/// So many filters fit into one request (an attribute is smaller than 64 KiB); with more, all sockets are listed.
const MOST_FILTERS: usize = 1024;
/// The kernel fills up to this much of a message.
const BUFFER: usize = 64 * 1024;
/// The kernel answers at once; this is for what cannot happen.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bit per state of a socket (`TCP_*` of `net/tcp_states.h`).
pub(crate) type States = u32;
/// Connected, for UDP as well; not those that wait for nothing but the other side's last packets.
pub(crate) const CONNECTED: States = 1 << 1;
/// Every state of a TCP socket with a peer in which there still is something to end.
pub(crate) const LIVE: States = 1 << 1 | 1 << 2 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

/// A socket as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Socket {
    family: u8,
    id: [u8; ID_LENGTH],
    pub(crate) peer: Address,
    /// Network order.
    pub(crate) peer_port: u16,
    /// `SO_COOKIE`
    pub(crate) cookie: u64,
    /// What the connect hook stored with it, if it did.
    pub(crate) origin: Option<SocketOrigin>,
}

/// The sockets of one network namespace, whichever the caller is in by now.
#[derive(Debug)]
pub(crate) struct SockDiag {
    socket: OwnedFd,
}

impl SockDiag {
    /// Of the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel has no `SOCK_DIAG`.
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: a plain system call.
        let socket = unsafe {
            libc::socket(
                libc::AF_NETLINK,
                libc::SOCK_DGRAM | libc::SOCK_CLOEXEC,
                NETLINK_SOCK_DIAG,
            )
        };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        let patience = nix::sys::time::TimeVal::new(PATIENCE.as_secs() as libc::time_t, 0);
        nix::sys::socket::setsockopt(
            &socket,
            nix::sys::socket::sockopt::ReceiveTimeout,
            &patience,
        )?;
        Ok(Self { socket })
    }

    /// Sockets of a family and protocol that are in one of the `states`, and connected to one of `peers` (port in
    /// network order); with the value that they have in the socket storage `storage`.
    ///
    /// # Errors
    /// What the kernel says, or an answer that is none.
    pub(crate) fn list(
        &self,
        family: u8,
        protocol: u8,
        states: States,
        peers: &[(Address, u16)],
        storage: BorrowedFd<'_>,
    ) -> io::Result<Vec<Socket>> {
        let request = list_request(family, protocol, states, peers, storage.as_raw_fd());
        self.send(&request)?;
        let mut sockets = Vec::new();
        let mut buffer = vec![0; BUFFER];
        loop {
            let length = nix::sys::socket::recv(
                self.socket.as_raw_fd(),
                &mut buffer,
                nix::sys::socket::MsgFlags::empty(),
            )?;
            for message in Messages(&buffer[..length]) {
                match message? {
                    (NLMSG_DONE, payload) => return status(payload).map(|()| sockets),
                    (NLMSG_ERROR, payload) => return status(payload).map(|()| sockets),
                    (SOCK_DIAG_BY_FAMILY, payload) => sockets.extend(parse(payload)),
                    _ => {}
                }
            }
        }
    }

    /// Ends a socket: calls on it fail with `ECONNABORTED`, and a TCP peer gets a reset.
    ///
    /// # Errors
    /// `NotFound` when it is gone or connected to somewhere else by now; `Unsupported` when the kernel was built
    /// without `INET_DIAG_DESTROY`.
    pub(crate) fn destroy(&self, protocol: u8, socket: &Socket) -> io::Result<()> {
        let mut request = header(SOCK_DESTROY, NLM_F_REQUEST | NLM_F_ACK);
        request.extend([socket.family, protocol, 0, 0]);
        request.extend(u32::MAX.to_ne_bytes());
        request.extend(socket.id);
        finish(&mut request);
        self.send(&request)?;
        let mut buffer = [0; 1024];
        loop {
            let length = nix::sys::socket::recv(
                self.socket.as_raw_fd(),
                &mut buffer,
                nix::sys::socket::MsgFlags::empty(),
            )?;
            for message in Messages(&buffer[..length]) {
                if let (NLMSG_ERROR, payload) = message? {
                    return status(payload);
                }
            }
        }
    }

    fn send(&self, request: &[u8]) -> io::Result<()> {
        // What an earlier request that was given up has left is not this one's answer.
        let mut rest = [0; 1];
        while nix::sys::socket::recv(
            self.socket.as_raw_fd(),
            &mut rest,
            nix::sys::socket::MsgFlags::MSG_DONTWAIT,
        )
        .is_ok()
        {}
        nix::sys::socket::send(
            self.socket.as_raw_fd(),
            request,
            nix::sys::socket::MsgFlags::empty(),
        )?;
        Ok(())
    }
}

fn header(kind: u16, flags: u16) -> Vec<u8> {
    let mut message = Vec::with_capacity(128);
    message.extend([0; 4]);
    message.extend(kind.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Sequence and port: one request at a time, and the kernel is the only other side.
    message.extend([0; 8]);
    message
}

/// Fills the message's length in.
fn finish(message: &mut [u8]) {
    let length = message.len() as u32;
    message[..4].copy_from_slice(&length.to_ne_bytes());
}

fn attribute(message: &mut Vec<u8>, kind: u16, value: &[u8]) {
    message.extend(((value.len() + 4) as u16).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend(value);
    message.resize(message.len().next_multiple_of(4), 0);
}

fn list_request(
    family: u8,
    protocol: u8,
    states: States,
    peers: &[(Address, u16)],
    storage: i32,
) -> Vec<u8> {
    let mut message = header(SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP);
    message.extend([family, protocol, 0, 0]);
    message.extend(states.to_ne_bytes());
    message.extend([0; ID_LENGTH]);
    if peers.len() <= MOST_FILTERS {
        attribute(&mut message, REQ_BYTECODE, &filter(peers));
    }
    let mut wanted = Vec::new();
    attribute(&mut wanted, STORAGE_REQ_MAP_FD, &storage.to_ne_bytes());
    attribute(&mut message, REQ_SK_BPF_STORAGES | NLA_F_NESTED, &wanted);
    finish(&mut message);
    message
}

/// A program for the kernel that lets through what is connected to one of `peers`: for each, a condition that jumps
/// over the next instruction if it does not hold; and that instruction, which jumps to the end, where all is well.
/// Behind the end all is lost.
fn filter(peers: &[(Address, u16)]) -> Vec<u8> {
    let address_length = |address: &Address| if address.is_v4() { 4 } else { 16 };
    let length = |(address, _): &(Address, u16)| 4 + 8 + address_length(address) + 4;
    let total: usize = peers.iter().map(length).sum::<usize>() + 4;
    let mut program = Vec::with_capacity(total);
    let jump = |program: &mut Vec<u8>, code: u8, yes: usize, no: usize| {
        program.extend([code, yes as u8]);
        program.extend((no as u16).to_ne_bytes());
    };
    for (address, port) in peers {
        let bytes = &address.bytes()[16 - address_length(address)..];
        let condition = 4 + 8 + bytes.len();
        jump(&mut program, BC_D_COND, condition, condition + 4);
        let family = if address.is_v4() {
            libc::AF_INET
        } else {
            libc::AF_INET6
        };
        program.extend([family as u8, 8 * bytes.len() as u8, 0, 0]);
        program.extend(i32::from(u16::from_be(*port)).to_ne_bytes());
        program.extend(bytes);
        let to_end = total - program.len();
        jump(&mut program, BC_JMP, 4, to_end);
    }
    jump(&mut program, BC_JMP, 4, 8);
    program
}

/// Messages of a datagram: kind and what is behind the header.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = io::Result<(u16, &'a [u8])>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let rest = std::mem::take(&mut self.0);
        let message = take_u32(rest, 0)
            .map(|length| length as usize)
            .filter(|length| (HEADER..=rest.len()).contains(length))
            .and_then(|length| Some((length, take_u16(rest, 4)?)));
        let Some((length, kind)) = message else {
            return Some(Err(io::Error::from(io::ErrorKind::InvalidData)));
        };
        self.0 = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((kind, &rest[HEADER..length])))
    }
}

fn take_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn take_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What the end of a list or an acknowledgement says; one without a number says nothing bad.
fn status(payload: &[u8]) -> io::Result<()> {
    match take_u32(payload, 0).unwrap_or(0) as i32 {
        error if error < 0 => Err(io::Error::from_raw_os_error(-error)),
        _ => Ok(()),
    }
}

/// Attributes of a message: kind (without flags) and value. Ends at the first one that does not fit.
fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(take_u16(bytes, 0)?);
        let kind = take_u16(bytes, 2)? & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// One entry of the list.
fn parse(payload: &[u8]) -> Option<Socket> {
    let (&family, id) = (payload.first()?, payload.get(ID..ID + ID_LENGTH)?);
    let bytes: [u8; 16] = id.get(20..36)?.try_into().ok()?;
    let peer = if i32::from(family) == libc::AF_INET {
        Address::from_v4([bytes[0], bytes[1], bytes[2], bytes[3]])
    } else {
        Address::from_v6(bytes)
    };
    let origin = attributes(payload.get(ENTRY..)?)
        .find(|(kind, _)| *kind == SK_BPF_STORAGES)
        .and_then(|(_, storages)| attributes(storages).find(|(kind, _)| *kind == STORAGE))
        .and_then(|(_, storage)| attributes(storage).find(|(kind, _)| *kind == STORAGE_MAP_VALUE))
        .and_then(|(_, value)| origin(value));
    Some(Socket {
        family,
        id: id.try_into().ok()?,
        peer,
        peer_port: take_u16(id, 2)?,
        cookie: u64::from(take_u32(id, 40)?) | u64::from(take_u32(id, 44)?) << 32,
        origin,
    })
}

fn origin(value: &[u8]) -> Option<SocketOrigin> {
    let address = |at: usize| Some(Address::from_v6(value.get(at..at + 16)?.try_into().ok()?));
    Some(SocketOrigin {
        service: address(0)?,
        backend: address(16)?,
        service_port: take_u16(value, 32)?,
        backend_port: take_u16(value, 34)?,
        set: take_u32(value, 36)?,
    })
}

/// Any bytes as the kernel's answer: its end is found, and nothing is read beyond it.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let mut seen = 0;
    for message in Messages(bytes) {
        let Ok((_, payload)) = message else { break };
        seen += HEADER + payload.len();
        assert!(seen <= bytes.len());
        let _ = status(payload);
        if let Some(socket) = parse(payload) {
            assert!(payload.len() >= ID + ID_LENGTH);
            assert!(socket.origin.is_none() || payload.len() >= ENTRY);
        }
        let inside: usize = attributes(payload).map(|(_, value)| 4 + value.len()).sum();
        assert!(inside <= payload.len());
    }
}

#[cfg(test)]
mod tests;
