//! The maps. User space writes configuration, services and pods; programs write flows, socket state and
//! counters. All but the counters are pinned and shared by successive versions of the programs.

use agent_ebpf::address::Address;
use agent_ebpf::counter::{DropReason, EventKind, ForwardKind, Traffic};
use agent_ebpf::layout::{
    self, AffinityKey, AffinityValue, Config, DROP_REASONS, EVENT_KINDS, FORWARD_KINDS, FlowKey,
    FlowValue, FragmentKey, FragmentValue, Link, MAX_AFFINITIES, MAX_FLOWS, MAX_FRAGMENTS,
    MAX_LINKS, MAX_LOCALS, MAX_MAGLEV_BLOCKS, MAX_OPTED_OUT, MAX_PODS, MAX_REMOTES, MAX_SERVICES,
    MAX_SLOTS, MAX_SOURCE_RANGES, MaglevBlock, MaglevKey, OriginPlace, Pod, PodSource, Remote,
    ServiceKey, ServiceValue, Slot, SocketOrigin, SourceRange, UdpFlows,
};
use aya_ebpf::bindings::{BPF_F_MMAPABLE, BPF_F_NO_PREALLOC};
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SkStorage};
use aya_ebpf::macros::btf_map;

/// Hash maps take memory as they fill: an idle node must be small.
const GROWS: usize = BPF_F_NO_PREALLOC as usize;

const SEEN: usize = BPF_F_MMAPABLE as usize;

#[btf_map]
pub(crate) static CONFIG: Array<Config, 1> = Array::new();

#[btf_map]
pub(crate) static SERVICES: HashMap<ServiceKey, ServiceValue, MAX_SERVICES, GROWS> = HashMap::new();

#[btf_map]
pub(crate) static SLOTS: Array<Slot, MAX_SLOTS> = Array::new();

#[btf_map]
pub(crate) static PODS: HashMap<Address, Pod, MAX_PODS, GROWS> = HashMap::new();

#[btf_map]
pub(crate) static SOURCES: HashMap<u32, PodSource, MAX_PODS, GROWS> = HashMap::new();

/// Longest-prefix match: where in the cluster an address is, if not here.
#[btf_map]
pub(crate) static REMOTES: LpmTrie<Address, Remote, MAX_REMOTES, GROWS> = LpmTrie::new();

/// By index: the uplink and whatever else leads out of the node.
#[btf_map]
pub(crate) static LINKS: HashMap<u32, Link, MAX_LINKS, GROWS> = HashMap::new();

/// The node's own addresses, on any interface; the value is of no meaning.
#[btf_map]
pub(crate) static LOCALS: HashMap<Address, u32, MAX_LOCALS, GROWS> = HashMap::new();

#[btf_map]
pub(crate) static MAGLEV: HashMap<MaglevKey, MaglevBlock, MAX_MAGLEV_BLOCKS, GROWS> =
    HashMap::new();

/// The value is of no meaning.
#[btf_map]
pub(crate) static SOURCE_RANGES: LpmTrie<SourceRange, u32, MAX_SOURCE_RANGES, GROWS> =
    LpmTrie::new();

#[btf_map]
pub(crate) static AFFINITIES: HashMap<AffinityKey, AffinityValue, MAX_AFFINITIES, GROWS> =
    HashMap::new();

/// Least recently used go first: an entry is of use for the milliseconds that a packet's fragments take.
#[btf_map]
pub(crate) static FRAGMENTS: LruHashMap<FragmentKey, FragmentValue, MAX_FRAGMENTS> =
    LruHashMap::new();

/// Network namespaces, by cookie, whose sockets are left alone: their packets are balanced instead.
#[btf_map]
pub(crate) static OPTED_OUT: HashMap<u64, u32, MAX_OPTED_OUT, GROWS> = HashMap::new();

/// Addresses of pods, by the cookie of their network namespace.
#[btf_map]
pub(crate) static NAMESPACES: HashMap<u64, PodSource, MAX_PODS, GROWS> = HashMap::new();

/// In user space's memory too: it is looked through whenever a backend goes.
#[btf_map]
pub(crate) static ORIGIN_PLACES: Array<OriginPlace, { layout::ORIGIN_PLACES }, SEEN> = Array::new();

/// Of sockets that found their place taken.
#[btf_map]
pub(crate) static ORIGINS: SkStorage<SocketOrigin> = SkStorage::new();

#[btf_map]
pub(crate) static UDP_STATE: SkStorage<UdpFlows> = SkStorage::new();

#[btf_map]
pub(crate) static FLOWS: HashMap<FlowKey, FlowValue, MAX_FLOWS, GROWS> = HashMap::new();

#[btf_map]
static DROPS: PerCpuArray<u64, DROP_REASONS> = PerCpuArray::new();

#[btf_map]
static FORWARDS: PerCpuArray<Traffic, FORWARD_KINDS> = PerCpuArray::new();

#[btf_map]
static EVENTS: PerCpuArray<u64, EVENT_KINDS> = PerCpuArray::new();

#[inline(always)]
pub(crate) fn config() -> Result<&'static Config, DropReason> {
    CONFIG.get(0).ok_or(DropReason::NotConfigured)
}

/// Where in the cluster an address is, if it is another node's or of one of its pods.
#[inline(always)]
pub(crate) fn remote(address: &Address) -> Option<Remote> {
    REMOTES.get(&Key::new(128, *address)).copied()
}

/// Whether the address is one of this node's own.
#[inline(always)]
pub(crate) fn is_local(address: &Address) -> bool {
    LOCALS.get_ptr(address).is_some()
}

#[inline(always)]
pub(crate) fn count_drop(reason: DropReason) {
    if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's element of a per-CPU array; nobody else writes it.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub(crate) fn count_event(kind: EventKind) {
    if let Some(counter) = EVENTS.get_ptr_mut(kind as u32) {
        // SAFETY: this CPU's element of a per-CPU array; nobody else writes it.
        unsafe { *counter += 1 };
    }
}

#[inline(always)]
pub(crate) fn count_forward(kind: ForwardKind, bytes: u32) {
    if let Some(counter) = FORWARDS.get_ptr_mut(kind as u32) {
        // SAFETY: this CPU's element of a per-CPU array; nobody else writes it.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}
