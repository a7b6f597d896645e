//! What the node is: capacity, addresses, conditions, Lease.
//!
//! `node/host` reads the machine (files below `/proc` and `/etc`), `node/status` makes the Node object of it
//! (pure), `node/heartbeat` tells the control plane. Labels and taints that others set are theirs.

mod heartbeat;
mod host;
mod status;

pub(crate) use heartbeat::{Heartbeat, NodeReporter};
pub(crate) use host::{Host, HostError, addresses, uplink};
pub(crate) use status::{NodeFacts, allocatable};
