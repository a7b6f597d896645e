//! Masquerade: flows of pods leave the node with its address and a port of their own.

use agent_ebpf::counter::DropReason;
use agent_ebpf::flow::open;
use agent_ebpf::layout::{Config, FLOW_KIND_MASQUERADE, FlowValue, PROTOCOL_TCP, PROTOCOL_UDP};

use crate::flows::{Kernel, node_ports};
use crate::maps::LINKS;
use crate::work::Work;

/// Enters a flow that leaves by `interface` with the node's address there, for `work.pair.key`, the packet's; of
/// fragments the ports must be known.
#[inline(never)]
pub(crate) fn masquerade(
    config: &Config,
    interface: u32,
    work: &mut Work,
) -> Result<(), DropReason> {
    let (packet, pair) = (&work.packet, &mut work.pair);
    // SAFETY: copied at once.
    let link = unsafe { LINKS.get(interface) }.copied().unwrap_or_default();
    let mut address = if packet.v6 { link.v6 } else { link.v4 };
    if address.is_unspecified() {
        address = if packet.v6 {
            config.uplink_v6
        } else {
            config.uplink_v4
        };
    }
    if address.is_unspecified() {
        return Err(DropReason::NoMasqueradeAddress);
    }
    if !matches!(packet.protocol, PROTOCOL_TCP | PROTOCOL_UDP) && !packet.is_echo_request() {
        return Err(DropReason::MasqueradeProtocol);
    }
    pair.value = FlowValue {
        to: pair.key,
        kind: FLOW_KIND_MASQUERADE,
        ..FlowValue::default()
    };
    pair.value.to.source = address;
    open(&Kernel, pair, &node_ports(config))
}
