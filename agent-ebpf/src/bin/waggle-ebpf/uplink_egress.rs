//! tc egress of the uplink and of other links: what leaves the node. Packets of pods are masqueraded, answers of the node's own processes
//! to translated flows are translated back, the rest of the node's own pass. What is for a Service's address has passed
//! no socket hook, or found nobody there: its sender is told.

use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::{Config, FLOW_KIND_MASQUERADE, SCOPE_INSIDE, ServiceKey};
use agent_ebpf::packet::Packet;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps::{self, SERVICES};
use crate::masquerade::masquerade;
use crate::onward::{Settled, follow, settle_error};
use crate::refuse::Seen;
use crate::tc::{drop, pass};
use crate::translate::translate;
use crate::work::{Work, read, tell, work};

#[classifier]
pub(crate) fn uplink_egress(ctx: TcContext) -> i32 {
    match leave(&ctx) {
        Ok(()) => pass(),
        Err(reason) => tell(&ctx, reason, Seen::Leaving).unwrap_or_else(drop),
    }
}

#[inline(always)]
fn leave(ctx: &TcContext) -> Result<(), DropReason> {
    let work = work()?;
    // What we cannot read is not a pod's.
    if read(ctx, work).is_err() {
        return Ok(());
    }
    let config = maps::config()?;
    // A Service address means nothing outside.
    if config.in_service_nets(&work.packet.destination) {
        return Err(unserved(&work.packet));
    }
    if work.packet.is_icmp_error() && matches!(settle_error(ctx, work)?, Settled::Here) {
        return Ok(());
    }
    // Of a fragment of which nothing is known, nothing is.
    let followed = work.ports_known
        && follow(work)
        && (work.pair.value.is_reverse() || work.pair.value.kind == FLOW_KIND_MASQUERADE);
    if !followed {
        if !leaves_cluster(config, work) {
            return Ok(());
        }
        if !work.ports_known {
            return Err(DropReason::FragmentUnknown);
        }
        // SAFETY: the context is the kernel's.
        let interface = unsafe { (*ctx.skb.skb).ifindex };
        masquerade(config, interface, work)?;
    }
    translate(ctx, work)
}

#[inline(always)]
fn unserved(packet: &Packet) -> DropReason {
    let key = ServiceKey {
        address: packet.destination,
        port: packet.destination_port,
        protocol: packet.protocol,
        scope: SCOPE_INSIDE,
    };
    if SERVICES.get_ptr(key).is_some() {
        DropReason::NoEndpoints
    } else {
        DropReason::NoSuchService
    }
}

/// From a pod to neither a pod nor a node.
#[inline(always)]
fn leaves_cluster(config: &Config, work: &Work) -> bool {
    config.in_pod_nets(&work.packet.source)
        && !config.in_pod_nets(&work.packet.destination)
        && maps::remote(&work.packet.destination).is_none()
}
