//! What comes in from the network, by the uplink or the overlay, and is to be translated: packets for Services (node
//! ports, LoadBalancer and external addresses, hostPorts), and answers to flows of this node.

use agent_ebpf::balance::{Choice, choose};
use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::flow::{Ports, open};
use agent_ebpf::layout::{
    Config, FLOW_KIND_DSR_REMOTE, FLOW_KIND_HOST_PORT, FLOW_KIND_LOCAL, FLOW_KIND_MASQUERADE,
    FLOW_KIND_POD_SERVICE, FLOW_KIND_REMOTE, FLOW_ONE_WAY, FlowValue, SCOPE_OUTSIDE,
    SERVICE_HOST_PORT, SERVICE_LOCAL, Slot,
};
use agent_ebpf::packet::TCP_RST;
use aya_ebpf::programs::TcContext;

use crate::direct::{is_direct, pass_on};
use crate::flows::{Kernel, node_address, node_ports, own_ports};
use crate::maps::{self, PODS};
use crate::onward::{Settled, fits, follow, onward, settle_error};
use crate::translate::{translate, undo};
use crate::work::Work;

/// What comes in from the network and is of a flow, or for a Service. Nothing if it is neither, or for a Service without
/// endpoints on an address of the node, whose stack answers.
#[inline(always)]
pub(crate) fn serve(
    ctx: &TcContext,
    config: &Config,
    work: &mut Work,
) -> Result<Option<i32>, DropReason> {
    // A fragment of which nothing is known may be the node's own.
    if !work.ports_known {
        return Ok(None);
    }
    if work.packet.is_icmp_error() {
        // An error about a translated flow is for the flow's end: it needs it to learn the path's MTU.
        return match settle_error(ctx, work)? {
            Settled::Not => Ok(None),
            Settled::Here => onward(ctx, config, work).map(Some),
            Settled::Elsewhere => pass_on(ctx, config, work).map(Some),
        };
    }
    if follow(work) {
        if !comes_in(&work.pair.value) {
            return Ok(None);
        }
    } else {
        // The end of a connection that is not known (any more) opens none.
        if work.packet.tcp_flags & TCP_RST != 0 || !admit(config, work)? {
            return Ok(None);
        }
    }
    if work.pair.value.flags & FLOW_ONE_WAY != 0 {
        return pass_on(ctx, config, work).map(Some);
    }
    fits(ctx, config, work)?;
    translate(ctx, work)?;
    let verdict = onward(ctx, config, work);
    if matches!(verdict, Err(DropReason::TooBig | DropReason::HopLimit)) {
        // Its sender knows the packet as it was.
        undo(ctx, work)?;
    }
    verdict.map(Some)
}

/// Whether packets that come in from the network may belong to a flow's entry of this kind.
#[inline(always)]
const fn comes_in(value: &FlowValue) -> bool {
    if value.is_reverse() {
        matches!(
            value.kind,
            FLOW_KIND_MASQUERADE | FLOW_KIND_POD_SERVICE | FLOW_KIND_REMOTE
        )
    } else {
        !matches!(value.kind, FLOW_KIND_MASQUERADE | FLOW_KIND_POD_SERVICE)
    }
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
/// back here; or, where its node is to answer the client directly, as it is.
///
/// A client within the cluster may have the same ports in use towards the same pod without us (its Services are chosen at
/// the socket): its packets get the node's address, and ports that no socket is given, unless it is promised that its
/// own is kept.
#[inline(always)]
fn prepare(
    config: &Config,
    work: &mut Work,
    slot: &Slot,
    service: u32,
    flags: u32,
) -> Result<Ports, DropReason> {
    let (packet, pair) = (&work.packet, &mut work.pair);
    let has_pod = PODS.get_ptr(slot.address).is_some();
    let is_inside = config.in_pod_nets(&packet.source) || maps::remote(&packet.source).is_some();
    let keeps = flags & (SERVICE_HOST_PORT | SERVICE_LOCAL) != 0;
    let near = if has_pod {
        keeps || !is_inside
    } else {
        maps::is_local(&slot.address)
    };
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
    } else if is_direct(config, &packet.source, &slot.address) {
        pair.value.kind = FLOW_KIND_DSR_REMOTE;
        pair.value.flags = FLOW_ONE_WAY;
        Ok(own_ports(config))
    } else {
        pair.value.kind = FLOW_KIND_REMOTE;
        pair.value.to.source = node_address(config, packet.v6)?;
        Ok(node_ports(config))
    }
}
