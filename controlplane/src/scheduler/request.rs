//! What the scheduler needs to know of a pod, worked out once per version. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeAffinity, Pod, Toleration};

use super::resources::{self, Resources};

/// A port of the host that a container wants. An empty address is all addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct HostPort {
    pub(super) address: String,
    pub(super) protocol: String,
    pub(super) port: i32,
}

impl HostPort {
    pub(super) fn collides(&self, other: &Self) -> bool {
        self.port == other.port
            && self.protocol == other.protocol
            && (self.address.is_empty()
                || other.address.is_empty()
                || self.address == other.address)
    }
}

#[derive(Debug)]
pub(super) struct Request {
    pub(super) pod: Arc<Pod>,
    /// What it takes from a node.
    pub(super) resources: Resources,
    /// What it counts as when nodes are compared.
    pub(super) weight: Resources,
    pub(super) ports: Vec<HostPort>,
    /// Pods of one group are spread over nodes: those of one controller, else those with equal labels.
    pub(super) group: u64,
    pub(super) priority: i32,
}

impl Request {
    pub(super) fn new(pod: &Arc<Pod>) -> Self {
        let (resources, weight) = resources::requested(pod);
        let spec = pod.spec.as_ref();
        let host_network = spec.is_some_and(|spec| spec.host_network == Some(true));
        let containers = spec.into_iter().flat_map(|spec| {
            spec.containers
                .iter()
                .chain(spec.init_containers.iter().flatten())
        });
        let ports = containers
            .flat_map(|container| container.ports.iter().flatten())
            .filter_map(|port| {
                let number = match port.host_port {
                    Some(number) if number > 0 => number,
                    _ if host_network => port.container_port,
                    _ => return None,
                };
                let address = port.host_ip.clone().unwrap_or_default();
                Some(HostPort {
                    address: if address == "0.0.0.0" || address == "::" {
                        String::new()
                    } else {
                        address
                    },
                    protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                    port: number,
                })
            })
            .collect();
        Self {
            resources,
            weight,
            ports,
            group: group(pod),
            priority: spec.and_then(|spec| spec.priority).unwrap_or(0),
            pod: Arc::clone(pod),
        }
    }

    pub(super) fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    pub(super) fn tolerations(&self) -> &[Toleration] {
        self.pod
            .spec
            .as_ref()
            .and_then(|spec| spec.tolerations.as_deref())
            .unwrap_or_default()
    }

    pub(super) fn node_affinity(&self) -> Option<&NodeAffinity> {
        let affinity = self.pod.spec.as_ref()?.affinity.as_ref()?;
        affinity.node_affinity.as_ref()
    }
}

fn group(pod: &Pod) -> u64 {
    let mut hasher = DefaultHasher::new();
    pod.metadata.namespace.hash(&mut hasher);
    let owners = pod.metadata.owner_references.iter().flatten();
    match owners.clone().find(|owner| owner.controller == Some(true)) {
        Some(owner) => owner.uid.hash(&mut hasher),
        None => pod.metadata.labels.hash(&mut hasher),
    }
    hasher.finish()
}
