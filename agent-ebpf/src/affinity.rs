//! ClientIP session affinity: who is kept on a backend, for how long, and where the backend is looked for.

use crate::address::Address;
use crate::layout::{AFFINITY_NAMESPACE, AffinityKey, AffinityValue, STICKY_SEARCH};

impl AffinityKey {
    /// A client at a socket, where its address is not known yet: its network namespace stands for it.
    #[inline(always)]
    #[must_use]
    pub const fn of_namespace(cookie: u64, service: u32) -> Self {
        Self {
            client: Address {
                words: [cookie as u32, (cookie >> 32) as u32, 0, AFFINITY_NAMESPACE],
            },
            service,
            padding: 0,
        }
    }
}

impl AffinityValue {
    /// Whether the client is still kept at `now` (seconds since boot): its last new connection is no more than
    /// `timeout` seconds ago. Another CPU's clock may have been read a little later than ours.
    #[inline(always)]
    #[must_use]
    pub const fn is_fresh(&self, now: u32, timeout: u32) -> bool {
        now.saturating_sub(self.seen) <= timeout
    }
}

/// First of the [`STICKY_SEARCH`] slots (relative to the Service's base) among which a backend is searched that was
/// at `hint` before the set changed to `count`: around it, since slots are in order and a change moves them little.
/// Of a set that is no larger than the search, all are.
#[inline(always)]
#[must_use]
pub const fn search_from(hint: u16, count: u32) -> u32 {
    let first = (hint as u32).saturating_sub(STICKY_SEARCH / 2);
    let last_start = count.saturating_sub(STICKY_SEARCH);
    if first < last_start {
        first
    } else {
        last_start
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_client_is_kept_up_to_the_timeout() {
        let value = AffinityValue {
            seen: 1000,
            ..AffinityValue::default()
        };
        assert!(value.is_fresh(1000, 0));
        assert!(value.is_fresh(1010, 10));
        assert!(!value.is_fresh(1011, 10));
        assert!(
            value.is_fresh(999, 10),
            "a clock that stands a little before"
        );
    }

    #[test]
    fn namespaces_are_told_apart_and_from_addresses() {
        let key = |cookie| AffinityKey::of_namespace(cookie, 7);
        assert_ne!(key(1), key(1 << 32));
        assert!(!key(1).client.is_v4());
        assert_ne!(key(1).client, Address::from_v6([0; 16]));
    }

    proptest! {
        /// What was at `hint` and moved by less than half the search is found, and nothing beyond the set is read.
        #[test]
        fn the_search_covers_what_moved_little(
            hint in 0u16.., count in 1u32..70_000, moved in -(STICKY_SEARCH as i64) / 2..STICKY_SEARCH as i64 / 2,
        ) {
            let from = search_from(hint, count);
            prop_assert!(from == 0 || from + STICKY_SEARCH <= count);
            let now = i64::from(hint) + moved;
            if (0..i64::from(count)).contains(&now) {
                let now = now as u32;
                prop_assert!(from <= now && now < from + STICKY_SEARCH, "{from} {now}");
            }
        }

        #[test]
        fn small_sets_are_searched_whole(hint in 0u16.., count in 1..=STICKY_SEARCH) {
            prop_assert_eq!(search_from(hint, count), 0);
        }
    }
}
