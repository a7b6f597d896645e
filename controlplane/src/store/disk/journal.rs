//! The journal: where writes are made durable, by one write and one `fdatasync` of a file whose size does not change.
//!
//! The same by sled alone is slow: its file grows, so a sync commits the file system's own journal too, and it is written by
//! another thread, which waits for the disk once more. So sled gets the writes when some have come together, and is synced only
//! when the journal is full (a checkpoint); then the journal begins anew at its start, in blocks that it has already. After
//! a crash what the journal has beyond what sled says that it has is written to sled again.
//!
//! ```text
//! head:   "waggle-journal 1\n", zeros up to 512 bytes
//! record: crc (4) | length of what follows (4) | lap (8) | sequence (8) | writes
//! write:  length of the key (4) | length of the value (4), all ones for a removal | key | value
//! ```
//! Numbers are big-endian. Records of one lap follow each other without a gap in their sequence, which goes on through all
//! laps; where the chain ends nothing else is looked at. A lap's number is never used twice, also after a crash, so what
//! an older lap has left behind is not taken for its continuation. sled knows how far it is ([`Place`]), because what it
//! gets is followed by a write that says so.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::{DiskError, Write, io_error, open_or_make};

const MAGIC: &[u8] = b"waggle-journal 1\n";
const HEAD: u64 = 512;
const RECORD_HEAD: usize = 24;
const REMOVED: u32 = u32::MAX;
/// Writes of one record, by bytes. One alone may be larger.
const RECORD: usize = 256 << 10;
/// What may wait in memory for the next sync.
const BUFFER: usize = 1 << 20;
/// The file when it is made. It doubles when it is full, up to the whole.
pub(super) const FIRST: u64 = 1 << 20;
pub(super) const WHOLE: u64 = 16 << 20;

/// How far the journal is, or the database behind it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) lap: u64,
    /// Of the last record.
    pub(super) sequence: u64,
}

impl Place {
    pub(super) fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.lap.to_be_bytes());
        bytes[8..].copy_from_slice(&self.sequence.to_be_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; 16] = bytes.try_into().ok()?;
        let (lap, sequence) = bytes.split_at(8);
        Some(Self {
            lap: u64::from_be_bytes(lap.try_into().ok()?),
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
        })
    }
}

/// What is read of a record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) place: Place,
    pub(super) writes: Vec<Write>,
}

pub(super) struct Journal {
    file: File,
    /// Bytes of the file, all of them written at some time.
    length: u64,
    whole: u64,
    /// Where the next record goes.
    at: u64,
    /// Records that are not in the file yet.
    buffer: Vec<u8>,
    /// Some of what is in the file is not synced.
    unsynced: bool,
    place: Place,
}

impl Journal {
    /// Opens or makes the file, and gives the records that are in it.
    pub(super) fn open(path: &Path, whole: u64) -> Result<(Self, Vec<Record>), DiskError> {
        let io = |e: io::Error| io_error("journal", &e);
        let file = open_or_make(path).map_err(io)?;
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).map_err(io)?;
        let mut journal = Self {
            file,
            length: bytes.len() as u64,
            whole,
            at: HEAD,
            buffer: Vec::new(),
            unsynced: false,
            place: Place::default(),
        };
        let (head, records) = bytes.split_at(bytes.len().min(HEAD as usize));
        if journal.length < FIRST || head.iter().all(|byte| *byte == 0) {
            // It was not complete when the power went, so nothing was in it.
            journal.make().map_err(io)?;
            return Ok((journal, Vec::new()));
        }
        if !head.starts_with(MAGIC) {
            let why = "journal: not one that this version of waggle knows";
            return Err(DiskError::Corrupt(why.into()));
        }
        Ok((journal, parse(records)))
    }

    fn make(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.length = 0;
        self.extend(FIRST)?;
        let mut head = [0; HEAD as usize];
        head[..MAGIC.len()].copy_from_slice(MAGIC);
        self.file.write_all_at(&head, 0)?;
        self.file.sync_all()
    }

    /// Writes zeros up to the length: blocks that are only reserved would make the next sync as slow as a growing file's.
    fn extend(&mut self, length: u64) -> io::Result<()> {
        let zeros = vec![0; 256 << 10];
        while self.length < length {
            let count = (length - self.length).min(zeros.len() as u64);
            self.file
                .write_all_at(&zeros[..count as usize], self.length)?;
            self.length += count;
        }
        Ok(())
    }

    /// Begins a lap. The database must be durable up to the place, and say that lap.
    pub(super) fn begin(&mut self, place: Place) {
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER);
        self.unsynced = false;
        self.at = HEAD;
        self.place = place;
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Whether there is no room for the next record, so that a checkpoint is due.
    pub(super) fn is_full(&self, writes: &[Write]) -> bool {
        let size: usize = writes.iter().map(size).sum();
        let end = self.at + (self.buffer.len() + RECORD_HEAD + size) as u64;
        end > self.whole && self.at + self.buffer.len() as u64 > HEAD
    }

    /// Takes a record. It is in the file after the next [`Self::sync`].
    pub(super) fn push(&mut self, writes: &[Write]) -> Result<Place, DiskError> {
        self.place.sequence += 1;
        encode(self.place, writes, &mut self.buffer);
        if self.buffer.len() > BUFFER {
            self.write_out()?;
        }
        Ok(self.place)
    }

    fn write_out(&mut self) -> Result<(), DiskError> {
        let io = |e: io::Error| io_error("journal", &e);
        if self.buffer.is_empty() {
            return Ok(());
        }
        let end = self.at + self.buffer.len() as u64;
        if end > self.length {
            let doubled = (2 * self.length).min(self.whole);
            self.extend(end.max(doubled)).map_err(io)?;
        }
        self.file.write_all_at(&self.buffer, self.at).map_err(io)?;
        self.at = end;
        self.buffer.clear();
        self.unsynced = true;
        Ok(())
    }

    /// All records are on the disk when this returns.
    pub(super) fn sync(&mut self) -> Result<(), DiskError> {
        self.write_out()?;
        if self.unsynced {
            self.file
                .sync_data()
                .map_err(|e| io_error("journal: fdatasync", &e))?;
            self.unsynced = false;
        }
        Ok(())
    }
}

pub(super) fn size((key, value): &Write) -> usize {
    8 + key.len() + value.as_ref().map_or(0, Vec::len)
}

/// The writes as they fit into records, in order.
pub(super) fn split(mut writes: &[Write]) -> impl Iterator<Item = &[Write]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fitting = writes.iter().take_while(|write| {
            bytes += size(write);
            bytes <= RECORD
        });
        let count = fitting.count().max(1).min(writes.len());
        let (record, rest) = writes.split_at(count);
        writes = rest;
        (!record.is_empty()).then_some(record)
    })
}

fn encode(place: Place, writes: &[Write], out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&place.to_bytes());
    for (key, value) in writes {
        let length = value.as_ref().map_or(REMOVED, |value| value.len() as u32);
        out.extend_from_slice(&(key.len() as u32).to_be_bytes());
        out.extend_from_slice(&length.to_be_bytes());
        out.extend_from_slice(key);
        out.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    let length = (out.len() - start - 8) as u32;
    out[start + 4..start + 8].copy_from_slice(&length.to_be_bytes());
    let crc = crc32fast::hash(&out[start + 4..]);
    out[start..start + 4].copy_from_slice(&crc.to_be_bytes());
}

/// The records of the chain that begins here.
pub(super) fn parse(mut bytes: &[u8]) -> Vec<Record> {
    let mut records: Vec<Record> = Vec::new();
    while let Some((record, rest)) = parse_record(bytes) {
        if let Some(last) = records.last() {
            let next = Place {
                sequence: last.place.sequence.wrapping_add(1),
                ..last.place
            };
            if record.place != next {
                break;
            }
        }
        records.push(record);
        bytes = rest;
    }
    records
}

fn parse_record(bytes: &[u8]) -> Option<(Record, &[u8])> {
    let (crc, rest) = bytes.split_first_chunk::<4>()?;
    let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
    let (covered, after) = rest.split_at_checked(length.checked_add(4)?)?;
    if crc32fast::hash(covered) != u32::from_be_bytes(*crc) {
        return None;
    }
    let (place, mut rest) = covered[4..].split_at_checked(16)?;
    let mut writes = Vec::new();
    while !rest.is_empty() {
        let (key_length, tail) = rest.split_first_chunk::<4>()?;
        let (length, tail) = tail.split_first_chunk::<4>()?;
        let (key, tail) = tail.split_at_checked(u32::from_be_bytes(*key_length) as usize)?;
        let (value, tail) = match u32::from_be_bytes(*length) {
            REMOVED => (None, tail),
            length => {
                let (value, tail) = tail.split_at_checked(length as usize)?;
                (Some(value.to_vec()), tail)
            }
        };
        writes.push((key.to_vec(), value));
        rest = tail;
    }
    let place = Place::from_bytes(place)?;
    Some((Record { place, writes }, after))
}

#[cfg(test)]
mod tests;
