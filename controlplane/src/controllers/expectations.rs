//! What a controller has done that its view does not show yet.
//!
//! A write returns the revision it made, so a controller need not count events as they arrive: it waits
//! until the informer has passed that revision. Deletions return none; their uids are remembered until the
//! view shows them.

use std::collections::{HashMap, HashSet};
use std::sync::Mutex;

use crate::cache::ObjectKey;
use crate::registry::Object;

#[derive(Debug, Default, Clone)]
pub(super) struct Expected {
    /// The view must hold this revision before it is acted upon.
    pub(super) revision: u64,
    /// Uids whose deletion was asked for.
    pub(super) deleting: HashSet<String>,
}

#[derive(Debug, Default)]
pub(super) struct Expectations {
    by_key: Mutex<HashMap<ObjectKey, Expected>>,
}

impl Expectations {
    pub(super) fn get(&self, key: &ObjectKey) -> Expected {
        self.lock().get(key).cloned().unwrap_or_default()
    }

    pub(super) fn wrote<K: Object>(&self, key: &ObjectKey, object: &K) {
        let mut by_key = self.lock();
        let expected = by_key.entry(key.clone()).or_default();
        expected.revision = expected.revision.max(revision_of(object));
    }

    pub(super) fn deleted(&self, key: &ObjectKey, uid: &str) {
        let mut by_key = self.lock();
        let expected = by_key.entry(key.clone()).or_default();
        expected.deleting.insert(uid.to_owned());
    }

    /// Forgets deletions that the view shows: `still` says whether the uid still looks alive there.
    pub(super) fn observe(&self, key: &ObjectKey, still: impl Fn(&str) -> bool) {
        if let Some(expected) = self.lock().get_mut(key) {
            expected.deleting.retain(|uid| still(uid));
        }
    }

    pub(super) fn forget(&self, key: &ObjectKey) {
        self.lock().remove(key);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectKey, Expected>> {
        self.by_key.lock().expect("no panic while held")
    }
}

/// The revision of the write that made this version; 0 where there is none.
pub(super) fn revision_of<K: Object>(object: &K) -> u64 {
    object
        .metadata()
        .resource_version
        .as_deref()
        .and_then(|version| version.parse().ok())
        .unwrap_or(0)
}
