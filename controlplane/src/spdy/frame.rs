//! Frames from bytes, in pieces as they arrive, and bytes from frames. Pure.
//!
//! The payload of a data frame is given out as it comes, so that its length, which may be 16 MiB, is never held.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const VERSION: u16 = 3;
/// Longest control frame: requests for streams have a handful of short headers.
pub(super) const MAX_CONTROL: usize = 16 << 10;
const HEAD: usize = 8;
const FIN: u8 = 1;
const ID_MASK: u32 = 0x7fff_ffff;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream is refused or broken off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResetStatus {
    ProtocolError = 1,
    InvalidStream = 2,
    RefusedStream = 3,
    Cancel = 5,
    StreamAlreadyClosed = 9,
}

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("SPDY version {0}")]
    Version(u16),
    #[error("control frame of {0} bytes")]
    Length(usize),
    #[error("control frame of type {0} is too short")]
    Short(u16),
}

/// What a peer says; the header blocks are still compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    SynStream {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    SynReply {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    Headers {
        stream: u32,
        fin: bool,
        block: Bytes,
    },
    Reset {
        stream: u32,
    },
    Ping(u32),
    GoAway,
    WindowUpdate,
    /// A part of a data frame; `fin` only on the last one.
    Data {
        stream: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// Settings, and what later versions may add: passed over.
    Other,
}

/// A data frame of which not all has come.
#[derive(Debug)]
struct Open {
    stream: u32,
    left: usize,
    fin: bool,
}

/// Puts frames together. After an error it must not be used again.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    buffer: BytesMut,
    open: Option<Open>,
}

impl Decoder {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    pub(super) fn next(&mut self) -> Result<Option<Frame>, FrameError> {
        if let Some(open) = &mut self.open {
            if self.buffer.is_empty() {
                return Ok(None);
            }
            let bytes = self.buffer.split_to(open.left.min(self.buffer.len()));
            open.left -= bytes.len();
            let (stream, last) = (open.stream, open.left == 0);
            let fin = open.fin && last;
            if last {
                self.open = None;
            }
            return Ok(Some(Frame::Data {
                stream,
                fin,
                bytes: bytes.freeze(),
            }));
        }
        let Some((head, _)) = self.buffer.split_first_chunk::<HEAD>() else {
            return Ok(None);
        };
        let [a, b, c, d, flags, length @ ..] = *head;
        let first = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, length[0], length[1], length[2]]) as usize;
        if first & !ID_MASK == 0 {
            self.buffer.advance(HEAD);
            return Ok(Some(self.data(first, flags & FIN != 0, length)));
        }
        let kind = u16::try_from(first & 0xffff).unwrap_or(0);
        let version = u16::try_from((first & ID_MASK) >> 16).unwrap_or(u16::MAX);
        if version != VERSION {
            return Err(FrameError::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(FrameError::Length(length));
        }
        if self.buffer.len() < HEAD + length {
            return Ok(None);
        }
        self.buffer.advance(HEAD);
        let body = self.buffer.split_to(length).freeze();
        control(kind, flags & FIN != 0, body).map(Some)
    }

    fn data(&mut self, stream: u32, fin: bool, length: usize) -> Frame {
        let bytes = self.buffer.split_to(length.min(self.buffer.len())).freeze();
        let left = length - bytes.len();
        if left > 0 {
            self.open = Some(Open { stream, left, fin });
        }
        Frame::Data {
            stream,
            fin: fin && left == 0,
            bytes,
        }
    }
}

fn control(kind: u16, fin: bool, mut body: Bytes) -> Result<Frame, FrameError> {
    let least = match kind {
        SYN_STREAM => 10,
        RST_STREAM | WINDOW_UPDATE => 8,
        SYN_REPLY | HEADERS | PING | GOAWAY => 4,
        _ => return Ok(Frame::Other),
    };
    if body.len() < least {
        return Err(FrameError::Short(kind));
    }
    let first = body.get_u32();
    let stream = first & ID_MASK;
    Ok(match kind {
        SYN_STREAM => {
            // The stream it belongs to, the priority and the slot of a certificate.
            body.advance(6);
            Frame::SynStream {
                stream,
                fin,
                block: body,
            }
        }
        SYN_REPLY => Frame::SynReply {
            stream,
            fin,
            block: body,
        },
        HEADERS => Frame::Headers {
            stream,
            fin,
            block: body,
        },
        RST_STREAM => Frame::Reset { stream },
        PING => Frame::Ping(first),
        GOAWAY => Frame::GoAway,
        _ => Frame::WindowUpdate,
    })
}

fn put_head(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    put_length(out, flags, length);
}

/// Lengths are bounded by who calls: blocks of ours are short, data comes in pieces.
fn put_length(out: &mut BytesMut, flags: u8, length: usize) {
    let length = u32::try_from(length).unwrap_or(u32::MAX) & 0x00ff_ffff;
    out.put_u32(u32::from(flags) << 24 | length);
}

pub(super) fn put_reply(out: &mut BytesMut, stream: u32, block: &[u8]) {
    put_head(out, SYN_REPLY, 0, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(block);
}

/// For tests: what a client begins a stream with.
#[cfg(test)]
pub(super) fn put_open(out: &mut BytesMut, stream: u32, fin: bool, block: &[u8]) {
    put_head(out, SYN_STREAM, u8::from(fin), 10 + block.len());
    out.put_u32(stream);
    out.put_slice(&[0; 6]);
    out.put_slice(block);
}

pub(super) fn put_reset(out: &mut BytesMut, stream: u32, status: ResetStatus) {
    put_head(out, RST_STREAM, 0, 8);
    out.put_u32(stream);
    out.put_u32(status as u32);
}

pub(super) fn put_ping(out: &mut BytesMut, id: u32) {
    put_head(out, PING, 0, 4);
    out.put_u32(id);
}

pub(super) fn put_go_away(out: &mut BytesMut, last_stream: u32) {
    put_head(out, GOAWAY, 0, 8);
    out.put_u32(last_stream);
    // All is well.
    out.put_u32(0);
}

/// Stream 0 is the session.
pub(super) fn put_window_update(out: &mut BytesMut, stream: u32, bytes: u32) {
    put_head(out, WINDOW_UPDATE, 0, 8);
    out.put_u32(stream);
    out.put_u32(bytes & ID_MASK);
}

pub(super) fn put_data(out: &mut BytesMut, stream: u32, fin: bool, bytes: &[u8]) {
    out.put_u32(stream & ID_MASK);
    put_length(out, u8::from(fin), bytes.len());
    out.put_slice(bytes);
}
