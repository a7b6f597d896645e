//! Short names from long ones, as kube-proxy has them: letters and digits of base 32, without visible order.

const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// `length` characters (at most 24) that depend on all of `text`. kube-proxy takes SHA-256; what matters here is
/// that names are as long and as unordered as its are.
pub(crate) fn hashed(text: &str, length: usize) -> String {
    // FNV-1a, then one round of SplitMix64 for each 12 characters.
    let mut state = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let mut name = String::with_capacity(length);
    while name.len() < length {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        for part in (0..12).take(length - name.len()) {
            name.push(char::from(ALPHABET[(mixed >> (5 * part)) as usize & 31]));
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_as_long_as_asked_and_do_not_collide() {
        assert_eq!(hashed("a", 16).len(), 16);
        assert_eq!(hashed("a", 8), hashed("a", 8));
        let names: HashSet<String> = (0..100_000)
            .map(|n| hashed(&format!("svc-{n}"), 16))
            .collect();
        assert_eq!(names.len(), 100_000);
    }
}
