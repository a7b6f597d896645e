//! Header blocks: names and values, compressed by one zlib stream per direction that begins with a dictionary
//! both sides know. Pure.

use std::sync::LazyLock;

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Longest block when it is unpacked, and how many headers may be in it.
const MAX_BLOCK: usize = 64 << 10;
const MAX_HEADERS: usize = 64;

/// Words of the dictionary, each with its length before it (section 2.6.10.1 of the draft).
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
     accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
     content-length content-location content-md5 content-range content-type date etag expect expires from host \
     if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
     proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
     user-agent vary via warning www-authenticate method get status 200|OK version HTTP/1.1 url public set-cookie \
     keep-alive origin";

/// What follows the words as it is.
const TAIL: &str = "\
     100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
     203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
     403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
     Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
     chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
     text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split_ascii_whitespace() {
        bytes.put_u32(u32::try_from(word.len()).unwrap_or(0));
        // One of them has a space in it.
        bytes.extend(
            word.bytes()
                .map(|byte| if byte == b'|' { b' ' } else { byte }),
        );
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
pub(crate) enum HeaderError {
    #[error("a header block that cannot be unpacked")]
    Compression,
    #[error("a header block of more than {MAX_BLOCK} bytes or {MAX_HEADERS} headers")]
    TooLarge,
    #[error("a malformed header block")]
    Malformed,
}

/// Names in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(super) Vec<(String, String)>);

impl Headers {
    /// Empty when absent; of several values the first.
    pub(crate) fn get(&self, name: &str) -> &str {
        let found = self.0.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| {
            value.split('\0').next().unwrap_or_default()
        })
    }
}

/// The blocks of one direction, in order.
pub(super) struct Unpacker(Decompress);

impl std::fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Unpacker")
    }
}

impl Default for Unpacker {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Unpacker {
    /// After an error it must not be used again.
    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, HeaderError> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::with_capacity(1024);
        loop {
            if out.len() == out.capacity() {
                if out.len() >= MAX_BLOCK {
                    return Err(HeaderError::TooLarge);
                }
                out.reserve(out.len());
            }
            let before = (self.0.total_in(), out.len());
            let outcome = self
                .0
                .decompress_vec(block, &mut out, FlushDecompress::Sync);
            let consumed = usize::try_from(self.0.total_in() - before.0).unwrap_or(usize::MAX);
            block = block.get(consumed..).ok_or(HeaderError::Compression)?;
            match outcome {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| HeaderError::Compression)?;
                }
                Err(_) | Ok(Status::StreamEnd) => return Err(HeaderError::Compression),
                // There may be more where there was no room.
                Ok(_) if out.len() == out.capacity() => {}
                Ok(_) if block.is_empty() => return Ok(out),
                Ok(_) if consumed == 0 && out.len() == before.1 => {
                    return Err(HeaderError::Compression);
                }
                Ok(_) => {}
            }
        }
    }
}

fn parse(mut block: &[u8]) -> Result<Headers, HeaderError> {
    let count = number(&mut block)?;
    if count > MAX_HEADERS {
        return Err(HeaderError::TooLarge);
    }
    let mut headers = Vec::with_capacity(count);
    for _ in 0..count {
        let name = text(&mut block)?.to_ascii_lowercase();
        headers.push((name, text(&mut block)?));
    }
    Ok(Headers(headers))
}

fn number(block: &mut &[u8]) -> Result<usize, HeaderError> {
    let number = block.try_get_u32().map_err(|_| HeaderError::Malformed)?;
    usize::try_from(number).map_err(|_| HeaderError::Malformed)
}

fn text(block: &mut &[u8]) -> Result<String, HeaderError> {
    let length = number(block)?;
    let (text, rest) = block
        .split_at_checked(length)
        .ok_or(HeaderError::Malformed)?;
    *block = rest;
    String::from_utf8(text.to_vec()).map_err(|_| HeaderError::Malformed)
}

/// The blocks that we send.
pub(super) struct Packer(Compress);

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

impl Default for Packer {
    fn default() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&DICTIONARY)
            .expect("a dictionary may be set before anything was packed");
        Self(compress)
    }
}

impl Packer {
    pub(super) fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        let length = |text: &str| u32::try_from(text.len()).unwrap_or(0);
        plain.put_u32(u32::try_from(headers.len()).unwrap_or(0));
        for (name, value) in headers {
            plain.put_u32(length(name));
            plain.put_slice(name.as_bytes());
            plain.put_u32(length(value));
            plain.put_slice(value.as_bytes());
        }
        let mut packed = Vec::with_capacity(plain.len() + 64);
        let begin = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - begin).unwrap_or(plain.len());
            let outcome = self.0.compress_vec(
                &plain[done.min(plain.len())..],
                &mut packed,
                FlushCompress::Sync,
            );
            if outcome.is_err() || packed.len() < packed.capacity() {
                return packed;
            }
            packed.reserve(packed.len());
        }
    }
}

#[cfg(test)]
pub(super) fn dictionary() -> &'static [u8] {
    &DICTIONARY
}
