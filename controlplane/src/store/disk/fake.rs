//! A disk in memory that can fail and lose power, for tests.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::{Disk, DiskError, Write};

/// A handle; clones see the same disk, as two openings of one directory would.
#[derive(Clone, Default)]
pub(in crate::store) struct FakeDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    now: BTreeMap<Vec<u8>, Vec<u8>>,
    durable: BTreeMap<Vec<u8>, Vec<u8>>,
    unsynced: Vec<Write>,
    fail_sync: bool,
    hold_syncs: bool,
    capacity: Option<usize>,
    syncs: u64,
    rewritten: u64,
}

impl FakeDisk {
    pub(in crate::store) fn fail_sync(&self, fail: bool) {
        self.lock().fail_sync = fail;
    }

    /// From now on syncs succeed without doing anything, so that a crash finds everything since unsynced.
    pub(in crate::store) fn hold_syncs(&self) {
        self.lock().hold_syncs = true;
    }

    /// Bytes that can be stored in all.
    pub(in crate::store) fn set_capacity(&self, bytes: Option<usize>) {
        self.lock().capacity = bytes;
    }

    pub(in crate::store) fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    /// How often its space was given back; there is always some.
    pub(in crate::store) fn rewritten(&self) -> u64 {
        self.lock().rewritten
    }

    pub(in crate::store) fn used(&self) -> usize {
        self.lock().used()
    }

    /// Loses power: of what was not synced, the first `keep` writes are found, and no fault is left.
    pub(in crate::store) fn crash(&self, keep: usize) -> Self {
        let inner = self.lock();
        let mut now = inner.durable.clone();
        for write in inner.unsynced.iter().take(keep) {
            put(&mut now, write.clone());
        }
        let after = Inner {
            durable: now.clone(),
            now,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(Mutex::new(after)),
        }
    }

    pub(in crate::store) fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// Changes a stored value behind the store's back; false where there is none.
    pub(in crate::store) fn damage(
        &self,
        key_prefix: &[u8],
        change: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        let mut inner = self.lock();
        let key = inner
            .now
            .range(key_prefix.to_vec()..)
            .next()
            .map(|(key, _)| key.clone())
            .filter(|key| key.starts_with(key_prefix));
        let Some(value) = key.as_ref().and_then(|key| inner.now.get_mut(key)) else {
            return false;
        };
        change(value);
        true
    }

    pub(in crate::store) fn remove_first(&self, key_prefix: &[u8]) -> bool {
        let mut inner = self.lock();
        let key = inner
            .now
            .range(key_prefix.to_vec()..)
            .next()
            .map(|(key, _)| key.clone())
            .filter(|key| key.starts_with(key_prefix));
        key.is_some_and(|key| inner.now.remove(&key).is_some())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl Inner {
    fn used(&self) -> usize {
        self.now.iter().map(|(k, v)| k.len() + v.len()).sum()
    }
}

fn put(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, (key, value): Write) {
    match value {
        Some(value) => {
            map.insert(key, value);
        }
        None => {
            map.remove(&key);
        }
    }
}

impl Disk for FakeDisk {
    #[cfg(test)]
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, DiskError> {
        Ok(self.lock().now.get(key).cloned())
    }

    fn scan(
        &self,
        start: &[u8],
        end: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), DiskError> {
        // A copy, so that `visit` may use the disk.
        let found: Vec<_> = self
            .lock()
            .now
            .range(start.to_vec()..end.to_vec())
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        for (key, value) in found {
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn write(&self, writes: Vec<Write>) -> Result<(), DiskError> {
        let mut inner = self.lock();
        for write in writes {
            if let Some(capacity) = inner.capacity
                && inner.used() + write.1.as_ref().map_or(0, Vec::len) > capacity
            {
                return Err(DiskError::Full("fake capacity is used up".into()));
            }
            inner.unsynced.push(write.clone());
            put(&mut inner.now, write);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), DiskError> {
        let mut inner = self.lock();
        if inner.fail_sync {
            return Err(DiskError::Io("fsync: injected failure".into()));
        }
        inner.syncs += 1;
        if inner.hold_syncs {
            return Ok(());
        }
        for write in std::mem::take(&mut inner.unsynced) {
            put(&mut inner.durable, write);
        }
        Ok(())
    }

    fn available(&self) -> Option<u64> {
        None
    }

    fn size(&self) -> u64 {
        self.lock().used() as u64
    }

    fn is_mostly_garbage(&self) -> Result<bool, DiskError> {
        Ok(true)
    }

    fn defragment(&self) -> Result<(u64, u64), DiskError> {
        self.lock().rewritten += 1;
        Ok((self.size(), self.size()))
    }

    fn is_memory(&self) -> bool {
        true
    }
}
