//! The streams of one session: which are open, what may still come on them, and what is to be sent. Pure.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};

use super::frame::{self, Decoder, Frame, FrameError, ResetStatus};
use super::headers::{HeaderError, Headers, Packer, Unpacker};

/// Streams that may be open at once: a forwarded connection has two.
const MAX_STREAMS: usize = 2048;
/// A peer that minds windows is told of room after this many bytes; its window is 64 KiB at first.
const WINDOW_STEP: u32 = 16 << 10;

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Headers(#[from] HeaderError),
    #[error("stream {0} was begun out of turn")]
    OutOfTurn(u32),
}

/// What a client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    Opened {
        stream: u32,
        headers: Headers,
        /// The client will say nothing on it.
        fin: bool,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        fin: bool,
    },
    /// Broken off by the client: nothing more comes, and nothing is heard.
    Reset { stream: u32 },
}

#[derive(Debug, Default)]
struct Open {
    /// The client has said its last.
    heard: bool,
    /// We have.
    said: bool,
    /// Bytes taken since the window was last opened.
    taken: u32,
}

#[derive(Debug, Default)]
pub(super) struct Session {
    decoder: Decoder,
    unpacker: Unpacker,
    packer: Packer,
    streams: HashMap<u32, Open>,
    /// The last stream that the client began.
    last: u32,
    taken: u32,
    pings: u32,
    output: BytesMut,
}

impl Session {
    /// What the bytes mean. After an error the session is to be ended.
    pub(super) fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Event>, SessionError> {
        self.decoder.push(bytes);
        let mut events = Vec::new();
        while let Some(frame) = self.decoder.next()? {
            match frame {
                Frame::SynStream { stream, fin, block } => {
                    // Also of a stream that is refused: the blocks are one compressed stream.
                    let headers = self.unpacker.read(&block)?;
                    events.extend(self.begun(stream, fin, headers)?);
                }
                Frame::SynReply { block, .. } | Frame::Headers { block, .. } => {
                    self.unpacker.read(&block)?;
                }
                Frame::Data { stream, fin, bytes } => {
                    events.extend(self.data(stream, fin, bytes));
                }
                Frame::Reset { stream } => {
                    if self.streams.remove(&stream).is_some() {
                        events.push(Event::Reset { stream });
                    }
                }
                // Those of even numbers are answers to ours.
                Frame::Ping(id) if id % 2 == 1 => frame::put_ping(&mut self.output, id),
                Frame::Ping(_) | Frame::GoAway | Frame::WindowUpdate | Frame::Other => {}
            }
        }
        Ok(events)
    }

    fn begun(
        &mut self,
        stream: u32,
        fin: bool,
        headers: Headers,
    ) -> Result<Option<Event>, SessionError> {
        if stream.is_multiple_of(2) || stream <= self.last {
            return Err(SessionError::OutOfTurn(stream));
        }
        self.last = stream;
        if self.streams.len() >= MAX_STREAMS {
            frame::put_reset(&mut self.output, stream, ResetStatus::RefusedStream);
            return Ok(None);
        }
        let open = Open {
            heard: fin,
            ..Open::default()
        };
        self.streams.insert(stream, open);
        Ok(Some(Event::Opened {
            stream,
            headers,
            fin,
        }))
    }

    fn data(&mut self, stream: u32, fin: bool, bytes: Bytes) -> Option<Event> {
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.taken = self.taken.saturating_add(length);
        if self.taken >= WINDOW_STEP {
            let taken = std::mem::take(&mut self.taken);
            frame::put_window_update(&mut self.output, 0, taken);
        }
        let status = match self.streams.get_mut(&stream) {
            // Said before the client could know that the stream is gone.
            None if stream <= self.last && stream % 2 == 1 => return None,
            None => ResetStatus::InvalidStream,
            Some(open) if open.heard => ResetStatus::StreamAlreadyClosed,
            Some(open) => {
                open.heard = fin;
                open.taken = open.taken.saturating_add(length);
                if open.heard && open.said {
                    self.streams.remove(&stream);
                }
                return Some(Event::Data { stream, bytes, fin });
            }
        };
        self.streams.remove(&stream);
        frame::put_reset(&mut self.output, stream, status);
        (status == ResetStatus::StreamAlreadyClosed).then_some(Event::Reset { stream })
    }

    /// What came on the stream has found a place: there is room for as much again.
    pub(super) fn delivered(&mut self, stream: u32) {
        if let Some(open) = self.streams.get_mut(&stream)
            && open.taken >= WINDOW_STEP
            && !open.heard
        {
            let taken = std::mem::take(&mut open.taken);
            frame::put_window_update(&mut self.output, stream, taken);
        }
    }

    pub(super) fn reply(&mut self, stream: u32) {
        if self.streams.contains_key(&stream) {
            let block = self.packer.write(&[]);
            frame::put_reply(&mut self.output, stream, &block);
        }
    }

    pub(super) fn send(&mut self, stream: u32, bytes: &[u8], fin: bool) {
        let Some(open) = self.streams.get_mut(&stream).filter(|open| !open.said) else {
            return;
        };
        frame::put_data(&mut self.output, stream, fin, bytes);
        open.said = fin;
        if open.heard && open.said {
            self.streams.remove(&stream);
        }
    }

    pub(super) fn reset(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            frame::put_reset(&mut self.output, stream, ResetStatus::Cancel);
        }
    }

    /// A stream that is not what was agreed on.
    pub(super) fn refuse(&mut self, stream: u32) {
        if self.streams.remove(&stream).is_some() {
            frame::put_reset(&mut self.output, stream, ResetStatus::ProtocolError);
        }
    }

    pub(super) fn ping(&mut self) {
        self.pings = self.pings.wrapping_add(2);
        frame::put_ping(&mut self.output, self.pings);
    }

    pub(super) fn go_away(&mut self) {
        frame::put_go_away(&mut self.output, self.last);
    }

    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    pub(super) fn written(&mut self, length: usize) {
        bytes::Buf::advance(&mut self.output, length);
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn take_output(&mut self) -> Bytes {
        self.output.split().freeze()
    }
}
