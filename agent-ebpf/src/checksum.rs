//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! The programs change checksums through kernel helpers, which know about offloads; this is what those
//! changes are checked against, and what builds packets in tests.

/// One's complement sum of `bytes`, folded, not inverted.
#[must_use]
pub fn sum(bytes: &[u8], seed: u32) -> u16 {
    let mut total = u64::from(seed);
    let mut chunks = bytes.chunks_exact(2);
    for pair in &mut chunks {
        total += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    if let [last] = chunks.remainder() {
        total += u64::from(u16::from_be_bytes([*last, 0]));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The checksum field for `bytes` whose own checksum field is zero.
#[must_use]
pub fn checksum(bytes: &[u8], seed: u32) -> u16 {
    !sum(bytes, seed)
}

/// The checksum after the 16-bit word `old` became `new` (RFC 1624, equation 3).
#[must_use]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    let mut total = (!checksum) as u32 + (!old) as u32 + new as u32;
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    !(total as u16)
}

/// Sum of the pseudo header of TCP, UDP and ICMPv6.
#[must_use]
pub fn pseudo_header(source: &[u8], destination: &[u8], protocol: u8, length: u32) -> u32 {
    let sum = u32::from(sum(source, 0)) + u32::from(sum(destination, 0));
    sum + u32::from(protocol) + (length >> 16) + (length & 0xffff)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn incremental_agrees_with_recomputed(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..200),
            at in any::<proptest::sample::Index>(),
            new in any::<u16>(),
        ) {
            // A sum of all zeroes cannot come from a real packet (its version field is not zero).
            bytes[0] |= 0x40;
            let word = 2 + 2 * at.index((bytes.len() - 2) / 2);
            let before = checksum(&bytes, 0);
            let old = u16::from_be_bytes([bytes[word], bytes[word + 1]]);
            bytes[word..word + 2].copy_from_slice(&new.to_be_bytes());
            prop_assert_eq!(update(before, old, new), checksum(&bytes, 0));
        }

        #[test]
        fn a_packet_with_its_checksum_sums_to_all_ones(
            mut bytes in proptest::collection::vec(any::<u8>(), 4..200),
        ) {
            bytes[2] = 0;
            bytes[3] = 0;
            let field = checksum(&bytes, 0);
            bytes[2..4].copy_from_slice(&field.to_be_bytes());
            prop_assert_eq!(sum(&bytes, 0), 0xffff);
        }
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(
            sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7], 0),
            0xddf2
        );
    }
}
