//! Keys and values of the maps, and their sizes.
//!
//! A change to anything here must change [`LAYOUT`]: programs and user space of different layouts never
//! share a map. All types are `repr(C)`, of integers only, with explicit padding.

use crate::address::{Address, Net};

/// Version of everything in this file; maps are pinned below a directory that is named after it.
pub const LAYOUT: u32 = 2 + NEXT as u32;

/// Whether this is built as a later version with larger tables would be, to be upgraded to in a test.
const NEXT: bool = cfg!(feature = "next-layout");

pub const PROTOCOL_ICMP: u8 = 1;
pub const PROTOCOL_TCP: u8 = 6;
pub const PROTOCOL_UDP: u8 = 17;
pub const PROTOCOL_ICMPV6: u8 = 58;
pub const PROTOCOL_SCTP: u8 = 132;

pub const MAX_SERVICES: usize = 131_072 << NEXT as usize;
pub const MAX_SLOTS: usize = 262_144;
pub const MAX_PODS: usize = 4096;
/// Entries of translated flows: each flow has two.
pub const MAX_FLOWS: usize = 262_144 << NEXT as usize;
/// A power of two. Cookies are handed out in order, so places are taken one after the other.
pub const ORIGIN_PLACES: usize = 32_768;
/// Distinct Services that one unconnected UDP socket is remembered to talk to.
pub const UDP_FLOWS: usize = 16;
/// How many slots are searched for the backend of a UDP flow, or of a client with affinity, after its Service
/// changed.
pub const STICKY_SEARCH: u32 = 64;
/// Ranges of pods and addresses of nodes elsewhere in the cluster.
pub const MAX_REMOTES: usize = 65_536;
/// Addresses of this node, on any interface.
pub const MAX_LOCALS: usize = 4096;
/// Interfaces of the node that lead to some network.
pub const MAX_LINKS: usize = 256;
/// Clients that are kept on a backend by ClientIP affinity.
pub const MAX_AFFINITIES: usize = 262_144;
/// Ranges of `loadBalancerSourceRanges` of all Services.
pub const MAX_SOURCE_RANGES: usize = 65_536;
/// Fragmented packets whose ports are remembered at one time.
pub const MAX_FRAGMENTS: usize = 8192;
/// Pods (network namespaces) whose sockets are left alone.
pub const MAX_OPTED_OUT: usize = 4096;
/// Blocks of all Maglev tables: a table of [`MAGLEV_SIZE`] entries takes [`MAGLEV_BLOCKS`].
pub const MAX_MAGLEV_BLOCKS: usize = 1_048_576;
/// Entries of a Maglev table: a prime, some hundred times the backends that a Service usually has.
pub const MAGLEV_SIZE: u32 = 1021;
/// Entries in one block.
pub const MAGLEV_BLOCK: usize = 64;
pub const MAGLEV_BLOCKS: u32 = MAGLEV_SIZE.div_ceil(MAGLEV_BLOCK as u32);
pub const POD_NETS: usize = 8;
pub const SERVICE_NETS: usize = 4;
pub const DROP_REASONS: usize = 64;
pub const FORWARD_KINDS: usize = 16;
pub const EVENT_KINDS: usize = 16;

/// What can be sent to: a Service's address, or another address that stands for it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct ServiceKey {
    pub address: Address,
    /// Network order.
    pub port: u16,
    pub protocol: u8,
    /// [`SCOPE_INSIDE`] or [`SCOPE_OUTSIDE`].
    pub scope: u8,
}

/// From pods and from the node itself.
pub const SCOPE_INSIDE: u8 = 0;
/// From outside the cluster, at the uplink.
pub const SCOPE_OUTSIDE: u8 = 1;
/// Backends on this node only: for what another node sent here with the client's address kept (DSR).
pub const SCOPE_LOCAL: u8 = 2;

// NodePorts and hostPorts are keyed by the unspecified address of their family ([`Address::ANY_V4`],
// [`Address::ANY_V6`]): they stand for every address of the node (`LOCALS`, and loopback in the node's own
// network namespace). A hostPort that names a hostIP is keyed by that address.

/// Where a service port's backends are: `slots[base..base + count]`, all marked with `set`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ServiceValue {
    pub base: u32,
    pub count: u32,
    /// Names this set of backends; no other set ever bears the same number.
    pub set: u32,
    /// Names the service port for as long as it exists, over changes of its set.
    pub service: u32,
    /// Seconds of ClientIP affinity, 0 for none.
    pub affinity: u32,
    pub flags: u32,
    /// Names the Maglev table (see [`MaglevKey`]) from which north-south traffic picks; 0: pick at random.
    pub maglev: u32,
    pub padding: u32,
}

/// Only processes in the node's own network namespace are sent to the backends; others pass untouched.
/// The cluster DNS address is such an entry: pods' queries are intercepted as packets.
pub const SERVICE_HOST_ONLY: u32 = 1;
/// `externalTrafficPolicy: Local`: backends are of this node only and see the client's address. Without a backend,
/// packets are dropped as [`crate::counter::DropReason::NoLocalEndpoints`].
pub const SERVICE_LOCAL: u32 = 2;
/// Clients must be in one of the Service's ranges in `SOURCE_RANGES` (scope OUTSIDE and INSIDE alike).
pub const SERVICE_SOURCE_RANGES: u32 = 4;
/// An address that is not the node's own (LoadBalancer, external IP): nobody but us can refuse its packets.
pub const SERVICE_FOREIGN: u32 = 8;
/// A hostPort: its backend is one pod of this node, which sees the client's address.
pub const SERVICE_HOST_PORT: u32 = 16;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Slot {
    pub address: Address,
    /// Network order.
    pub port: u16,
    pub flags: u16,
    /// The [`ServiceValue::set`] that this slot belongs to: a reader that raced with a change sees another
    /// number here, and looks again.
    pub set: u32,
}

/// A pod on this node, by its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Pod {
    /// Host side of its veth pair.
    pub ifindex: u32,
    pub pod_mac: [u8; 6],
    pub host_mac: [u8; 6],
}

/// What a pod may send as, by the host side's ifindex.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PodSource {
    /// Unspecified if it has none of the family.
    pub v4: Address,
    pub v6: Address,
    pub mac: [u8; 6],
    /// `POD_*`
    pub flags: u16,
}

/// What the programs must know about the node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Config {
    /// `SO_NETNS_COOKIE` of the node's network namespace.
    pub host_cookie: u64,
    pub cluster_dns: Address,
    pub dns_listen: Address,
    /// Network order.
    pub dns_port: u16,
    /// Host order, both included.
    pub nat_port_minimum: u16,
    pub nat_port_maximum: u16,
    /// `CONFIG_*`
    pub flags: u16,
    /// 0 when there is no uplink.
    pub uplink: u32,
    /// The VXLAN device; 0 when there is none.
    pub overlay: u32,
    /// VXLAN network identifier.
    pub vni: u32,
    /// Largest IP packet that may be sent into the overlay device, bytes.
    pub overlay_mtu: u32,
    /// Host order, both included: ports at which some Service or pod listens on the node's own addresses. Minimum
    /// above maximum: none.
    pub node_port_minimum: u16,
    pub node_port_maximum: u16,
    /// Entries in `OPTED_OUT`; 0 spares the look-up.
    pub opted_out: u32,
    /// The node's address that its packets to other nodes and remote backends bear (the tunnel's end, and the
    /// source of SNAT); unspecified when it has none of the family.
    pub node_v4: Address,
    pub node_v6: Address,
    /// Source of masqueraded packets; unspecified when the uplink has none.
    pub uplink_v4: Address,
    pub uplink_v6: Address,
    pub pod_nets: [Net; POD_NETS],
    pub service_nets: [Net; SERVICE_NETS],
}

/// Packets to pods of other nodes go through the overlay device; otherwise the node's routes lead to them.
pub const CONFIG_OVERLAY: u16 = 1;
/// North-south traffic for a backend elsewhere keeps the client's address: its node answers the client directly.
pub const CONFIG_DSR: u16 = 2;
/// There are several links (`LINKS`): routes say by which one a packet leaves.
pub const CONFIG_LINKS: u16 = 4;

impl OriginPlace {
    #[inline(always)]
    #[must_use]
    pub const fn index(cookie: u64) -> u32 {
        cookie as u32 % ORIGIN_PLACES as u32
    }
}

impl Config {
    /// The address of a family that the node's own packets bear.
    #[inline(always)]
    #[must_use]
    pub fn own_address(&self, v4: bool) -> Address {
        let (node, uplink) = if v4 {
            (self.node_v4, self.uplink_v4)
        } else {
            (self.node_v6, self.uplink_v6)
        };
        if node.is_unspecified() { uplink } else { node }
    }

    #[inline(always)]
    #[must_use]
    pub fn in_pod_nets(&self, address: &Address) -> bool {
        self.pod_nets.iter().any(|net| net.contains(address))
    }

    #[inline(always)]
    #[must_use]
    pub fn in_service_nets(&self, address: &Address) -> bool {
        self.service_nets.iter().any(|net| net.contains(address))
    }
}

/// A range of pods, or an address of a node, elsewhere in the cluster.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Remote {
    /// The node's end of the tunnel, of the family that the underlay uses.
    pub node: Address,
    /// `REMOTE_*`
    pub flags: u32,
    pub padding: u32,
}

/// The range is a node's own address, not pods'.
pub const REMOTE_NODE: u32 = 1;

/// An interface of the node by which packets may leave it, by its index: what is masqueraded there bears its address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Link {
    /// Unspecified if it has none of the family.
    pub v4: Address,
    pub v6: Address,
}

/// A range in `loadBalancerSourceRanges`. In its longest-prefix match table 32 bits of the prefix are the Service's
/// number, the others the range's (96 more for IPv4).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct SourceRange {
    /// [`ServiceValue::service`]
    pub service: u32,
    pub address: Address,
}

/// One block of a Maglev table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct MaglevKey {
    /// [`ServiceValue::maglev`]
    pub table: u32,
    /// Entry / [`MAGLEV_BLOCK`].
    pub block: u32,
}

/// Slots relative to [`ServiceValue::base`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaglevBlock {
    pub slots: [u16; MAGLEV_BLOCK],
}

/// Who is kept on a backend.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct AffinityKey {
    /// At a socket: the cookie of its network namespace in the first two words, and [`AFFINITY_NAMESPACE`] in the last.
    /// In a packet: its source.
    pub client: Address,
    /// [`ServiceValue::service`]
    pub service: u32,
    pub padding: u32,
}

/// Tells a network namespace's cookie from an address (`ffff::/16` in no use; last word of a namespace's key).
pub const AFFINITY_NAMESPACE: u32 = u32::MAX;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AffinityValue {
    pub backend: Address,
    /// Network order.
    pub port: u16,
    /// Where among the Service's slots the backend was last: the search begins there.
    pub hint: u16,
    /// Seconds since boot of the last new connection.
    pub seen: u32,
}

/// A packet in fragments.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FragmentKey {
    pub source: Address,
    pub destination: Address,
    /// As in the header: 16 bits of IPv4, 32 of IPv6.
    pub identification: u32,
    pub protocol: u32,
}

/// What the first fragment of a packet said.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FragmentValue {
    pub source_port: u16,
    pub destination_port: u16,
}

/// State of a connected socket: what the program asked for and what it got.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct SocketOrigin {
    pub service: Address,
    pub backend: Address,
    /// Network order; 0 when the socket is not connected through a Service (any more).
    pub service_port: u16,
    pub backend_port: u16,
    pub set: u32,
}

/// A place for a [`SocketOrigin`] that costs no allocation: the one at a socket's cookie modulo [`ORIGIN_PLACES`], if
/// no other socket has it; its own storage (`ORIGINS`) otherwise.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OriginPlace {
    /// Of the socket that the origin is of. No two sockets ever have the same, so it is not cleared.
    pub cookie: u64,
    /// 1 while a socket has it; more for the moment in which others try to get it.
    pub owners: u64,
    pub origin: SocketOrigin,
}

/// State of an unconnected UDP socket: the Services that it sent to.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct UdpFlows {
    /// Where the next new flow goes, modulo the number of flows.
    pub next: u32,
    /// The flow that was sent on last.
    pub latest: u32,
    pub flows: [SocketOrigin; UDP_FLOWS],
}

/// The addresses and ports of a packet of a flow.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct FlowKey {
    pub source: Address,
    pub destination: Address,
    /// Network order; the identifier of ICMP echo.
    pub source_port: u16,
    /// Network order; 0 for ICMP echo.
    pub destination_port: u16,
    pub protocol: u8,
    pub padding: [u8; 3],
}

/// What a packet of a translated flow becomes. Each flow has two entries, one for each direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct FlowValue {
    pub to: FlowKey,
    /// [`ServiceValue::service`]; 0 for masquerading.
    pub service: u32,
    /// Seconds since boot of the last packet in this direction.
    pub seen: u32,
    /// `FLOW_*`
    pub flags: u16,
    /// `FLOW_KIND_*`
    pub kind: u16,
}

/// The entry of the packets that answer.
pub const FLOW_REVERSE: u16 = 1;
/// On the reverse entry: there was an answer.
pub const FLOW_REPLIED: u16 = 2;
/// This direction has ended (TCP FIN).
pub const FLOW_CLOSED: u16 = 4;
pub const FLOW_RESET: u16 = 8;
/// The answers do not come through this node: there is no reverse entry.
pub const FLOW_ONE_WAY: u16 = 16;

/// From a pod to outside the cluster, with the node's address.
pub const FLOW_KIND_MASQUERADE: u16 = 1;
/// From a pod to a Service, translated at the pod's veth.
pub const FLOW_KIND_POD_SERVICE: u16 = 2;
/// From outside to a Service's backend on this node, client's address kept.
pub const FLOW_KIND_LOCAL: u16 = 3;
/// From outside to a Service's backend elsewhere, with the node's address.
pub const FLOW_KIND_REMOTE: u16 = 4;
/// From outside to a hostPort.
pub const FLOW_KIND_HOST_PORT: u16 = 5;
/// DSR, at the node that the client asked: the packet goes as it is to the node of `to.destination`.
pub const FLOW_KIND_DSR_REMOTE: u16 = 6;
/// DSR, at the node of the backend.
pub const FLOW_KIND_DSR_LOCAL: u16 = 7;

/// Marks the types above: plain integers without implicit padding, valid for any bit pattern.
///
/// # Safety
/// `repr(C)`, every bit pattern is a value, no implicit padding.
pub unsafe trait Plain: Copy + 'static {}

macro_rules! plain {
    ($($type:ty: $size:literal,)*) => {$(
        // SAFETY: repr(C), integers only; the size is the sum of the fields' sizes (asserted below).
        unsafe impl Plain for $type {}
        const _: () = assert!(size_of::<$type>() == $size);
    )*};
}

plain! {
    Address: 16,
    ServiceKey: 20,
    ServiceValue: 32,
    Slot: 24,
    Pod: 16,
    PodSource: 40,
    Config: 520,
    Remote: 24,
    Link: 32,
    SourceRange: 20,
    MaglevKey: 8,
    MaglevBlock: 128,
    AffinityKey: 24,
    AffinityValue: 24,
    FragmentKey: 40,
    FragmentValue: 4,
    SocketOrigin: 40,
    OriginPlace: 56,
    UdpFlows: 648,
    FlowKey: 40,
    FlowValue: 52,
    crate::counter::Traffic: 16,
}
