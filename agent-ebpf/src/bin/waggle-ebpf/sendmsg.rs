//! `sendmsg(2)` and `sendto(2)` on unconnected UDP sockets: a Service's address becomes a backend's, the same
//! one as long as it is among the Service's backends.

use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::layout::{
    PROTOCOL_UDP, STICKY_SEARCH, ServiceValue, SocketOrigin, UDP_FLOWS, UdpFlows,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::maps::{self, SLOTS, UDP_STATE};
use crate::socket::{
    PROCEED, Peer, peer4, peer6, picked, random_slot, refuse, service, set_peer4, set_peer6,
};

#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    match send(&ctx, &peer4(&ctx)) {
        Ok(Some(peer)) => set_peer4(&ctx, &peer),
        Ok(None) => {}
        Err(reason) => return refuse(reason),
    }
    PROCEED
}

#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    match send(&ctx, &peer6(&ctx)) {
        Ok(Some(peer)) => set_peer6(&ctx, &peer),
        Ok(None) => {}
        Err(reason) => return refuse(reason),
    }
    PROCEED
}

const TRIES: u32 = 2;

#[inline(always)]
fn send(ctx: &SockAddrContext, peer: &Peer) -> Result<Option<Peer>, DropReason> {
    let mut round = 0;
    while round < TRIES {
        let Some(value) = service(ctx, peer, u32::from(PROTOCOL_UDP))? else {
            return Ok(None);
        };
        // SAFETY: the context's socket is valid while the hook runs.
        let state = unsafe { UDP_STATE.get_or_insert_ptr_mut(ctx, None) };
        if state.is_null() {
            maps::count_event(EventKind::SocketStateRefused);
        } else if let Some(backend) = known(state, peer, &value) {
            return Ok(Some(backend));
        }
        if let Some(slot) = random_slot(&value) {
            let backend = Peer {
                address: slot.address,
                port: slot.port,
            };
            if !state.is_null() {
                remember(state, peer, &backend, value.set);
            }
            picked();
            return Ok(Some(backend));
        }
        round += 1;
    }
    Err(DropReason::ServiceChanging)
}

/// The backend that this socket uses for the Service, if it still is one of its backends.
#[inline(always)]
fn known(state: *mut UdpFlows, service: &Peer, value: &ServiceValue) -> Option<Peer> {
    let mut index = 0;
    while index < UDP_FLOWS {
        // SAFETY: not null, and the index is in range. Two threads that send on one socket at a time may
        // see each other's half-written entry; the worst is one more random choice.
        let flow = unsafe { &mut (*state).flows[index] };
        if flow.service_port == service.port && flow.service == service.address {
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
            return Some(backend);
        }
        index += 1;
    }
    None
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
fn remember(state: *mut UdpFlows, service: &Peer, backend: &Peer, set: u32) {
    // SAFETY: not null (the caller checked).
    let state = unsafe { &mut *state };
    let mut place = state.next as usize % UDP_FLOWS;
    let mut known = false;
    let mut index = 0;
    while index < UDP_FLOWS {
        let flow = &state.flows[index];
        if flow.service_port == service.port && flow.service == service.address {
            place = index;
            known = true;
        }
        index += 1;
    }
    if !known {
        if state.flows[place % UDP_FLOWS].service_port != 0 {
            maps::count_event(EventKind::UdpFlowForgotten);
        }
        state.next = state.next.wrapping_add(1);
    }
    state.flows[place % UDP_FLOWS] = SocketOrigin {
        service: service.address,
        backend: backend.address,
        service_port: service.port,
        backend_port: backend.port,
        set,
    };
}
