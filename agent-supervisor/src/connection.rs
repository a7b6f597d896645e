//! One client: bytes in, requests out; answers in, bytes out. Never blocks, and never holds more than a
//! bound: a client that does not read is dropped.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use super::protocol::{self, Decoder, FrameError, MAX_FRAME, Message, Request};

/// Bytes that may wait for a client that does not read.
const MAX_PENDING: usize = 2 * MAX_FRAME;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Closed {
    #[error("closed by the client")]
    End,
    #[error("attached to a container")]
    Attached,
    #[error("client does not read")]
    Slow,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) token: u64,
    stream: UnixStream,
    decoder: Decoder,
    pending: Vec<u8>,
    /// Wants to be told of changes.
    pub(crate) subscribed: bool,
    pub(crate) closed: Option<Closed>,
}

impl Connection {
    pub(crate) fn new(token: u64, stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            token,
            stream,
            decoder: Decoder::default(),
            pending: Vec::new(),
            subscribed: false,
            closed: None,
        })
    }

    /// The connection for another use, when all that was sent on it is written.
    pub(crate) fn give_away(&mut self) -> io::Result<UnixStream> {
        if self.has_pending() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.closed = Some(Closed::Attached);
        self.stream.try_clone()
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(crate) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Reads once; the whole requests that are there afterwards.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Vec<Request> {
        let mut requests = Vec::new();
        if let Err(closed) = self.try_read(buffer, &mut requests) {
            self.closed = Some(closed);
        }
        requests
    }

    fn try_read(&mut self, buffer: &mut [u8], requests: &mut Vec<Request>) -> Result<(), Closed> {
        match self.stream.read(buffer) {
            Ok(0) => return Err(Closed::End),
            Ok(length) => self.decoder.push(&buffer[..length]),
            Err(error) if would_block(&error) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        while let Some(request) = self.decoder.take()? {
            requests.push(request);
        }
        Ok(())
    }

    pub(crate) fn send(&mut self, message: &Message) {
        if let Err(closed) = self.try_send(message) {
            self.closed = Some(closed);
        }
    }

    fn try_send(&mut self, message: &Message) -> Result<(), Closed> {
        let frame = protocol::encode(message)?;
        if self.pending.len() + frame.len() > MAX_PENDING {
            return Err(Closed::Slow);
        }
        self.pending.extend_from_slice(&frame);
        self.try_flush()
    }

    pub(crate) fn flush(&mut self) {
        if let Err(closed) = self.try_flush() {
            self.closed = Some(closed);
        }
    }

    fn try_flush(&mut self) -> Result<(), Closed> {
        while !self.pending.is_empty() {
            match self.stream.write(&self.pending) {
                Ok(length) => {
                    self.pending.drain(..length);
                }
                Err(error) if would_block(&error) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        self.pending = Vec::new();
        Ok(())
    }

    /// Writes what is left, waiting for the client; for the last answer.
    pub(crate) fn finish(&mut self) {
        let _ = self.stream.set_nonblocking(false);
        let _ = self
            .stream
            .set_write_timeout(Some(std::time::Duration::from_secs(2)));
        let _ = self.stream.write_all(&self.pending);
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
