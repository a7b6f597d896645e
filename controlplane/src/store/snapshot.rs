//! A snapshot: all versions of all keys at one moment, and its form as a stream of chunks.
//!
//! Taking one copies pointers, not values. The stream is what a member that fell behind is sent and what a
//! backup file holds; who carries the chunks is decided elsewhere (`peers.rs`). A chunk is
//! `format (1 byte) ++ checksum (4 bytes) ++ SnapshotChunk`.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::raft::v1 as pb;

use super::codec::{self, CodecError};
use super::mvcc::{Mvcc, RebuildError, Rebuilt, Summary, Version};

const FORMAT: u8 = 1;
/// A chunk is closed once it is this long; one value may make it longer.
const CHUNK_BYTES: usize = 256 << 10;
/// No chunk is longer: one value is no longer than a transaction.
pub(super) const MAX_CHUNK: usize = CHUNK_BYTES + super::MAX_TXN + (64 << 10);

/// The contents of a snapshot.
#[derive(Debug, Clone, Default)]
pub(crate) struct Image {
    pub(super) summary: Summary,
    pub(super) versions: Arc<[(Arc<str>, Version)]>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum SnapshotError {
    #[error("snapshot format {0} is unknown to this version")]
    Format(u8),
    #[error("snapshot chunk {0} is damaged")]
    Damaged(u32),
    #[error("snapshot chunk {found} where {expected} should be")]
    Sequence { expected: u32, found: u32 },
    #[error("the snapshot ends after chunk {0} without its end mark")]
    Cut(u32),
    #[error("the snapshot goes on after its end")]
    AfterEnd,
    #[error("the snapshot has {found} versions, its end mark says {expected}")]
    Count { expected: u64, found: u64 },
    #[error(transparent)]
    Codec(#[from] CodecError),
    #[error(transparent)]
    Rebuild(#[from] RebuildError),
}

impl Image {
    pub(super) fn capture(mvcc: &Mvcc) -> Self {
        Self {
            summary: mvcc.summary(),
            versions: mvcc
                .versions()
                .map(|(key, version)| (Arc::clone(key), version.clone()))
                .collect(),
        }
    }

    pub(super) fn to_mvcc(&self) -> Result<Rebuilt, RebuildError> {
        let versions = self.versions.iter().cloned();
        Mvcc::rebuild(versions, self.summary)
    }

    /// The snapshot as chunks, made one at a time.
    pub(super) fn chunks(&self) -> Chunks {
        Chunks {
            image: self.clone(),
            next: 0,
            sequence: 0,
            done: false,
        }
    }
}

pub(super) struct Chunks {
    image: Image,
    next: usize,
    sequence: u32,
    done: bool,
}

impl Iterator for Chunks {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let image = &self.image;
        let mut chunk = pb::SnapshotChunk {
            sequence: self.sequence,
            ..Default::default()
        };
        let mut bytes = 0;
        while bytes < CHUNK_BYTES
            && let Some((key, version)) = image.versions.get(self.next)
        {
            bytes += key.len() + 32 + version.live().map_or(0, |kv| kv.value.len());
            chunk.versions.push(pb::KeyVersion {
                key: key.to_string(),
                mod_revision: version.revision(),
                record: Some(codec::version_to_pb(version)),
            });
            self.next += 1;
        }
        if self.next == image.versions.len() {
            chunk.end = Some(pb::SnapshotEnd {
                versions: image.versions.len() as u64,
                summary: Some(codec::summary_to_pb(&image.summary)),
            });
            self.done = true;
        }
        self.sequence += 1;
        let message = chunk.encode_to_vec();
        let mut framed = Vec::with_capacity(5 + message.len());
        framed.push(FORMAT);
        framed.extend_from_slice(&crc32fast::hash(&message).to_be_bytes());
        framed.extend_from_slice(&message);
        Some(framed.into())
    }
}

/// Puts a snapshot together from its chunks.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    versions: Vec<(Arc<str>, Version)>,
    sequence: u32,
    end: Option<pb::SnapshotEnd>,
}

impl Decoder {
    pub(super) fn push(&mut self, framed: &[u8]) -> Result<(), SnapshotError> {
        if self.end.is_some() {
            return Err(SnapshotError::AfterEnd);
        }
        let Some((head, message)) = framed.split_first_chunk::<5>() else {
            return Err(SnapshotError::Damaged(self.sequence));
        };
        if head[0] != FORMAT {
            return Err(SnapshotError::Format(head[0]));
        }
        let checksum = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        if crc32fast::hash(message) != checksum {
            return Err(SnapshotError::Damaged(self.sequence));
        }
        let chunk = pb::SnapshotChunk::decode(message).map_err(CodecError::from)?;
        if chunk.sequence != self.sequence {
            return Err(SnapshotError::Sequence {
                expected: self.sequence,
                found: chunk.sequence,
            });
        }
        for version in chunk.versions {
            let record = version
                .record
                .ok_or(CodecError::Missing("record of a version"))?;
            let key: Arc<str> = match self.versions.last() {
                Some((last, _)) if **last == *version.key => Arc::clone(last),
                _ => version.key.into(),
            };
            let version = codec::version_from_pb(&key, version.mod_revision, record)?;
            self.versions.push((key, version));
        }
        self.sequence += 1;
        self.end = chunk.end;
        Ok(())
    }

    /// The image, once the last chunk was pushed; it is checked as a whole.
    pub(super) fn finish(self) -> Result<Image, SnapshotError> {
        let end = self.end.ok_or(SnapshotError::Cut(self.sequence))?;
        if end.versions != self.versions.len() as u64 {
            return Err(SnapshotError::Count {
                expected: end.versions,
                found: self.versions.len() as u64,
            });
        }
        let summary = end.summary.ok_or(CodecError::Missing("summary"))?;
        let image = Image {
            summary: codec::summary_from_pb(summary),
            versions: self.versions.into(),
        };
        image.to_mvcc()?;
        Ok(image)
    }
}

#[cfg(test)]
mod tests;
