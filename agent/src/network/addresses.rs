//! The ledger of pod addresses: one file per address, made with `O_EXCL`, holding the pod's uid.
//!
//! The file comes before the address's use and goes after it, so a crash at any moment can leave an address
//! taken, never given twice. Addresses are handed out in turn, so one that was released comes back as late
//! as possible.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use ipnet::IpNet;

use super::NetworkError;

/// In the ledger's directory, one per family: the address given last.
const LAST: &str = "last-";
/// Addresses that are looked at in one allocation: a bound for ranges as large as IPv6's.
const TRIES: u128 = 1 << 20;

#[derive(Debug)]
pub(super) struct Addresses {
    directory: PathBuf,
    /// Where addresses are given from. Its lock serializes allocations in this process; the files do so between
    /// processes.
    ranges: Mutex<Vec<IpNet>>,
}

/// Whether a node may give its pods addresses of these ranges.
///
/// # Errors
/// When one is not in the cluster's ranges, or two overlap.
pub(super) fn check(ranges: &[IpNet], cluster: &[IpNet]) -> Result<(), NetworkError> {
    for (at, range) in ranges.iter().enumerate() {
        if !cluster.iter().any(|all| all.contains(range)) {
            return Err(NetworkError::OutsideCluster(*range));
        }
        for other in &ranges[at + 1..] {
            if range.contains(other) || other.contains(range) {
                return Err(NetworkError::Overlap(*range, *other));
            }
        }
    }
    Ok(())
}

/// First and last address for pods: not the range's own address, nor the first one (the node's), nor IPv4's
/// broadcast address.
fn bounds(range: &IpNet) -> Option<(u128, u128)> {
    let (first, last) = match range {
        IpNet::V4(range) => (
            u128::from(u32::from(range.network())) + 2,
            u128::from(u32::from(range.broadcast())).checked_sub(1)?,
        ),
        IpNet::V6(range) => (
            u128::from(range.network()).checked_add(2)?,
            u128::from(range.broadcast()),
        ),
    };
    (first <= last).then_some((first, last))
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    }
}

fn address(range: &IpNet, number: u128) -> IpAddr {
    match range {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpNet::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

/// Removes a ledger in which no address is taken; leaves it when one is.
pub(super) fn remove_unused(directory: &Path) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    let marks_only = files.iter().all(|path| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(LAST))
    });
    if marks_only {
        for path in &files {
            let _ = std::fs::remove_file(path);
        }
        let _ = std::fs::remove_dir(directory);
    }
}

/// Writes a file so that a reader sees all of it or nothing.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    File::create(&partial)?.write_all(content)?;
    std::fs::rename(&partial, path)
}

pub(super) fn remove_file(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Addresses {
    pub(super) fn open(directory: PathBuf, ranges: Vec<IpNet>) -> Result<Self, NetworkError> {
        std::fs::create_dir_all(&directory).map_err(NetworkError::file("create", &directory))?;
        Ok(Self {
            directory,
            ranges: Mutex::new(ranges),
        })
    }

    fn ranges(&self) -> MutexGuard<'_, Vec<IpNet>> {
        self.ranges
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// From now on; addresses that are taken stay so.
    pub(super) fn set_ranges(&self, ranges: Vec<IpNet>) {
        *self.ranges() = ranges;
    }

    /// One address of each family that there is a range for. On failure none is taken.
    pub(super) fn allocate(&self, uid: &str) -> Result<Vec<IpAddr>, NetworkError> {
        let all = self.ranges();
        let mut addresses: Vec<IpAddr> = Vec::new();
        for v4 in [true, false] {
            let ranges: Vec<&IpNet> = all
                .iter()
                .filter(|range| range.addr().is_ipv4() == v4)
                .collect();
            if ranges.is_empty() {
                continue;
            }
            match self.next(uid, &ranges) {
                Ok(address) => addresses.push(address),
                Err(error) => {
                    // One family alone is of no use: the other's is given back.
                    for address in &addresses {
                        let path = self.directory.join(address.to_string());
                        remove_file(&path).map_err(NetworkError::file("remove", path))?;
                    }
                    return Err(error);
                }
            }
        }
        if addresses.is_empty() {
            return Err(NetworkError::Exhausted(all.clone()));
        }
        Ok(addresses)
    }

    fn next(&self, uid: &str, ranges: &[&IpNet]) -> Result<IpAddr, NetworkError> {
        let v4 = ranges[0].addr().is_ipv4();
        let cursor = self
            .directory
            .join(format!("{LAST}{}", if v4 { 4 } else { 6 }));
        let last: Option<IpAddr> = std::fs::read_to_string(&cursor)
            .ok()
            .and_then(|text| text.parse().ok());
        // From behind the last one to the end, then from the beginning.
        let start = last
            .and_then(|last| ranges.iter().position(|range| range.contains(&last)))
            .unwrap_or(0);
        for turn in 0..=ranges.len() {
            let range = ranges[(start + turn) % ranges.len()];
            let Some((mut from, to)) = bounds(range) else {
                continue;
            };
            if turn == 0
                && let Some(last) = last.filter(|last| range.contains(last))
            {
                from = from.max(number(last) + 1);
            }
            let mut tries = 0;
            while from <= to && tries < TRIES {
                let candidate = address(range, from);
                if self.take(candidate, uid)? {
                    write_whole(&cursor, candidate.to_string().as_bytes())
                        .map_err(NetworkError::file("write", &cursor))?;
                    return Ok(candidate);
                }
                from += 1;
                tries += 1;
            }
        }
        Err(NetworkError::Exhausted(
            ranges.iter().map(|range| **range).collect(),
        ))
    }

    /// False if it is taken already.
    fn take(&self, address: IpAddr, uid: &str) -> Result<bool, NetworkError> {
        let path = self.directory.join(address.to_string());
        match OpenOptions::new().write(true).create_new(true).open(&path) {
            Ok(mut file) => match file.write_all(uid.as_bytes()) {
                Ok(()) => Ok(true),
                Err(error) => {
                    let _ = remove_file(&path);
                    Err(NetworkError::file("write", path)(error))
                }
            },
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(NetworkError::file("create", path)(error)),
        }
    }

    fn entries(&self) -> Result<Vec<(PathBuf, String)>, NetworkError> {
        let entries = std::fs::read_dir(&self.directory)
            .map_err(NetworkError::file("read", &self.directory))?;
        Ok(entries
            .flatten()
            .filter(|entry| {
                entry
                    .file_name()
                    .to_str()
                    .is_some_and(|name| name.parse::<IpAddr>().is_ok())
            })
            .filter_map(|entry| {
                let uid = std::fs::read_to_string(entry.path()).ok()?;
                Some((entry.path(), uid))
            })
            .collect())
    }

    /// Gives the pod's addresses back, which all entries are read for unless they are known. Idempotent.
    pub(super) fn release(&self, uid: &str, known: Option<&[IpAddr]>) -> Result<(), NetworkError> {
        let entries = match known {
            Some(known) => {
                let paths = known.iter().map(|it| self.directory.join(it.to_string()));
                paths
                    .filter_map(|path| std::fs::read_to_string(&path).ok().map(|uid| (path, uid)))
                    .collect()
            }
            None => self.entries()?,
        };
        for (path, holder) in entries {
            if holder == uid {
                remove_file(&path).map_err(NetworkError::file("remove", path))?;
            }
        }
        Ok(())
    }

    /// Uids that hold an address. An entry that a crash left without uid is freed: nobody uses it, since
    /// the uid is written before anything else happens.
    pub(super) fn holders(&self) -> Result<Vec<String>, NetworkError> {
        let _guard = self.ranges();
        let mut holders = Vec::new();
        for (path, uid) in self.entries()? {
            if uid.is_empty() {
                remove_file(&path).map_err(NetworkError::file("remove", path))?;
            } else {
                holders.push(uid);
            }
        }
        Ok(holders)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;

    fn ledger(directory: &Path, ranges: &[&str]) -> Addresses {
        let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
        Addresses::open(directory.to_owned(), ranges).unwrap()
    }

    #[test]
    fn reserved_addresses_are_not_given() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), &["10.0.0.0/29"]);
        let given: Vec<String> = (0..5)
            .map(|pod| ledger.allocate(&format!("pod{pod}")).unwrap()[0].to_string())
            .collect();
        assert_eq!(
            given,
            ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]
        );
        assert!(matches!(
            ledger.allocate("late"),
            Err(NetworkError::Exhausted(_))
        ));
    }

    #[test]
    fn a_released_address_comes_back_last() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), &["10.0.0.0/29"]);
        ledger.allocate("a").unwrap();
        ledger.release("a", None).unwrap();
        let rest: Vec<String> = (0..5)
            .map(|pod| ledger.allocate(&format!("pod{pod}")).unwrap()[0].to_string())
            .collect();
        assert_eq!(rest.last().unwrap(), "10.0.0.2");
    }

    #[test]
    fn both_families() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), &["10.0.0.0/24", "fd00:1::/64"]);
        let given = ledger.allocate("a").unwrap();
        assert_eq!(
            given,
            [
                "10.0.0.2".parse::<IpAddr>().unwrap(),
                "fd00:1::2".parse().unwrap()
            ]
        );
    }

    #[test]
    fn with_one_family_exhausted_none_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), &["10.0.0.0/29", "fd00:1::/126"]);
        for pod in ["a", "b"] {
            assert_eq!(ledger.allocate(pod).unwrap().len(), 2);
        }
        for _ in 0..10 {
            match ledger.allocate("late").unwrap_err() {
                NetworkError::Exhausted(ranges) => {
                    assert_eq!(ranges, ["fd00:1::/126".parse().unwrap()]);
                }
                error => panic!("{error}"),
            }
        }
        assert_eq!(ledger.holders().unwrap().len(), 4, "an entry per address");
    }

    #[test]
    fn new_ranges_are_in_force_at_once_and_old_addresses_stay_taken() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), &["10.0.0.0/30"]);
        let first = ledger.allocate("a").unwrap();
        ledger.allocate("b").unwrap_err();
        ledger.set_ranges(vec!["10.0.1.0/30".parse().unwrap()]);
        let second = ledger.allocate("b").unwrap();
        assert_eq!(second, ["10.0.1.2".parse::<IpAddr>().unwrap()]);
        ledger.set_ranges(vec!["10.0.0.0/30".parse().unwrap()]);
        ledger.allocate("c").unwrap_err();
        // As it was given, and no other's.
        ledger.release("a", Some(second.as_slice())).unwrap();
        ledger.allocate("c").unwrap_err();
        ledger.release("a", Some(first.as_slice())).unwrap();
        assert_eq!(ledger.allocate("c").unwrap(), first);
    }

    #[test]
    fn ranges_of_others_and_ranges_that_overlap_are_refused() {
        let ranges = |list: &[&str]| -> Vec<IpNet> {
            list.iter().map(|range| range.parse().unwrap()).collect()
        };
        let cluster = ranges(&["10.0.0.0/16", "fd00::/48"]);
        check(&ranges(&["10.0.1.0/24", "fd00:0:0:1::/64"]), &cluster).unwrap();
        let error = check(&ranges(&["10.1.1.0/24"]), &cluster).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pod range 10.1.1.0/24 is not in the cluster's"
        );
        assert!(check(&ranges(&["10.0.0.0/8"]), &cluster).is_err());
        let error = check(&ranges(&["10.0.1.0/24", "10.0.1.128/25"]), &cluster).unwrap_err();
        assert_eq!(
            error.to_string(),
            "pod range 10.0.1.0/24 overlaps 10.0.1.128/25"
        );
    }

    #[test]
    fn ranges_too_small_for_a_pod_are_exhausted() {
        for range in [
            "10.0.0.0/31",
            "10.0.0.0/32",
            "255.255.255.255/32",
            "fd00::/128",
            "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
        ] {
            let dir = tempfile::tempdir().unwrap();
            assert!(
                ledger(dir.path(), &[range]).allocate("a").is_err(),
                "{range}"
            );
        }
    }

    #[test]
    fn an_entry_without_uid_is_freed_when_listed() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), &["10.0.0.0/30"]);
        File::create(dir.path().join("10.0.0.2")).unwrap();
        assert!(ledger.allocate("a").is_err());
        assert_eq!(ledger.holders().unwrap(), Vec::<String>::new());
        ledger.allocate("a").unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        /// Against a plain set, with the ledger opened anew (as after a crash) at any moment.
        #[test]
        fn no_address_twice(steps in proptest::collection::vec((0u8..3, 0u8..8), 0..60)) {
            let dir = tempfile::tempdir().unwrap();
            let mut addresses = ledger(dir.path(), &["10.0.0.0/29"]);
            let mut held: BTreeMap<String, IpAddr> = BTreeMap::new();
            for (step, pod) in steps {
                let uid = format!("pod{pod}");
                match step {
                    0 if !held.contains_key(&uid) => match addresses.allocate(&uid) {
                        Ok(given) => {
                            prop_assert!(held.values().all(|other| *other != given[0]));
                            held.insert(uid, given[0]);
                        }
                        Err(_) => prop_assert_eq!(held.len(), 5),
                    },
                    1 => {
                        let known = held.remove(&uid).map(|address| [address]);
                        addresses.release(&uid, known.as_ref().map(<[_; 1]>::as_slice)).unwrap();
                    }
                    _ => addresses = ledger(dir.path(), &["10.0.0.0/29"]),
                }
                let holders: BTreeSet<String> = addresses.holders().unwrap().into_iter().collect();
                prop_assert_eq!(holders, held.keys().cloned().collect::<BTreeSet<_>>());
            }
        }
    }
}
