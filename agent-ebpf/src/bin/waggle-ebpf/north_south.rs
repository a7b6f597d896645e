//! From outside to Services: node ports, LoadBalancer and external addresses, hostPorts; at the uplink.

use agent_ebpf::balance::{Choice, choose};
use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::flow::{Ports, open};
use agent_ebpf::layout::{
    Config, FLOW_KIND_HOST_PORT, FLOW_KIND_LOCAL, FLOW_KIND_MASQUERADE, FLOW_KIND_POD_SERVICE,
    FLOW_KIND_REMOTE, FlowValue, SCOPE_OUTSIDE, SERVICE_HOST_PORT, Slot,
};
use agent_ebpf::packet::TCP_RST;
use aya_ebpf::programs::TcContext;

use crate::flows::{Kernel, node_address, node_ports, own_ports};
use crate::maps::{self, LOCALS, PODS};
use crate::onward::onward;
use crate::translate::translate;
use crate::work::Work;

/// Whether packets that come in from the network may belong to a flow's entry of this kind.
#[inline(always)]
pub(crate) const fn comes_in(value: &FlowValue) -> bool {
    if value.is_reverse() {
        matches!(
            value.kind,
            FLOW_KIND_MASQUERADE | FLOW_KIND_POD_SERVICE | FLOW_KIND_REMOTE
        )
    } else {
        !matches!(value.kind, FLOW_KIND_MASQUERADE | FLOW_KIND_POD_SERVICE)
    }
}

/// A packet that belongs to no flow; `work.pair.key` is its tuple. Nothing if it is for no Service, or for one without
/// endpoints on an address of the node, whose stack answers.
#[inline(always)]
pub(crate) fn balance(
    ctx: &TcContext,
    config: &Config,
    work: &mut Work,
) -> Result<Option<i32>, DropReason> {
    // The end of a connection that is not known (any more) opens none.
    if work.packet.tcp_flags & TCP_RST != 0 || !admit(config, work)? {
        return Ok(None);
    }
    translate(ctx, work)?;
    onward(ctx, config, work).map(Some)
}

/// Opens the flow of a packet for a Service to one of its backends.
#[inline(never)]
fn admit(config: &Config, work: &mut Work) -> Result<bool, DropReason> {
    match choose(&Kernel, config, &work.packet, SCOPE_OUTSIDE)? {
        Choice::Nothing | Choice::Unserved => Ok(false),
        Choice::Refuse => Err(DropReason::NoEndpoints),
        Choice::Backend {
            slot,
            service,
            flags,
        } => {
            let ports = prepare(config, work, &slot, service, flags)?;
            open(&Kernel, &mut work.pair, &ports)?;
            maps::count_event(EventKind::PacketPicked);
            Ok(true)
        }
    }
}

/// To a backend on this node with the client's address, to one elsewhere with the node's own, so that the answers come
/// back here.
#[inline(always)]
fn prepare(
    config: &Config,
    work: &mut Work,
    slot: &Slot,
    service: u32,
    flags: u32,
) -> Result<Ports, DropReason> {
    let (packet, pair) = (&work.packet, &mut work.pair);
    let near = PODS.get_ptr(slot.address).is_some() || LOCALS.get_ptr(slot.address).is_some();
    pair.value = FlowValue {
        to: pair.key,
        service,
        ..FlowValue::default()
    };
    pair.value.to.destination = slot.address;
    pair.value.to.destination_port = slot.port;
    if near {
        pair.value.kind = if flags & SERVICE_HOST_PORT != 0 {
            FLOW_KIND_HOST_PORT
        } else {
            FLOW_KIND_LOCAL
        };
        Ok(own_ports(config))
    } else {
        pair.value.kind = FLOW_KIND_REMOTE;
        pair.value.to.source = node_address(config, packet.v6)?;
        Ok(node_ports(config))
    }
}
