//! Records on the disk: keys, frames with a checksum, and chunks. Pure.
//!
//! A record has a base key; its bytes are cut into chunks at `base ++ chunk number`, because sled stores large
//! items badly. The first chunk starts with a head: format, number of chunks, length and a checksum over base
//! key and payload, so that a record that is damaged, incomplete or misplaced is noticed. What the payload
//! means is in `codec.rs`.

use super::disk::{Disk, DiskError, Write};

/// Format of every record written now.
const FORMAT: u8 = 1;
const HEAD: usize = 11;
/// A leaf of sled holds up to 17 items and must stay below 128 KiB.
const CHUNK: usize = 6 << 10;

/// Longest payload: what the chunk number can count.
pub(super) const MAX_PAYLOAD: usize = (u16::MAX as usize - 1) * CHUNK;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    #[error("record format {0} is unknown to this version")]
    Format(u8),
    /// Its end is missing, as when a crash interrupts writing it.
    #[error("record is incomplete")]
    Incomplete,
    /// Its start is missing, as when a crash interrupts removing it.
    #[error("record has no head")]
    Headless,
    #[error("record has a wrong checksum")]
    Checksum,
    #[error("record is malformed")]
    Malformed,
}

/// What kinds of records there are: the first byte of a key.
pub(super) mod keyspace {
    /// Single records about this member.
    pub(in crate::store) const META: u8 = b'm';
    /// Raft log entries, by index.
    pub(in crate::store) const LOG: u8 = b'l';
    /// Key versions, by generation, key and revision.
    pub(in crate::store) const VERSION: u8 = b'v';
}

pub(super) fn meta_key(name: &str) -> Vec<u8> {
    let mut key = vec![keyspace::META];
    key.extend_from_slice(name.as_bytes());
    key
}

pub(super) fn log_key(index: u64) -> Vec<u8> {
    let mut key = vec![keyspace::LOG];
    key.extend_from_slice(&index.to_be_bytes());
    key
}

pub(super) fn parse_log_key(base: &[u8]) -> Option<u64> {
    let index = base.strip_prefix(&[keyspace::LOG])?;
    Some(u64::from_be_bytes(index.try_into().ok()?))
}

/// First key of a generation of key versions.
pub(super) fn generation_key(generation: u32) -> Vec<u8> {
    let mut key = vec![keyspace::VERSION];
    key.extend_from_slice(&generation.to_be_bytes());
    key
}

/// First key behind all key versions.
pub(super) fn versions_end() -> Vec<u8> {
    vec![keyspace::VERSION + 1]
}

pub(super) fn version_key(generation: u32, key: &str, revision: u64) -> Vec<u8> {
    let mut base = generation_key(generation);
    base.extend_from_slice(key.as_bytes());
    base.push(0);
    base.extend_from_slice(&revision.to_be_bytes());
    base
}

/// Key and revision of a version record; parsed from the end, so that the key may hold any character.
pub(super) fn parse_version_key(base: &[u8]) -> Option<(&str, u64)> {
    let rest = base.strip_prefix(&[keyspace::VERSION])?.get(4..)?;
    let split = rest.len().checked_sub(9)?;
    let (key, tail) = rest.split_at(split);
    let (zero, revision) = tail.split_first()?;
    if *zero != 0 {
        return None;
    }
    let revision = u64::from_be_bytes(revision.try_into().ok()?);
    Some((std::str::from_utf8(key).ok()?, revision))
}

/// All chunks of the record at `base`: `start..end`.
pub(super) fn record_range(base: &[u8]) -> (Vec<u8>, Vec<u8>) {
    let mut start = base.to_vec();
    start.extend_from_slice(&[0, 0]);
    let mut end = base.to_vec();
    end.extend_from_slice(&[0xff, 0xff]);
    (start, end)
}

/// The writes that store `payload` at `base`.
pub(super) fn put(writes: &mut Vec<Write>, base: &[u8], payload: &[u8]) {
    assert!(payload.len() <= MAX_PAYLOAD, "callers bound their records");
    let mut framed = Vec::with_capacity(HEAD + payload.len());
    let chunks = (HEAD + payload.len()).div_ceil(CHUNK);
    framed.push(FORMAT);
    framed.extend_from_slice(&(chunks as u16).to_be_bytes());
    framed.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    framed.extend_from_slice(&checksum(base, payload).to_be_bytes());
    framed.extend_from_slice(payload);
    for (number, chunk) in framed.chunks(CHUNK).enumerate() {
        let mut key = Vec::with_capacity(base.len() + 2);
        key.extend_from_slice(base);
        key.extend_from_slice(&(number as u16).to_be_bytes());
        writes.push((key, Some(chunk.to_vec())));
    }
}

fn checksum(base: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&(base.len() as u32).to_be_bytes());
    hasher.update(base);
    hasher.update(payload);
    hasher.finalize()
}

/// Joins the chunks of one record.
#[derive(Debug, Default)]
pub(super) struct Joiner {
    base: Vec<u8>,
    framed: Vec<u8>,
    /// Number of the first chunk.
    first: usize,
    chunks: usize,
    in_order: bool,
}

impl Joiner {
    /// Takes the next chunk; returns the record before it when this one begins another.
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) -> Option<Joined> {
        let (base, number) = match key.len().checked_sub(2) {
            Some(split) => {
                let (base, number) = key.split_at(split);
                (base, u16::from_be_bytes([number[0], number[1]]) as usize)
            }
            None => (key, u16::MAX as usize),
        };
        let done = if self.chunks > 0 && self.base != base {
            self.finish()
        } else {
            None
        };
        if self.chunks == 0 {
            self.base = base.to_vec();
            self.first = number;
            self.in_order = true;
        }
        self.in_order &= number == self.first + self.chunks;
        self.chunks += 1;
        self.framed.extend_from_slice(value);
        done
    }

    /// The record whose chunks were pushed last.
    pub(super) fn finish(&mut self) -> Option<Joined> {
        if self.chunks == 0 {
            return None;
        }
        let joined = std::mem::take(self);
        let payload = joined.check();
        Some((joined.base, payload))
    }

    fn check(&self) -> Result<Vec<u8>, RecordError> {
        if self.first != 0 {
            return Err(RecordError::Headless);
        }
        let (head, payload) = self
            .framed
            .split_first_chunk::<HEAD>()
            .ok_or(RecordError::Incomplete)?;
        if !self.in_order {
            return Err(RecordError::Incomplete);
        }
        if head[0] != FORMAT {
            return Err(RecordError::Format(head[0]));
        }
        let chunks = u16::from_be_bytes([head[1], head[2]]) as usize;
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let expected = u32::from_be_bytes([head[7], head[8], head[9], head[10]]);
        if self.chunks < chunks || payload.len() < length {
            return Err(RecordError::Incomplete);
        }
        if self.chunks != chunks || payload.len() != length {
            return Err(RecordError::Malformed);
        }
        if checksum(&self.base, payload) != expected {
            return Err(RecordError::Checksum);
        }
        Ok(payload.to_vec())
    }
}

/// A base key with its payload, or with what is wrong with it.
pub(super) type Joined = (Vec<u8>, Result<Vec<u8>, RecordError>);

/// Visits the records whose keys are in `start..end`, in order, until `visit` fails.
pub(super) fn scan(
    disk: &dyn Disk,
    start: &[u8],
    end: &[u8],
    mut visit: impl FnMut(Joined) -> Result<(), DiskError>,
) -> Result<(), DiskError> {
    let mut joiner = Joiner::default();
    let mut result = Ok(());
    disk.scan(start, end, &mut |key, value| {
        if let Some(joined) = joiner.push(key, value) {
            result = visit(joined);
        }
        result.is_ok()
    })?;
    result?;
    match joiner.finish() {
        Some(joined) => visit(joined),
        None => Ok(()),
    }
}

/// The record at `base`, where there is one.
pub(super) fn get(disk: &dyn Disk, base: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
    let (start, end) = record_range(base);
    let mut found = None;
    scan(disk, &start, &end, |(at, payload)| {
        if at == base {
            found = Some(payload.map_err(|e| corrupt(&at, e))?);
        }
        Ok(())
    })?;
    Ok(found)
}

/// The error for the record at `base`.
pub(super) fn corrupt(base: &[u8], error: RecordError) -> DiskError {
    DiskError::Corrupt(format!("{}: {error}", describe(base)))
}

/// A record's name for humans.
pub(super) fn describe(base: &[u8]) -> String {
    if let Some(index) = parse_log_key(base) {
        return format!("log entry {index}");
    }
    if let Some((key, revision)) = parse_version_key(base) {
        return format!("key {key:?} at revision {revision}");
    }
    match base.strip_prefix(&[keyspace::META]) {
        Some(name) => format!("record {:?}", String::from_utf8_lossy(name)),
        None => format!("record {}", hex::encode(base)),
    }
}

#[cfg(test)]
mod tests;
