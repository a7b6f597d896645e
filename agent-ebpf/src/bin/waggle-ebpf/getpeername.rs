//! `getpeername(2)`: the Service that the program connected to, not the backend behind it.

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::origins;
use crate::socket::{PROCEED, Peer, peer4, peer6, set_peer4, set_peer6};

#[cgroup_sock_addr(getpeername4)]
pub(crate) fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = asked_for(&ctx, &peer4(&ctx)) {
        set_peer4(&ctx, &peer);
    }
    PROCEED
}

#[cgroup_sock_addr(getpeername6)]
pub(crate) fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = asked_for(&ctx, &peer6(&ctx)) {
        set_peer6(&ctx, &peer);
    }
    PROCEED
}

/// What a connected socket was connected to by the program, if `peer` is what it was given instead.
#[inline(always)]
pub(crate) fn asked_for(ctx: &SockAddrContext, peer: &Peer) -> Option<Peer> {
    let origin = origins::of(ctx)?;
    let same = origin.backend_port == peer.port && origin.backend == peer.address;
    same.then_some(Peer {
        address: origin.service,
        port: origin.service_port,
    })
}
