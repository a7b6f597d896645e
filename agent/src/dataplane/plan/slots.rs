//! Which ranges of the slot table are free: best fit, coalescing, with a quarantine for ranges that a
//! program in flight may still be reading.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A contiguous range of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    base: u32,
    length: u32,
}

#[derive(Debug)]
pub(crate) struct SlotSpace {
    size: u32,
    by_base: BTreeMap<u32, u32>,
    by_length: BTreeSet<(u32, u32)>,
    /// Freed, but not before everything freed in that epoch is known to be out of sight.
    quarantine: VecDeque<(u64, Range)>,
    used: u32,
}

impl SlotSpace {
    pub(crate) fn new(size: u32) -> Self {
        let mut space = Self {
            size,
            by_base: BTreeMap::new(),
            by_length: BTreeSet::new(),
            quarantine: VecDeque::new(),
            used: 0,
        };
        if size > 0 {
            space.insert(Range {
                base: 0,
                length: size,
            });
        }
        space
    }

    pub(crate) fn size(&self) -> u32 {
        self.size
    }

    /// Slots that belong to a service or are in quarantine.
    pub(crate) fn used(&self) -> u32 {
        self.used
    }

    fn insert(&mut self, range: Range) {
        self.by_base.insert(range.base, range.length);
        self.by_length.insert((range.length, range.base));
    }

    fn take(&mut self, base: u32, length: u32) {
        self.by_base.remove(&base);
        self.by_length.remove(&(length, base));
    }

    /// The base of a fresh range; nothing if there is none of that length.
    pub(crate) fn allocate(&mut self, length: u32) -> Option<u32> {
        if length == 0 {
            return Some(0);
        }
        let &(found, base) = self.by_length.range((length, 0)..).next()?;
        self.take(base, found);
        if found > length {
            self.insert(Range {
                base: base + length,
                length: found - length,
            });
        }
        self.used += length;
        Some(base)
    }

    /// Takes a range that is in use already (adopted from the kernel); false if it is not free.
    pub(crate) fn claim(&mut self, base: u32, length: u32) -> bool {
        if length == 0 {
            return true;
        }
        let Some((&free, &free_length)) = self.by_base.range(..=base).next_back() else {
            return false;
        };
        let Some(end) = base.checked_add(length) else {
            return false;
        };
        let free_end = free + free_length;
        if end > free_end {
            return false;
        }
        self.take(free, free_length);
        if base > free {
            self.insert(Range {
                base: free,
                length: base - free,
            });
        }
        if free_end > end {
            self.insert(Range {
                base: end,
                length: free_end - end,
            });
        }
        self.used += length;
        true
    }

    /// Gives a range back; it is not handed out again before [`Self::reclaim`] says so.
    pub(crate) fn retire(&mut self, epoch: u64, base: u32, length: u32) {
        if length > 0 {
            self.quarantine.push_back((epoch, Range { base, length }));
        }
    }

    /// Frees what was retired in epochs up to `epoch`.
    pub(crate) fn reclaim(&mut self, epoch: u64) {
        while let Some((retired, range)) = self.quarantine.front().copied() {
            if retired > epoch {
                break;
            }
            self.quarantine.pop_front();
            self.free(range);
        }
    }

    fn free(&mut self, mut range: Range) {
        self.used -= range.length;
        if let Some((&base, &length)) = self.by_base.range(..range.base).next_back()
            && base + length == range.base
        {
            self.take(base, length);
            range = Range {
                base,
                length: length + range.length,
            };
        }
        if let Some(&length) = self.by_base.get(&(range.base + range.length)) {
            self.take(range.base + range.length, length);
            range.length += length;
        }
        self.insert(range);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Allocate(u32),
        Retire(prop::sample::Index),
        Reclaim,
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(
            prop_oneof![
                3 => (1u32..20).prop_map(Step::Allocate),
                2 => any::<prop::sample::Index>().prop_map(Step::Retire),
                1 => Just(Step::Reclaim),
            ],
            0..200,
        )
    }

    proptest! {
        /// Ranges in use or in quarantine never overlap, and nothing is lost.
        #[test]
        fn ranges_never_overlap(steps in steps()) {
            const SIZE: u32 = 128;
            let mut space = SlotSpace::new(SIZE);
            let mut live: Vec<(u32, u32)> = Vec::new();
            let mut retired: Vec<(u64, u32, u32)> = Vec::new();
            for (epoch, step) in steps.into_iter().enumerate() {
                let epoch = epoch as u64;
                match step {
                    Step::Allocate(length) => {
                        let owned = live.iter().copied().chain(retired.iter().map(|r| (r.1, r.2)));
                        if let Some(base) = space.allocate(length) {
                            for (other, other_length) in owned {
                                prop_assert!(base + length <= other || other + other_length <= base);
                            }
                            prop_assert!(base + length <= SIZE);
                            live.push((base, length));
                        }
                    }
                    Step::Retire(index) if !live.is_empty() => {
                        let (base, length) = live.swap_remove(index.index(live.len()));
                        space.retire(epoch, base, length);
                        retired.push((epoch, base, length));
                    }
                    Step::Retire(_) => {}
                    Step::Reclaim => {
                        space.reclaim(epoch / 2);
                        retired.retain(|r| r.0 > epoch / 2);
                    }
                }
                let total: u32 = live.iter().map(|r| r.1).chain(retired.iter().map(|r| r.2)).sum();
                prop_assert_eq!(space.used(), total);
            }
            for (base, length) in live {
                space.retire(u64::MAX, base, length);
            }
            space.reclaim(u64::MAX);
            prop_assert_eq!(space.allocate(SIZE), Some(0));
        }
    }

    #[test]
    fn claims_what_is_free_only() {
        let mut space = SlotSpace::new(10);
        assert!(space.claim(3, 4));
        assert!(!space.claim(6, 1));
        assert!(!space.claim(9, 2));
        assert!(!space.claim(u32::MAX, 2));
        assert_eq!(space.allocate(3), Some(0));
        assert_eq!(space.allocate(3), Some(7));
        assert_eq!(space.allocate(1), None);
    }
}
