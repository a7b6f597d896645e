//! tc egress of a pod's host-side veth: what the node's own stack sends to a pod.
//!
//! Answers of the node's DNS server get the cluster DNS address back as their source; all else passes.
//! Packets that were redirected to the pod do not come here.

use agent_ebpf::counter::DropReason;
use agent_ebpf::packet::{Fragment, parse};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps;
use crate::tc::{End, Skb, drop, pass, rewrite};

#[classifier]
pub(crate) fn pod_egress(ctx: TcContext) -> i32 {
    match to_pod(&ctx) {
        Ok(()) => pass(),
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn to_pod(ctx: &TcContext) -> Result<(), DropReason> {
    let packet = match parse(&Skb(ctx)) {
        Ok(packet) => packet,
        // The node's own ARP and the like.
        Err(DropReason::NotIp) => return Ok(()),
        Err(reason) => return Err(reason),
    };
    let config = maps::config()?;
    if packet.source != config.dns_listen {
        return Ok(());
    }
    if matches!(packet.fragment, Fragment::Later) || packet.source_port == config.dns_port {
        rewrite(
            ctx,
            &packet,
            End::Source,
            &config.cluster_dns,
            53u16.to_be(),
        )?;
    }
    Ok(())
}
