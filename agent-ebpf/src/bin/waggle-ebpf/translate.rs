//! Puts another tuple in a packet's headers, checksums included; and in an ICMP error about such a packet.

use agent_ebpf::address::Address;
use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::{
    FlowKey, PROTOCOL_ICMP, PROTOCOL_ICMPV6, PROTOCOL_SCTP, PROTOCOL_TCP, PROTOCOL_UDP,
};
use agent_ebpf::packet::{ETHERNET, Embedded, Fragment, Packet};
use aya_ebpf::bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR};
use aya_ebpf::helpers::generated::bpf_csum_diff;
use aya_ebpf::programs::TcContext;

use crate::work::Work;

/// Gives the packet the addresses and ports of its flow's entry. Of a later fragment only the addresses change: it has no ports,
/// and the first one's checksum covers them all.
#[inline(never)]
pub(crate) fn translate(ctx: &TcContext, work: &mut Work) -> Result<(), DropReason> {
    let (packet, to) = (&mut work.packet, &work.pair.value.to);
    // SCTP's checksum is no sum, so that it cannot follow a change in place.
    let ports_change =
        to.source_port != packet.source_port || to.destination_port != packet.destination_port;
    if packet.protocol == PROTOCOL_SCTP && ports_change {
        return Err(DropReason::SctpPort);
    }
    addresses(ctx, packet, &to.source, &to.destination, true)
        .and_then(|()| {
            if ports_change && !matches!(packet.fragment, Fragment::Later) {
                ports(ctx, packet, to)
            } else {
                Ok(())
            }
        })
        .map_err(|_| DropReason::Rewrite)?;
    packet.source_port = to.source_port;
    packet.destination_port = to.destination_port;
    Ok(())
}

/// Makes a packet that was translated what it was.
#[inline(never)]
pub(crate) fn undo(ctx: &TcContext, work: &mut Work) -> Result<(), DropReason> {
    work.pair.value.to = work.pair.key;
    translate(ctx, work)
}

/// Offset of the layer 4 checksum in its header, whether it covers a pseudo header, and what else the helper is told.
#[inline(always)]
const fn checksum_of(protocol: u8) -> Option<(u32, bool, u64)> {
    match protocol {
        PROTOCOL_TCP => Some((16, true, 0)),
        PROTOCOL_UDP => Some((6, true, BPF_F_MARK_MANGLED_0 as u64)),
        PROTOCOL_ICMP => Some((2, false, 0)),
        PROTOCOL_ICMPV6 => Some((2, true, 0)),
        _ => None,
    }
}

#[inline(always)]
fn addresses(
    ctx: &TcContext,
    packet: &mut Packet,
    source: &Address,
    destination: &Address,
    layer4: bool,
) -> Result<(), i64> {
    let checksum = match checksum_of(packet.protocol) {
        Some((at, true, flags)) if layer4 && !matches!(packet.fragment, Fragment::Later) => {
            Some((packet.l4 + at, flags))
        }
        _ => None,
    };
    if packet.v6 {
        let mut old = [packet.source, packet.destination];
        let mut new = [*source, *destination];
        let difference = difference(&mut old, &mut new)?;
        if let Some((at, flags)) = checksum {
            let flags = u64::from(BPF_F_PSEUDO_HDR) | flags;
            ctx.l4_csum_replace(at as usize, 0, difference, flags)?;
        }
        ctx.store((ETHERNET + 8) as usize, &new, 0)?;
    } else {
        let mut old = [packet.source.v4_word(), packet.destination.v4_word()];
        let mut new = [source.v4_word(), destination.v4_word()];
        let difference = difference(&mut old, &mut new)?;
        if let Some((at, flags)) = checksum {
            let flags = u64::from(BPF_F_PSEUDO_HDR) | flags;
            ctx.l4_csum_replace(at as usize, 0, difference, flags)?;
        }
        ctx.l3_csum_replace((ETHERNET + 10) as usize, 0, difference, 0)?;
        ctx.store((ETHERNET + 12) as usize, &new, 0)?;
    }
    packet.source = *source;
    packet.destination = *destination;
    Ok(())
}

#[inline(always)]
fn ports(ctx: &TcContext, packet: &Packet, to: &FlowKey) -> Result<(), i64> {
    let Some((checksum, _, flags)) = checksum_of(packet.protocol) else {
        return Ok(());
    };
    let at = (packet.l4 + checksum) as usize;
    if packet.is_echo() {
        let (old, new) = (packet.source_port, to.source_port);
        ctx.l4_csum_replace(at, u64::from(old), u64::from(new), 2)?;
        return ctx.store((packet.l4 + 4) as usize, &new, 0);
    }
    let old = [packet.source_port, packet.destination_port];
    let new = [to.source_port, to.destination_port];
    ctx.l4_csum_replace(at, words(old), words(new), flags | 4)?;
    ctx.store(packet.l4 as usize, &new, 0)
}

/// Two ports as they lie in a header, as one word.
#[inline(always)]
const fn words([first, second]: [u16; 2]) -> u64 {
    first as u64 | (second as u64) << 16
}

/// Makes an error about a translated packet one about the packet that its sender sent, addressed to that sender.
///
/// The error's checksum covers the inner packet. For IPv4 the inner header's own checksum makes up for the inner
/// addresses, so that only the ports count. The inner layer 4 checksum stays as it was: nobody can check it, since the
/// packet is cut.
#[inline(never)]
pub(crate) fn translate_error(ctx: &TcContext, work: &mut Work) -> Result<(), DropReason> {
    let (error, inner, to) = (&mut work.packet, &work.inner, &work.blame);
    rewrite_inner(ctx, error, inner, &to.inner)
        .and_then(|()| addresses(ctx, error, &to.source, &to.destination, true))
        .map_err(|_| DropReason::Rewrite)
}

#[inline(always)]
fn rewrite_inner(
    ctx: &TcContext,
    error: &Packet,
    inner: &Embedded,
    to: &FlowKey,
) -> Result<(), i64> {
    let checksum = (error.l4 + 2) as usize;
    if error.v6 {
        let mut old = [inner.source, inner.destination];
        let mut new = [to.source, to.destination];
        let difference = difference(&mut old, &mut new)?;
        ctx.l4_csum_replace(checksum, 0, difference, 0)?;
        ctx.store((inner.l3 + 8) as usize, &new, 0)?;
    } else {
        let mut old = [inner.source.v4_word(), inner.destination.v4_word()];
        let mut new = [to.source.v4_word(), to.destination.v4_word()];
        let difference = difference(&mut old, &mut new)?;
        ctx.l3_csum_replace((inner.l3 + 10) as usize, 0, difference, 0)?;
        ctx.store((inner.l3 + 12) as usize, &new, 0)?;
    }
    if matches!(inner.protocol, PROTOCOL_ICMP | PROTOCOL_ICMPV6) {
        let (old, new) = (inner.source_port, to.source_port);
        ctx.l4_csum_replace(checksum, u64::from(old), u64::from(new), 2)?;
        return ctx.store(inner.port as usize, &new, 0);
    }
    let old = [inner.source_port, inner.destination_port];
    let new = [to.source_port, to.destination_port];
    ctx.l4_csum_replace(checksum, words(old), words(new), 4)?;
    ctx.store(inner.port as usize, &new, 0)
}

/// What replacing some words by others adds to a checksum.
#[inline(always)]
fn difference<T>(old: &mut T, new: &mut T) -> Result<u64, i64> {
    let size = size_of::<T>() as u32;
    let (old, new) = (core::ptr::from_mut(old), core::ptr::from_mut(new));
    // SAFETY: both are `size` bytes, a multiple of four, of plain integers.
    let difference = unsafe { bpf_csum_diff(old.cast(), size, new.cast(), size, 0) };
    if difference < 0 {
        return Err(difference);
    }
    Ok(difference as u64)
}
