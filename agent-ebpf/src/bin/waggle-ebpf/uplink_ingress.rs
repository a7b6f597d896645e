//! tc ingress of the uplink: what comes to the node. Answers to translated flows go back to where the flow is from,
//! packets for Services to a backend; the rest is the stack's.

use agent_ebpf::counter::DropReason;
use agent_ebpf::packet::Fragment;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps;
use crate::north_south::{balance, comes_in};
use crate::onward::{follow, onward, settle_error};
use crate::tc::{drop, pass};
use crate::translate::translate;
use crate::work::{read, work};

#[classifier]
pub(crate) fn uplink_ingress(ctx: TcContext) -> i32 {
    match enter(&ctx) {
        Ok(verdict) => verdict,
        Err(reason) => drop(reason),
    }
}

#[inline(always)]
fn enter(ctx: &TcContext) -> Result<i32, DropReason> {
    let work = work()?;
    // What we cannot read is the stack's to judge.
    if read(ctx, work).is_err() || !matches!(work.packet.fragment, Fragment::Whole) {
        return Ok(pass());
    }
    let config = maps::config()?;
    if work.packet.is_icmp_error() {
        // An error about a translated flow is for the flow's end: it needs it to learn the path's MTU.
        if !settle_error(ctx, work)? {
            return Ok(pass());
        }
        return onward(ctx, config, work);
    }
    if follow(work) {
        if !comes_in(&work.pair.value) {
            return Ok(pass());
        }
        translate(ctx, work)?;
        return onward(ctx, config, work);
    }
    let verdict = balance(ctx, config, work)?;
    Ok(verdict.unwrap_or(pass()))
}
