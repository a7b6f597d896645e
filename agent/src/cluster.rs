//! Neutral events about the cluster: what the data plane and DNS are driven by.
//!
//! Node sync is one source of them; a stock Kubernetes API server will be another (`waggle proxy`). A
//! consumer gets whole batches: it applies all of one, then reports the batch's revision as applied.

pub(crate) mod memory;

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// Name and namespace of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ObjectName {
    pub namespace: String,
    pub name: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum ServiceType {
    #[default]
    ClusterIp,
    NodePort,
    LoadBalancer,
    ExternalName,
}

/// What routing and names need of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Service {
    pub service_type: ServiceType,
    /// Empty for headless and ExternalName.
    pub cluster_ips: Vec<IpAddr>,
    pub headless: bool,
    pub external_name: Option<String>,
    pub ports: Vec<ServicePort>,
    pub external_ips: Vec<IpAddr>,
    pub load_balancer_ips: Vec<IpAddr>,
    pub load_balancer_source_ranges: Vec<IpNet>,
    /// ClientIP affinity timeout in seconds.
    pub session_affinity: Option<u32>,
    pub internal_traffic_local: bool,
    pub external_traffic_local: bool,
    pub health_check_node_port: Option<u16>,
    pub publish_not_ready_addresses: bool,
    pub traffic_distribution: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// Empty for the only port of a Service.
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
    pub node_port: Option<u16>,
}

/// An EndpointSlice; endpoints of an address type other than IPv4 and IPv6 are left out by the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Name of the Service in the same namespace.
    pub service: String,
    pub ports: Vec<EndpointPort>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointPort {
    /// Matches [`ServicePort::name`].
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

/// Conditions have the defaults of `discovery.k8s.io/v1` applied.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub hostname: Option<String>,
    pub node: Option<String>,
    pub zone: Option<String>,
    pub hints_zones: Vec<String>,
    pub hints_nodes: Vec<String>,
    /// Name of the pod behind it, in the Service's namespace.
    pub pod: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Node {
    pub internal_ips: Vec<IpAddr>,
    pub pod_cidrs: Vec<IpNet>,
    pub zone: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    ServiceSet(ObjectName, Service),
    ServiceRemoved(ObjectName),
    /// The name is that of the slice.
    SliceSet(ObjectName, EndpointSlice),
    SliceRemoved(ObjectName),
    NodeSet(String, Node),
    NodeRemoved(String),
}

/// Events that belong together, complete up to `revision`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Batch {
    pub revision: u64,
    /// The events are everything there is: what a consumer holds beyond them is gone.
    pub full: bool,
    pub events: Vec<Event>,
}

impl Batch {
    /// The revision of what an agent remembers from before it was started; the store's begin above.
    pub const REMEMBERED: u64 = 0;

    /// All there was when an earlier agent last heard of the control plane.
    #[must_use]
    pub const fn is_remembered(&self) -> bool {
        self.full && self.revision == Self::REMEMBERED
    }
}

/// Where a consumer takes its batches from; the `Arc` is shared with the other consumers.
pub type BatchReceiver = tokio::sync::mpsc::Receiver<Arc<Batch>>;

/// Where a consumer says how far it is: the revision up to which all batches are in force.
pub type AppliedSender = tokio::sync::watch::Sender<u64>;
