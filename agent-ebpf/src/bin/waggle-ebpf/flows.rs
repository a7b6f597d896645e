//! The library's tables of flows and of Services, in the kernel's maps.

use agent_ebpf::address::Address;
use agent_ebpf::balance::Services;
use agent_ebpf::counter::{DropReason, EventKind};
use agent_ebpf::flow::{Flows, Insertion, Ports};
use agent_ebpf::layout::{
    AffinityKey, AffinityValue, Config, FlowKey, FlowValue, MAGLEV_BLOCK, MaglevKey, ServiceKey,
    ServiceValue, Slot, SourceRange,
};
use aya_ebpf::bindings::BPF_NOEXIST;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns};

use crate::maps::{self, AFFINITIES, FLOWS, MAGLEV, SERVICES, SLOTS, SOURCE_RANGES};

const EEXIST: i32 = -17;

/// The maps, as the library's traits want them.
pub(crate) struct Kernel;

/// Seconds on the clock that user space reads as `CLOCK_MONOTONIC`.
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_ns() } / 1_000_000_000) as u32
}

#[inline(always)]
fn random() -> u32 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() }
}

/// The node's address that its flows inside the cluster bear.
#[inline(always)]
pub(crate) fn node_address(config: &Config, v6: bool) -> Result<Address, DropReason> {
    let address = if v6 { config.node_v6 } else { config.node_v4 };
    if address.is_unspecified() || address.is_v4() == v6 {
        return Err(DropReason::NoMasqueradeAddress);
    }
    Ok(address)
}

/// Ports for flows that leave with an address of the node.
#[inline(always)]
pub(crate) const fn node_ports(config: &Config) -> Ports {
    Ports {
        minimum: config.nat_port_minimum,
        maximum: config.nat_port_maximum,
        any_own: false,
    }
}

/// Ports for flows that keep their source address.
#[inline(always)]
pub(crate) const fn own_ports(config: &Config) -> Ports {
    Ports {
        any_own: true,
        ..node_ports(config)
    }
}

impl Flows for Kernel {
    #[inline(always)]
    fn touch(&self, key: &FlowKey, flags: u16, into: &mut FlowValue) -> bool {
        let Some(value) = FLOWS.get_ptr_mut(key) else {
            return false;
        };
        let now = now();
        // SAFETY: from the lookup. Written only if it changes, since all CPUs read these lines; a lost update by a
        // concurrent packet is made good by the next one.
        unsafe {
            *into = *value;
            let flags = into.flags_with(flags);
            if into.seen != now {
                (*value).seen = now;
            }
            if into.flags != flags {
                (*value).flags = flags;
                into.flags = flags;
            }
        }
        true
    }

    #[inline(always)]
    fn get(&self, key: &FlowKey, into: &mut FlowValue) -> bool {
        let Some(value) = FLOWS.get_ptr(key) else {
            return false;
        };
        // SAFETY: from the lookup, copied at once.
        *into = unsafe { *value };
        true
    }

    #[inline(always)]
    fn insert(&self, key: &FlowKey, value: &FlowValue) -> Insertion {
        match FLOWS.insert(key, value, u64::from(BPF_NOEXIST)) {
            Ok(()) => Insertion::Done,
            Err(EEXIST) => Insertion::Exists,
            Err(_) => Insertion::Full,
        }
    }

    #[inline(always)]
    fn remove(&self, key: &FlowKey) {
        let _ = FLOWS.remove(key);
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        random()
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        now()
    }
}

impl Services for Kernel {
    #[inline(always)]
    fn service(&self, key: &ServiceKey) -> Option<ServiceValue> {
        // SAFETY: copied at once; should its memory be reused meanwhile, the slot's `set` tells.
        unsafe { SERVICES.get(key) }.copied()
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        SLOTS.get(index).copied()
    }

    #[inline(always)]
    fn is_own(&self, address: &Address) -> bool {
        maps::is_local(address)
    }

    #[inline(always)]
    fn maglev(&self, block: &MaglevKey, entry: u32) -> Option<u16> {
        let block = MAGLEV.get_ptr(block)?;
        // Masked, so that the verifier sees the bound.
        let entry = (entry as usize) & (MAGLEV_BLOCK - 1);
        // SAFETY: from the lookup; the index is within the block.
        Some(unsafe { *(*block).slots.as_ptr().add(entry) })
    }

    #[inline(always)]
    fn is_in_ranges(&self, service: u32, client: &Address) -> bool {
        let range = SourceRange {
            service,
            address: *client,
        };
        SOURCE_RANGES.get(&Key::new(160, range)).is_some()
    }

    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityValue> {
        // SAFETY: copied at once.
        unsafe { AFFINITIES.get(key) }.copied()
    }

    #[inline(always)]
    fn keep(&self, key: &AffinityKey, value: &AffinityValue) {
        if AFFINITIES.insert(key, value, 0).is_err() {
            maps::count_event(EventKind::AffinityTableFull);
        }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        random()
    }

    #[inline(always)]
    fn now(&self) -> u32 {
        now()
    }
}
