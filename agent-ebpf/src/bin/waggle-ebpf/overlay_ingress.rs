//! tc ingress of the overlay device: what comes from pods and stacks of other nodes, for pods and the stack here.

use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::layout::CONFIG_DSR;
use agent_ebpf::overlay::admits;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::direct::accept;
use crate::maps::{self, PODS};
use crate::north_south::serve;
use crate::tc::{to_host, to_pod};
use crate::tunnel;
use crate::work::{conclude, read, work};

#[classifier]
pub(crate) fn overlay_ingress(ctx: TcContext) -> i32 {
    conclude(&ctx, arrive(&ctx))
}

#[inline(always)]
fn arrive(ctx: &TcContext) -> Result<i32, DropReason> {
    let work = work()?;
    read(ctx, work)?;
    let config = maps::config()?;
    let peer = tunnel::peer(ctx)?;
    if !admits(config, &peer, maps::remote(&work.packet.source).as_ref()) {
        let sender = maps::remote(&peer.source);
        if config.flags & CONFIG_DSR == 0 || !admits(config, &peer, sender.as_ref()) {
            return Err(DropReason::UnknownTunnelPeer);
        }
        return accept(ctx, config, work);
    }
    if let Some(verdict) = serve(ctx, config, work)? {
        return Ok(verdict);
    }
    let packet = &work.packet;
    // SAFETY: copied at once.
    if let Some(pod) = unsafe { PODS.get(packet.destination) }.copied() {
        return to_pod(ctx, &pod, ForwardKind::Pod);
    }
    if maps::is_local(&packet.destination) {
        return Ok(to_host(ctx, ForwardKind::Host));
    }
    if config.in_pod_nets(&packet.destination) {
        return Err(DropReason::NoSuchPod);
    }
    Err(DropReason::NoRoute)
}
