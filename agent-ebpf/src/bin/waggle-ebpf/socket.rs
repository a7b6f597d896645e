//! What the socket hooks share: reading and writing the address of a call, choosing a backend, refusing.

use agent_ebpf::address::Address;
use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::layout::{
    PROTOCOL_TCP, SCOPE_INSIDE, SERVICE_HOST_ONLY, ServiceKey, ServiceValue, Slot,
};
use agent_ebpf::select::pick;
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::{
    generated::bpf_get_netns_cookie, generated::bpf_get_prandom_u32, generated::bpf_set_retval,
};
use aya_ebpf::programs::SockAddrContext;

use crate::maps::{self, SERVICES, SLOTS};

/// The call goes on.
pub(crate) const PROCEED: i32 = 1;
/// The call fails, with the error that was set.
const REFUSE: i32 = 0;

const ECONNREFUSED: i32 = 111;
const IPPROTO_MPTCP: u32 = 262;

/// The peer of a call: where to, or where from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Peer {
    pub address: Address,
    /// Network order.
    pub port: u16,
}

#[inline(always)]
pub(crate) fn peer4(ctx: &SockAddrContext) -> Peer {
    let call = ctx.sock_addr;
    // SAFETY: the kernel passes a valid context; these fields are readable in every hook used here.
    // Volatile, so that each field is read with the width that the verifier asks for.
    unsafe {
        Peer {
            address: Address::from_v4_word((&raw const (*call).user_ip4).read_volatile()),
            port: (&raw const (*call).user_port).read_volatile() as u16,
        }
    }
}

#[inline(always)]
pub(crate) fn set_peer4(ctx: &SockAddrContext, peer: &Peer) {
    let call = ctx.sock_addr;
    // SAFETY: as in `peer4`; the hooks may write these fields.
    unsafe {
        (&raw mut (*call).user_ip4).write_volatile(peer.address.v4_word());
        (&raw mut (*call).user_port).write_volatile(u32::from(peer.port));
    }
}

#[inline(always)]
pub(crate) fn peer6(ctx: &SockAddrContext) -> Peer {
    let call = ctx.sock_addr;
    // SAFETY: as in `peer4`.
    unsafe {
        let words = (&raw const (*call).user_ip6).cast::<u32>();
        Peer {
            address: Address {
                words: [
                    words.read_volatile(),
                    words.add(1).read_volatile(),
                    words.add(2).read_volatile(),
                    words.add(3).read_volatile(),
                ],
            },
            port: (&raw const (*call).user_port).read_volatile() as u16,
        }
    }
}

#[inline(always)]
pub(crate) fn set_peer6(ctx: &SockAddrContext, peer: &Peer) {
    let call = ctx.sock_addr;
    // SAFETY: as in `set_peer4`.
    unsafe {
        let words = (&raw mut (*call).user_ip6).cast::<u32>();
        words.write_volatile(peer.address.words[0]);
        words.add(1).write_volatile(peer.address.words[1]);
        words.add(2).write_volatile(peer.address.words[2]);
        words.add(3).write_volatile(peer.address.words[3]);
        (&raw mut (*call).user_port).write_volatile(u32::from(peer.port));
    }
}

#[inline(always)]
pub(crate) fn protocol(ctx: &SockAddrContext) -> u32 {
    // SAFETY: as in `peer4`.
    match unsafe { (&raw const (*ctx.sock_addr).protocol).read_volatile() } {
        // Multipath TCP is TCP to a Service.
        IPPROTO_MPTCP => u32::from(PROTOCOL_TCP),
        protocol => protocol,
    }
}

/// The Service that a peer is; nothing if it is none for this process.
#[inline(always)]
pub(crate) fn service(
    ctx: &SockAddrContext,
    peer: &Peer,
    protocol: u32,
) -> Result<Option<ServiceValue>, DropReason> {
    let key = ServiceKey {
        address: peer.address,
        port: peer.port,
        protocol: protocol as u8,
        scope: SCOPE_INSIDE,
    };
    // SAFETY: the value is copied at once; should its memory be reused meanwhile, the slot's `set` tells.
    let Some(value) = (unsafe { SERVICES.get(key) }).copied() else {
        // Refused at once rather than sent to where nobody answers.
        return if maps::config()?.in_service_nets(&peer.address) {
            Err(DropReason::NoSuchService)
        } else {
            Ok(None)
        };
    };
    if value.flags & SERVICE_HOST_ONLY != 0 {
        // SAFETY: the context is the one this program was called with (Linux 5.7).
        let cookie = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
        if cookie != maps::config()?.host_cookie {
            return Ok(None);
        }
    }
    if value.count == 0 {
        return Err(DropReason::NoEndpoints);
    }
    Ok(Some(value))
}

/// One of the Service's backends, at random; nothing if the set changed under us.
#[inline(always)]
pub(crate) fn random_slot(value: &ServiceValue) -> Option<Slot> {
    // SAFETY: no arguments.
    let random = unsafe { bpf_get_prandom_u32() };
    let slot = *SLOTS.get(value.base + pick(random, value.count))?;
    (slot.set == value.set).then_some(slot)
}

/// Fails the call with `ECONNREFUSED` (Linux 5.18; without it, it would be `EPERM`), counted.
#[inline(always)]
pub(crate) fn refuse(reason: DropReason) -> i32 {
    maps::count_drop(reason);
    // SAFETY: a plain helper call.
    unsafe { bpf_set_retval(-ECONNREFUSED) };
    REFUSE
}

#[inline(always)]
pub(crate) fn picked() {
    maps::count_event(EventKind::ServicePicked);
}
