//! What the planner keeps of an EndpointSlice.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use agent_ebpf::address::Address;

use super::spec::number;
use super::{Backend, Nonsense, usable};
use crate::cluster::{Endpoint, EndpointSlice};

const READY: u8 = 1;
/// Serving and terminating.
const DRAINING: u8 = 2;
/// On this node, as it says.
const HERE: u8 = 4;
/// It says on which node it is.
const NAMED: u8 = 8;

/// Whom an endpoint is meant for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(crate) struct Hints {
    pub(crate) zones: Box<[Box<str>]>,
    pub(crate) nodes: Box<[Box<str>]>,
}

impl Hints {
    fn new(endpoint: &Endpoint) -> Self {
        let boxed = |names: &[String]| names.iter().map(|name| name.as_str().into()).collect();
        Self {
            zones: boxed(&endpoint.hints_zones),
            nodes: boxed(&endpoint.hints_nodes),
        }
    }
}

/// One endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: Address,
    pub(crate) hints: Option<Arc<Hints>>,
    conditions: u8,
}

impl Target {
    pub(crate) fn is_ready(&self) -> bool {
        self.conditions & READY != 0
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.conditions & DRAINING != 0
    }

    pub(crate) fn has_node(&self) -> bool {
        self.conditions & NAMED != 0
    }

    /// Whether this node is the one that it names.
    pub(crate) fn is_here(&self) -> bool {
        self.conditions & HERE != 0
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SlicePort {
    name: Box<str>,
    protocol: u8,
    /// Host order.
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Slice {
    ports: Box<[SlicePort]>,
    targets: Box<[Target]>,
}

/// The first thing in a slice that makes no sense, and how many there are.
#[derive(Debug, Default)]
pub(crate) struct LeftOut {
    pub(crate) count: usize,
    pub(crate) first: Option<Nonsense>,
}

impl LeftOut {
    fn add(&mut self, what: Nonsense) {
        self.count += 1;
        self.first.get_or_insert(what);
    }
}

impl Slice {
    pub(crate) fn new(slice: &EndpointSlice, node: &str, known: &mut HintsPool) -> (Self, LeftOut) {
        let mut left_out = LeftOut::default();
        let mut ports: Vec<SlicePort> = Vec::with_capacity(slice.ports.len());
        for port in &slice.ports {
            if port.port == 0 {
                left_out.add(Nonsense::Port(port.name.clone()));
                continue;
            }
            let protocol = number(port.protocol);
            // A name stands for one port; the first one is taken.
            if ports
                .iter()
                .any(|other| *other.name == *port.name && other.protocol == protocol)
            {
                left_out.add(Nonsense::PortTwice(port.name.clone()));
                continue;
            }
            ports.push(SlicePort {
                name: port.name.as_str().into(),
                protocol,
                port: port.port,
            });
        }
        let mut targets = Vec::with_capacity(slice.endpoints.len());
        for endpoint in &slice.endpoints {
            match address(endpoint) {
                Ok(address) => targets.push(Target {
                    address,
                    hints: known.share(endpoint),
                    conditions: conditions(endpoint, node),
                }),
                Err(nonsense) => left_out.add(nonsense),
            }
        }
        let slice = Self {
            ports: ports.into(),
            targets: targets.into(),
        };
        (slice, left_out)
    }

    /// The endpoints' port that goes by this name, host order.
    fn port(&self, name: &str, protocol: u8) -> Option<u16> {
        self.ports
            .iter()
            .find(|port| *port.name == *name && port.protocol == protocol)
            .map(|port| port.port)
    }

    /// Endpoints of one family behind a port, whatever their state.
    pub(crate) fn behind<'a>(
        &'a self,
        name: &str,
        protocol: u8,
        v4: bool,
    ) -> impl Iterator<Item = (Backend, &'a Target)> + use<'a> {
        let port = self.port(name, protocol);
        let targets = if port.is_some() {
            &self.targets[..]
        } else {
            &[]
        };
        targets
            .iter()
            .filter(move |target| target.address.is_v4() == v4)
            .map(move |target| {
                let backend = Backend {
                    address: target.address,
                    port: port.unwrap_or_default(),
                };
                (backend, target)
            })
    }

    pub(crate) fn has_hints(&self) -> bool {
        self.targets.iter().any(|target| target.hints.is_some())
    }
}

/// An endpoint is reached at its first address; others are for those who know what they mean.
fn address(endpoint: &Endpoint) -> Result<Address, Nonsense> {
    let ip: &IpAddr = endpoint.addresses.first().ok_or(Nonsense::NoAddress)?;
    usable(*ip).map_err(|kind| Nonsense::Address(*ip, kind))?;
    Ok(Address::from(ip.to_canonical()))
}

fn conditions(endpoint: &Endpoint, node: &str) -> u8 {
    let bit = |condition: bool, bit: u8| if condition { bit } else { 0 };
    bit(endpoint.ready, READY)
        | bit(endpoint.serving && endpoint.terminating, DRAINING)
        | bit(endpoint.node.as_deref() == Some(node), HERE)
        | bit(endpoint.node.is_some(), NAMED)
}

/// Hints repeat themselves: a cluster has few zones.
#[derive(Debug, Default)]
pub(crate) struct HintsPool(HashSet<Arc<Hints>>);

impl HintsPool {
    fn share(&mut self, endpoint: &Endpoint) -> Option<Arc<Hints>> {
        if endpoint.hints_zones.is_empty() && endpoint.hints_nodes.is_empty() {
            return None;
        }
        let hints = Hints::new(endpoint);
        if let Some(known) = self.0.get(&hints) {
            return Some(Arc::clone(known));
        }
        // Those of nodes that are gone are found before the pool grows.
        if self.0.len() == self.0.capacity() {
            self.0.retain(|known| Arc::strong_count(known) > 1);
        }
        let hints = Arc::new(hints);
        self.0.insert(Arc::clone(&hints));
        Some(hints)
    }
}
