//! Telling a sender that its packet does not get through: ICMP and ICMPv6 errors, and TCP resets.
//!
//! The answer is made in one buffer, Ethernet header first; the program puts it in the place of the packet
//! that it answers. Deliberately small: an error quotes [`QUOTE`] bytes at most, so that no answer is more than its
//! own headers (28 bytes for IPv4, 48 for IPv6) larger than what it answers.

use crate::address::Address;
use crate::layout::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP};
use crate::packet::{Bytes, ETHERNET, Fragment, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

/// What a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody listens there (RFC 792 type 3 code 3, RFC 4443 type 1 code 4).
    PortUnreachable,
    /// There is no such TCP connection (RFC 9293, 3.10.7.1).
    Reset,
    /// The path takes IP packets of so many bytes only (RFC 1191, RFC 4443 type 2).
    TooBig(u32),
    /// It has passed as many routers as its sender allowed (RFC 792 type 11 code 0, RFC 4443 type 3 code 0).
    HopLimit,
}

impl Refusal {
    /// What a sender takes for "connection refused".
    #[inline(always)]
    #[must_use]
    pub const fn of(packet: &Packet) -> Self {
        if packet.protocol == PROTOCOL_TCP {
            Self::Reset
        } else {
            Self::PortUnreachable
        }
    }

    /// Answers a CPU may send in a second, so that nobody can be drowned in them. Resets, which are no larger
    /// than what they answer, may be many: each ends the wait of a client.
    #[inline(always)]
    #[must_use]
    pub const fn limit(self) -> u32 {
        match self {
            Self::Reset => 10_000,
            Self::PortUnreachable | Self::TooBig(_) | Self::HopLimit => 1000,
        }
    }
}

/// How many answers were sent in the current second.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Allowance {
    second: u32,
    used: u32,
}

impl Allowance {
    /// Takes one of the second's answers; `now` is in seconds, from any beginning.
    #[inline(always)]
    pub const fn take(&mut self, now: u32, limit: u32) -> bool {
        if self.second != now {
            self.second = now;
            self.used = 0;
        }
        if self.used >= limit {
            return false;
        }
        self.used += 1;
        true
    }
}

const START: usize = ETHERNET as usize;
const TCP: u32 = 20;
const ICMP: u32 = 8;

/// Bytes of the refused packet in an error, from its IP header on. More than the layer 4 header's first eight
/// bytes that the sender needs, less than a kernel's stack.
pub const QUOTE: usize = 128;
/// Bytes in front of the frame, so that all headers but Ethernet's are made of whole words.
pub const LEAD: usize = 2;
/// Words of an answer.
pub const WORDS: usize = (LEAD + START + 40 + ICMP as usize + QUOTE) / 4;

/// Where the IP header starts, in words; where layer 4 does; and in an error the quoted bytes.
const L3: usize = (LEAD + START) / 4;
const L4_V4: usize = L3 + 5;
const L4_V6: usize = L3 + 10;
const QUOTE_V4: usize = L4_V4 + 2;
const QUOTE_V6: usize = L4_V6 + 2;

/// An answer in the making: its bytes as they lie in memory, behind [`LEAD`] of no meaning.
pub type Answer = [u32; WORDS];

/// Where in an error the quoted bytes stand, in words.
#[inline(always)]
#[must_use]
pub const fn quote_at(v6: bool) -> usize {
    if v6 { QUOTE_V6 } else { QUOTE_V4 }
}

/// An address of one node: neither unspecified, multicast, broadcast nor loopback nor of class E (RFC 1122,
/// 3.2.2; RFC 4443, 2.4(e.6)).
#[inline(always)]
const fn is_one_node(address: &Address) -> bool {
    if address.is_v4() {
        let first = address.v4_word().to_ne_bytes()[0];
        return first != 0 && first != 127 && first < 224;
    }
    let first = address.words[0].to_ne_bytes()[0];
    let loopback = address.words[0] | address.words[1] | address.words[2] == 0
        && u32::from_be(address.words[3]) <= 1;
    first != 0xff && !loopback
}

/// Multicast or broadcast.
#[inline(always)]
const fn is_many(address: &Address) -> bool {
    if address.is_v4() {
        address.v4_word().to_ne_bytes()[0] >= 224
    } else {
        address.words[0].to_ne_bytes()[0] == 0xff
    }
}

/// An ICMP error (also those that [`Packet::is_icmp_error`] leaves out), a redirect, or one whose type is unknown
/// and may be an error.
#[inline(always)]
const fn is_error(packet: &Packet) -> bool {
    match packet.protocol {
        PROTOCOL_ICMP => matches!(packet.icmp_type, 3 | 4 | 5 | 11 | 12),
        PROTOCOL_ICMPV6 => packet.icmp_type < 128 || packet.icmp_type == 137,
        _ => false,
    }
}

/// Whether the standards let this packet be answered so (RFC 1122, 3.2.2; RFC 4443, 2.4(e); RFC 9293, 3.10.7.1).
#[inline(always)]
#[must_use]
pub const fn may_answer(packet: &Packet, why: Refusal) -> bool {
    if matches!(packet.fragment, Fragment::Later) || !is_one_node(&packet.source) {
        return false;
    }
    // The lowest bit of the first byte marks group addresses.
    let to_many = is_many(&packet.destination) || packet.destination_mac[0] & 1 != 0;
    match why {
        Refusal::Reset => {
            // How long a segment in fragments is, its first one does not say; with an acknowledgement it need not.
            let known =
                matches!(packet.fragment, Fragment::Whole) || packet.tcp_flags & TCP_ACK != 0;
            packet.protocol == PROTOCOL_TCP && packet.tcp_flags & TCP_RST == 0 && known && !to_many
        }
        Refusal::PortUnreachable | Refusal::HopLimit => {
            !is_error(packet) && !to_many && quotes_ports(packet)
        }
        // IPv6 has path MTU discovery for multicast too: RFC 4443, 2.4(e.3).
        Refusal::TooBig(_) => !is_error(packet) && (packet.v6 || !to_many) && quotes_ports(packet),
    }
}

/// An error without the packet's ports helps nobody.
#[inline(always)]
const fn quotes_ports(packet: &Packet) -> bool {
    packet.l4 as usize + 8 <= START + QUOTE
}

/// A word as it lies in memory.
#[inline(always)]
const fn word(a: u8, b: u8, c: u8, d: u8) -> u32 {
    u32::from_ne_bytes([a, b, c, d])
}

/// Two 16-bit words in network order.
#[inline(always)]
const fn words(first: u16, second: u16) -> u32 {
    let (first, second) = (first.to_be_bytes(), second.to_be_bytes());
    word(first[0], first[1], second[0], second[1])
}

/// One's complement sum, not folded. Whatever the order of bytes in memory is, the folded sum lies there in network
/// order (RFC 1071, 2(B)).
#[inline(always)]
fn sum<const FROM: usize, const TO: usize>(answer: &Answer) -> u64 {
    let mut total = 0;
    let mut index = FROM;
    while index < TO {
        total += answer[index] as u64;
        index += 1;
    }
    total
}

/// The checksum, as it lies in memory.
#[inline(always)]
const fn folded(mut total: u64) -> [u8; 2] {
    total = (total & 0xffff_ffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    (!(total as u16)).to_ne_bytes()
}

#[inline(always)]
fn ethernet(answer: &mut Answer, packet: &Packet) {
    let [d0, d1, d2, d3, d4, d5] = packet.source_mac;
    let [s0, s1, s2, s3, s4, s5] = packet.destination_mac;
    answer[0] = word(0, 0, d0, d1);
    answer[1] = word(d2, d3, d4, d5);
    answer[2] = word(s0, s1, s2, s3);
    answer[3] = if packet.v6 {
        word(s4, s5, 0x86, 0xdd)
    } else {
        word(s4, s5, 8, 0)
    };
}

/// Ethernet and IP headers, back to the sender; returns the pseudo header's sum. `length` is of layer 4.
#[inline(always)]
fn head_v4(answer: &mut Answer, packet: &Packet, from: u32, kind: (u8, u8), length: u32) -> u64 {
    let (protocol, class) = kind;
    ethernet(answer, packet);
    answer[L3] = words(0x4500 | class as u16, 20 + length as u16);
    // Not to be fragmented, so that it needs no identification (RFC 6864).
    answer[L3 + 1] = words(0, 0x4000);
    answer[L3 + 2] = word(64, protocol, 0, 0);
    answer[L3 + 3] = from;
    answer[L3 + 4] = packet.source.v4_word();
    let [high, low] = folded(sum::<L3, L4_V4>(answer));
    answer[L3 + 2] = word(64, protocol, high, low);
    sum::<{ L3 + 3 }, L4_V4>(answer) + words(length as u16, protocol as u16) as u64
}

#[inline(always)]
fn head_v6(
    answer: &mut Answer,
    packet: &Packet,
    from: &Address,
    kind: (u8, u8),
    length: u32,
) -> u64 {
    let (protocol, class) = kind;
    ethernet(answer, packet);
    answer[L3] = words(0x6000 | (class as u16) << 4, 0);
    let [high, low] = (length as u16).to_be_bytes();
    answer[L3 + 1] = word(high, low, protocol, 64);
    let mut index = 0;
    while index < 4 {
        answer[L3 + 2 + index] = from.words[index];
        answer[L3 + 6 + index] = packet.source.words[index];
        index += 1;
    }
    sum::<{ L3 + 2 }, L4_V6>(answer) + words(length as u16, protocol as u16) as u64
}

/// Precedence "internetwork control", as routers mark their errors (RFC 1812, 4.3.2.5).
const CONTROL: u8 = 0xc0;

/// Makes an ICMP error in `answer`, at whose [`quote_at`] `quoted` bytes of the packet stand already, and nothing but
/// zeroes behind them. `from` is its source, of the packet's family. Returns its length with the Ethernet header.
#[inline(always)]
pub fn error(
    answer: &mut Answer,
    packet: &Packet,
    why: Refusal,
    from: &Address,
    quoted: u32,
) -> u32 {
    let mtu = match why {
        Refusal::TooBig(mtu) => mtu,
        _ => 0,
    };
    let length = ICMP + quoted;
    if packet.v6 {
        let pseudo = head_v6(answer, packet, from, (PROTOCOL_ICMPV6, CONTROL), length);
        // No link may have less than 1280 (RFC 8200, 5).
        let (kind, code, mtu) = match why {
            Refusal::TooBig(_) if mtu < 1280 => (2, 0, 1280),
            Refusal::TooBig(_) => (2, 0, mtu),
            Refusal::HopLimit => (3, 0, 0),
            _ => (1, 4, 0),
        };
        answer[L4_V6] = word(kind, code, 0, 0);
        answer[L4_V6 + 1] = mtu.to_be();
        let [high, low] = folded(pseudo + sum::<L4_V6, WORDS>(answer));
        answer[L4_V6] = word(kind, code, high, low);
        START as u32 + 40 + length
    } else {
        head_v4(
            answer,
            packet,
            from.v4_word(),
            (PROTOCOL_ICMP, CONTROL),
            length,
        );
        let (kind, code) = match why {
            Refusal::TooBig(_) => (3, 4),
            Refusal::HopLimit => (11, 0),
            _ => (3, 3),
        };
        answer[L4_V4] = word(kind, code, 0, 0);
        let mtu = if mtu > 0xffff { 0xffff } else { mtu as u16 };
        answer[L4_V4 + 1] = words(0, mtu);
        let [high, low] = folded(sum::<L4_V4, { QUOTE_V4 + QUOTE / 4 }>(answer));
        answer[L4_V4] = word(kind, code, high, low);
        START as u32 + 20 + length
    }
}

/// What a reset must know of the segment that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgement: u32,
    /// Bytes in it, SYN and FIN counted as one each.
    pub length: u32,
}

/// Reads the segment; `frame` is the whole packet's length. The IP header's length counts, not the frame's, which may
/// be padded; but for a packet of more than 64 KiB, whose header says nothing.
#[inline(always)]
pub fn segment<B: Bytes + ?Sized>(bytes: &B, packet: &Packet, frame: u32) -> Option<Segment> {
    let end = if packet.v6 {
        let [high, low]: [u8; 2] = bytes.read(ETHERNET + 4)?;
        match u16::from_be_bytes([high, low]) {
            0 => frame,
            length => ETHERNET + 40 + u32::from(length),
        }
    } else {
        let [high, low]: [u8; 2] = bytes.read(ETHERNET + 2)?;
        match u16::from_be_bytes([high, low]) {
            0 => frame,
            length => ETHERNET + u32::from(length),
        }
    };
    let header: [u8; 14] = bytes.read(packet.l4)?;
    let [_, _, _, _, s0, s1, s2, s3, a0, a1, a2, a3, offset, flags] = header;
    let data = end.saturating_sub(packet.l4 + u32::from(offset >> 4) * 4);
    let syn = (flags & TCP_SYN != 0) as u32;
    let fin = (flags & TCP_FIN != 0) as u32;
    Some(Segment {
        sequence: u32::from_be_bytes([s0, s1, s2, s3]),
        acknowledgement: u32::from_be_bytes([a0, a1, a2, a3]),
        length: data.wrapping_add(syn).wrapping_add(fin),
    })
}

/// Makes a reset in `answer`, from where the packet was sent to. Returns its length with the Ethernet header.
#[inline(always)]
pub fn reset(answer: &mut Answer, packet: &Packet, segment: &Segment) -> u32 {
    let kind = (PROTOCOL_TCP, 0);
    if packet.v6 {
        let pseudo = head_v6(answer, packet, &packet.destination, kind, TCP);
        reset_l4::<L4_V6, { L4_V6 + 5 }>(answer, packet, segment, pseudo);
        START as u32 + 40 + TCP
    } else {
        let pseudo = head_v4(answer, packet, packet.destination.v4_word(), kind, TCP);
        reset_l4::<L4_V4, { L4_V4 + 5 }>(answer, packet, segment, pseudo);
        START as u32 + 20 + TCP
    }
}

#[inline(always)]
fn reset_l4<const AT: usize, const END: usize>(
    answer: &mut Answer,
    packet: &Packet,
    segment: &Segment,
    pseudo: u64,
) {
    let (sequence, acknowledgement, flags) = if packet.tcp_flags & TCP_ACK != 0 {
        (segment.acknowledgement, 0, TCP_RST)
    } else {
        let next = segment.sequence.wrapping_add(segment.length);
        (0, next, TCP_RST | TCP_ACK)
    };
    let from = u16::from_be(packet.destination_port);
    answer[AT] = words(from, u16::from_be(packet.source_port));
    answer[AT + 1] = sequence.to_be();
    answer[AT + 2] = acknowledgement.to_be();
    answer[AT + 3] = word((TCP as u8 / 4) << 4, flags, 0, 0);
    answer[AT + 4] = 0;
    let [high, low] = folded(pseudo + sum::<AT, END>(answer));
    answer[AT + 4] = word(high, low, 0, 0);
}

#[cfg(test)]
mod tests;
