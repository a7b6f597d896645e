//! tc egress of a pod's host-side veth: what the node's own stack sends to a pod.
//!
//! Answers of the node's DNS server get the cluster DNS address back as their source, answers of its other processes
//! to translated flows the Service's; all else passes.
//! Packets that were redirected to the pod do not come here.

use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::FLOW_KIND_POD_SERVICE;
use agent_ebpf::packet::Fragment;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps;
use crate::onward::{follow, settle_error};
use crate::tc::{End, drop, pass, rewrite};
use crate::translate::translate;
use crate::work::{Work, read, work};

#[classifier]
pub(crate) fn pod_egress(ctx: TcContext) -> i32 {
    match to_pod(&ctx) {
        Ok(()) => pass(),
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn to_pod(ctx: &TcContext) -> Result<(), DropReason> {
    let work = work()?;
    match read(ctx, work) {
        Ok(()) => {}
        // The node's own ARP and the like.
        Err(DropReason::NotIp) => return Ok(()),
        Err(reason) => return Err(reason),
    }
    let config = maps::config()?;
    if work.packet.source != config.dns_listen {
        return answer(ctx, work);
    }
    let packet = &work.packet;
    if matches!(packet.fragment, Fragment::Later) || packet.source_port == config.dns_port {
        rewrite(ctx, packet, End::Source, &config.cluster_dns, 53u16.to_be())?;
    }
    Ok(())
}

/// A backend of a Service that is a process of the node answers a pod.
#[inline(always)]
fn answer(ctx: &TcContext, work: &mut Work) -> Result<(), DropReason> {
    if work.packet.is_icmp_error() {
        return settle_error(ctx, work).map(|_| ());
    }
    if follow(work) && work.pair.value.is_reverse() && work.pair.value.kind == FLOW_KIND_POD_SERVICE
    {
        return translate(ctx, work);
    }
    Ok(())
}
