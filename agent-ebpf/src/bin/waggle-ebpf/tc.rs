//! What the tc programs share: reading a packet, the verdicts, rewriting addresses.

use agent_ebpf::address::Address;
use agent_ebpf::counter::{DropReason, ForwardKind};
use agent_ebpf::layout::{PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_TCP, PROTOCOL_UDP, Pod};
use agent_ebpf::packet::{Bytes, ETHERNET, Fragment, Packet};
use aya_ebpf::bindings::{
    BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, TC_ACT_OK, TC_ACT_SHOT, TC_ACT_UNSPEC,
};
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_redirect_peer};
use aya_ebpf::programs::TcContext;

use crate::maps;

/// A packet in the kernel.
pub(crate) struct Skb<'a>(pub &'a TcContext);

impl Bytes for Skb<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: u32) -> Option<[u8; N]> {
        self.0.load(offset as usize).ok()
    }
}

/// The only place where a packet is dropped.
#[inline(always)]
pub(crate) fn drop(reason: DropReason) -> i32 {
    maps::count_drop(reason);
    TC_ACT_SHOT
}

/// To the node's own stack.
#[inline(always)]
pub(crate) fn to_host(ctx: &TcContext, kind: ForwardKind) -> i32 {
    maps::count_forward(kind, ctx.len());
    TC_ACT_OK
}

/// None of our business: other programs at this hook, then the stack.
#[inline(always)]
pub(crate) const fn pass() -> i32 {
    TC_ACT_UNSPEC
}

/// Straight to the inside of a pod's veth pair (Linux 5.10), past the node's stack.
#[inline(always)]
pub(crate) fn to_pod(ctx: &TcContext, pod: &Pod, kind: ForwardKind) -> Result<i32, DropReason> {
    let mut macs = [0u8; 12];
    macs[..6].copy_from_slice(&pod.pod_mac);
    macs[6..].copy_from_slice(&pod.host_mac);
    ctx.store(0, &macs, 0).map_err(|_| DropReason::Rewrite)?;
    maps::count_forward(kind, ctx.len());
    // SAFETY: a plain helper call.
    Ok(unsafe { bpf_redirect_peer(pod.ifindex, 0) } as i32)
}

/// Which end of a packet is rewritten.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    Destination,
}

/// Puts another address and port at one end of a packet, checksums included. Of a later fragment only the
/// address changes: it has no ports, and the first one's checksum covers them all.
#[inline(always)]
pub(crate) fn rewrite(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    address: &Address,
    port: u16,
) -> Result<(), DropReason> {
    let (old_address, old_port) = match end {
        End::Source => (&packet.source, packet.source_port),
        // An echo has one identifier, whichever way it goes.
        End::Destination if packet.is_echo() => (&packet.destination, packet.source_port),
        End::Destination => (&packet.destination, packet.destination_port),
    };
    if !matches!(packet.fragment, Fragment::Later) {
        rewrite_l4(ctx, packet, end, old_address, address, old_port, port)
            .map_err(|_| DropReason::Rewrite)?;
    }
    rewrite_l3(ctx, packet, end, old_address, address).map_err(|_| DropReason::Rewrite)
}

#[inline(always)]
fn rewrite_l3(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    old: &Address,
    new: &Address,
) -> Result<(), i64> {
    if packet.v6 {
        let at = match end {
            End::Source => ETHERNET + 8,
            End::Destination => ETHERNET + 24,
        };
        return ctx.store(at as usize, &new.words, 0);
    }
    let at = match end {
        End::Source => ETHERNET + 12,
        End::Destination => ETHERNET + 16,
    };
    ctx.l3_csum_replace(
        (ETHERNET + 10) as usize,
        u64::from(old.v4_word()),
        u64::from(new.v4_word()),
        4,
    )?;
    ctx.store(at as usize, &new.v4_word(), 0)
}

#[inline(always)]
fn rewrite_l4(
    ctx: &TcContext,
    packet: &Packet,
    end: End,
    old: &Address,
    new: &Address,
    old_port: u16,
    new_port: u16,
) -> Result<(), i64> {
    // Offsets of the checksum and of the port within the header, and whether there is a pseudo header.
    let (checksum, port, pseudo, flags) = match (packet.protocol, end) {
        (PROTOCOL_TCP, End::Source) => (16, 0, true, 0),
        (PROTOCOL_TCP, End::Destination) => (16, 2, true, 0),
        (PROTOCOL_UDP, End::Source) => (6, 0, true, u64::from(BPF_F_MARK_MANGLED_0)),
        (PROTOCOL_UDP, End::Destination) => (6, 2, true, u64::from(BPF_F_MARK_MANGLED_0)),
        (PROTOCOL_ICMP, _) => (2, 4, false, 0),
        (PROTOCOL_ICMPV6, _) => (2, 4, true, 0),
        _ => return Ok(()),
    };
    let checksum = (packet.l4 + checksum) as usize;
    if pseudo {
        if packet.v6 {
            let difference = difference(old, new)?;
            ctx.l4_csum_replace(checksum, 0, difference, u64::from(BPF_F_PSEUDO_HDR) | flags)?;
        } else {
            ctx.l4_csum_replace(
                checksum,
                u64::from(old.v4_word()),
                u64::from(new.v4_word()),
                u64::from(BPF_F_PSEUDO_HDR) | flags | 4,
            )?;
        }
    }
    if old_port == new_port {
        return Ok(());
    }
    ctx.l4_csum_replace(
        checksum,
        u64::from(old_port),
        u64::from(new_port),
        flags | 2,
    )?;
    ctx.store((packet.l4 + port) as usize, &new_port, 0)
}

/// What replacing one address by another adds to a checksum.
#[inline(always)]
fn difference(old: &Address, new: &Address) -> Result<u64, i64> {
    let mut from = old.words;
    let mut to = new.words;
    // SAFETY: both arrays are 16 bytes, as said.
    let difference = unsafe { bpf_csum_diff(from.as_mut_ptr(), 16, to.as_mut_ptr(), 16, 0) };
    if difference < 0 {
        return Err(difference);
    }
    Ok(difference as u64)
}

/// One hop less, for packets that leave or enter the node without passing its stack.
#[inline(always)]
pub(crate) fn hop(ctx: &TcContext, packet: &Packet) -> Result<(), DropReason> {
    if packet.hop_limit <= 1 {
        return Err(DropReason::HopLimit);
    }
    let less = packet.hop_limit - 1;
    if packet.v6 {
        return ctx
            .store((ETHERNET + 7) as usize, &less, 0)
            .map_err(|_| DropReason::Rewrite);
    }
    let old = u16::from_ne_bytes([packet.hop_limit, packet.protocol]);
    let new = u16::from_ne_bytes([less, packet.protocol]);
    ctx.l3_csum_replace((ETHERNET + 10) as usize, u64::from(old), u64::from(new), 2)
        .and_then(|()| ctx.store((ETHERNET + 8) as usize, &less, 0))
        .map_err(|_| DropReason::Rewrite)
}
