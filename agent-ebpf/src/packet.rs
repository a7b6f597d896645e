//! The one parser of packets: all bounds checks are here, and nothing else reads headers.
//!
//! It reads through [`Bytes`], which is a helper call in the kernel (so that headers need not lie in the
//! linear part of a packet, and every kernel's verifier accepts it) and a slice on the host. Not here: VLAN
//! tags (the kernel strips them before tc), and anything beyond the first layer 4 header.

use crate::address::Address;
use crate::counter::DropReason;
use crate::layout::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP};

/// Somewhere to read packet bytes from.
pub trait Bytes {
    /// The `N` bytes at `offset`, or nothing if the packet is too short.
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]>;
}

impl Bytes for [u8] {
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        let offset = offset as usize;
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
}

pub const ETHERNET: u32 = 14;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;

pub const TCP_FIN: u8 = 1;
pub const TCP_SYN: u8 = 2;
pub const TCP_RST: u8 = 4;
pub const TCP_ACK: u8 = 16;

/// Which part of a fragmented packet it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    Whole,
    /// Has the layer 4 header.
    First,
    /// Has no layer 4 header: ports are 0.
    Later,
}

/// What is known about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    pub destination_mac: [u8; 6],
    pub source_mac: [u8; 6],
    pub source: Address,
    pub destination: Address,
    pub v6: bool,
    pub protocol: u8,
    pub hop_limit: u8,
    pub fragment: Fragment,
    /// What a packet's fragments have in common, as it lies in the header; of IPv6 only where there are fragments.
    pub identification: u32,
    /// Offset of the layer 4 header.
    pub l4: u32,
    /// Network order; ICMP echo's identifier in `source_port`; 0 where the protocol has none.
    pub source_port: u16,
    pub destination_port: u16,
    pub tcp_flags: u8,
    /// Of ICMP and ICMPv6 only.
    pub icmp_type: u8,
}

impl Packet {
    /// Echo request or reply.
    #[inline(always)]
    #[must_use]
    pub const fn is_echo(&self) -> bool {
        match self.protocol {
            PROTOCOL_ICMP => self.icmp_type == 8 || self.icmp_type == 0,
            PROTOCOL_ICMPV6 => self.icmp_type == 128 || self.icmp_type == 129,
            _ => false,
        }
    }

    #[inline(always)]
    #[must_use]
    pub const fn is_echo_request(&self) -> bool {
        match self.protocol {
            PROTOCOL_ICMP => self.icmp_type == 8,
            PROTOCOL_ICMPV6 => self.icmp_type == 128,
            _ => false,
        }
    }

    /// IPv6 neighbour discovery or multicast listener discovery: of a link, never routed.
    #[inline(always)]
    #[must_use]
    pub const fn is_v6_control(&self) -> bool {
        self.protocol == PROTOCOL_ICMPV6 && matches!(self.icmp_type, 130..=137 | 143)
    }

    /// An ICMP error: it carries the start of the packet that it is about.
    #[inline(always)]
    #[must_use]
    pub const fn is_icmp_error(&self) -> bool {
        match self.protocol {
            PROTOCOL_ICMP => matches!(self.icmp_type, 3 | 11 | 12),
            PROTOCOL_ICMPV6 => matches!(self.icmp_type, 1..=4),
            _ => false,
        }
    }
}

#[inline(always)]
fn v4(bytes: &[u8; 20], at: usize) -> Address {
    Address::from_v4([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Parses a packet that starts with its Ethernet header.
///
/// # Errors
/// `NotIp` for other ethertypes, `Malformed` for anything cut short or contradicting itself.
#[inline(always)]
pub fn parse<B: Bytes + ?Sized>(bytes: &B) -> Result<Packet, DropReason> {
    let ethernet: [u8; 14] = bytes.read(0).ok_or(DropReason::Malformed)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = ethernet;
    let mut packet = Packet {
        destination_mac: [d0, d1, d2, d3, d4, d5],
        source_mac: [s0, s1, s2, s3, s4, s5],
        source: Address::UNSPECIFIED,
        destination: Address::UNSPECIFIED,
        v6: false,
        protocol: 0,
        hop_limit: 0,
        fragment: Fragment::Whole,
        identification: 0,
        l4: 0,
        source_port: 0,
        destination_port: 0,
        tcp_flags: 0,
        icmp_type: 0,
    };
    match u16::from_be_bytes([t0, t1]) {
        ETHERTYPE_IPV4 => parse_v4(bytes, &mut packet)?,
        ETHERTYPE_IPV6 => parse_v6(bytes, &mut packet)?,
        _ => return Err(DropReason::NotIp),
    }
    if !matches!(packet.fragment, Fragment::Later) {
        parse_l4(bytes, &mut packet)?;
    }
    Ok(packet)
}

#[inline(always)]
fn parse_v4<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<(), DropReason> {
    let header: [u8; 20] = bytes.read(ETHERNET).ok_or(DropReason::Malformed)?;
    let length = u32::from(header[0] & 0x0f) * 4;
    if header[0] >> 4 != 4 || length < 20 {
        return Err(DropReason::Malformed);
    }
    let fragment = u16::from_be_bytes([header[6], header[7]]);
    packet.fragment = fragment_of(fragment & 0x1fff != 0, fragment & 0x2000 != 0);
    packet.identification = u32::from(u16::from_ne_bytes([header[4], header[5]]));
    packet.hop_limit = header[8];
    packet.protocol = header[9];
    packet.source = v4(&header, 12);
    packet.destination = v4(&header, 16);
    packet.l4 = ETHERNET + length;
    Ok(())
}

#[inline(always)]
const fn fragment_of(offset: bool, more: bool) -> Fragment {
    if offset {
        Fragment::Later
    } else if more {
        Fragment::First
    } else {
        Fragment::Whole
    }
}

/// Extension headers that are walked; a packet with more is refused, as RFC 9288 lets nodes do.
const EXTENSIONS: u32 = 4;

#[inline(always)]
fn parse_v6<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<(), DropReason> {
    packet.v6 = true;
    let header: [u8; 8] = bytes.read(ETHERNET).ok_or(DropReason::Malformed)?;
    if header[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    packet.hop_limit = header[7];
    let source: [u8; 16] = bytes.read(ETHERNET + 8).ok_or(DropReason::Malformed)?;
    packet.source = Address::from_v6(source);
    let destination: [u8; 16] = bytes.read(ETHERNET + 24).ok_or(DropReason::Malformed)?;
    packet.destination = Address::from_v6(destination);
    // An IPv4-mapped address on the wire would pass for an IPv4 packet's in the maps.
    if packet.source.is_v4() || packet.destination.is_v4() {
        return Err(DropReason::Malformed);
    }
    let mut next = header[6];
    let mut at = ETHERNET + 40;
    let mut round = 0;
    while round < EXTENSIONS {
        match next {
            // Hop-by-hop, routing, destination options.
            0 | 43 | 60 => {
                let [following, length]: [u8; 2] = bytes.read(at).ok_or(DropReason::Malformed)?;
                next = following;
                at += (u32::from(length) + 1) * 8;
            }
            44 => {
                let header: [u8; 8] = bytes.read(at).ok_or(DropReason::Malformed)?;
                let [following, _, high, low, i0, i1, i2, i3] = header;
                let field = u16::from_be_bytes([high, low]);
                packet.identification = u32::from_ne_bytes([i0, i1, i2, i3]);
                next = following;
                at += 8;
                packet.fragment = fragment_of(field & 0xfff8 != 0, field & 1 != 0);
                if matches!(packet.fragment, Fragment::Later) {
                    break;
                }
            }
            _ => break,
        }
        round += 1;
    }
    if matches!(next, 0 | 43 | 44 | 60) && !matches!(packet.fragment, Fragment::Later) {
        return Err(DropReason::Malformed);
    }
    packet.protocol = next;
    packet.l4 = at;
    Ok(())
}

#[inline(always)]
fn parse_l4<B: Bytes + ?Sized>(bytes: &B, packet: &mut Packet) -> Result<(), DropReason> {
    match packet.protocol {
        PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP => {
            let ports: [u8; 8] = bytes.read(packet.l4).ok_or(DropReason::Malformed)?;
            packet.source_port = u16::from_ne_bytes([ports[0], ports[1]]);
            packet.destination_port = u16::from_ne_bytes([ports[2], ports[3]]);
            if packet.protocol == PROTOCOL_TCP {
                let rest: [u8; 12] = bytes.read(packet.l4 + 8).ok_or(DropReason::Malformed)?;
                packet.tcp_flags = rest[5];
            }
        }
        PROTOCOL_ICMP | PROTOCOL_ICMPV6 => {
            let header: [u8; 8] = bytes.read(packet.l4).ok_or(DropReason::Malformed)?;
            packet.icmp_type = header[0];
            if packet.is_echo() {
                packet.source_port = u16::from_ne_bytes([header[4], header[5]]);
            }
        }
        _ => {}
    }
    Ok(())
}

/// The packet inside an ICMP error, as far as a flow's key needs it, and where to rewrite it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    pub source: Address,
    pub destination: Address,
    pub protocol: u8,
    pub source_port: u16,
    pub destination_port: u16,
    /// Offset of the inner IP header.
    pub l3: u32,
    /// Offset of the inner ports, or of an echo's identifier.
    pub port: u32,
}

/// Reads the packet that an ICMP error is about; nothing if it is cut short, is no flow's, is a fragment without
/// ports, or has extension headers.
#[inline(always)]
pub fn embedded<B: Bytes + ?Sized>(bytes: &B, error: &Packet) -> Option<Embedded> {
    let l3 = error.l4 + 8;
    let (protocol, l4, source, destination) = if error.v6 {
        let header: [u8; 8] = bytes.read(l3)?;
        if header[0] >> 4 != 6 {
            return None;
        }
        let source: [u8; 16] = bytes.read(l3 + 8)?;
        let destination: [u8; 16] = bytes.read(l3 + 24)?;
        let addresses = (Address::from_v6(source), Address::from_v6(destination));
        (header[6], l3 + 40, addresses.0, addresses.1)
    } else {
        let header: [u8; 20] = bytes.read(l3)?;
        let length = u32::from(header[0] & 0x0f) * 4;
        // A later fragment has no ports where they would be.
        if header[0] >> 4 != 4
            || length < 20
            || u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0
        {
            return None;
        }
        (header[9], l3 + length, v4(&header, 12), v4(&header, 16))
    };
    let start: [u8; 8] = bytes.read(l4)?;
    let (port, source_port, destination_port) = match protocol {
        PROTOCOL_TCP | PROTOCOL_UDP | PROTOCOL_SCTP => (
            l4,
            u16::from_ne_bytes([start[0], start[1]]),
            u16::from_ne_bytes([start[2], start[3]]),
        ),
        // Only an echo request leaves as part of a flow.
        PROTOCOL_ICMP if start[0] == 8 => (l4 + 4, u16::from_ne_bytes([start[4], start[5]]), 0),
        PROTOCOL_ICMPV6 if start[0] == 128 => (l4 + 4, u16::from_ne_bytes([start[4], start[5]]), 0),
        _ => return None,
    };
    Some(Embedded {
        source,
        destination,
        protocol,
        source_port,
        destination_port,
        l3,
        port,
    })
}

#[cfg(test)]
mod tests;
