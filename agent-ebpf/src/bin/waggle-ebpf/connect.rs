//! `connect(2)`: a Service's address becomes a backend's; the socket remembers what was asked for.

use core::mem::MaybeUninit;

use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::SocketOrigin;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::origins;
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
            origins::forget(ctx);
            return Ok(None);
        }
        if let Some(slot) = choose(ctx, value) {
            let backend = Peer {
                address: slot.address,
                port: slot.port,
            };
            let origin = SocketOrigin {
                service: peer.address,
                backend: backend.address,
                service_port: peer.port,
                backend_port: backend.port,
                set: value.set,
            };
            origins::remember(ctx, &origin);
            picked();
            return Ok(Some(backend));
        }
        round += 1;
    }
    Err(DropReason::ServiceChanging)
}
