//! Where a packet that was translated goes on to: a pod here, the node's own stack, another node, or out of the uplink.

use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::flow::{Concern, blame};
use agent_ebpf::layout::{
    CONFIG_LINKS, CONFIG_OVERLAY, Config, FLOW_KIND_MASQUERADE, FLOW_KIND_POD_SERVICE,
    FLOW_ONE_WAY, FlowValue,
};
use agent_ebpf::packet::embedded;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_check_mtu, bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;

use crate::flows::Kernel;
use crate::maps::{self, PODS};
use crate::route::{is_tunnelled, largest, may_be_fragmented, way_out};
use crate::tc::{Skb, hop, to_host, to_pod};
use crate::translate::translate_error;
use crate::work::Work;

/// What a packet of a flow counts as: here, and beyond.
#[inline(always)]
const fn counted(value: &FlowValue) -> (ForwardKind, ForwardKind) {
    match (value.is_reverse(), value.kind) {
        (false, _) => (ForwardKind::ServiceLocal, ForwardKind::ServiceRemote),
        (true, FLOW_KIND_MASQUERADE | FLOW_KIND_POD_SERVICE) => {
            (ForwardKind::Return, ForwardKind::Return)
        }
        (true, _) => (ForwardKind::ServiceReturn, ForwardKind::ServiceReturn),
    }
}

/// Sends on what came from elsewhere and is what its flow's entry, `work.pair.value`, made of it. What is too large for
/// its link is left as it is, with what its sender is to be told in `work.mtu`.
#[inline(never)]
pub(crate) fn onward(ctx: &TcContext, config: &Config, work: &mut Work) -> Result<i32, DropReason> {
    let packet = &work.packet;
    let (near, far) = counted(&work.pair.value);
    // SAFETY: copied at once.
    if let Some(pod) = unsafe { PODS.get(packet.destination) }.copied() {
        hop(ctx, packet)?;
        return to_pod(ctx, &pod, near);
    }
    if maps::is_local(&packet.destination) {
        return Ok(to_host(ctx, near));
    }
    if let Some(remote) = maps::remote(&packet.destination) {
        if is_tunnelled(config, &packet.source, &remote) {
            hop(ctx, packet)?;
            maps::count_forward(far, ctx.len());
            // The device's egress program chooses the tunnel. SAFETY: a plain helper call.
            return Ok(unsafe { bpf_redirect(config.overlay, 0) } as i32);
        }
    } else if config.in_pod_nets(&packet.destination) {
        return Err(DropReason::NoSuchPod);
    }
    let link = way_out(ctx, config, packet);
    // What came by the only link fits it.
    if config.flags & CONFIG_LINKS != 0 {
        let mtu = mtu_of(ctx, link);
        if largest(ctx, packet) > mtu {
            // Who leaves it to routers to cut a packet is not told of sizes; there is no stack here that would cut it.
            let is_told = !may_be_fragmented(ctx, packet);
            work.mtu = if is_told { mtu } else { 0 };
            return Err(DropReason::TooBig);
        }
    }
    hop(ctx, packet)?;
    maps::count_forward(far, ctx.len());
    // SAFETY: no parameters: the kernel routes by the packet's destination.
    Ok(unsafe { bpf_redirect_neigh(link, core::ptr::null_mut(), 0, 0) } as i32)
}

/// Bytes of the largest IP packet that a link carries (Linux 5.12).
#[inline(always)]
fn mtu_of(ctx: &TcContext, link: u32) -> u32 {
    let mut mtu = 0;
    // SAFETY: the helper writes the link's MTU there, whatever it says of this packet.
    let result = unsafe { bpf_check_mtu(ctx.as_ptr(), link, &raw mut mtu, 0, 0) };
    // There is no such link: that will be seen.
    if result < 0 { u32::MAX } else { mtu }
}

/// Whose an ICMP error is.
#[derive(Clone, Copy)]
pub(crate) enum Settled {
    Not,
    /// The sender's of the packet that it is about; the error was made one that it understands.
    Here,
    /// A flow's that another node translates.
    Elsewhere,
}

/// If the packet is an ICMP error about a packet of a flow, makes it one that the packet's sender understands.
#[inline(always)]
pub(crate) fn settle_error(ctx: &TcContext, work: &mut Work) -> Result<Settled, DropReason> {
    let settled = find_blame(ctx, work);
    if matches!(settled, Settled::Here) {
        translate_error(ctx, work)?;
    }
    Ok(settled)
}

#[inline(never)]
fn find_blame(ctx: &TcContext, work: &mut Work) -> Settled {
    let Some(inner) = embedded(&Skb(ctx), &work.packet) else {
        return Settled::Not;
    };
    work.inner = inner;
    match blame(&Kernel, &work.packet, &work.inner, &mut work.pair) {
        Concern::Nobody => Settled::Not,
        Concern::Elsewhere => Settled::Elsewhere,
        Concern::Sender(to) => {
            work.blame = to;
            Settled::Here
        }
    }
}

/// Whether the packet fits where its flow leads it. What may be fragmented is, outside: in the overlay it stays whole.
#[inline(never)]
pub(crate) fn fits(ctx: &TcContext, config: &Config, work: &mut Work) -> Result<(), DropReason> {
    let value = &work.pair.value;
    let tunnelled = config.flags & CONFIG_OVERLAY != 0 || value.flags & FLOW_ONE_WAY != 0;
    if tunnelled
        && maps::remote(&value.to.destination).is_some()
        && largest(ctx, &work.packet) > config.overlay_mtu
        && !may_be_fragmented(ctx, &work.packet)
    {
        work.mtu = config.overlay_mtu;
        return Err(DropReason::TooBig);
    }
    Ok(())
}

/// Whether the packet belongs to a flow: then the flow's entry is in `work.pair.value`.
#[inline(never)]
pub(crate) fn follow(work: &mut Work) -> bool {
    agent_ebpf::flow::follow(&Kernel, &work.packet, &mut work.pair)
}
