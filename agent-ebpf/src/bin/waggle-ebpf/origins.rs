//! What a connected socket was connected to by its program, and to what in fact.
//!
//! Nearly always in an array, at the socket's cookie: that costs a tenth of making a storage for the socket, which
//! was most of what the connect hook took. A socket whose place another one has gets a storage. Neither can show
//! one socket's origin at another: cookies are never used twice, and a storage is the socket's own.

use agent_ebpf::counter::EventKind;
use agent_ebpf::layout::{OriginPlace, SocketOrigin};
use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::{SockAddrContext, SockContext};

use crate::maps::{self, ORIGIN_PLACES, ORIGINS};

#[inline(always)]
fn cookie(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the context is the one this program was called with.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
fn place(cookie: u64) -> Option<*mut OriginPlace> {
    ORIGIN_PLACES.get_ptr_mut(OriginPlace::index(cookie))
}

/// Adds to a number in a map, atomically. The target has no read-modify-write instructions for the compiler.
///
/// # Safety
/// `number` is in a map's element.
#[inline(always)]
unsafe fn add(number: *mut u64, amount: u64) {
    // SAFETY: the caller's promise. Without `nomem`, so memory is read again afterwards.
    unsafe {
        core::arch::asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) number, in(reg) amount, options(nostack));
    }
}

/// Takes the place for this socket unless another has it.
///
/// Two that try at a time both count themselves before they look. Whoever comes second in the order of that one
/// number sees both, so at most one sees itself alone; if neither does, both make do without.
#[inline(always)]
fn take(place: *mut OriginPlace) -> bool {
    // SAFETY: an element of the array.
    unsafe {
        let owners = &raw mut (*place).owners;
        if owners.read_volatile() != 0 {
            return false;
        }
        add(owners, 1);
        if owners.read_volatile() == 1 {
            return true;
        }
        add(owners, u64::MAX);
        false
    }
}

/// Remembers; a connection of the same socket before this one is forgotten.
#[inline(always)]
pub(crate) fn remember(ctx: &SockAddrContext, origin: &SocketOrigin) {
    let cookie = cookie(ctx);
    if let Some(place) = place(cookie) {
        // SAFETY: an element of the array. Only the socket that has the place writes here, under its lock.
        unsafe {
            if (*place).cookie == cookie {
                (*place).origin = *origin;
                return;
            }
            if take(place) {
                (*place).origin = *origin;
                (*place).cookie = cookie;
                return;
            }
        }
    }
    // SAFETY: the context's socket is valid while the hook runs.
    let storage = unsafe { ORIGINS.get_or_insert_ptr_mut(ctx, None) };
    if storage.is_null() {
        maps::count_event(EventKind::SocketStateRefused);
        return;
    }
    // SAFETY: not null; the element lives as long as the socket, whose lock connect holds.
    unsafe { *storage = *origin };
    maps::count_event(EventKind::OriginStored);
}

/// Where the socket's origin is. A place that it has takes precedence: it was given after the storage.
#[inline(always)]
fn find(ctx: &SockAddrContext) -> *mut SocketOrigin {
    let cookie = cookie(ctx);
    if let Some(place) = place(cookie) {
        // SAFETY: an element of the array.
        unsafe {
            if (*place).cookie == cookie {
                return &raw mut (*place).origin;
            }
        }
    }
    // SAFETY: the context's socket is valid while the hook runs.
    unsafe { ORIGINS.get_ptr_mut(ctx) }
}

/// The origin of a socket that is connected through a Service.
#[inline(always)]
pub(crate) fn of(ctx: &SockAddrContext) -> Option<SocketOrigin> {
    let origin = find(ctx);
    if origin.is_null() {
        return None;
    }
    // SAFETY: not null; copied at once.
    let origin = unsafe { *origin };
    (origin.service_port != 0).then_some(origin)
}

/// A socket that is connected anew, to no Service this time.
#[inline(always)]
pub(crate) fn forget(ctx: &SockAddrContext) {
    let origin = find(ctx);
    if !origin.is_null() {
        // SAFETY: not null.
        unsafe { (*origin).service_port = 0 };
    }
}

/// Gives a closed socket's place back.
#[inline(always)]
pub(crate) fn release(ctx: &SockContext) {
    // SAFETY: the context is the one this program was called with.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    if let Some(place) = place(cookie) {
        // SAFETY: an element of the array. A socket is released once.
        unsafe {
            if (*place).cookie == cookie {
                add(&raw mut (*place).owners, u64::MAX);
            }
        }
    }
}
