//! tc egress of the uplink and of other links: what leaves the node. Packets of pods are masqueraded, answers of the node's own processes
//! to translated flows are translated back, the rest of the node's own pass.

use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::{Config, FLOW_KIND_MASQUERADE};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps;
use crate::masquerade::masquerade;
use crate::onward::{Settled, follow, settle_error};
use crate::tc::{drop, pass};
use crate::translate::translate;
use crate::work::{Work, read, work};

#[classifier]
pub(crate) fn uplink_egress(ctx: TcContext) -> i32 {
    match leave(&ctx) {
        Ok(()) => pass(),
        Err(reason) => drop(reason),
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
        return Err(DropReason::NoSuchService);
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

/// From a pod to neither a pod nor a node.
#[inline(always)]
fn leaves_cluster(config: &Config, work: &Work) -> bool {
    config.in_pod_nets(&work.packet.source)
        && !config.in_pod_nets(&work.packet.destination)
        && maps::remote(&work.packet.destination).is_none()
}
