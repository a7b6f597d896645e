//! `sendmsg(2)` and `sendto(2)` on unconnected UDP sockets: a Service's address becomes a backend's, the same
//! one as long as it is among the Service's backends.

use core::mem::MaybeUninit;

use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::layout::{
    PROTOCOL_UDP, STICKY_SEARCH, ServiceValue, SocketOrigin, UDP_FLOWS, UdpFlows,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::maps::{self, SLOTS, UDP_STATE};
use crate::socket::{
    Found, PROCEED, Peer, choose, meant, peer4, peer6, picked, refuse, service, set_peer4,
    set_peer6,
};

#[cgroup_sock_addr(sendmsg4)]
pub(crate) fn sendmsg4(ctx: SockAddrContext) -> i32 {
    match send(&ctx, &peer4(&ctx)) {
        Ok(Some(peer)) => set_peer4(&ctx, &peer),
        Ok(None) => {}
        Err(reason) => return refuse(reason),
    }
    PROCEED
}

#[cgroup_sock_addr(sendmsg6)]
pub(crate) fn sendmsg6(ctx: SockAddrContext) -> i32 {
    match send(&ctx, &peer6(&ctx)) {
        Ok(Some(peer)) => set_peer6(&ctx, &peer),
        Ok(None) => {}
        Err(reason) => return refuse(reason),
    }
    PROCEED
}

#[inline(always)]
fn send(ctx: &SockAddrContext, peer: &Peer) -> Result<Option<Peer>, DropReason> {
    let peer = &meant(*peer);
    let mut value = MaybeUninit::uninit();
    let value = Found::clear(&mut value);
    if !service(ctx, peer, u32::from(PROTOCOL_UDP), value)? {
        return Ok(None);
    }
    // SAFETY: the context's socket is valid while the hook runs.
    let state = unsafe { UDP_STATE.get_or_insert_ptr_mut(ctx, None) };
    if state.is_null() {
        maps::count_event(EventKind::SocketStateRefused);
        return fresh(ctx, peer, value).map(|(backend, _)| Some(backend));
    }
    // SAFETY: not null; the element lives as long as the socket. Two threads that send on one socket at a
    // time may see each other's half-written entry; the worst is one more random choice.
    let state = unsafe { &mut *state };
    let place = find(state, peer);
    if let Some(place) = place
        && let Some(backend) = still(&mut state.flows[place % UDP_FLOWS], value)
    {
        return Ok(Some(backend));
    }
    let (backend, set) = fresh(ctx, peer, value)?;
    remember(state, place, peer, &backend, set);
    Ok(Some(backend))
}

/// A backend at random; the Service is looked up again if a change came between reading it and its slot.
#[inline(always)]
fn fresh(ctx: &SockAddrContext, peer: &Peer, value: &mut Found) -> Result<(Peer, u32), DropReason> {
    let slot = match choose(ctx, value) {
        Some(slot) => slot,
        None => {
            if !service(ctx, peer, u32::from(PROTOCOL_UDP), value)? {
                return Err(DropReason::ServiceChanging);
            }
            choose(ctx, value).ok_or(DropReason::ServiceChanging)?
        }
    };
    picked();
    let backend = Peer {
        address: slot.address,
        port: slot.port,
    };
    Ok((backend, slot.set))
}

#[inline(always)]
fn is_for(flow: &SocketOrigin, service: &Peer) -> bool {
    flow.service_port == service.port && flow.service == service.address
}

/// Where the socket's flow to the Service is.
///
/// The result goes through memory, so that the verifier sees one unknown number instead of following
/// sixteen known ones to the end of the program (that was half a million instructions; now it is a few
/// thousand). Another thread may have written there in between, hence the second look.
#[inline(always)]
fn find(state: &mut UdpFlows, service: &Peer) -> Option<usize> {
    let mut index = 0;
    while index < UDP_FLOWS {
        if is_for(&state.flows[index], service) {
            break;
        }
        index += 1;
    }
    let latest = &raw mut state.latest;
    // SAFETY: a field of the element.
    let found = unsafe {
        latest.write_volatile(index as u32);
        latest.read_volatile()
    };
    // Masked rather than compared: Linux 6.1's verifier loses sight of a comparison. What was not found
    // becomes 0, which is not the one either.
    let found = found as usize % UDP_FLOWS;
    is_for(&state.flows[found], service).then_some(found)
}

/// The flow's backend, if it still is one of the Service's.
#[inline(always)]
fn still(flow: &mut SocketOrigin, value: &ServiceValue) -> Option<Peer> {
    let backend = Peer {
        address: flow.backend,
        port: flow.backend_port,
    };
    if flow.set != value.set {
        if !contains(value, &backend) {
            return None;
        }
        flow.set = value.set;
    }
    Some(backend)
}

#[inline(always)]
fn contains(value: &ServiceValue, backend: &Peer) -> bool {
    let mut index = 0;
    while index < STICKY_SEARCH && index < value.count {
        if let Some(slot) = SLOTS.get(value.base + index)
            && slot.set == value.set
            && slot.port == backend.port
            && slot.address == backend.address
        {
            return true;
        }
        index += 1;
    }
    false
}

#[inline(always)]
fn remember(state: &mut UdpFlows, place: Option<usize>, service: &Peer, backend: &Peer, set: u32) {
    let place = match place {
        Some(place) => place,
        None => {
            let next = state.next as usize;
            state.next = state.next.wrapping_add(1);
            if state.flows[next % UDP_FLOWS].service_port != 0 {
                maps::count_event(EventKind::UdpFlowForgotten);
            }
            next
        }
    };
    state.latest = place as u32;
    state.flows[place % UDP_FLOWS] = SocketOrigin {
        service: service.address,
        backend: backend.address,
        service_port: service.port,
        backend_port: backend.port,
        set,
    };
}
