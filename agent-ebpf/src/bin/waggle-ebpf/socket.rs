//! What the socket hooks share: reading and writing the address of a call, choosing a backend, refusing.

use core::mem::MaybeUninit;

use agent_ebpf::address::Address;
use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::layout::{
    AffinityKey, Config, PROTOCOL_TCP, SCOPE_INSIDE, SERVICE_HOST_ONLY, SERVICE_SOURCE_RANGES,
    ServiceKey, ServiceValue, Slot, SourceRange,
};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::btf_maps::lpm_trie;
use aya_ebpf::helpers::{generated::bpf_get_netns_cookie, generated::bpf_set_retval};
use aya_ebpf::programs::SockAddrContext;

use crate::affinity::{kept_slot, random_slot};
use crate::maps::{self, LOCALS, NAMESPACES, OPTED_OUT, SERVICES, SOURCE_RANGES};

/// The call goes on.
pub(crate) const PROCEED: i32 = 1;
/// The call fails, with the error that was set.
const REFUSE: i32 = 0;

const ECONNREFUSED: i32 = 111;
const IPPROTO_MPTCP: u32 = 262;
/// All of a [`SourceRange`].
const SOURCE_RANGE_BITS: u32 = 8 * size_of::<SourceRange>() as u32;

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

/// The cookie of the network namespace that the socket is in.
#[inline(always)]
fn namespace(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one this program was called with (Linux 5.7).
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// Whether the socket is in the node's own network namespace.
#[inline(always)]
pub(crate) fn on_host(ctx: &SockAddrContext) -> bool {
    maps::config().is_ok_and(|config| config.host_cookie == namespace(ctx))
}

/// What the kernel makes of an address: the unspecified one is this namespace's loopback.
#[inline(always)]
pub(crate) fn meant(peer: Peer) -> Peer {
    let address = match peer.address {
        Address::ANY_V4 => Address::LOOPBACK_V4,
        Address::ANY_V6 => Address::LOOPBACK_V6,
        address => address,
    };
    Peer { address, ..peer }
}

/// A Service as it was found, aligned so that it is cleared and copied in few steps.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
pub(crate) struct Found(ServiceValue);

impl Found {
    /// Not yet found. Word by word: clearing it in one go becomes a call that clears byte by byte.
    #[inline(always)]
    pub(crate) fn clear(found: &mut MaybeUninit<Self>) -> &mut Self {
        let words = found.as_mut_ptr().cast::<u64>();
        let mut index = 0;
        while index < size_of::<Self>() / size_of::<u64>() {
            // SAFETY: within the structure, which is aligned for it.
            unsafe { words.add(index).write_volatile(0) };
            index += 1;
        }
        // SAFETY: integers, all of which were written.
        unsafe { found.assume_init_mut() }
    }
}

impl core::ops::Deref for Found {
    type Target = ServiceValue;

    #[inline(always)]
    fn deref(&self) -> &ServiceValue {
        &self.0
    }
}

/// Finds the Service that a peer is; false if it is none for this process.
#[inline(always)]
pub(crate) fn service(
    ctx: &SockAddrContext,
    peer: &Peer,
    protocol: u32,
    found: &mut Found,
) -> Result<bool, DropReason> {
    let key = ServiceKey {
        address: peer.address,
        port: peer.port,
        protocol: protocol as u8,
        scope: SCOPE_INSIDE,
    };
    match find_service(&raw const key, found, namespace(ctx)) {
        FOUND => Ok(true),
        NONE => Ok(false),
        NO_SUCH_SERVICE => Err(DropReason::NoSuchService),
        NO_ENDPOINTS => Err(DropReason::NoEndpoints),
        SOURCE_RANGE => Err(DropReason::SourceRange),
        _ => Err(DropReason::NotConfigured),
    }
}

const FOUND: u32 = 0;
const NONE: u32 = 1;
const NO_SUCH_SERVICE: u32 = 2;
const NO_ENDPOINTS: u32 = 3;
const SOURCE_RANGE: u32 = 4;
const NOT_CONFIGURED: u32 = 5;

/// Looks a Service up for a process in the namespace with this cookie.
///
/// A function of its own to the verifier too (`extern`, plain arguments and result): it looks at it once, and not at
/// every state of every caller.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn find_service(key: *const ServiceKey, value: *mut Found, cookie: u64) -> u32 {
    if key.is_null() || value.is_null() {
        return NOT_CONFIGURED;
    }
    // SAFETY: not null; the one caller passes its own variables.
    let (own, Found(value)) = unsafe { (*key, &mut *value) };
    // On the stack: Linux 6.1 takes no other argument of a global function for a key.
    let key = &own;
    let Ok(config) = maps::config() else {
        return NOT_CONFIGURED;
    };
    if config.opted_out != 0 && OPTED_OUT.get_ptr(cookie).is_some() {
        return NONE;
    }
    let on_host = cookie == config.host_cookie;
    let loopback = key.address.is_loopback();
    if loopback && !on_host {
        // A pod's loopback is its own.
        return NONE;
    }
    // SAFETY: the value is copied at once; should its memory be reused meanwhile, the slot's `set` tells.
    if let Some(found) = unsafe { SERVICES.get(key) } {
        *value = *found;
    } else if config.in_service_nets(&key.address) {
        // Refused at once rather than sent to where nobody answers.
        return NO_SUCH_SERVICE;
    } else if let Some(found) = node_port(config, *key, loopback) {
        *value = *found;
    } else {
        return NONE;
    }
    if value.flags & SERVICE_HOST_ONLY != 0 && !on_host {
        return NONE;
    }
    if value.flags & SERVICE_SOURCE_RANGES != 0
        && !may_reach(config, value.service, key.address.is_v4(), cookie)
    {
        return SOURCE_RANGE;
    }
    if value.count == 0 {
        return NO_ENDPOINTS;
    }
    FOUND
}

/// The Service that listens on this port of every address of the node.
#[inline(always)]
fn node_port(
    config: &Config,
    mut key: ServiceKey,
    loopback: bool,
) -> Option<&'static ServiceValue> {
    let port = u16::from_be(key.port);
    if port < config.node_port_minimum || port > config.node_port_maximum {
        return None;
    }
    if !loopback && LOCALS.get_ptr(key.address).is_none() {
        return None;
    }
    key.address = if key.address.is_v4() {
        Address::ANY_V4
    } else {
        Address::ANY_V6
    };
    // SAFETY: as in `find_service`.
    unsafe { SERVICES.get(key) }
}

/// Whether the Service's source ranges let the caller in. No source address is chosen yet: a pod's packets will bear
/// the pod's address, those of the node its own.
#[inline(always)]
fn may_reach(config: &Config, service: u32, v4: bool, cookie: u64) -> bool {
    let address = if cookie == config.host_cookie {
        config.own_address(v4)
    } else {
        let Some(pod) = NAMESPACES.get_ptr(cookie) else {
            return false;
        };
        // SAFETY: the element stays readable while the program runs.
        unsafe { if v4 { (*pod).v4 } else { (*pod).v6 } }
    };
    let range = lpm_trie::Key::new(SOURCE_RANGE_BITS, SourceRange { service, address });
    SOURCE_RANGES.get(&range).is_some()
}

/// A backend for a new connection or datagram; nothing if the set changed under us.
#[inline(always)]
pub(crate) fn choose(ctx: &SockAddrContext, value: &ServiceValue) -> Option<Slot> {
    if value.affinity == 0 {
        return random_slot(value);
    }
    kept_slot(
        &AffinityKey::of_namespace(namespace(ctx), value.service),
        value,
    )
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
