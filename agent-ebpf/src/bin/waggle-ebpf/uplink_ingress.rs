//! tc ingress of the uplink and of other links: what comes to the node. Answers to translated flows go back to where the flow is from,
//! packets for Services to a backend; the rest is the stack's.

use agent_ebpf::counter::DropReason;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps;
use crate::north_south::serve;
use crate::route::{from_link, is_astray};
use crate::tc::pass;
use crate::work::{conclude, read, work};

#[classifier]
pub(crate) fn uplink_ingress(ctx: TcContext) -> i32 {
    conclude(&ctx, enter(&ctx))
}

#[inline(always)]
fn enter(ctx: &TcContext) -> Result<i32, DropReason> {
    let work = work()?;
    // What we cannot read is the stack's to judge.
    if read(ctx, work).is_err() {
        return Ok(pass());
    }
    let config = maps::config()?;
    if is_astray(config, &work.packet) {
        return Err(DropReason::SpoofedAddress);
    }
    if let Some(verdict) = serve(ctx, config, work)? {
        return Ok(verdict);
    }
    let verdict = from_link(ctx, &work.packet, config)?;
    Ok(verdict.unwrap_or(pass()))
}
