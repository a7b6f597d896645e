//! Snapshot streams: carried whole, refused when damaged, no bytes make the decoder panic.
#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;
use crate::store::{Op, Txn};

fn filled(writes: &[(u8, Option<usize>)]) -> Mvcc {
    let mut mvcc = Mvcc::default();
    for (key, length) in writes {
        let key = format!("key/{key}");
        let op = match length {
            Some(length) => Op::Put {
                key,
                value: Bytes::from(vec![7; *length]),
            },
            None => Op::Delete { key },
        };
        mvcc.apply(&Txn {
            compares: vec![],
            ops: vec![op],
        });
    }
    mvcc.compact(mvcc.revision() / 3).unwrap();
    mvcc
}

fn decode(chunks: &[Bytes]) -> Result<Image, SnapshotError> {
    let mut decoder = Decoder::default();
    for chunk in chunks {
        decoder.push(chunk)?;
    }
    decoder.finish()
}

fn same(a: &Image, b: &Image) -> bool {
    let list = |image: &Image| -> Vec<String> {
        image.versions.iter().map(|v| format!("{v:?}")).collect()
    };
    a.summary == b.summary && list(a) == list(b)
}

fn writes() -> impl Strategy<Value = Vec<(u8, Option<usize>)>> {
    let length = prop::option::weighted(
        0.8,
        prop_oneof![4 => 0usize..50, 1 => 100_000usize..200_000],
    );
    prop::collection::vec((0u8..6, length), 0..20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn a_stream_carries_the_snapshot(writes in writes()) {
        let mvcc = filled(&writes);
        let image = Image::capture(&mvcc);
        let chunks: Vec<Bytes> = image.chunks().collect();
        prop_assert!(chunks.iter().all(|chunk| chunk.len() < 2 * CHUNK_BYTES));
        prop_assert!(same(&decode(&chunks).unwrap(), &image));
    }

    #[test]
    fn a_damaged_stream_is_refused(
        writes in writes(), chunk: prop::sample::Index, at: prop::sample::Index, bit in 0u8..8,
    ) {
        let chunks: Vec<Bytes> = Image::capture(&filled(&writes)).chunks().collect();
        let which = chunk.index(chunks.len());
        let mut damaged = chunks.clone();
        let mut bytes = damaged[which].to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        damaged[which] = bytes.into();
        prop_assert!(decode(&damaged).is_err());
        let mut missing = chunks.clone();
        missing.remove(which);
        prop_assert!(decode(&missing).is_err());
        let mut twice = chunks.clone();
        twice.insert(which, chunks[which].clone());
        prop_assert!(decode(&twice).is_err());
    }

    #[test]
    fn any_bytes_are_refused_without_panic(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..100), 0..4),
    ) {
        for mut bytes in chunks {
            let _ = Decoder::default().push(&bytes);
            // With a checksum that fits, so that the message itself is looked at.
            let mut framed = vec![FORMAT];
            framed.extend_from_slice(&crc32fast::hash(&bytes).to_be_bytes());
            framed.append(&mut bytes);
            let mut decoder = Decoder::default();
            if decoder.push(&framed).is_ok() {
                let _ = decoder.finish();
            }
        }
    }
}

#[test]
fn an_unknown_format_is_named() {
    let mut chunk = Image::default().chunks().next().unwrap().to_vec();
    chunk[0] = 2;
    let error = decode(&[chunk.into()]).unwrap_err();
    assert_eq!(error, SnapshotError::Format(2));
    assert_eq!(decode(&[]).unwrap_err(), SnapshotError::Cut(0));
}
