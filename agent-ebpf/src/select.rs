//! Which backend a new connection gets.

/// Maps a random number to `0..count` with equal weights (to one part in 2^32 / count), without dividing.
/// `count` must not be zero; the result is then below `count`.
#[inline(always)]
#[must_use]
pub const fn pick(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_in_range(random in any::<u32>(), count in 1u32..) {
            prop_assert!(pick(random, count) < count);
        }
    }

    #[test]
    fn is_even() {
        for count in [1u32, 2, 3, 7, 10, 100] {
            let mut hits = vec![0u32; count as usize];
            let step = 65_537u32;
            let mut random = 0u32;
            let rounds = 65_536u32;
            for _ in 0..rounds {
                hits[pick(random, count) as usize] += 1;
                random = random.wrapping_add(step);
            }
            let (min, max) = (hits.iter().min().unwrap(), hits.iter().max().unwrap());
            assert!(max - min <= 2, "{count}: {min}..{max}");
        }
    }
}
