//! What the node is: capacity, addresses, conditions, Lease.
//!
//! `node/host` reads the machine (files below `/proc` and `/etc`), `node/status` makes the Node object of it
//! (pure), `node/heartbeat` tells the control plane, `node/eviction` keeps the node from running short,
//! `node/shutdown` has a shutdown of the machine wait for its pods. Labels and taints that others set are theirs.

mod eviction;
mod heartbeat;
mod host;
mod manifests;
mod shutdown;
mod status;

pub(crate) use eviction::local::pod_usage as pod_disk_usage;
pub(crate) use eviction::{Evictor, Thresholds};
pub use eviction::{SoftThreshold, ThresholdError};
pub(crate) use heartbeat::{Heartbeat, NodeReporter};
pub(crate) use host::{Host, HostError, Usage, addresses, meminfo_bytes, uplink};
pub(crate) use manifests::Manifests;
pub(crate) use shutdown::{BUS, Shutdown};
pub(crate) use status::{MAX_PODS, NodeFacts, allocatable, allocatable_storage};
