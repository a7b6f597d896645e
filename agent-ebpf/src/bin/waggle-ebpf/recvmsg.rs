//! `recvmsg(2)` and `recvfrom(2)` on UDP sockets: an answer from a backend shows the Service that was asked.

use agent_ebpf::layout::UDP_FLOWS;
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;

use crate::getpeername::asked_for;
use crate::maps::UDP_STATE;
use crate::socket::{PROCEED, Peer, peer4, peer6, set_peer4, set_peer6};

#[cgroup_sock_addr(recvmsg4)]
pub(crate) fn recvmsg4(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = sent_to(&ctx, &peer4(&ctx)) {
        set_peer4(&ctx, &peer);
    }
    PROCEED
}

#[cgroup_sock_addr(recvmsg6)]
pub(crate) fn recvmsg6(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = sent_to(&ctx, &peer6(&ctx)) {
        set_peer6(&ctx, &peer);
    }
    PROCEED
}

#[inline(always)]
fn sent_to(ctx: &SockAddrContext, from: &Peer) -> Option<Peer> {
    // SAFETY: the context's socket is valid while the hook runs.
    let state = unsafe { UDP_STATE.get_ptr_mut(ctx) };
    if !state.is_null() {
        // The latest first: two Services may have the same backend, and who asks one after the other is right so.
        // SAFETY: not null.
        let latest = unsafe { (*state).latest } as usize % UDP_FLOWS;
        let mut index = 0;
        while index <= UDP_FLOWS {
            let place = if index == 0 { latest } else { index - 1 };
            // SAFETY: not null, and the index is in range.
            let flow = unsafe { &(*state).flows[place] };
            if flow.service_port != 0
                && flow.backend_port == from.port
                && flow.backend == from.address
            {
                return Some(Peer {
                    address: flow.service,
                    port: flow.service_port,
                });
            }
            index += 1;
        }
    }
    if !is_connected(ctx) {
        return None;
    }
    asked_for(ctx, from)
}

#[inline(always)]
fn is_connected(ctx: &SockAddrContext) -> bool {
    // SAFETY: the kernel passes a valid context, whose socket's fields are readable; volatile, so that each is read
    // with the width that the verifier asks for.
    unsafe {
        let socket = (&raw const (*ctx.sock_addr).__bindgen_anon_1.sk).read_volatile();
        !socket.is_null() && (&raw const (*socket).dst_port).read_volatile() != 0
    }
}
