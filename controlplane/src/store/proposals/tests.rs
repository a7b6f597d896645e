//! How much goes into one entry.
#![allow(clippy::unwrap_used)]

use super::*;

#[test]
fn an_entry_takes_what_fits_and_at_least_one() {
    assert_eq!(pack([10, 20, 30].into_iter()), 3);
    assert_eq!(pack([ENTRY_BYTES, 1].into_iter()), 1);
    assert_eq!(pack([ENTRY_BYTES / 2, ENTRY_BYTES / 2, 1].into_iter()), 2);
    assert_eq!(pack([ENTRY_BYTES * 3, 1].into_iter()), 1);
    assert_eq!(pack([1, ENTRY_BYTES, 1].into_iter()), 1);
}
