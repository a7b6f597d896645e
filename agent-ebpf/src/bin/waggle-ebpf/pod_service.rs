//! Services for packets that passed no socket hook (raw sockets, pods that opted out, virtual machines), and answers
//! of this node's pods to flows that were translated: at the pod's veth.

use agent_ebpf::address::Address;
use agent_ebpf::balance::{Choice, choose};
use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::flow::{Ports, open};
use agent_ebpf::layout::{
    Config, FLOW_KIND_MASQUERADE, FLOW_KIND_POD_SERVICE, FlowValue, SCOPE_INSIDE, Slot,
};
use agent_ebpf::packet::TCP_RST;
use aya_ebpf::programs::TcContext;

use crate::flows::{Kernel, node_address, node_ports, own_ports};
use crate::maps::{self, PODS};
use crate::onward::{follow, settle_error};
use crate::translate::translate;
use crate::work::Work;

/// Translates what a pod sends, where it is to be translated before it is routed; `work.packet` is then what it became.
/// Whether the packet is one of a translated flow.
#[inline(always)]
pub(crate) fn translate_from_pod(
    ctx: &TcContext,
    config: &Config,
    work: &mut Work,
) -> Result<bool, DropReason> {
    if work.packet.is_icmp_error() {
        return settle_error(ctx, work).map(|_| false);
    }
    if follow(work) {
        // Masqueraded where it leaves.
        if work.pair.value.kind == FLOW_KIND_MASQUERADE {
            return Ok(false);
        }
    } else {
        // Pods' addresses are no Service's.
        if config.in_pod_nets(&work.packet.destination)
            || work.packet.tcp_flags & TCP_RST != 0
            || !admit(config, work)?
        {
            return Ok(false);
        }
    }
    translate(ctx, work).map(|()| true)
}

/// Opens the flow of a packet for a Service to one of its backends.
#[inline(never)]
fn admit(config: &Config, work: &mut Work) -> Result<bool, DropReason> {
    match choose(&Kernel, config, &work.packet, SCOPE_INSIDE)? {
        Choice::Nothing => Ok(false),
        Choice::Refuse | Choice::Unserved => Err(DropReason::NoEndpoints),
        Choice::Backend { slot, service, .. } => {
            let ports = prepare(config, work, &slot, service)?;
            open(&Kernel, &mut work.pair, &ports)?;
            maps::count_event(EventKind::PacketPicked);
            Ok(true)
        }
    }
}

#[inline(always)]
fn prepare(
    config: &Config,
    work: &mut Work,
    slot: &Slot,
    service: u32,
) -> Result<Ports, DropReason> {
    let (packet, pair) = (&work.packet, &mut work.pair);
    pair.value = FlowValue {
        to: pair.key,
        service,
        kind: FLOW_KIND_POD_SERVICE,
        ..FlowValue::default()
    };
    pair.value.to.destination = slot.address;
    pair.value.to.destination_port = slot.port;
    let mut ports = own_ports(config);
    if slot.address == packet.source {
        // A pod that reaches itself would answer itself directly: the node seems to be asking, from a port that the
        // node's own sockets are not given.
        pair.value.to.source = node_address(config, packet.v6)?;
        ports = node_ports(config);
    } else if is_outside(config, &slot.address) {
        // Masqueraded at once: one flow, not two on top of each other.
        pair.value.to.source = if packet.v6 {
            config.uplink_v6
        } else {
            config.uplink_v4
        };
        if pair.value.to.source.is_unspecified() {
            return Err(DropReason::NoMasqueradeAddress);
        }
        ports = node_ports(config);
    }
    Ok(ports)
}

/// Neither a pod's nor a node's address: behind the uplink, where pods are known by the node's address.
#[inline(always)]
fn is_outside(config: &Config, address: &Address) -> bool {
    !config.in_pod_nets(address)
        && !maps::is_local(address)
        && PODS.get_ptr(address).is_none()
        && maps::remote(address).is_none()
}
