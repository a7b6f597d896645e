//! What goes into the planner and comes out of it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use agent_ebpf::address::Address;
use agent_ebpf::layout::{
    MAGLEV_BLOCKS, MAX_MAGLEV_BLOCKS, MAX_SERVICES, MAX_SLOTS, MAX_SOURCE_RANGES, ServiceKey,
    ServiceValue, Slot,
};
use ipnet::IpNet;

use super::slices::LeftOut;
use crate::cluster::{ObjectName, Protocol};

/// One address and port that traffic can be sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    pub address: Address,
    /// Host order.
    pub port: u16,
}

/// One of `loadBalancerSourceRanges`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Range {
    /// [`ServiceValue::service`]
    pub service: u32,
    /// Zero behind the prefix.
    pub address: Address,
    /// Bits of `address`: 96 more than the range's for IPv4.
    pub prefix: u32,
}

impl Range {
    pub(crate) fn new(service: u32, range: IpNet) -> Self {
        let mapped = if range.addr().is_ipv4() { 96 } else { 0 };
        Self {
            service,
            address: Address::from(range.network()),
            prefix: mapped + u32::from(range.prefix_len()),
        }
    }
}

/// One change of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Wildcard keys are looked up for these ports (host order), and no others.
    NodePorts {
        minimum: u16,
        maximum: u16,
    },
    /// Slots that nothing points to yet.
    Slots {
        base: u32,
        set: u32,
        backends: Arc<[Backend]>,
    },
    /// A table that nothing names yet.
    Maglev {
        table: u32,
        backends: Arc<[Backend]>,
    },
    /// Nothing names it any more. Some of its blocks may not be there.
    RemoveMaglev {
        table: u32,
    },
    /// Clients that a Service's flagged keys admit.
    Admit {
        range: Range,
    },
    Unadmit {
        range: Range,
    },
    /// From here on the key has these backends.
    Set {
        key: ServiceKey,
        value: ServiceValue,
    },
    Remove {
        key: ServiceKey,
    },
}

/// A backend that new connections to a key are not sent to any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gone {
    pub key: ServiceKey,
    pub backend: Backend,
    pub state: GoneState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum GoneState {
    /// Not picked any more (terminating, not ready, meant for others, or the Service is gone): UDP state is to go, TCP
    /// connections live on.
    Unused,
    /// In no slice of the Service any more: TCP connections are to be closed as well. Also said of backends that were
    /// not picked before.
    Removed,
}

/// Why an address is no Service's and no endpoint's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressKind {
    Unspecified,
    Loopback,
    LinkLocal,
    Multicast,
    Broadcast,
}

/// What a slice may say that makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Nonsense {
    #[error("an endpoint without an address")]
    NoAddress,
    #[error("endpoint {0}: {1:?} address")]
    Address(IpAddr, AddressKind),
    #[error("port {0:?} has number 0")]
    Port(String),
    #[error("port {0:?} is there twice")]
    PortTwice(String),
}

/// Something that could not be planned as it was asked for; the rest goes on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// What was before stays; tried again.
    #[error("no room for {wanted} backends of {key:?} in the slot table ({used} of {size} in use)")]
    Slots {
        key: ServiceKey,
        wanted: usize,
        used: u32,
        size: u32,
    },
    /// What was before stays; tried again.
    #[error("no room for {key:?} in the service table ({size} in use)")]
    Services { key: ServiceKey, size: usize },
    /// What was before stays; tried again.
    #[error("no room for the source ranges of {key:?} ({size} in use)")]
    SourceRanges { key: ServiceKey, size: usize },
    /// New flows pick at random.
    #[error("no room for a Maglev table of {key:?} ({size} in use)")]
    Maglev { key: ServiceKey, size: usize },
    /// The others get no traffic.
    #[error("{key:?} has {wanted} backends: the first {kept} are used")]
    Truncated {
        key: ServiceKey,
        wanted: usize,
        kept: usize,
    },
    /// What was there first stays.
    #[error("{refused} asks for {key:?}, which {holder} has")]
    Conflict {
        key: ServiceKey,
        refused: String,
        holder: String,
    },
    /// They are left out.
    #[error("EndpointSlice {slice}: {count} entries make no sense, the first: {first}")]
    Nonsense {
        slice: String,
        count: usize,
        first: Nonsense,
    },
}

/// What to do for a batch, in this order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub operations: Vec<Operation>,
    /// Of keys inside and outside.
    pub gone: Vec<Gone>,
    pub problems: Vec<Problem>,
}

impl Plan {
    pub(crate) fn left_out(&mut self, slice: &ObjectName, left_out: LeftOut) {
        if let Some(first) = left_out.first {
            self.problems.push(Problem::Nonsense {
                slice: format!("{}/{}", slice.namespace, slice.name),
                count: left_out.count,
                first,
            });
        }
    }
}

/// An entry that is there regardless of the cluster's Services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    pub key: ServiceKey,
    pub backends: Vec<Backend>,
    pub flags: u32,
}

/// A port of the node that leads to one of its pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// None, or unspecified: every address of the node.
    pub host_ip: Option<IpAddr>,
    /// Host order, as `container_port`.
    pub port: u16,
    pub protocol: Protocol,
    /// The pod's.
    pub addresses: Vec<IpAddr>,
    pub container_port: u16,
}

/// What the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub services: usize,
    pub slots: u32,
    pub maglev_tables: usize,
    pub source_ranges: usize,
    /// Of one Service port.
    pub backends: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: MAX_SERVICES,
            slots: MAX_SLOTS as u32,
            maglev_tables: MAX_MAGLEV_BLOCKS / MAGLEV_BLOCKS as usize,
            source_ranges: MAX_SOURCE_RANGES,
            // A quarter of the table: a Service does not take all of it, and its next set finds room beside it.
            backends: MAX_SLOTS / 4,
        }
    }
}

/// What an earlier run left in the tables.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    pub services: Vec<(ServiceKey, ServiceValue)>,
    /// The whole table.
    pub slots: Vec<Slot>,
    /// How many blocks each Maglev table has.
    pub tables: HashMap<u32, u32>,
    pub ranges: Vec<Range>,
}

/// Who asks for keys: a Service, a pod with hostPorts, ourselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct OwnerId(pub(crate) u32);

/// Whether a Service or an endpoint may have this address (what the Kubernetes API server says of EndpointSlices that
/// it is given). Hand-made objects can say anything.
pub(crate) fn usable(address: IpAddr) -> Result<(), AddressKind> {
    let address = address.to_canonical();
    let is_link_local = match address {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    if address.is_unspecified() {
        Err(AddressKind::Unspecified)
    } else if address.is_loopback() {
        Err(AddressKind::Loopback)
    } else if is_link_local {
        Err(AddressKind::LinkLocal)
    } else if address.is_multicast() {
        Err(AddressKind::Multicast)
    } else if address == IpAddr::V4(std::net::Ipv4Addr::BROADCAST) {
        Err(AddressKind::Broadcast)
    } else {
        Ok(())
    }
}
