//! Ports of fragments: the first one of a packet has them and leaves them here for those behind it.

use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::{FragmentKey, FragmentValue, PROTOCOL_ICMP, PROTOCOL_ICMPV6};
use agent_ebpf::packet::{Fragment, Packet};

use crate::maps::FRAGMENTS;

/// Makes a fragment as good as the whole packet: after it, ports (and an echo's type) are known. To be called with the
/// addresses as they stand in the packet, before they are rewritten.
///
/// # Errors
/// `FragmentUnknown` for a later fragment whose first one did not come by before it, and for those of ICMP messages
/// other than echoes, which nobody fragments.
#[inline(always)]
pub(crate) fn ports(packet: &mut Packet) -> Result<(), DropReason> {
    if matches!(packet.fragment, Fragment::Whole) {
        return Ok(());
    }
    let key = FragmentKey {
        source: packet.source,
        destination: packet.destination,
        identification: packet.identification,
        protocol: u32::from(packet.protocol),
    };
    let icmp = matches!(packet.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6);
    if matches!(packet.fragment, Fragment::First) {
        if icmp && !packet.is_echo() {
            return Ok(());
        }
        let value = FragmentValue {
            source_port: packet.source_port,
            // An echo has a type instead.
            destination_port: if icmp {
                u16::from(packet.icmp_type)
            } else {
                packet.destination_port
            },
        };
        // The table makes room by itself. Where it cannot, the fragments behind are dropped by name.
        let _ = FRAGMENTS.insert(key, value, 0);
        return Ok(());
    }
    // SAFETY: copied at once.
    let value = unsafe { FRAGMENTS.get(key) }
        .copied()
        .ok_or(DropReason::FragmentUnknown)?;
    packet.source_port = value.source_port;
    if icmp {
        packet.icmp_type = value.destination_port as u8;
    } else {
        packet.destination_port = value.destination_port;
    }
    Ok(())
}
