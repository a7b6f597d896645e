//! Forgets clients whose affinity is over. New connections tell by themselves that an entry is too old; without this
//! the table would only grow. A full table keeps nobody new, which is counted (`affinity_table_full`), and forgets
//! nobody who is kept.

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use agent_ebpf::layout::{AffinityKey, AffinityValue};

use super::error::DataPlaneError;
use super::syscall::{Scan, map_delete, map_lookup, object_get};

/// The table of clients that are kept; looking through it takes no lock.
#[derive(Debug)]
pub(crate) struct AffinityTable {
    fd: OwnedFd,
}

impl AffinityTable {
    pub(crate) fn open(at: &Path) -> Result<Self, DataPlaneError> {
        let fd = object_get(at).map_err(DataPlaneError::file("open", at))?;
        Ok(Self { fd })
    }

    /// Removes what is over at `now` (seconds since boot). `timeouts` are those of
    /// Services with affinity, by number, in seconds; it is asked only if there are entries.
    pub(crate) fn sweep(&self, now: u32, timeouts: impl FnOnce() -> HashMap<u32, u32>) {
        let mut entries = Vec::new();
        let scan = Scan::of::<AffinityKey, AffinityValue>(self.fd.as_fd());
        let scanned = scan.for_each(|key: AffinityKey, value: AffinityValue| {
            entries.push((key, value.seen));
        });
        if let Err(error) = scanned {
            tracing::warn!(%error, "cannot look through the table of affinities");
            return;
        }
        if entries.is_empty() {
            return;
        }
        let timeouts = timeouts();
        let is_over = |key: &AffinityKey, seen: u32| {
            // A Service that is gone, or has no affinity any more, keeps nobody.
            let timeout = timeouts.get(&key.service);
            timeout.is_none_or(|timeout| now.saturating_sub(seen) > *timeout)
        };
        for (key, seen) in entries {
            if !is_over(&key, seen) {
                continue;
            }
            // A connection since then has made it fresh again.
            let value: Option<AffinityValue> = map_lookup(self.fd.as_fd(), &key).ok().flatten();
            if value.is_some_and(|value| is_over(&key, value.seen)) {
                // Not found means that it is gone: as wanted.
                let _ = map_delete(self.fd.as_fd(), &key);
            }
        }
    }

    #[cfg(test)]
    pub(crate) fn entries(&self) -> Vec<(AffinityKey, AffinityValue)> {
        let mut entries = Vec::new();
        let scan = Scan::of::<AffinityKey, AffinityValue>(self.fd.as_fd());
        scan.for_each(|key, value| entries.push((key, value)))
            .expect("the table is there");
        entries
    }

    #[cfg(test)]
    pub(crate) fn set(&self, key: AffinityKey, value: AffinityValue) {
        super::syscall::map_update_batch(self.fd.as_fd(), &[key], &[value]).expect("room");
    }
}
