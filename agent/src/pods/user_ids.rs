//! Which ids outside belong to which pod that has users of its own (`hostUsers: false`): no two pods have one in common.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use crate::userns::RANGE;

/// One per agent; what a pod has is in its record, which is read before any other pod begins.
#[derive(Debug, Default)]
pub(crate) struct UserIds {
    by_pod: Mutex<BTreeMap<String, u32>>,
}

impl UserIds {
    /// The first of the ids of a pod: those that it has, or the lowest that are free. `None` when all are taken.
    pub(super) fn take(&self, uid: &str) -> Option<u32> {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = by_pod.get(uid) {
            return Some(*known);
        }
        // The first range is the node's own; the last one has the id that means none.
        let mut ranges = (1..u32::MAX / RANGE).map(|index| index * RANGE);
        let free = ranges.find(|first| by_pod.values().all(|taken| taken != first))?;
        by_pod.insert(uid.to_owned(), free);
        Some(free)
    }

    /// As an earlier agent had given them.
    pub(super) fn keep(&self, uid: &str, first_id: u32) {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        by_pod.insert(uid.to_owned(), first_id);
    }

    pub(super) fn give_back(&self, uid: &str) {
        let mut by_pod = self.by_pod.lock().unwrap_or_else(PoisonError::into_inner);
        by_pod.remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_pods_have_an_id_in_common() {
        let ids = UserIds::default();
        ids.keep("old", 2 * RANGE);
        assert_eq!(ids.take("a"), Some(RANGE));
        assert_eq!(ids.take("b"), Some(3 * RANGE));
        assert_eq!(ids.take("a"), Some(RANGE));
        assert_eq!(ids.take("old"), Some(2 * RANGE));
        ids.give_back("a");
        assert_eq!(ids.take("c"), Some(RANGE));
        let taken = (0..70_000).filter(|n| ids.take(&n.to_string()).is_some());
        assert_eq!(taken.count(), 65_534 - 3);
        assert_eq!(ids.take("late"), None);
    }
}
