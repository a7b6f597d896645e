//! Where packets go that are for no pod of this node, and what comes to pods of this node without a tunnel.

use agent_ebpf::address::Address;
use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::layout::{CONFIG_LINKS, CONFIG_OVERLAY, Config, PROTOCOL_TCP, Remote};
use agent_ebpf::mtu::ip_length;
use agent_ebpf::overlay::tunnel_takes;
use agent_ebpf::packet::{Bytes as _, ETHERNET, Packet, embedded};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_NO_NEIGH, BPF_FIB_LKUP_RET_NOT_FWDED,
    BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup,
};
use aya_ebpf::helpers::generated::{bpf_fib_lookup, bpf_redirect, bpf_redirect_neigh};
use aya_ebpf::programs::TcContext;

use crate::maps::{self, LINKS, PODS};
use crate::tc::{Skb, hop, to_host, to_pod};
use crate::work::Work;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `lo` of every network namespace, where forwarding is switched on when there are several links: a look-up wants it.
const LOOPBACK: u32 = 1;

/// From a pod, whose host side is `interface`, to another node, to this node itself, or to the outside. What is too
/// large for its way is left as it is, with what its sender is to be told in `work.mtu`.
#[inline(always)]
pub(crate) fn elsewhere(
    ctx: &TcContext,
    config: &Config,
    interface: u32,
    work: &mut Work,
) -> Result<i32, DropReason> {
    let packet = &work.packet;
    let length = largest(ctx, packet);
    let kind = if let Some(remote) = maps::remote(&packet.destination) {
        if is_tunnelled(config, &packet.source, &remote) {
            return overlay(ctx, config, length, work);
        }
        ForwardKind::Native
    } else if config.in_pod_nets(&packet.destination) {
        return Err(DropReason::NoSuchPod);
    } else {
        ForwardKind::Uplink
    };
    routed(ctx, interface, length, kind, work)
}

/// Whether what is for another node, or a pod of it, goes through the overlay.
#[inline(always)]
pub(crate) fn is_tunnelled(config: &Config, source: &Address, remote: &Remote) -> bool {
    config.flags & CONFIG_OVERLAY != 0 && tunnel_takes(config, source, remote)
}

/// Bytes of the largest IP packet that this one becomes.
#[inline(always)]
pub(crate) fn largest(ctx: &TcContext, packet: &Packet) -> u32 {
    // SAFETY: the context is the kernel's.
    let segment = unsafe { (*ctx.skb.skb).gso_size };
    let offset = if segment != 0 && packet.protocol == PROTOCOL_TCP {
        Skb(ctx)
            .read::<1>(packet.l4 + 12)
            .map_or(0x50, |[offset]| offset)
    } else {
        0
    };
    ip_length(ctx.len(), segment, packet.protocol, packet.l4, offset)
}

/// Whether a router may fragment it.
#[inline(always)]
pub(crate) fn may_be_fragmented(ctx: &TcContext, packet: &Packet) -> bool {
    const DONT_FRAGMENT: u8 = 0x40;
    !packet.v6
        && Skb(ctx)
            .read::<1>(ETHERNET + 6)
            .is_some_and(|[flags]| flags & DONT_FRAGMENT == 0)
}

/// Into the overlay device, whose egress program chooses the tunnel.
#[inline(always)]
fn overlay(
    ctx: &TcContext,
    config: &Config,
    length: u32,
    work: &mut Work,
) -> Result<i32, DropReason> {
    let packet = &work.packet;
    if config.overlay == 0 {
        return Err(DropReason::NoRoute);
    }
    // What may be fragmented is, outside: in the overlay it stays whole.
    if length > config.overlay_mtu && !may_be_fragmented(ctx, packet) {
        work.mtu = config.overlay_mtu;
        return Err(DropReason::TooBig);
    }
    hop(ctx, packet)?;
    // SAFETY: a plain helper call.
    Ok(unsafe { bpf_redirect(config.overlay, 0) } as i32)
}

/// To the node itself, or out of a link: the node's routes decide.
#[inline(always)]
fn routed(
    ctx: &TcContext,
    interface: u32,
    length: u32,
    kind: ForwardKind,
    work: &mut Work,
) -> Result<i32, DropReason> {
    let packet = &work.packet;
    let mut lookup = question(packet, interface, length);
    // SAFETY: the struct is the helper's, with its size. It looks as if the packet were forwarded, which
    // the interface must allow (`forwarding` is set on our own veths).
    let result = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr(),
            &raw mut lookup,
            size_of::<FibLookup>() as i32,
            0,
        )
    };
    match result as u32 {
        BPF_FIB_LKUP_RET_NOT_FWDED => Ok(to_host(ctx, ForwardKind::Host)),
        // The stack cuts it, as the router that it is for this veth.
        BPF_FIB_LKUP_RET_FRAG_NEEDED if may_be_fragmented(ctx, packet) => {
            Ok(to_host(ctx, ForwardKind::Host))
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => {
            // SAFETY: the helper put it in the place of the packet's length.
            work.mtu = u32::from(unsafe { lookup.__bindgen_anon_1.mtu_result });
            Err(DropReason::TooBig)
        }
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH => {
            if LINKS.get_ptr(lookup.ifindex).is_none() {
                return Err(DropReason::NotUplink);
            }
            hop(ctx, packet)?;
            maps::count_forward(kind, ctx.len());
            // The link's egress program masquerades what is for the outside. SAFETY: no parameters: the kernel
            // routes by the packet's destination.
            Ok(unsafe { bpf_redirect_neigh(lookup.ifindex, core::ptr::null_mut(), 0, 0) } as i32)
        }
        _ => Err(DropReason::NoRoute),
    }
}

/// By which link a packet leaves that did not come from a pod: the node's routes decide, if there are several.
#[inline(never)]
pub(crate) fn way_out(ctx: &TcContext, config: &Config, packet: &Packet) -> u32 {
    if config.flags & CONFIG_LINKS == 0 {
        return config.uplink;
    }
    let mut lookup = question(packet, LOOPBACK, 0);
    // SAFETY: the struct is the helper's, with its size.
    let result = unsafe {
        bpf_fib_lookup(
            ctx.as_ptr(),
            &raw mut lookup,
            size_of::<FibLookup>() as i32,
            0,
        )
    };
    match result as u32 {
        // A packet that is too large for the link is found to be so last, when all else is known.
        BPF_FIB_LKUP_RET_SUCCESS | BPF_FIB_LKUP_RET_NO_NEIGH | BPF_FIB_LKUP_RET_FRAG_NEEDED
            if LINKS.get_ptr(lookup.ifindex).is_some() =>
        {
            lookup.ifindex
        }
        _ => config.uplink,
    }
}

/// What the routing tables are asked about a packet that came in by `interface`; `length` 0: not about its size.
#[inline(always)]
fn question(packet: &Packet, interface: u32, length: u32) -> FibLookup {
    // SAFETY: plain integers, for which zero is a value.
    let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
    lookup.l4_protocol = packet.protocol;
    lookup.ifindex = interface;
    // Compared with the route's MTU, not only the device's.
    lookup.__bindgen_anon_1.tot_len = if length > 0xffff {
        0xffff
    } else {
        length as u16
    };
    if packet.v6 {
        lookup.family = AF_INET6;
        lookup.__bindgen_anon_3.ipv6_src = packet.source.words;
        lookup.__bindgen_anon_4.ipv6_dst = packet.destination.words;
    } else {
        lookup.family = AF_INET;
        lookup.__bindgen_anon_3.ipv4_src = packet.source.v4_word();
        lookup.__bindgen_anon_4.ipv4_dst = packet.destination.v4_word();
    }
    lookup
}

/// Whether a packet must not come in by the uplink: pods' come in through the overlay, which checks who sends them.
#[inline(always)]
pub(crate) fn is_astray(config: &Config, packet: &Packet) -> bool {
    config.flags & CONFIG_OVERLAY != 0 && config.in_pod_nets(&packet.source)
}

/// From the uplink, with the addresses of both ends: for a pod of this node, where routing is native. Nothing if it
/// is another program's business.
#[inline(always)]
pub(crate) fn from_link(
    ctx: &TcContext,
    packet: &Packet,
    config: &Config,
) -> Result<Option<i32>, DropReason> {
    if config.flags & CONFIG_OVERLAY != 0 {
        return Ok(None);
    }
    // SAFETY: copied at once.
    let Some(pod) = (unsafe { PODS.get(packet.destination) }).copied() else {
        return Ok(None);
    };
    if maps::remote(&packet.source).is_none() && !is_routers(ctx, packet) {
        return Ok(None);
    }
    hop(ctx, packet)?;
    to_pod(ctx, &pod, ForwardKind::Pod).map(Some)
}

/// A router's word on a packet that the pod sent to another node.
#[inline(always)]
fn is_routers(ctx: &TcContext, packet: &Packet) -> bool {
    packet.is_icmp_error()
        && embedded(&Skb(ctx), packet).is_some_and(|inner| {
            inner.source == packet.destination && maps::remote(&inner.destination).is_some()
        })
}
