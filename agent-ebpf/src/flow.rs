//! Translated flows: what a packet becomes, and what its reply becomes again. Pure, over [`Flows`].
//!
//! A flow is two entries of one table, each keyed by a packet's tuple as it is seen and holding the tuple that the
//! packet gets. They are each other's partner: the key of one is the reply to what the other makes
//! ([`FlowKey::reply`]). The reverse entry is entered first, and only if its key is free: that is what reserves the
//! port, for all kinds of flows at once.

use crate::address::Address;
use crate::counter::DropReason;
use crate::layout::{
    FLOW_CLOSED, FLOW_ONE_WAY, FLOW_REPLIED, FLOW_RESET, FLOW_REVERSE, FlowKey, FlowValue,
    PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP,
};
use crate::nat::{PORT_TRIES, candidate};
use crate::packet::{Embedded, Packet, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

/// What became of an insertion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insertion {
    Done,
    /// There is an entry with this key; it was left alone.
    Exists,
    Full,
}

/// The table of flows. Values are copied out: they may change, and go, at any moment.
pub trait Flows {
    /// Copies the entry of a packet's tuple, and notes the packet: the time, and `flags` for good.
    fn touch(&self, key: &FlowKey, flags: u16, into: &mut FlowValue) -> bool;
    fn get(&self, key: &FlowKey, into: &mut FlowValue) -> bool;
    /// Only if there is none with this key.
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> Insertion;
    fn remove(&self, key: &FlowKey);
    fn random(&self) -> u32;
    /// Seconds since boot.
    fn now(&self) -> u32;
}

/// Working memory for one packet: both entries of its flow. Large for the kernel's stack, so it lives elsewhere.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pair {
    pub key: FlowKey,
    pub value: FlowValue,
    pub back: FlowKey,
    pub back_value: FlowValue,
}

impl FlowKey {
    #[inline(always)]
    #[must_use]
    pub const fn of(packet: &Packet) -> Self {
        Self {
            source: packet.source,
            destination: packet.destination,
            source_port: packet.source_port,
            destination_port: packet.destination_port,
            protocol: packet.protocol,
            padding: [0; 3],
        }
    }

    /// Of the packet that an ICMP error is about.
    #[inline(always)]
    #[must_use]
    pub const fn of_embedded(inner: &Embedded) -> Self {
        Self {
            source: inner.source,
            destination: inner.destination,
            source_port: inner.source_port,
            destination_port: inner.destination_port,
            protocol: inner.protocol,
            padding: [0; 3],
        }
    }

    /// The tuple of the answer to a packet with this one.
    #[inline(always)]
    #[must_use]
    pub const fn reply(&self) -> Self {
        // An echo has one identifier, whichever way it goes.
        let (source_port, destination_port) = match self.protocol {
            PROTOCOL_ICMP | PROTOCOL_ICMPV6 => (self.source_port, self.destination_port),
            _ => (self.destination_port, self.source_port),
        };
        Self {
            source: self.destination,
            destination: self.source,
            source_port,
            destination_port,
            protocol: self.protocol,
            padding: [0; 3],
        }
    }
}

impl FlowValue {
    #[inline(always)]
    #[must_use]
    pub const fn is_reverse(&self) -> bool {
        self.flags & FLOW_REVERSE != 0
    }

    /// Flags after a packet with `noted` ones.
    #[inline(always)]
    #[must_use]
    pub const fn flags_with(&self, noted: u16) -> u16 {
        if self.is_reverse() {
            self.flags | noted | FLOW_REPLIED
        } else {
            self.flags | noted
        }
    }
}

/// What a packet says about the end of its flow.
#[inline(always)]
#[must_use]
pub const fn noted(packet: &Packet) -> u16 {
    let mut flags = 0;
    if packet.protocol == PROTOCOL_TCP {
        if packet.tcp_flags & TCP_FIN != 0 {
            flags |= FLOW_CLOSED;
        }
        if packet.tcp_flags & TCP_RST != 0 {
            flags |= FLOW_RESET;
        }
    }
    flags
}

/// Whether nothing more is expected of a flow with these flags of its two entries.
#[inline(always)]
#[must_use]
pub const fn is_over(flags: u16, partner: u16) -> bool {
    (flags | partner) & FLOW_RESET != 0 || flags & partner & FLOW_CLOSED != 0
}

/// Opens a TCP connection.
#[inline(always)]
#[must_use]
pub const fn is_opening(packet: &Packet) -> bool {
    packet.protocol == PROTOCOL_TCP
        && packet.tcp_flags & (TCP_SYN | TCP_ACK | TCP_FIN | TCP_RST) == TCP_SYN
}

/// The flow that a packet belongs to, in `pair.value`, if it belongs to one. A connection that is opened on the tuple
/// of one that is over is a new one: the old one is forgotten.
#[inline(always)]
pub fn follow<T: Flows>(table: &T, packet: &Packet, pair: &mut Pair) -> bool {
    pair.key = FlowKey::of(packet);
    if !table.touch(&pair.key, noted(packet), &mut pair.value) {
        return false;
    }
    // Both ends may ping each other with one identifier: a request is no answer.
    if packet.is_echo() && packet.is_echo_request() == pair.value.is_reverse() {
        return false;
    }
    if is_opening(packet) && !pair.value.is_reverse() {
        pair.back = pair.value.to.reply();
        let partner = if pair.value.flags & FLOW_ONE_WAY != 0 {
            // Its end is not seen here.
            FLOW_CLOSED
        } else if table.get(&pair.back, &mut pair.back_value) {
            pair.back_value.flags
        } else {
            0
        };
        if is_over(pair.value.flags, partner) {
            table.remove(&pair.key);
            table.remove(&pair.back);
            return false;
        }
    }
    true
}

/// Which ports a flow may be given as its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Host order, both included.
    pub minimum: u16,
    pub maximum: u16,
    /// The source address stays: the flow's own port is the best one, in range or not.
    pub any_own: bool,
}

/// Enters a flow for `pair.key`, which becomes `pair.value.to`: with another source port there, if that one is taken.
/// `pair.value` is what the flow has in the end, which may be what another CPU entered meanwhile.
///
/// # Errors
/// [`DropReason::FlowTableFull`], [`DropReason::FlowPorts`], [`DropReason::SctpPort`]; then nothing of it is in the table.
#[inline(always)]
pub fn open<T: Flows>(table: &T, pair: &mut Pair, ports: &Ports) -> Result<(), DropReason> {
    // SCTP's checksum is no sum: a port cannot be changed in place.
    if pair.key.protocol == PROTOCOL_SCTP
        && pair.value.to.destination_port != pair.key.destination_port
    {
        return Err(DropReason::SctpPort);
    }
    let now = table.now();
    pair.value.seen = now;
    let service = pair.value.service;
    let kind = pair.value.kind;
    let flags = pair.value.flags;
    if flags & FLOW_ONE_WAY != 0 {
        return match table.insert(&pair.key, &pair.value) {
            Insertion::Done => Ok(()),
            Insertion::Exists => winner(table, pair),
            Insertion::Full => Err(DropReason::FlowTableFull),
        };
    }
    pair.back = pair.value.to.reply();
    pair.back_value = FlowValue {
        to: pair.key.reply(),
        service,
        seen: now,
        flags: flags | FLOW_REVERSE,
        kind,
    };
    reserve(table, pair, ports)?;
    match table.insert(&pair.key, &pair.value) {
        Insertion::Done => Ok(()),
        Insertion::Exists => {
            table.remove(&pair.back);
            winner(table, pair)
        }
        Insertion::Full => {
            table.remove(&pair.back);
            Err(DropReason::FlowTableFull)
        }
    }
}

/// Another CPU had the same flow's packet: what it entered it is.
#[inline(always)]
fn winner<T: Flows>(table: &T, pair: &mut Pair) -> Result<(), DropReason> {
    if table.get(&pair.key, &mut pair.value) {
        Ok(())
    } else {
        Err(DropReason::FlowTableFull)
    }
}

#[inline(always)]
fn reserve<T: Flows>(table: &T, pair: &mut Pair, ports: &Ports) -> Result<(), DropReason> {
    let own = pair.value.to.source_port;
    let protocol = pair.value.to.protocol;
    let mut round = 0;
    while round < PORT_TRIES {
        let port = if round == 0 && (ports.any_own || protocol == PROTOCOL_SCTP) {
            own
        } else {
            let random = table.random();
            candidate(
                round,
                u16::from_be(own),
                random,
                ports.minimum,
                ports.maximum,
            )
            .to_be()
        };
        pair.value.to.source_port = port;
        if matches!(protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6) {
            pair.back.source_port = port;
        } else {
            pair.back.destination_port = port;
        }
        match table.insert(&pair.back, &pair.back_value) {
            Insertion::Done => return Ok(()),
            Insertion::Exists if protocol == PROTOCOL_SCTP => return Err(DropReason::FlowPorts),
            Insertion::Exists => {}
            Insertion::Full => return Err(DropReason::FlowTableFull),
        }
        round += 1;
    }
    Err(DropReason::FlowPorts)
}

/// What an ICMP error about a packet of a translated flow becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The error's own source and destination.
    pub source: Address,
    pub destination: Address,
    /// The packet that it is about, as its sender sent it.
    pub inner: FlowKey,
}

/// Whom an ICMP error concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Concern {
    Nobody,
    /// The sender of the packet before it was translated.
    Sender(Blame),
    /// The flow's packets pass here as they are: so do errors, to where the flow leads.
    Elsewhere,
}

/// Whom an error concerns; the flow's entry is in `pair.value` then.
#[inline(always)]
pub fn blame<T: Flows>(table: &T, error: &Packet, inner: &Embedded, pair: &mut Pair) -> Concern {
    let sent = FlowKey::of_embedded(inner);
    pair.key = sent.reply();
    if !table.get(&pair.key, &mut pair.value) {
        return Concern::Nobody;
    }
    if pair.value.flags & FLOW_ONE_WAY != 0 {
        return Concern::Elsewhere;
    }
    // From the far end itself: it is known by another address on the other side. A router on the way is not.
    let source = if error.source == inner.destination {
        pair.value.to.source
    } else {
        error.source
    };
    Concern::Sender(Blame {
        source,
        destination: pair.value.to.destination,
        inner: pair.value.to.reply(),
    })
}

#[cfg(test)]
mod tests;
