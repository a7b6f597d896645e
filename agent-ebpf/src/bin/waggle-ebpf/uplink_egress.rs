//! tc egress of the uplink: what leaves the node. Packets of pods are masqueraded, the node's own pass.

use agent_ebpf::counter::DropReason;
use agent_ebpf::packet::parse;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::fragment;
use crate::maps;
use crate::masquerade::outward;
use crate::tc::{End, Skb, drop, pass, rewrite};

#[classifier]
pub(crate) fn uplink_egress(ctx: TcContext) -> i32 {
    match leave(&ctx) {
        Ok(()) => pass(),
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn leave(ctx: &TcContext) -> Result<(), DropReason> {
    // What we cannot read is not a pod's.
    let Ok(mut packet) = parse(&Skb(ctx)) else {
        return Ok(());
    };
    let config = maps::config()?;
    // A Service address means nothing outside.
    if config.in_service_nets(&packet.destination) {
        return Err(DropReason::NoSuchService);
    }
    // Pods and nodes of the cluster see a pod's own address.
    if !config.in_pod_nets(&packet.source)
        || config.in_pod_nets(&packet.destination)
        || maps::remote(&packet.destination).is_some()
    {
        return Ok(());
    }
    fragment::ports(&mut packet)?;
    let (address, port) = outward(config, &packet)?;
    rewrite(ctx, &packet, End::Source, &address, port)
}
