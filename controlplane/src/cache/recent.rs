//! Objects that were read from their stored bytes lately.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ObjectKey;

/// The newest version of each, at most `limit` of them; whichever was read first goes first.
pub(super) struct Recent<K> {
    limit: usize,
    read: Mutex<Read<K>>,
}

struct Read<K> {
    objects: HashMap<ObjectKey, (u64, Arc<K>)>,
    /// Names what is in `objects`, and what has been replaced or has gone since.
    order: VecDeque<(ObjectKey, u64)>,
}

impl<K> Recent<K> {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit,
            read: Mutex::new(Read {
                objects: HashMap::new(),
                order: VecDeque::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Read<K>> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Exactly this version.
    pub(super) fn get(&self, key: &ObjectKey, revision: u64) -> Option<Arc<K>> {
        let read = self.lock();
        let (known, object) = read.objects.get(key)?;
        (*known == revision).then(|| Arc::clone(object))
    }

    pub(super) fn put(&self, key: &ObjectKey, revision: u64, object: &Arc<K>) {
        let mut gone = Vec::new();
        let mut read = self.lock();
        let old = read
            .objects
            .insert(key.clone(), (revision, Arc::clone(object)));
        gone.extend(old);
        read.order.push_back((key.clone(), revision));
        while read.order.len() > self.limit
            && let Some((key, revision)) = read.order.pop_front()
        {
            if read
                .objects
                .get(&key)
                .is_some_and(|(known, _)| *known == revision)
            {
                gone.extend(read.objects.remove(&key));
            }
        }
        drop(read);
        // Objects are dropped without the lock.
        drop(gone);
    }

    pub(super) fn forget(&self, key: &ObjectKey) {
        let gone = self.lock().objects.remove(key);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ObjectKey {
        ObjectKey::cluster(name)
    }

    #[test]
    fn only_the_version_that_is_asked_for() {
        let recent = Recent::new(3);
        recent.put(&key("a"), 1, &Arc::new("one"));
        recent.put(&key("a"), 2, &Arc::new("two"));
        assert_eq!(recent.get(&key("a"), 1), None);
        assert_eq!(recent.get(&key("a"), 2).as_deref(), Some(&"two"));
        recent.forget(&key("a"));
        assert_eq!(recent.get(&key("a"), 2), None);
    }

    #[test]
    fn never_more_than_the_limit_however_often_one_is_replaced() {
        let recent = Recent::new(3);
        for revision in 1..100 {
            recent.put(&key("a"), revision, &Arc::new(revision));
        }
        for (name, revision) in [("b", 101), ("c", 102)] {
            recent.put(&key(name), revision, &Arc::new(revision));
        }
        assert_eq!(recent.get(&key("a"), 99).as_deref(), Some(&99));
        recent.put(&key("d"), 103, &Arc::new(103));
        assert_eq!(recent.get(&key("a"), 99), None, "it was the first");
        assert_eq!(recent.get(&key("b"), 101).as_deref(), Some(&101));
        assert_eq!(recent.lock().order.len(), 3);
        assert_eq!(recent.lock().objects.len(), 3);
    }
}
