//! Which ranges of the slot table are free: best fit, coalescing. A range is given back only when no program can
//! still be reading it: [`super::kernel`] knows when that is.

use std::collections::{BTreeMap, BTreeSet};

/// A contiguous range of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Range {
    base: u32,
    length: u32,
}

#[derive(Debug)]
pub(crate) struct SlotSpace {
    by_base: BTreeMap<u32, u32>,
    by_length: BTreeSet<(u32, u32)>,
    used: u32,
}

impl SlotSpace {
    pub(crate) fn new(size: u32) -> Self {
        let mut space = Self {
            by_base: BTreeMap::new(),
            by_length: BTreeSet::new(),
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

    /// Slots that were handed out and not given back.
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

    /// Gives a range back.
    pub(crate) fn free(&mut self, base: u32, length: u32) {
        if length == 0 {
            return;
        }
        self.used -= length;
        let mut range = Range { base, length };
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
        Free(prop::sample::Index),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        proptest::collection::vec(
            prop_oneof![
                3 => (1u32..20).prop_map(Step::Allocate),
                2 => any::<prop::sample::Index>().prop_map(Step::Free),
            ],
            0..200,
        )
    }

    proptest! {
        /// Ranges in use never overlap, and nothing is lost.
        #[test]
        fn ranges_never_overlap(steps in steps()) {
            const SIZE: u32 = 128;
            let mut space = SlotSpace::new(SIZE);
            let mut live: Vec<(u32, u32)> = Vec::new();
            for step in steps {
                match step {
                    Step::Allocate(length) => {
                        if let Some(base) = space.allocate(length) {
                            for (other, other_length) in &live {
                                prop_assert!(base + length <= *other || other + other_length <= base);
                            }
                            prop_assert!(base + length <= SIZE);
                            live.push((base, length));
                        }
                    }
                    Step::Free(index) if !live.is_empty() => {
                        let (base, length) = live.swap_remove(index.index(live.len()));
                        space.free(base, length);
                    }
                    Step::Free(_) => {}
                }
                prop_assert_eq!(space.used(), live.iter().map(|range| range.1).sum::<u32>());
            }
            for (base, length) in live {
                space.free(base, length);
            }
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
