//! Refuses a packet: its sender is told at once, instead of waiting for an answer that never comes.
//!
//! The packet itself becomes the answer: at ingress it goes out of the interface that it came in by, at egress it comes
//! in by the one that it was about to leave by. It is cut or grown to the answer's length, and all of its bytes are
//! written anew.

use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::packet::{ETHERNET, Packet};
use agent_ebpf::refusal::{
    Allowance, Answer, LEAD, QUOTE, Refusal, error, may_answer, quote_at, reset, segment,
};
use aya_ebpf::bindings::{__sk_buff, BPF_F_INGRESS, BPF_F_INVALIDATE_HASH, BPF_F_RECOMPUTE_CSUM};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::helpers::generated::{
    bpf_ktime_get_ns, bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_load_bytes,
    bpf_skb_store_bytes,
};
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;
use aya_ebpf::{EbpfContext as _, check_bounds_signed};

use crate::maps;
use crate::tc::Skb;

/// `BPF_ADJ_ROOM_MAC`
const BEHIND_ETHERNET: u32 = 1;

/// One CPU's: programs at tc run with soft interrupts off, so that no two of them meet on a CPU.
#[repr(C)]
struct Desk {
    allowance: Allowance,
    packet: Packet,
    /// Too large for the stack of a program that has a packet on it already.
    answer: Answer,
}

/// Not pinned: nothing in it is worth keeping.
#[btf_map]
static REFUSALS: PerCpuArray<Desk, 1> = PerCpuArray::new();

/// Where the packet that is refused was seen: its answer goes the other way.
#[derive(Clone, Copy)]
pub(crate) enum Seen {
    Entering,
    Leaving,
}

/// Counts the packet as dropped for `reason`, tells its sender `why`, and returns the verdict.
///
/// # Errors
/// `reason`, not counted yet, where nobody may be told: about an error, a fragment that is not the first, a source that is
/// no one node, or after this second's share of answers (counted as an event).
#[inline(always)]
pub(crate) fn refuse(
    ctx: &TcContext,
    packet: &Packet,
    why: Refusal,
    reason: DropReason,
    seen: Seen,
) -> Result<i32, DropReason> {
    if !may_answer(packet, why) {
        return Err(reason);
    }
    let desk = REFUSALS.get_ptr_mut(0).ok_or(reason)?;
    // SAFETY: this CPU's element, which no other program uses at the same time.
    unsafe { (*desk).packet = *packet };
    let (kind, mtu) = match why {
        Refusal::PortUnreachable => (PORT_UNREACHABLE, 0),
        Refusal::Reset => (RESET, 0),
        Refusal::TooBig(mtu) => (TOO_BIG, mtu),
        Refusal::HopLimit => (HOP_LIMIT, 0),
    };
    let way = match seen {
        Seen::Entering => 0,
        Seen::Leaving => BPF_F_INGRESS,
    };
    let verdict = waggle_answer(ctx.skb.skb, kind, mtu, way);
    if verdict < 0 {
        return Err(reason);
    }
    maps::count_drop(reason);
    maps::count_event(EventKind::Refused);
    Ok(verdict)
}

const PORT_UNREACHABLE: u32 = 0;
const RESET: u32 = 1;
const TOO_BIG: u32 = 2;
const HOP_LIMIT: u32 = 3;

/// Makes the packet on the desk the answer to itself and redirects it, with the helper's flags in `way`; negative if that
/// cannot be.
///
/// A global function, which the verifier looks at once, whatever is known where it is called from; otherwise it would
/// look at it again for every way that leads there. It takes integers and the context only.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn waggle_answer(skb: *mut __sk_buff, kind: u32, mtu: u32, way: u32) -> i32 {
    let ctx = TcContext::new(skb);
    let why = match kind {
        PORT_UNREACHABLE => Refusal::PortUnreachable,
        RESET => Refusal::Reset,
        HOP_LIMIT => Refusal::HopLimit,
        _ => Refusal::TooBig(mtu),
    };
    let Some(desk) = REFUSALS.get_ptr_mut(0) else {
        return -1;
    };
    // SAFETY: this CPU's element, which no other program uses at the same time.
    let desk = unsafe { &mut *desk };
    // SAFETY: no arguments.
    let now = (unsafe { bpf_ktime_get_ns() } / 1_000_000_000) as u32;
    if !desk.allowance.take(now, why.limit()) {
        maps::count_event(EventKind::RefusalLimited);
        return -1;
    }
    let Some(length) = write(&ctx, &desk.packet, why, &mut desk.answer) else {
        return -1;
    };
    if replace(&ctx, &desk.packet, &mut desk.answer, length).is_err() {
        return -1;
    }
    // SAFETY: the context is the kernel's.
    let interface = unsafe { (*skb).ifindex };
    // SAFETY: a plain helper call.
    unsafe { bpf_redirect(interface, u64::from(way)) as i32 }
}

#[inline(always)]
fn write(ctx: &TcContext, packet: &Packet, why: Refusal, answer: &mut Answer) -> Option<u32> {
    if let Refusal::Reset = why {
        let segment = segment(&Skb(ctx), packet, ctx.len())?;
        return Some(reset(answer, packet, &segment));
    }
    answer.fill(0);
    let from = match why {
        Refusal::TooBig(_) | Refusal::HopLimit => router(packet)?,
        _ => packet.destination,
    };
    // Two sets of constant offsets rather than one of variable ones, for the verifier.
    if packet.v6 {
        let quoted = quote(ctx, answer, quote_at(true))?;
        Some(error(answer, packet, why, &from, quoted))
    } else {
        let quoted = quote(ctx, answer, quote_at(false))?;
        Some(error(answer, packet, why, &from, quoted))
    }
}

/// Whose limit a packet ran into: the node's. Without an address of the family the answer seems to come from where the
/// packet was going, which its sender accepts as well.
#[inline(always)]
fn router(packet: &Packet) -> Option<agent_ebpf::address::Address> {
    let config = maps::config().ok()?;
    let node = if packet.v6 {
        config.node_v6
    } else {
        config.node_v4
    };
    Some(if node.is_unspecified() || node.is_v4() == packet.v6 {
        packet.destination
    } else {
        node
    })
}

#[inline(always)]
fn quote(ctx: &TcContext, answer: &mut Answer, at: usize) -> Option<u32> {
    let mut length = ctx.len().saturating_sub(ETHERNET);
    if length > QUOTE as u32 {
        length = QUOTE as u32;
    }
    // In a way that the compiler cannot undo, so that the verifier sees it.
    if !check_bounds_signed(i64::from(length), 1, QUOTE as i64) {
        return None;
    }
    // SAFETY: at most `QUOTE` bytes, for which there is room behind `at`.
    let read = unsafe {
        bpf_skb_load_bytes(
            ctx.as_ptr(),
            ETHERNET,
            answer.as_mut_ptr().add(at).cast(),
            length,
        )
    };
    (read == 0).then_some(length)
}

/// Puts the answer in the packet's place.
///
/// A packet of a pod has a checksum that is yet to be filled in, at the place where its layer 4 header was; in the answer
/// that would be some other field. The kernel forgets about it when that place is cut away: so the packet is first made
/// longer, then cut behind its Ethernet header by more than its headers.
#[inline(always)]
fn replace(ctx: &TcContext, packet: &Packet, answer: &mut Answer, length: u32) -> Result<(), i64> {
    // A multiple of four, so that headers stay as aligned as they are; more than to the start of layer 4.
    let cut = (packet.l4 & !3) + 4;
    let skb = ctx.skb.skb;
    // SAFETY: plain helper calls on the program's own context.
    unsafe {
        check(bpf_skb_change_tail(skb, length + cut, 0))?;
        check(bpf_skb_adjust_room(skb, -(cut as i32), BEHIND_ETHERNET, 0))?;
    }
    if !check_bounds_signed(i64::from(length), 1, (size_of::<Answer>() - LEAD) as i64) {
        return Err(-1);
    }
    let flags = u64::from(BPF_F_RECOMPUTE_CSUM) | u64::from(BPF_F_INVALIDATE_HASH);
    // SAFETY: `length` bytes of the answer, which has as many.
    unsafe {
        check(bpf_skb_store_bytes(
            skb,
            0,
            answer.as_ptr().cast::<u8>().add(LEAD).cast(),
            length,
            flags,
        ))
    }
}

#[inline(always)]
fn check(result: i64) -> Result<(), i64> {
    if result == 0 { Ok(()) } else { Err(result) }
}
