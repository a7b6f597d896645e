//! What is read of a journal that was cut, damaged or overwritten, and what a database with one finds after a crash.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::super::database::Database;
use super::super::{Disk, Sizes, SledDisk};
use super::*;

fn record(lap: u64, sequence: u64, writes: &[Write]) -> (Record, Vec<u8>) {
    let place = Place { lap, sequence };
    let mut bytes = Vec::new();
    encode(place, writes, &mut bytes);
    let writes = writes.to_vec();
    (Record { place, writes }, bytes)
}

fn open_with(path: &Path, journal: u64) -> Result<SledDisk, DiskError> {
    let sizes = Sizes {
        journal,
        ..Sizes::default()
    };
    SledDisk::open_with(path, sizes)
}

fn put(key: &str, value: &str) -> Write {
    (key.into(), Some(value.into()))
}

#[test]
fn a_chain_ends_where_an_older_lap_goes_on() {
    let (first, mut bytes) = record(7, 41, &[put("a", "1"), (b"b".to_vec(), None)]);
    bytes.extend(record(7, 42, &[put("", "")]).1);
    assert_eq!(parse(&bytes).len(), 2);
    // The next in the sequence, as another life has written it.
    bytes.extend(record(6, 43, &[put("a", "old")]).1);
    assert_eq!(parse(&bytes).len(), 2);
    let mut gap = record(7, 41, &first.writes).1;
    gap.extend(record(7, 43, &[put("a", "3")]).1);
    assert_eq!(parse(&gap), [first]);
    assert_eq!(parse(&[0; 4_096]), []);
}

#[test]
fn a_file_that_is_no_journal_is_refused_and_one_that_was_not_complete_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("journal");
    for length in [0, 100, FIRST] {
        std::fs::write(&path, vec![0; length as usize]).unwrap();
        assert_eq!(Journal::open(&path, WHOLE).unwrap().1, []);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), FIRST);
    }
    std::fs::write(&path, [b'x'; FIRST as usize]).unwrap();
    let refused = Journal::open(&path, WHOLE).err();
    assert!(
        matches!(refused, Some(DiskError::Corrupt(_))),
        "{refused:?}"
    );
}

#[test]
fn the_file_grows_to_its_whole_and_no_further() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open_with(&dir.path().join("data"), 4 * FIRST).unwrap();
    let path = dir.path().join("data/journal");
    let mut lengths = Vec::new();
    for round in 0..900u32 {
        let value = vec![round as u8; 6_000];
        disk.write(vec![(round.to_be_bytes().to_vec(), Some(value))])
            .unwrap();
        disk.sync().unwrap();
        lengths.push(std::fs::metadata(&path).unwrap().len());
    }
    lengths.dedup();
    assert_eq!(lengths, [FIRST, 2 * FIRST, 4 * FIRST]);
    assert!(disk.size() > 4 * FIRST);
    assert_eq!(contents(&disk).len(), 900);
}

fn contents(disk: &SledDisk) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut all = BTreeMap::new();
    let keep = &mut |key: &[u8], value: &[u8]| {
        all.insert(key.to_vec(), value.to_vec());
        true
    };
    disk.scan(&[], &[0xff], keep).unwrap();
    all
}

/// sled's own files as they are now, without the journal.
fn database(path: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = std::fs::read_dir(path).unwrap().map(Result::unwrap);
    let files = files.filter(|file| file.file_type().unwrap().is_file());
    files
        .filter(|file| file.file_name() != "journal")
        .map(|file| (file.file_name().into(), std::fs::read(file.path()).unwrap()))
        .collect()
}

#[derive(Debug, Clone)]
struct Step {
    writes: usize,
    size: usize,
    removal: bool,
    /// Whether sled is given it before more is written.
    settled: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let step = (1usize..12, 0usize..700, any::<bool>(), any::<bool>());
    step.prop_map(|(writes, size, removal, settled)| Step {
        writes,
        size,
        removal,
        settled,
    })
}

/// A disk, and what it must hold after any number of writes.
struct Bench {
    disk: SledDisk,
    states: Vec<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Bench {
    fn run(&mut self, step: &Step) {
        let mut writes = Vec::new();
        for _ in 0..step.writes {
            let number = self.states.len();
            let key = format!("k{}", number % 7).into_bytes();
            let mut state = self.states.last().unwrap().clone();
            let value = match step.removal && number.is_multiple_of(3) {
                true => {
                    state.remove(&key);
                    None
                }
                false => {
                    let value = format!("{number}{}", "x".repeat(step.size)).into_bytes();
                    state.insert(key.clone(), value.clone());
                    Some(value)
                }
            };
            writes.push((key, value));
            self.states.push(state);
        }
        self.disk.write(writes).unwrap();
    }

    fn lap(&self) -> u64 {
        self.disk.with(|open| Ok(open.lap())).unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn a_crash_in_a_sync_leaves_all_that_was_synced_and_a_prefix_of_the_rest(
        steps in prop::collection::vec(step(), 0..20),
        last in step(),
        cut in 0.0..1.0f64,
        noise in any::<bool>(),
        early in any::<bool>(),
        again in step(),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let disk = open_with(&path, 6_000).unwrap();
        let mut bench = Bench { disk, states: vec![BTreeMap::new()] };
        for step in &steps {
            bench.run(step);
            bench.disk.sync().unwrap();
            if step.settled {
                bench.disk.with(Database::settle).unwrap();
            }
        }
        let (synced, lap) = (bench.states.len() - 1, bench.lap());
        let before = std::fs::read(path.join("journal")).unwrap();
        let mut sled = database(&path);
        bench.run(&last);
        if bench.lap() != lap || !early {
            // A checkpoint has made these durable.
            sled = database(&path);
        }
        bench.disk.sync().unwrap();
        let mut torn = std::fs::read(path.join("journal")).unwrap();
        let changed = torn.iter().zip(&before).rposition(|(new, old)| new != old).unwrap_or(0);
        let cut = (changed as f64 * cut) as usize;
        let first = torn.iter().zip(&before).position(|(new, old)| new != old).unwrap_or(0);
        let cut = cut.max(first);
        torn[cut..].copy_from_slice(&before[cut..]);
        if noise {
            torn[cut] ^= 0x40;
        }

        let crashed = dir.path().join("crashed");
        std::fs::create_dir(&crashed).unwrap();
        for (name, bytes) in sled {
            std::fs::write(crashed.join(name), bytes).unwrap();
        }
        std::fs::write(crashed.join("journal"), torn).unwrap();
        let disk = open_with(&crashed, 6_000).unwrap();
        let found = contents(&disk);
        let which = bench.states.iter().rposition(|state| *state == found);
        prop_assert!(which.is_some_and(|which| which >= synced), "{which:?} of {synced}");
        // It goes on from there, also after another crash.
        let mut bench = Bench { disk, states: bench.states[..=which.unwrap()].to_vec() };
        bench.run(&again);
        bench.disk.sync().unwrap();
        let twice = dir.path().join("twice");
        std::fs::create_dir(&twice).unwrap();
        for (name, bytes) in database(&crashed) {
            std::fs::write(twice.join(name), bytes).unwrap();
        }
        std::fs::copy(crashed.join("journal"), twice.join("journal")).unwrap();
        let disk = open_with(&twice, 6_000).unwrap();
        prop_assert_eq!(Some(&contents(&disk)), bench.states.last());
    }

    #[test]
    fn any_bytes_are_parsed_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn what_is_cut_or_changed_ends_the_chain(count in 1u64..6, at in any::<prop::sample::Index>()) {
        let mut whole = Vec::new();
        let mut ends = Vec::new();
        for sequence in 0..count {
            whole.extend(record(3, sequence, &[put("key", &"v".repeat(sequence as usize * 9))]).1);
            ends.push(whole.len());
        }
        let at = at.index(whole.len());
        let intact = ends.iter().filter(|end| **end <= at).count();
        prop_assert_eq!(parse(&whole[..at]).len(), intact);
        whole[at] ^= 1;
        prop_assert_eq!(parse(&whole).len(), intact);
    }

    #[test]
    fn records_are_of_all_writes_in_order(sizes in prop::collection::vec(0usize..200_000, 0..12)) {
        let writes: Vec<Write> = sizes.iter().map(|size| (vec![1], Some(vec![2; *size]))).collect();
        let records: Vec<&[Write]> = split(&writes).collect();
        prop_assert!(records.iter().all(|record| !record.is_empty()));
        prop_assert_eq!(records.concat(), writes);
    }
}
