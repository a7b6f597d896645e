//! Records and their payloads: what is put is found, what is damaged is noticed, nothing panics.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::store::codec;
use crate::store::disk::fake::FakeDisk;

fn stored(base: &[u8], payload: &[u8]) -> FakeDisk {
    let disk = FakeDisk::default();
    let mut writes = Vec::new();
    put(&mut writes, base, payload);
    disk.write(writes).unwrap();
    disk
}

proptest! {
    #[test]
    fn what_is_put_is_found(length in 0usize..30_000, index: u64) {
        let payload: Vec<u8> = (0..length).map(|i| (i * 31) as u8).collect();
        let base = log_key(index);
        let disk = stored(&base, &payload);
        prop_assert_eq!(get(&disk, &base).unwrap(), Some(payload));
        prop_assert_eq!(get(&disk, &log_key(index ^ 1)).unwrap(), None);
    }

    #[test]
    fn a_changed_bit_is_noticed(length in 0usize..20_000, at: prop::sample::Index, bit in 0u8..8) {
        let base = version_key(7, "some/key", 9);
        let disk = stored(&base, &vec![0x5a; length]);
        let chunks = (HEAD + length).div_ceil(CHUNK) as u16;
        let mut key = base.clone();
        key.extend_from_slice(&(at.index(chunks as usize) as u16).to_be_bytes());
        let damaged = disk.damage(&key, |value| {
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
        });
        prop_assert!(damaged);
        prop_assert!(matches!(get(&disk, &base), Err(DiskError::Corrupt(_))));
    }

    #[test]
    fn a_lost_chunk_is_noticed(length in 7_000usize..40_000, lost: prop::sample::Index) {
        let base = log_key(3);
        let disk = stored(&base, &vec![1; length]);
        let chunks = (HEAD + length).div_ceil(CHUNK);
        let mut key = base.clone();
        key.extend_from_slice(&(lost.index(chunks) as u16).to_be_bytes());
        prop_assert!(disk.remove_first(&key));
        prop_assert!(matches!(get(&disk, &base), Err(DiskError::Corrupt(_))));
    }

    #[test]
    fn a_record_in_the_wrong_place_is_noticed(index: u64, other: u64) {
        prop_assume!(index != other);
        let mut writes = Vec::new();
        put(&mut writes, &log_key(index), b"payload");
        let mut key = log_key(other);
        key.extend_from_slice(&[0, 0]);
        writes[0].0 = key;
        let disk = FakeDisk::default();
        disk.write(writes).unwrap();
        prop_assert!(get(&disk, &log_key(other)).is_err());
    }

    #[test]
    fn any_chunks_are_joined_without_panic(
        chunks in prop::collection::vec(
            (prop::collection::vec(any::<u8>(), 0..6), prop::collection::vec(any::<u8>(), 0..40)),
            0..20,
        )
    ) {
        let mut joiner = Joiner::default();
        for (key, value) in &chunks {
            joiner.push(key, value);
        }
        joiner.finish();
    }

    #[test]
    fn any_payload_is_decoded_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = codec::decode_entry(&bytes);
        let _ = codec::decode_applied(&bytes);
        let _ = codec::decode_vote(&bytes);
        let _ = codec::decode_log_id(&bytes);
        let _ = codec::decode_version(&"k".into(), 3, &bytes);
        let _ = parse_version_key(&bytes);
        let _ = parse_log_key(&bytes);
        let _ = describe(&bytes);
    }

    #[test]
    fn version_keys_are_read_back_and_do_not_collide(
        key in "[^\0]{1,20}", other in "[^\0]{1,20}", revision: u64, generation: u32,
    ) {
        let base = version_key(generation, &key, revision);
        prop_assert_eq!(parse_version_key(&base), Some((key.as_str(), revision)));
        let (start, end) = record_range(&base);
        let (first, _) = record_range(&version_key(generation, &other, revision));
        prop_assert_eq!(start <= first && first < end, key == other);
    }
}

#[test]
fn an_unknown_format_is_named() {
    let base = log_key(1);
    let disk = stored(&base, b"payload");
    disk.damage(&base, |value| value[0] = 9);
    let error = get(&disk, &base).unwrap_err();
    assert_eq!(
        error.to_string(),
        "corrupt data: log entry 1: record format 9 is unknown to this version"
    );
}

mod entries {
    use std::collections::{BTreeMap, BTreeSet};

    use bytes::Bytes;
    use openraft::{CommittedLeaderId, EntryPayload};

    use super::*;
    use crate::store::raft::{Command, Entry, LogId, Membership, Node};
    use crate::store::{Compare, Op, Txn};

    fn txn() -> impl Strategy<Value = Txn> {
        let compares = prop::collection::vec((".{0,8}", any::<u64>()), 0..3);
        let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..20));
        let ops = prop::collection::vec((".{0,8}", value), 0..3);
        (compares, ops).prop_map(|(compares, ops)| Txn {
            compares: compares
                .into_iter()
                .map(|(key, mod_revision)| Compare { key, mod_revision })
                .collect(),
            ops: ops
                .into_iter()
                .map(|(key, value)| match value {
                    Some(value) => Op::Put {
                        key,
                        value: Bytes::from(value),
                    },
                    None => Op::Delete { key },
                })
                .collect(),
        })
    }

    fn payload() -> impl Strategy<Value = EntryPayload<crate::store::raft::TypeConfig>> {
        let txns = prop::collection::vec(txn(), 0..4)
            .prop_map(|txns| EntryPayload::Normal(Command::Txns(txns.into())));
        let membership = prop::collection::vec(prop::collection::btree_set(0u64..5, 1..4), 1..3)
            .prop_map(|configs: Vec<BTreeSet<u64>>| {
                let nodes: BTreeMap<u64, Node> = (0..6)
                    .map(|id| {
                        (
                            id,
                            Node {
                                address: format!("host-{id}"),
                                name: format!("m{id}"),
                                api_address: String::new(),
                            },
                        )
                    })
                    .collect();
                EntryPayload::Membership(Membership::new(configs, nodes))
            });
        prop_oneof![
            Just(EntryPayload::Blank),
            txns,
            any::<u64>().prop_map(|r| EntryPayload::Normal(Command::Compact(r))),
            membership,
        ]
    }

    proptest! {
        #[test]
        fn survive_encoding(payload in payload(), term: u64, node: u64, index: u64) {
            let entry = Entry {
                log_id: LogId::new(CommittedLeaderId::new(term, node), index),
                payload,
            };
            let bytes = codec::encode_entry(&entry);
            prop_assert_eq!(codec::decode_entry(&bytes).unwrap(), entry);
            for cut in 0..bytes.len().min(64) {
                let _ = codec::decode_entry(&bytes[..cut]);
            }
        }
    }
}
