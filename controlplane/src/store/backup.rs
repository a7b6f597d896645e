//! A snapshot as a file, and a new cluster out of it.
//!
//! ```text
//! "waggle-snapshot 1\n"
//! length (4 bytes) ++ checksum (4 bytes) ++ BackupHead
//! length (4 bytes) ++ chunk, again and again; the last one says what all of them add up to
//! ```
//! A cluster that is restored goes on at a much greater revision than the snapshot's, and has no history: who
//! knows a revision of the old cluster is told to begin anew, instead of being shown other events under
//! revisions that it has seen.

use std::io::Read;
use std::path::Path;

use bytes::Bytes;
use openraft::{CommittedLeaderId, Membership};
use prost::Message;
use proto::raft::v1 as pb;

use super::card::Card;
use super::codec::{self, Applied};
use super::directory::Directory;
use super::disk::{Disk, DiskError, SledDisk};
use super::mvcc::Summary;
use super::raft::{LogId, Node, StoredMembership, Vote};
use super::sealed::SealedDisk;
use super::snapshot::{Decoder, Image, MAX_CHUNK, SnapshotError};
use super::{FOUNDER, Revision, StoreError, foundation, log, machine, record};

const MAGIC: &str = "waggle-snapshot ";
const FORMAT: u32 = 1;
const MAX_HEAD: usize = 64 << 10;
/// How far a restored cluster jumps ahead: more than anybody has written since the snapshot.
const AHEAD: Revision = 1_000_000_000;
/// Versions that are written in one go.
const SLICE: usize = 1_024;

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotInfo {
    pub cluster: String,
    pub revision: u64,
    /// Seconds since the epoch.
    pub created: i64,
    /// Of the waggle that has written it.
    pub version: String,
    pub keys: u64,
}

/// The file, piece by piece.
pub(super) fn pieces(
    image: &Image,
    cluster: &str,
    created: i64,
) -> impl Iterator<Item = Bytes> + Send + use<> {
    let head = pb::BackupHead {
        cluster: cluster.to_owned(),
        revision: image.summary.revision,
        created,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    }
    .encode_to_vec();
    let mut start = format!("{MAGIC}{FORMAT}\n").into_bytes();
    start.extend_from_slice(&(head.len() as u32).to_be_bytes());
    start.extend_from_slice(&crc32fast::hash(&head).to_be_bytes());
    start.extend_from_slice(&head);
    let chunks = image.chunks().map(|chunk| {
        let mut piece = Vec::with_capacity(4 + chunk.len());
        piece.extend_from_slice(&(chunk.len() as u32).to_be_bytes());
        piece.extend_from_slice(&chunk);
        Bytes::from(piece)
    });
    std::iter::once(Bytes::from(start)).chain(chunks)
}

/// Reads a file and checks all of it.
pub(super) fn read(mut file: impl Read) -> Result<(SnapshotInfo, Image), StoreError> {
    let head = read_head(&mut file)?;
    let mut decoder = Decoder::default();
    while let Some(length) = length(&mut file)? {
        if length > MAX_CHUNK {
            return Err(corrupt("a chunk is too long"));
        }
        let chunk = exactly(&mut file, length)?;
        decoder.push(&chunk).map_err(of_snapshot)?;
    }
    let image = decoder.finish().map_err(of_snapshot)?;
    let info = SnapshotInfo {
        cluster: head.cluster,
        revision: image.summary.revision,
        created: head.created,
        version: head.version,
        keys: image.summary.live_keys,
    };
    Ok((info, image))
}

fn read_head(file: &mut impl Read) -> Result<pb::BackupHead, StoreError> {
    let mut line = Vec::new();
    loop {
        let byte = exactly(file, 1)?[0];
        if byte == b'\n' {
            break;
        }
        line.push(byte);
        if line.len() > MAGIC.len() + 10 {
            return Err(corrupt("it does not begin as one"));
        }
    }
    let line = String::from_utf8_lossy(&line);
    let version = line.strip_prefix(MAGIC).and_then(|text| text.parse().ok());
    match version {
        Some(FORMAT) => {}
        Some::<u32>(found) => {
            return Err(corrupt(&format!(
                "it has format {found}, this version of waggle knows format {FORMAT}"
            )));
        }
        None => return Err(corrupt("it does not begin as one")),
    }
    let length = length(file)?.filter(|length| *length <= MAX_HEAD);
    let length = length.ok_or_else(|| corrupt("its head is cut"))?;
    let checksum = exactly(file, 4)?;
    let head = exactly(file, length)?;
    if crc32fast::hash(&head).to_be_bytes() != *checksum {
        return Err(corrupt("its head is damaged"));
    }
    pb::BackupHead::decode(head.as_slice()).map_err(|error| corrupt(&error.to_string()))
}

/// `None` at the end.
fn length(file: &mut impl Read) -> Result<Option<usize>, StoreError> {
    let mut bytes = [0; 4];
    let mut got = 0;
    while got < bytes.len() {
        match file.read(&mut bytes[got..]) {
            Ok(0) if got == 0 => return Ok(None),
            Ok(0) => return Err(corrupt("it is cut")),
            Ok(more) => got += more,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(StoreError::Storage(error.to_string())),
        }
    }
    Ok(Some(u32::from_be_bytes(bytes) as usize))
}

fn exactly(file: &mut impl Read, length: usize) -> Result<Vec<u8>, StoreError> {
    let mut bytes = vec![0; length];
    file.read_exact(&mut bytes)
        .map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => corrupt("it is cut"),
            _ => StoreError::Storage(error.to_string()),
        })?;
    Ok(bytes)
}

fn corrupt(why: &str) -> StoreError {
    StoreError::Corrupt(format!("the snapshot cannot be used: {why}"))
}

fn of_snapshot(error: SnapshotError) -> StoreError {
    corrupt(&error.to_string())
}

/// What is in the file.
pub(crate) fn inspect(file: &Path) -> Result<SnapshotInfo, StoreError> {
    Ok(read(open(file)?)?.0)
}

fn open(file: &Path) -> Result<std::io::BufReader<std::fs::File>, StoreError> {
    let opened = std::fs::File::open(file);
    let opened =
        opened.map_err(|error| StoreError::Storage(format!("{}: {error}", file.display())))?;
    Ok(std::io::BufReader::with_capacity(1 << 20, opened))
}

/// Makes a store of a cluster of one, with the file's contents, in a directory that has no store.
pub(crate) fn restore(file: &Path, dir: &Path) -> Result<SnapshotInfo, StoreError> {
    let (info, image) = read(open(file)?)?;
    let directory = Directory::open(dir)?;
    if directory.data().exists() {
        return Err(StoreError::InvalidChange(format!(
            "{} holds a store already; restore into another directory, or remove that one first",
            dir.display()
        )));
    }
    let disk = SealedDisk::open(SledDisk::open(&directory.data())?, dir)?;
    write(&disk, &image)?;
    // Last: without it the directory counts as of nobody.
    let card = Card::founder();
    card.write(dir)?;
    directory.sync()?;
    Ok(info)
}

/// The contents without their history, far ahead.
fn fresh(image: &Image) -> Result<Image, StoreError> {
    let rebuilt = image.to_mvcc().map_err(|e| corrupt(&e.to_string()))?;
    let mut mvcc = rebuilt.mvcc;
    let now = mvcc.revision();
    mvcc.compact(now)?;
    let live = Image::capture(&mvcc);
    let revision = now + AHEAD;
    Ok(Image {
        summary: Summary {
            revision,
            compacted: revision,
            ..live.summary
        },
        versions: live.versions,
    })
}

fn write(disk: &dyn Disk, image: &Image) -> Result<(), StoreError> {
    let image = fresh(image)?;
    let at = |index| LogId::new(CommittedLeaderId::new(1, FOUNDER), index);
    let alone = Membership::new(
        vec![std::collections::BTreeSet::from([FOUNDER])],
        std::collections::BTreeMap::from([(FOUNDER, Node::default())]),
    );
    let applied = Applied {
        log_id: Some(at(1)),
        membership: StoredMembership::new(Some(at(0)), alone),
        summary: image.summary,
        generation: 0,
    };
    for versions in image.versions.chunks(SLICE) {
        let mut writes = Vec::new();
        for (key, version) in versions {
            let base = record::version_key(applied.generation, key, version.revision());
            record::put(&mut writes, &base, &codec::encode_version(version));
        }
        disk.write(writes)?;
    }
    let mut writes = Vec::new();
    let mut meta = |name: &str, payload: &[u8]| {
        record::put(&mut writes, &record::meta_key(name), payload);
    };
    meta(foundation::MEMBER, &FOUNDER.to_be_bytes());
    meta(log::PURGED, &codec::encode_log_id(&at(1)));
    meta(log::VOTE, &codec::encode_vote(&Vote::new(1, FOUNDER)));
    meta(machine::APPLIED, &codec::encode_applied(&applied));
    disk.write(writes)?;
    disk.sync().map_err(|error: DiskError| error.into())
}

#[cfg(test)]
mod tests;
