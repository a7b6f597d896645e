//! What fuzz targets call: any bytes where members and disks give theirs. Compiled for them and for tests only.

use prost::Message as _;
use proto::raft::v1 as pb;

use super::codec;
use super::peers::message;
use super::record::Joiner;
use super::snapshot::Decoder;

/// As a message of another member.
pub(crate) fn raft(bytes: &[u8]) {
    let Some((which, bytes)) = bytes.split_first() else {
        return;
    };
    match which % 6 {
        0 => {
            if let Ok(append) = pb::AppendRequest::decode(bytes)
                && let Ok(append) = message::append_from_pb(append)
            {
                // What was understood is told in the same words.
                let told = message::append_to_pb(&append);
                let again = message::append_from_pb(told.clone());
                let again = again.expect("what was told is understood");
                assert_eq!(message::append_to_pb(&again), told);
            }
        }
        1 => {
            if let Ok(vote) = pb::VoteRequest::decode(bytes) {
                let _ = message::vote_from_pb(vote);
            }
        }
        2 => {
            if let Ok(head) = pb::SnapshotHead::decode(bytes) {
                let _ = message::meta_from_pb(head);
            }
        }
        3 => {
            if let Ok(txns) = pb::Transactions::decode(bytes) {
                let _ = codec::txns_from_pb(txns);
            }
        }
        4 => {
            if let Ok(appended) = pb::AppendResponse::decode(bytes) {
                let _ = message::appended_from_pb(appended);
            }
        }
        _ => {
            if let Ok(membership) = pb::Membership::decode(bytes) {
                let _ = codec::membership_from_pb(membership);
            }
        }
    }
}

/// As records of the disk, and as what is in them.
pub(crate) fn record(bytes: &[u8]) {
    let _ = codec::decode_entry(bytes);
    let _ = codec::decode_log_id(bytes);
    let _ = codec::decode_vote(bytes);
    let _ = codec::decode_applied(bytes);
    let _ = codec::decode_version(&"a".into(), 7, bytes);
    let mut joiner = Joiner::default();
    let mut rest = bytes;
    while let [keys, values, tail @ ..] = rest {
        let (keys, values) = (usize::from(*keys), usize::from(*values));
        if tail.len() < keys + values {
            break;
        }
        joiner.push(&tail[..keys], &tail[keys..keys + values]);
        rest = &tail[keys + values..];
    }
    joiner.finish();
}

/// As a snapshot from a peer or a file: with checksums that are right, which no fuzzer would find.
pub(crate) fn snapshot(bytes: &[u8]) {
    let mut decoder = Decoder::default();
    let mut rest = bytes;
    while let [format, length, tail @ ..] = rest {
        let length = usize::from(*length).min(tail.len());
        let (message, tail) = tail.split_at(length);
        let mut framed = vec![*format];
        framed.extend(crc32fast::hash(message).to_be_bytes());
        framed.extend(message);
        if decoder.push(&framed).is_err() {
            return;
        }
        rest = tail;
    }
    if let Ok(image) = decoder.finish() {
        let _ = image.to_mvcc();
    }
    let _ = super::backup::read(bytes);
}
