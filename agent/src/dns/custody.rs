//! TCP connections that outlive the agent: while one is open, the keeper has it too, so that the kernel neither ends nor
//! resets it when the agent dies. The next agent gets it and goes on where its bytes are: a question is taken from
//! the connection only when its answer is written.
//!
//! It is the keeper that accepts connections, when the agent asks it to: there is no moment at which the agent alone has
//! one.
//!
//! ```text
//!   agent -> keeper    ACCEPT, 0                 LET_GO, cookie
//!   keeper -> agent    KEPT, the connection      NONE: none waits      WHOLE: those were all
//! ```
//! A connection is known by its cookie, which the kernel gives it once and which both agents read from it.

use std::io::{self, IoSlice, IoSliceMut, Read as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, accept4, recvmsg, sendmsg,
};

const ACCEPT: u8 = b'a';
const LET_GO: u8 = b'l';
/// What an agent says that wants the keeper to end.
pub(super) const END: u8 = b'e';
const KEPT: u8 = b'c';
const NONE: u8 = b'n';
const WHOLE: u8 = b'w';

/// A cookie.
type Cookie = u64;

/// The agent's way to its keeper.
#[derive(Debug, Clone)]
pub struct Custody(Arc<UnixStream>);

impl Custody {
    pub(super) fn new(connection: &UnixStream) -> io::Result<Self> {
        connection.try_clone().map(|own| Self(Arc::new(own)))
    }

    /// The next connection that waits at the listening socket; nothing if none does. Blocks until the keeper has answered,
    /// which it does at once. One caller at a time. Whoever does not say with [`Self::kept`] that it goes on with the
    /// connection leaves it to the next agent.
    ///
    /// # Errors
    /// When the keeper is gone, or does not answer.
    pub(super) fn accept(&self) -> io::Result<Option<std::net::TcpStream>> {
        tell(&self.0, ACCEPT, 0)?;
        match receive(&self.0, 1)? {
            Some((NONE, _)) => Ok(None),
            Some((KEPT, found)) => {
                let connection = found.into_iter().next();
                let connection = connection.ok_or(io::ErrorKind::InvalidData)?;
                Ok(Some(connection.into()))
            }
            Some(_) => Err(io::ErrorKind::InvalidData.into()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// One that the keeper has, too.
    pub(super) fn kept(&self, connection: BorrowedFd<'_>) -> Option<Kept> {
        Some(Kept {
            custody: self.clone(),
            cookie: cookie(connection).ok()?,
        })
    }
}

/// A connection that the keeper has too; dropping this is to say that it need not any more.
#[derive(Debug)]
pub(super) struct Kept {
    custody: Custody,
    cookie: Cookie,
}

impl Kept {
    /// The next agent is to go on with it.
    pub(super) fn leave(self) {
        let mut this = std::mem::ManuallyDrop::new(self);
        // SAFETY: dropped once, here, and not used after it.
        unsafe { std::ptr::drop_in_place(&raw mut this.custody) };
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        // A keeper that is gone has let go of all.
        let _ = tell(&self.custody.0, LET_GO, self.cookie);
    }
}

/// At once, or not at all.
fn tell(to: &UnixStream, what: u8, cookie: Cookie) -> io::Result<()> {
    let mut message = vec![what];
    message.extend(cookie.to_le_bytes());
    send(to, &message, None)
}

fn send(to: &UnixStream, message: &[u8], connection: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let numbers = connection.map(|connection| [connection.as_raw_fd()]);
    let control = numbers
        .as_ref()
        .map(|numbers| ControlMessage::ScmRights(numbers));
    let control = control.as_slice();
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(message)],
        control,
        flags,
        None,
    )?;
    Ok(())
}

/// `SO_COOKIE` of a socket.
fn cookie(socket: BorrowedFd<'_>) -> io::Result<Cookie> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of_val(&cookie)).unwrap_or(8);
    // SAFETY: the descriptor is open, the buffer has the length that is passed.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    nix::errno::Errno::result(result)?;
    Ok(cookie)
}

/// The first byte of a message, and the descriptors that came with it: `most` at most. Nothing at the end.
pub(super) fn receive(from: &UnixStream, most: usize) -> io::Result<Option<(u8, Vec<OwnedFd>)>> {
    let mut byte = [0];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    // Room for the largest number that anybody asks for.
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 4]);
    let message = recvmsg::<()>(
        from.as_raw_fd(),
        &mut buffers,
        Some(&mut space),
        MsgFlags::MSG_CMSG_CLOEXEC,
    )?;
    let is_end = message.bytes == 0;
    let mut found = Vec::new();
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control {
            // SAFETY: the kernel has just given us these, and nobody else has their numbers.
            found.extend(
                descriptors
                    .into_iter()
                    .map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) }),
            );
        }
    }
    found.truncate(most);
    Ok((!is_end).then_some((byte[0], found)))
}

/// Connections that the agent before had, after the keeper's first message.
pub(super) fn adopt(from: &UnixStream) -> io::Result<Vec<OwnedFd>> {
    let mut connections = Vec::new();
    loop {
        match receive(from, 1)? {
            Some((KEPT, found)) => connections.extend(found),
            Some((WHOLE, _)) => return Ok(connections),
            Some(_) | None => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// The keeper's side: what it holds.
#[derive(Debug, Default)]
pub(super) struct Held(std::collections::BTreeMap<Cookie, OwnedFd>);

/// More than an agent serves at once.
const MOST: usize = 700;

/// What an agent had to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Said {
    Something,
    End,
    /// It is gone.
    Nothing,
}

impl Held {
    /// Tells a new agent of all.
    pub(super) fn give(&self, agent: &UnixStream) -> io::Result<()> {
        for connection in self.0.values() {
            send(agent, &[KEPT], Some(connection.as_fd()))?;
        }
        send(agent, &[WHOLE], None)
    }

    /// Takes one message, of an agent that has something to say. Connections come from `listener`, which does not block.
    pub(super) fn hear(&mut self, agent: &mut UnixStream, listener: BorrowedFd<'_>) -> Said {
        let Ok(Some((what, _))) = receive(agent, 1) else {
            return Said::Nothing;
        };
        if what == END {
            return Said::End;
        }
        let mut cookie = [0; size_of::<Cookie>()];
        if agent.read_exact(&mut cookie).is_err() {
            return Said::Nothing;
        }
        match what {
            ACCEPT => {
                // One that cannot be given any more is there for the next agent.
                let _ = match self.accept(listener) {
                    Ok(connection) => send(agent, &[KEPT], Some(connection)),
                    Err(_) => send(agent, &[NONE], None),
                };
            }
            LET_GO => drop(self.0.remove(&Cookie::from_le_bytes(cookie))),
            _ => {}
        }
        Said::Something
    }

    fn accept(&mut self, listener: BorrowedFd<'_>) -> io::Result<BorrowedFd<'_>> {
        if self.0.len() >= MOST {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let accepted = accept4(listener.as_raw_fd(), flags)?;
        // SAFETY: the kernel has just given us this, and nobody else has its number.
        let accepted = unsafe { OwnedFd::from_raw_fd(accepted) };
        let cookie = cookie(accepted.as_fd())?;
        let held: &OwnedFd = self.0.entry(cookie).or_insert(accepted);
        Ok(held.as_fd())
    }
}
