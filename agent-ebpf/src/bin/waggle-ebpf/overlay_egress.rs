//! tc egress of the overlay device: what pods and the node itself send to other nodes. The one place that chooses
//! the tunnel's end, by the packet's destination.

use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::overlay::{MAC, PEER_MAC, TUNNEL_KEY_SET};
use agent_ebpf::packet::parse;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::tc::{Skb, drop, pass};
use crate::{maps, tunnel};

#[classifier]
pub(crate) fn overlay_egress(ctx: TcContext) -> i32 {
    match depart(&ctx) {
        Ok(()) => pass(),
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn depart(ctx: &TcContext) -> Result<(), DropReason> {
    if ctx.cb()[0] != TUNNEL_KEY_SET {
        let packet = parse(&Skb(ctx))?;
        if packet.is_v6_control() {
            return Err(DropReason::Ipv6Control);
        }
        let config = maps::config()?;
        let remote = maps::remote(&packet.destination).ok_or(DropReason::NoSuchNode)?;
        tunnel::set(ctx, config, &remote.node)?;
    }
    let mut macs = [0u8; 12];
    macs[..6].copy_from_slice(&MAC);
    macs[6..].copy_from_slice(&PEER_MAC);
    ctx.store(0, &macs, 0).map_err(|_| DropReason::Rewrite)?;
    maps::count_forward(ForwardKind::Overlay, ctx.len());
    Ok(())
}
