//! A packet's headers rewritten where no kernel helper keeps the checksums: at XDP, and in tests on the host.

use crate::address::Address;
use crate::layout::{FlowKey, PROTOCOL_TCP, PROTOCOL_UDP};
use crate::packet::{Bytes, ETHERNET, Packet};

/// Somewhere to write packet bytes to.
pub trait Edit: Bytes {
    /// Nothing if the packet is too short.
    fn write<const N: usize>(&self, offset: u32, bytes: &[u8; N]) -> Option<()>;
}

/// One's complement difference of words as they lie in memory (RFC 1624); the order of bytes does not matter to it.
#[derive(Clone, Copy, Default)]
struct Difference(u32);

impl Difference {
    #[inline(always)]
    const fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u32 + new as u32)
    }

    #[inline(always)]
    const fn address(self, old: &Address, new: &Address) -> Self {
        let mut total = self;
        let mut index = 0;
        // The words that an IPv4 address has in common with any other make no difference.
        while index < 4 {
            let (from, to) = (old.words[index], new.words[index]);
            total = total
                .word(from as u16, to as u16)
                .word((from >> 16) as u16, (to >> 16) as u16);
            index += 1;
        }
        total
    }

    /// The checksum field after the change.
    #[inline(always)]
    const fn apply(self, field: u16) -> u16 {
        let mut total = (!field) as u32 + self.0;
        total = (total & 0xffff) + (total >> 16);
        total = (total & 0xffff) + (total >> 16);
        !(total as u16)
    }
}

/// Gives a whole TCP or UDP packet, as it came, the addresses and ports of `to` and one hop less. The hop limit must not
/// be zero.
#[inline(always)]
pub fn rewrite<B: Edit + ?Sized>(bytes: &B, packet: &Packet, to: &FlowKey) -> Option<()> {
    let addresses = Difference::default()
        .address(&packet.source, &to.source)
        .address(&packet.destination, &to.destination);
    let both = addresses
        .word(packet.source_port, to.source_port)
        .word(packet.destination_port, to.destination_port);
    let at = packet.l4
        + match packet.protocol {
            PROTOCOL_TCP => 16,
            PROTOCOL_UDP => 6,
            _ => return None,
        };
    let field = u16::from_ne_bytes(bytes.read(at)?);
    // UDP over IPv4 may go without (RFC 768), and then says so by zero.
    if packet.protocol != PROTOCOL_UDP || field != 0 {
        let mut field = both.apply(field);
        if packet.protocol == PROTOCOL_UDP && field == 0 {
            field = 0xffff;
        }
        bytes.write(at, &field.to_ne_bytes())?;
    }
    let [a, b] = to.source_port.to_ne_bytes();
    let [c, d] = to.destination_port.to_ne_bytes();
    bytes.write(packet.l4, &[a, b, c, d])?;
    let less = packet.hop_limit.checked_sub(1)?;
    if packet.v6 {
        bytes.write(ETHERNET + 7, &[less])?;
        bytes.write(ETHERNET + 8, &to.source.bytes())?;
        return bytes.write(ETHERNET + 24, &to.destination.bytes());
    }
    let hops = |hop_limit| u16::from_ne_bytes([hop_limit, packet.protocol]);
    let field = u16::from_ne_bytes(bytes.read(ETHERNET + 10)?);
    let field = addresses
        .word(hops(packet.hop_limit), hops(less))
        .apply(field);
    bytes.write(ETHERNET + 8, &[less])?;
    bytes.write(ETHERNET + 10, &field.to_ne_bytes())?;
    bytes.write(ETHERNET + 12, &to.source.v4_word().to_ne_bytes())?;
    bytes.write(ETHERNET + 16, &to.destination.v4_word().to_ne_bytes())
}

#[cfg(test)]
mod tests;
