//! Which endpoints of a port take traffic, as Kubernetes says it. No state.
//!
//! Sources: the reference pages "Service" (traffic policies), "Topology Aware Routing", "Traffic distribution" and
//! "EndpointSlices" of the Kubernetes documentation; KEP-1669 (terminating endpoints), KEP-2433 (topology hints),
//! KEP-3015 (PreferSameZone, PreferSameNode).
//!
//! An endpoint is on the node that its `nodeName` says. A hand-made one may have none: then its address tells whether it
//! is here. The other nodes send it what they have for it by its address, and with direct server return nobody else
//! answers its clients.

use agent_ebpf::address::{Address, Net};

use super::Backend;
use super::slices::{Slice, Target};
use super::spec::Port;

/// Where this node is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Place {
    pub(crate) node: String,
    pub(crate) zone: Option<String>,
    /// Its pods'.
    pub(crate) ranges: Vec<Net>,
    /// Its own addresses, on any interface, in order.
    pub(crate) own: Vec<Address>,
}

impl Place {
    pub(crate) fn is_own(&self, address: &Address) -> bool {
        self.own.binary_search(address).is_ok()
    }

    fn is_of(&self, target: &Target) -> bool {
        if target.has_node() {
            return target.is_here();
        }
        let address = &target.address;
        self.is_own(address) || self.ranges.iter().any(|range| range.contains(address))
    }
}

/// Whose hints are obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Topology {
    Everywhere,
    Node,
    Zone,
}

/// The endpoints of one port and family.
pub(crate) struct Candidates<'a, S> {
    pub(crate) port: &'a Port,
    pub(crate) slices: S,
    pub(crate) v4: bool,
    pub(crate) publish_not_ready: bool,
}

impl<'a, S: Iterator<Item = &'a Slice> + Clone> Candidates<'a, S> {
    fn all(&self) -> impl Iterator<Item = (Backend, &'a Target)> {
        let (port, v4) = (self.port, self.v4);
        self.slices
            .clone()
            .flat_map(move |slice| slice.behind(&port.name, port.protocol, v4))
    }

    fn is_ready(&self, target: &Target) -> bool {
        target.is_ready() || self.publish_not_ready
    }

    /// In order, each once: whatever state they are in.
    pub(crate) fn known(&self) -> Vec<Backend> {
        sorted(self.all().map(|(backend, _)| backend))
    }

    /// In order, each once. Those that are ready: on this node (`local`), or in the whole cluster as far as hints send
    /// this node to them. If there is none, those in the same place that are terminating but still serve.
    pub(crate) fn backends(&self, local: bool, place: &Place) -> Vec<Backend> {
        let topology = if local {
            Topology::Everywhere
        } else {
            self.topology(place)
        };
        let is_near = |target: &Target| !local || place.is_of(target);
        let ready = sorted(
            self.all()
                .filter(|(_, target)| {
                    self.is_ready(target) && is_near(target) && topology.admits(target, place)
                })
                .map(|(backend, _)| backend),
        );
        if !ready.is_empty() {
            return ready;
        }
        sorted(
            self.all()
                .filter(|(_, target)| target.is_draining() && is_near(target))
                .map(|(backend, _)| backend),
        )
    }

    /// Hints are obeyed when every ready endpoint has them and one at least is meant for this node, or else this zone:
    /// otherwise they are out of date, or nothing is near.
    fn topology(&self, place: &Place) -> Topology {
        let mut all_have = (true, true);
        let mut meant = (false, false);
        for (_, target) in self.all().filter(|(_, target)| self.is_ready(target)) {
            let Some(hints) = &target.hints else {
                return Topology::Everywhere;
            };
            all_have.0 &= !hints.nodes.is_empty();
            all_have.1 &= !hints.zones.is_empty();
            meant.0 |= Topology::Node.admits(target, place);
            meant.1 |= Topology::Zone.admits(target, place);
        }
        if all_have.0 && meant.0 {
            Topology::Node
        } else if all_have.1 && meant.1 {
            Topology::Zone
        } else {
            Topology::Everywhere
        }
    }
}

impl Topology {
    fn admits(self, target: &Target, place: &Place) -> bool {
        let Some(hints) = &target.hints else {
            return self == Self::Everywhere;
        };
        match self {
            Self::Everywhere => true,
            Self::Node => hints.nodes.iter().any(|node| **node == *place.node),
            Self::Zone => place
                .zone
                .as_deref()
                .is_some_and(|own| hints.zones.iter().any(|zone| **zone == *own)),
        }
    }
}

fn sorted(backends: impl Iterator<Item = Backend>) -> Vec<Backend> {
    let mut backends: Vec<Backend> = backends.collect();
    backends.sort_unstable();
    backends.dedup();
    backends
}
