//! tc ingress of the uplink: what comes to the node. Answers to masqueraded flows go straight to their pod.

use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::packet::{Fragment, Packet, embedded_v4, parse};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps::{self, PODS};
use crate::masquerade::{inward, is_flow};
use crate::tc::{End, Skb, drop, hop, pass, rewrite, to_pod};

#[classifier]
pub fn uplink_ingress(ctx: TcContext) -> i32 {
    match enter(&ctx) {
        Ok(verdict) => verdict,
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn enter(ctx: &TcContext) -> Result<i32, DropReason> {
    // What we cannot read is the stack's to judge.
    let Ok(packet) = parse(&Skb(ctx)) else {
        return Ok(pass());
    };
    let config = maps::config()?;
    let ours = if packet.v6 {
        &config.uplink_v6
    } else {
        &config.uplink_v4
    };
    if packet.destination != *ours || !matches!(packet.fragment, Fragment::Whole) {
        return Ok(pass());
    }
    if packet.is_icmp_error() {
        return about_a_flow(ctx, &packet);
    }
    let Some((address, port)) = inward(&packet) else {
        return Ok(pass());
    };
    // SAFETY: copied at once.
    let pod = unsafe { PODS.get(address) }
        .copied()
        .ok_or(DropReason::NoSuchPod)?;
    hop(ctx, &packet)?;
    rewrite(ctx, &packet, End::Destination, &address, port)?;
    to_pod(ctx, &pod, ForwardKind::Return)
}

/// An error about a pod's flow must not be taken for one about the node's.
#[inline(always)]
fn about_a_flow(ctx: &TcContext, error: &Packet) -> Result<i32, DropReason> {
    if let Some(inner) = embedded_v4(&Skb(ctx), error)
        && is_flow(
            inner.destination,
            inner.destination_port,
            inner.source_port,
            inner.protocol,
        )
    {
        return Err(DropReason::MasqueradeIcmpError);
    }
    Ok(pass())
}
