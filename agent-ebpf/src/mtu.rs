//! Whether a packet fits where it is sent.

use crate::layout::{PROTOCOL_TCP, PROTOCOL_UDP};
use crate::packet::ETHERNET;

/// `gso_size` of a packet whose segments differ in length (`GSO_BY_FRAGS`): SCTP's, which cuts them to fit.
const BY_FRAGMENTS: u32 = 0xffff;

/// Bytes of the largest IP packet that `length` bytes of frame become, when the device cuts them into segments with
/// `segment` bytes of payload each (`gso_size`; 0: it does not). `l4` is the offset of the layer 4 header,
/// `tcp_offset` byte 12 of a TCP header.
#[inline(always)]
#[must_use]
pub const fn ip_length(length: u32, segment: u32, protocol: u8, l4: u32, tcp_offset: u8) -> u32 {
    if segment == 0 {
        return length.saturating_sub(ETHERNET);
    }
    if segment == BY_FRAGMENTS {
        return 0;
    }
    let header = match protocol {
        PROTOCOL_TCP => (tcp_offset >> 4) as u32 * 4,
        PROTOCOL_UDP => 8,
        _ => 0,
    };
    l4 - ETHERNET + header + segment
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_count_not_the_whole() {
        // 14 + 20 + 32 + 10 segments of 1398 bytes.
        let whole = 66 + 10 * 1398;
        assert_eq!(ip_length(whole, 1398, PROTOCOL_TCP, 34, 0x80), 1450);
        assert_eq!(ip_length(whole, 0, PROTOCOL_TCP, 34, 0x80), whole - 14);
        assert_eq!(ip_length(60_000, 1422, PROTOCOL_UDP, 34, 0), 1450);
        assert_eq!(ip_length(60_000, 1432, PROTOCOL_TCP, 54, 0x50), 1492);
        assert_eq!(
            ip_length(60_000, 0xffff, 132, 34, 0),
            0,
            "cut by the sender"
        );
        assert_eq!(ip_length(4, 0, PROTOCOL_UDP, 34, 0), 0);
    }
}
