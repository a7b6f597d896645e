//! `connect(2)`: a Service's address becomes a backend's; the socket remembers what was asked for.

use core::mem::MaybeUninit;

use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::layout::SocketOrigin;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::maps::{self, ORIGINS};
use crate::socket::{
    Found, PROCEED, Peer, choose, meant, peer4, peer6, picked, protocol, refuse, service,
    set_peer4, set_peer6,
};

#[cgroup_sock_addr(connect4)]
pub(crate) fn connect4(ctx: SockAddrContext) -> i32 {
    match connect(&ctx, &peer4(&ctx)) {
        Ok(Some(peer)) => set_peer4(&ctx, &peer),
        Ok(None) => {}
        Err(reason) => return refuse(reason),
    }
    PROCEED
}

#[cgroup_sock_addr(connect6)]
pub(crate) fn connect6(ctx: SockAddrContext) -> i32 {
    match connect(&ctx, &peer6(&ctx)) {
        Ok(Some(peer)) => set_peer6(&ctx, &peer),
        Ok(None) => {}
        Err(reason) => return refuse(reason),
    }
    PROCEED
}

/// Looked up again if a change of the Service came between reading it and reading its slot.
const TRIES: u32 = 2;

#[inline(always)]
fn connect(ctx: &SockAddrContext, peer: &Peer) -> Result<Option<Peer>, DropReason> {
    let peer = &meant(*peer);
    let protocol = protocol(ctx);
    let mut round = 0;
    while round < TRIES {
        let mut value = MaybeUninit::uninit();
        let value = Found::clear(&mut value);
        if !service(ctx, peer, protocol, value)? {
            forget(ctx);
            return Ok(None);
        }
        if let Some(slot) = choose(ctx, value) {
            let backend = Peer {
                address: slot.address,
                port: slot.port,
            };
            remember(ctx, peer, &backend, value.set);
            picked();
            return Ok(Some(backend));
        }
        round += 1;
    }
    Err(DropReason::ServiceChanging)
}

#[inline(always)]
fn remember(ctx: &SockAddrContext, service: &Peer, backend: &Peer, set: u32) {
    // SAFETY: the context's socket is valid while the hook runs.
    let origin = unsafe { ORIGINS.get_or_insert_ptr_mut(ctx, None) };
    if origin.is_null() {
        maps::count_event(EventKind::SocketStateRefused);
        return;
    }
    // SAFETY: not null; the element lives as long as the socket, whose lock connect holds.
    unsafe {
        *origin = SocketOrigin {
            service: service.address,
            backend: backend.address,
            service_port: service.port,
            backend_port: backend.port,
            set,
        };
    }
}

/// A socket that is connected anew, to no Service this time.
#[inline(always)]
fn forget(ctx: &SockAddrContext) {
    // SAFETY: the context's socket is valid while the hook runs.
    let origin = unsafe { ORIGINS.get_ptr_mut(ctx) };
    if !origin.is_null() {
        // SAFETY: not null.
        unsafe { (*origin).service_port = 0 };
    }
}
