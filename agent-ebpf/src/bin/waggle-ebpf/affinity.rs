//! Which backend a new connection of a client gets: the one that it is kept on by ClientIP affinity, or one at random.

use agent_ebpf::affinity::search_from;
use agent_ebpf::counter::EventKind;
use agent_ebpf::layout::{AffinityKey, AffinityValue, STICKY_SEARCH, ServiceValue, Slot};
use agent_ebpf::select::pick;
use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST};
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};

use crate::maps::{self, AFFINITIES, SLOTS};

const EEXIST: i32 = -17;

/// Seconds since boot.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_ns() } / 1_000_000_000) as u32
}

/// A slot of the Service, by its place among them; nothing if the set changed under us.
#[inline(always)]
fn slot(value: &ServiceValue, index: u32) -> Option<Slot> {
    if index >= value.count {
        return None;
    }
    let slot = *SLOTS.get(value.base.wrapping_add(index))?;
    (slot.set == value.set).then_some(slot)
}

#[inline(always)]
fn random(value: &ServiceValue) -> u32 {
    // SAFETY: no arguments.
    pick(unsafe { bpf_get_prandom_u32() }, value.count)
}

/// One of the Service's backends, at random; nothing if the set changed under us.
#[inline(always)]
pub(crate) fn random_slot(value: &ServiceValue) -> Option<Slot> {
    slot(value, random(value))
}

/// The backend of a client of a Service with affinity; nothing if the set changed under us. A client that cannot be
/// remembered, because the table is full, gets a random one and is counted.
#[inline(always)]
pub(crate) fn kept_slot(key: &AffinityKey, value: &ServiceValue) -> Option<Slot> {
    slot(value, kept_index(key, value))
}

/// Beyond every set.
const NOWHERE: u32 = u32::MAX;

/// Where among the Service's slots the client's backend is. A function of its own to the verifier (`extern`, plain
/// arguments and result), which so looks at it once and not at every state of every caller.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn kept_index(key: *const AffinityKey, value: *const ServiceValue) -> u32 {
    if key.is_null() || value.is_null() {
        return NOWHERE;
    }
    // SAFETY: not null; the one caller passes references.
    let (own, value) = unsafe { (*key, &*value) };
    // On the stack: Linux 6.1 takes no other argument of a global function for a key.
    let key = &own;
    let now = now();
    let entry = AFFINITIES.get_ptr_mut(key);
    if let Some(entry) = entry {
        // SAFETY: the element stays readable and writable while the program runs; should it be another's by now,
        // its backend is not among this Service's slots, or is as good as any.
        let entry = unsafe { &mut *entry };
        if entry.is_fresh(now, value.affinity)
            && let Some(index) = find(entry, value)
        {
            entry.seen = now;
            return index;
        }
    }
    let index = random(value);
    let Some(slot) = slot(value, index) else {
        return NOWHERE;
    };
    let new = AffinityValue {
        backend: slot.address,
        port: slot.port,
        hint: index as u16,
        seen: now,
    };
    let how = if entry.is_some() {
        BPF_ANY
    } else {
        BPF_NOEXIST
    };
    match AFFINITIES.insert(key, new, u64::from(how)) {
        Ok(()) => {}
        // Another connection of the client was first: it is followed.
        Err(EEXIST) => {
            if let Some(entry) = AFFINITIES.get_ptr(key) {
                // SAFETY: as above.
                return at_hint(unsafe { &*entry }, value).unwrap_or(index);
            }
        }
        Err(_) => maps::count_event(EventKind::AffinityTableFull),
    }
    index
}

#[inline(always)]
fn is_it(entry: &AffinityValue, slot: &Slot) -> bool {
    // In one comparison: branches in a loop are what the verifier's time goes into.
    let port = u32::from(slot.port ^ entry.port);
    slot.address.difference(&entry.backend) | port == 0
}

/// Where the entry's backend was last, if it is there.
#[inline(always)]
fn at_hint(entry: &AffinityValue, value: &ServiceValue) -> Option<u32> {
    let hint = &raw const entry.hint;
    // SAFETY: a field of the element. Read from memory, so that the verifier sees one unknown number whatever
    // was found there by `find`.
    let index = u32::from(unsafe { hint.read_volatile() });
    let slot = slot(value, index)?;
    is_it(entry, &slot).then_some(index)
}

/// Where the entry's backend is, if it is still one of the Service's; looked for around where it was last.
#[inline(always)]
fn find(entry: &mut AffinityValue, value: &ServiceValue) -> Option<u32> {
    if let Some(index) = at_hint(entry, value) {
        return Some(index);
    }
    let first = search_from(entry.hint, value.count);
    let mut searched = 0;
    while searched < STICKY_SEARCH && first + searched < value.count {
        if let Some(slot) = SLOTS.get(value.base.wrapping_add(first + searched))
            && (slot.set ^ value.set == 0) & is_it(entry, slot)
        {
            entry.hint = (first + searched) as u16;
            break;
        }
        searched += 1;
    }
    at_hint(entry, value)
}
