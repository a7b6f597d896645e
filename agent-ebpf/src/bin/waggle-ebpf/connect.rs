//! `connect(2)`: a Service's address becomes a backend's; the socket remembers what was asked for.
//!
//! Where nobody serves, TCP is refused here. Sockets of other kinds are left connected to the Service's address, as they
//! would be without us, and what they send is refused: whoever only wants to know which address it would be sending
//! from (`getaddrinfo` in the order of RFC 6724, `ping`) connects a UDP socket to some port or other.

use core::mem::MaybeUninit;

use agent_ebpf::counter::DropReason;
use agent_ebpf::layout::{PROTOCOL_TCP, SERVICE_FOREIGN, SocketOrigin};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::origins;
use crate::socket::{
    Found, PROCEED, Peer, choose, meant, on_host, peer4, peer6, picked, protocol, refuse, service,
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
        match service(ctx, peer, protocol, value) {
            Ok(true) => {}
            Err(reason) if !is_refused_later(ctx, protocol, reason, value) => return Err(reason),
            _ => {
                origins::forget(ctx);
                return Ok(None);
            }
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

/// Whether what the socket will send is refused for this reason, by ICMP: at the pod's veth, at the node's link for
/// addresses in a Service range, and by the node's stack for its own addresses.
#[inline(always)]
fn is_refused_later(
    ctx: &SockAddrContext,
    protocol: u32,
    reason: DropReason,
    value: &Found,
) -> bool {
    if protocol == u32::from(PROTOCOL_TCP) {
        return false;
    }
    match reason {
        DropReason::NoSuchService => true,
        // What the node itself sends to an address that only the network knows leaves it.
        DropReason::NoEndpoints => value.flags & SERVICE_FOREIGN == 0 || !on_host(ctx),
        _ => false,
    }
}
