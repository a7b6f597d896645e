//! Clients that see what a container writes while it is written: a connection on which, after its answer, one byte
//! comes with the descriptor of the container's input (if asked for), then pieces of output.
//!
//! A client that does not read holds its container up, as a terminal would: what it gets must be whole. It is
//! dropped when it has not read for [`PATIENCE`].

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

use super::logfile::Stream;

const PATIENCE: Duration = Duration::from_secs(30);
/// Only the last words of a container can be so many: otherwise nothing is read while something waits.
const MAX_PENDING: usize = 1 << 20;
/// Comes before the output, with the descriptor.
pub const MARK: u8 = b'+';
/// Stream and length.
pub const HEAD: usize = 5;

/// The client will say no more to the container.
pub const CLOSE_INPUT: u8 = b'.';

/// How each stream is marked.
pub fn mark(stream: Stream) -> u8 {
    match stream {
        Stream::Stdout => 1,
        Stream::Stderr => 2,
    }
}

#[derive(Debug)]
pub(super) struct Attachment {
    pub(super) container: String,
    stream: UnixStream,
    stdout: bool,
    stderr: bool,
    /// It was given the container's input.
    input: bool,
    pending: Vec<u8>,
    /// Since when nothing of what is pending was read.
    stalled: Option<Instant>,
    /// Nothing more will be written.
    last: bool,
    gone: bool,
}

/// What a client wants and what the container has.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) container: String,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) input: Option<OwnedFd>,
}

impl Attachment {
    /// The stream must not block.
    pub(super) fn begin(stream: UnixStream, wanted: Wanted) -> io::Result<Self> {
        let descriptors: Vec<i32> = wanted.input.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let rights = if descriptors.is_empty() {
            &[][..]
        } else {
            &rights[..]
        };
        let parts = [IoSlice::new(&[MARK])];
        let flags = MsgFlags::MSG_NOSIGNAL;
        sendmsg::<()>(stream.as_raw_fd(), &parts, rights, flags, None)?;
        Ok(Self {
            container: wanted.container,
            stream,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
            input: wanted.input.is_some(),
            pending: Vec::new(),
            stalled: None,
            last: false,
            gone: false,
        })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The container has to wait for it.
    pub(super) fn is_behind(&self) -> bool {
        !self.pending.is_empty() && !self.gone
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.stalled.map(|since| since + PATIENCE)
    }

    pub(super) fn expire(&mut self, now: Instant) {
        self.gone |= self.deadline().is_some_and(|deadline| deadline <= now);
    }

    pub(super) fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let wanted = match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        };
        if !wanted || self.gone || bytes.is_empty() {
            return;
        }
        if self.pending.len() + bytes.len() > MAX_PENDING {
            self.gone = true;
            return;
        }
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.pending.push(mark(stream));
        self.pending.extend_from_slice(&length.to_be_bytes());
        self.pending.extend_from_slice(bytes);
        self.flush();
    }

    /// The container has ended: what waits is still written.
    pub(super) fn finish(&mut self) {
        self.last = true;
    }

    fn flush(&mut self) {
        while !self.pending.is_empty() && !self.gone {
            match self.stream.write(&self.pending) {
                Ok(length) => {
                    self.pending.drain(..length);
                    self.stalled = None;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.stalled.get_or_insert_with(Instant::now);
                    return;
                }
                Err(_) => self.gone = true,
            }
        }
        self.stalled = None;
        self.pending = Vec::new();
    }

    /// Writes what can be written and hears whether the client is there; `true` when the container's input is to
    /// be closed, if it is one that is for a single client.
    pub(super) fn turn(&mut self) -> bool {
        self.flush();
        let mut buffer = [0; 16];
        let mut close = false;
        match self.stream.read(&mut buffer) {
            Ok(0) => self.gone = true,
            Ok(length) => close = buffer[..length].contains(&CLOSE_INPUT),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                ) => {}
            Err(_) => self.gone = true,
        }
        self.input && (close || self.gone)
    }

    pub(super) fn is_over(&self) -> bool {
        self.gone || self.last && self.pending.is_empty()
    }
}
