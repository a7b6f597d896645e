//! Working memory: what the tc programs know about the packet that they have, too large for their stack.

use agent_ebpf::counter::DropReason;
use agent_ebpf::flow::{Blame, Pair};
use agent_ebpf::packet::{Embedded, Packet, parse};
use aya_ebpf::btf_maps::PerCpuArray;
use aya_ebpf::macros::btf_map;
use aya_ebpf::programs::TcContext;

use crate::tc::Skb;

pub(crate) struct Work {
    pub packet: Packet,
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
    work.packet = parse(&Skb(ctx))?;
    Ok(())
}
