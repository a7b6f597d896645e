//! Masquerade: flows of pods leave the node with its address and a port of their own.
//!
//! Two tables, one per direction. A flow that is new gets a port that is free towards its remote end, by
//! entering the return table first (that insertion is what reserves the port). User space forgets idle
//! flows; nothing is evicted to make room.

use agent_ebpf::address::Address;
use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::{
    Config, FLOW_CLOSED_IN, FLOW_CLOSED_OUT, FLOW_REPLIED, FLOW_RESET, FlowKey, FlowValue,
    PROTOCOL_TCP, PROTOCOL_UDP, ReturnKey,
};
use agent_ebpf::nat::{PORT_TRIES, candidate};
use agent_ebpf::packet::{Embedded, Packet, TCP_FIN, TCP_RST};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};

use crate::maps::{FLOWS, RETURNS};

const EEXIST: i32 = -17;

#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_ns() } / 1_000_000_000) as u32
}

#[inline(always)]
fn closing(packet: &Packet, end: u16) -> u16 {
    let mut flags = 0;
    if packet.tcp_flags & TCP_FIN != 0 {
        flags |= end;
    }
    if packet.tcp_flags & TCP_RST != 0 {
        flags |= FLOW_RESET;
    }
    flags
}

/// Notes a packet of a flow; writes only what changed, since all CPUs read these lines.
#[inline(always)]
fn touch(value: *mut FlowValue, flags: u16) {
    let now = now();
    // SAFETY: from a lookup in this program. A lost update of `seen` or `flags` by a concurrent packet is
    // made good by the next one.
    unsafe {
        if (*value).seen != now {
            (*value).seen = now;
        }
        if (*value).flags | flags != (*value).flags {
            (*value).flags |= flags;
        }
    }
}

/// Address and port with which a packet from a pod leaves; of fragments the ports must be known.
#[inline(always)]
pub(crate) fn outward(config: &Config, packet: &Packet) -> Result<(Address, u16), DropReason> {
    let address = if packet.v6 {
        config.uplink_v6
    } else {
        config.uplink_v4
    };
    if address.is_unspecified() {
        return Err(DropReason::NoMasqueradeAddress);
    }
    if !matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP) && !packet.is_echo() {
        return Err(DropReason::MasqueradeProtocol);
    }
    let key = FlowKey {
        source: packet.source,
        destination: packet.destination,
        source_port: packet.source_port,
        destination_port: packet.destination_port,
        protocol: packet.protocol,
        padding: [0; 3],
    };
    let flags = if packet.protocol == PROTOCOL_TCP {
        closing(packet, FLOW_CLOSED_OUT)
    } else {
        0
    };
    if let Some(value) = FLOWS.get_ptr_mut(key) {
        touch(value, flags);
        // SAFETY: from the lookup above.
        return Ok((address, unsafe { (*value).port }));
    }
    open(config, packet, &key).map(|port| (address, port))
}

#[inline(always)]
fn open(config: &Config, packet: &Packet, key: &FlowKey) -> Result<u16, DropReason> {
    let mut back = ReturnKey {
        remote: packet.destination,
        remote_port: packet.destination_port,
        port: 0,
        protocol: packet.protocol,
        padding: [0; 3],
    };
    let pod = FlowValue {
        address: packet.source,
        port: packet.source_port,
        flags: 0,
        seen: now(),
    };
    let mut reserved = false;
    let mut round = 0;
    while round < PORT_TRIES {
        // SAFETY: no arguments.
        let random = unsafe { bpf_get_prandom_u32() };
        back.port = candidate(
            round,
            u16::from_be(packet.source_port),
            random,
            config.nat_port_minimum,
            config.nat_port_maximum,
        )
        .to_be();
        match RETURNS.insert(back, pod, u64::from(BPF_NOEXIST)) {
            Ok(()) => {
                reserved = true;
                break;
            }
            Err(EEXIST) => {}
            Err(_) => return Err(DropReason::MasqueradeTableFull),
        }
        round += 1;
    }
    if reserved {
        enter(key, &back)
    } else {
        Err(DropReason::MasqueradePorts)
    }
}

#[inline(always)]
fn enter(key: &FlowKey, back: &ReturnKey) -> Result<u16, DropReason> {
    let value = FlowValue {
        address: Address::UNSPECIFIED,
        port: back.port,
        flags: 0,
        seen: now(),
    };
    match FLOWS.insert(key, value, u64::from(BPF_NOEXIST)) {
        Ok(()) => Ok(back.port),
        error => {
            let _ = RETURNS.remove(back);
            // Another CPU had the same flow's packet: its port it is.
            match (error, FLOWS.get_ptr_mut(key)) {
                // SAFETY: from the lookup.
                (Err(EEXIST), Some(winner)) => Ok(unsafe { (*winner).port }),
                _ => Err(DropReason::MasqueradeTableFull),
            }
        }
    }
}

/// The pod's address and port that a packet from outside is for, if it is an answer.
#[inline(always)]
pub(crate) fn inward(packet: &Packet) -> Option<(Address, u16)> {
    // An echo's identifier is at neither end more than at the other.
    let (remote_port, port) = if packet.is_echo() {
        (0, packet.source_port)
    } else {
        (packet.source_port, packet.destination_port)
    };
    let key = ReturnKey {
        remote: packet.source,
        remote_port,
        port,
        protocol: packet.protocol,
        padding: [0; 3],
    };
    let value = RETURNS.get_ptr_mut(key)?;
    let mut flags = FLOW_REPLIED;
    if packet.protocol == PROTOCOL_TCP {
        flags |= closing(packet, FLOW_CLOSED_IN);
    }
    touch(value, flags);
    // SAFETY: from the lookup above.
    Some(unsafe { ((*value).address, (*value).port) })
}

/// The pod's address and port that an error is for, by the packet that it is about.
#[inline(always)]
pub(crate) fn blamed(inner: &Embedded) -> Option<(Address, u16)> {
    let key = ReturnKey {
        remote: inner.destination,
        remote_port: inner.destination_port,
        port: inner.source_port,
        protocol: inner.protocol,
        padding: [0; 3],
    };
    let value = RETURNS.get_ptr(key)?;
    // SAFETY: from the lookup above.
    Some(unsafe { ((*value).address, (*value).port) })
}
