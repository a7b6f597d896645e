//! Working memory: what the tc programs know about the packet that they have, too large for their stack.

use agent_ebpf::counter::DropReason;
use agent_ebpf::flow::{Blame, Pair};
use agent_ebpf::packet::{Embedded, Packet, parse};
use agent_ebpf::refusal::Refusal;
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;

use crate::fragment;
use crate::refuse::{Seen, refuse};
use crate::tc::{Skb, drop};

pub(crate) struct Work {
    pub packet: Packet,
    /// Whether the packet's ports are known: not those of a fragment whose first one did not come by.
    pub ports_known: bool,
    /// With [`DropReason::TooBig`]: what its sender is told; 0: nothing.
    pub mtu: u32,
    /// The entries of its flow.
    pub pair: Pair,
    /// Of an ICMP error: what it is about, and what it becomes.
    pub inner: Embedded,
    pub blame: Blame,
}

/// One CPU's: programs at tc run with soft interrupts off, so that no two of them meet on a CPU. Not pinned: nothing in
/// it outlives a packet.
#[btf_map]
static WORK: PerCpuArray<Work, 1> = PerCpuArray::new();

/// This CPU's. A program asks for it once.
#[inline(always)]
pub(crate) fn work() -> Result<&'static mut Work, DropReason> {
    let work = WORK.get_ptr_mut(0).ok_or(DropReason::NotConfigured)?;
    // SAFETY: this CPU's element, which no other program uses at the same time. All zeroes, which it begins with, is a
    // value of every field.
    Ok(unsafe { &mut *work })
}

/// Parses the packet. A function of its own, as all that take working memory: each has its own stack frame then.
#[inline(never)]
pub(crate) fn read(ctx: &TcContext, work: &mut Work) -> Result<(), DropReason> {
    work.mtu = 0;
    work.packet = parse(&Skb(ctx))?;
    work.ports_known = fragment::ports(&mut work.packet).is_ok();
    Ok(())
}

/// What becomes of a packet at ingress: what can go nowhere is dropped, and its sender told where nobody else does it.
#[inline(always)]
pub(crate) fn conclude(ctx: &TcContext, end: Result<i32, DropReason>) -> i32 {
    match end {
        Ok(verdict) => verdict,
        Err(reason) => tell(ctx, reason, Seen::Entering).unwrap_or_else(drop),
    }
}

/// Tells the sender of a packet that is dropped for this reason, if it is one to be told of.
///
/// # Errors
/// The reason, when nobody is told.
#[inline(always)]
pub(crate) fn tell(ctx: &TcContext, reason: DropReason, seen: Seen) -> Result<i32, DropReason> {
    let work = work().map_err(|_| reason)?;
    let why = match reason {
        DropReason::NoEndpoints | DropReason::NoSuchService => Refusal::of(&work.packet),
        DropReason::HopLimit => Refusal::HopLimit,
        DropReason::TooBig if work.mtu != 0 => Refusal::TooBig(work.mtu),
        _ => return Err(reason),
    };
    refuse(ctx, &work.packet, why, reason, seen)
}
