//! tc ingress of the uplink: what comes to the node. Answers to translated flows go back to where the flow is from,
//! packets for Services to a backend; the rest is the stack's.

use agent_ebpf::counter::DropReason;
use agent_ebpf::refusal::Refusal;
use aya_ebpf::macros::classifier;
use aya_ebpf::programs::TcContext;

use crate::maps;
use crate::north_south::serve;
use crate::refuse::refuse;
use crate::route::{from_link, is_astray};
use crate::tc::{drop, pass};
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
    if read(ctx, work).is_err() {
        return Ok(pass());
    }
    let config = maps::config()?;
    if is_astray(config, &work.packet) {
        return Err(DropReason::SpoofedAddress);
    }
    match serve(ctx, config, work) {
        Ok(None) => {}
        Ok(Some(verdict)) => return Ok(verdict),
        // On an address that is nobody's: no stack tells the sender.
        Err(DropReason::NoEndpoints) => {
            let why = Refusal::of(&work.packet);
            return refuse(ctx, &work.packet, why, DropReason::NoEndpoints);
        }
        Err(reason) => return Err(reason),
    }
    let verdict = from_link(ctx, &work.packet, config)?;
    Ok(verdict.unwrap_or(pass()))
}
