//! tc ingress of the uplink: what comes to the node. Answers to masqueraded flows go straight to their pod.

use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::packet::{embedded, parse};
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::fragment;
use crate::maps::{self, PODS};
use crate::masquerade::{blamed, inward};
use crate::route;
use crate::tc::{End, Skb, drop, hop, pass, rewrite, rewrite_embedded, to_pod};

#[classifier]
pub(crate) fn uplink_ingress(ctx: TcContext) -> i32 {
    match enter(&ctx) {
        Ok(verdict) => verdict,
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn enter(ctx: &TcContext) -> Result<i32, DropReason> {
    // What we cannot read is the stack's to judge.
    let Ok(mut packet) = parse(&Skb(ctx)) else {
        return Ok(pass());
    };
    let config = maps::config()?;
    if let Some(verdict) = route::from_link(ctx, &packet, config)? {
        return Ok(verdict);
    }
    let ours = if packet.v6 {
        &config.uplink_v6
    } else {
        &config.uplink_v4
    };
    // A fragment of which nothing is known may be the node's own.
    if packet.destination != *ours || fragment::ports(&mut packet).is_err() {
        return Ok(pass());
    }
    let (address, port) = if packet.is_icmp_error() {
        let Some(inner) = embedded(&Skb(ctx), &packet) else {
            return Ok(pass());
        };
        // An error about a pod's flow is the pod's; it needs it to learn the path's MTU.
        let Some((address, port)) = blamed(&inner) else {
            return Ok(pass());
        };
        rewrite_embedded(ctx, &packet, &inner, &address, port)?;
        // The error itself has no port.
        (address, packet.destination_port)
    } else {
        let Some(target) = inward(&packet) else {
            return Ok(pass());
        };
        target
    };
    // SAFETY: copied at once.
    let pod = unsafe { PODS.get(address) }
        .copied()
        .ok_or(DropReason::NoSuchPod)?;
    hop(ctx, &packet)?;
    rewrite(ctx, &packet, End::Destination, &address, port)?;
    to_pod(ctx, &pod, ForwardKind::Return)
}
