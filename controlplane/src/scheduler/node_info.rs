//! A node and what runs on it. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::affinity;
use super::request::{HostPort, Load, Request};
use super::resources::{self, Resources};

/// What is taken of a node.
#[derive(Debug, Clone, Default)]
pub(super) struct Usage {
    pub(super) pods: i64,
    pub(super) requested: Resources,
    pub(super) weight: Resources,
    pub(super) ports: Vec<HostPort>,
}

impl Usage {
    pub(super) fn add(&mut self, request: &Load) {
        self.pods += 1;
        self.requested.add(&request.resources);
        self.weight.add(&request.weight);
        self.ports.extend(request.ports.iter().cloned());
    }

    pub(super) fn remove(&mut self, request: &Load) {
        self.pods -= 1;
        self.requested.subtract(&request.resources);
        self.weight.subtract(&request.weight);
        for port in &request.ports {
            if let Some(position) = self.ports.iter().position(|known| known == port) {
                self.ports.swap_remove(position);
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct NodeInfo {
    pub(super) name: String,
    pub(super) node: Arc<Node>,
    pub(super) allocatable: Resources,
    pub(super) pod_limit: i64,
    pub(super) unschedulable: bool,
    /// Those of the node, here because all of them are looked at for every pod.
    pub(super) taints: Box<[Taint]>,
    /// Sizes by name.
    pub(super) images: HashMap<String, i64>,
    pub(super) usage: Usage,
    /// What runs there, or is assumed to.
    pub(super) running: Vec<Arc<Load>>,
}

impl NodeInfo {
    pub(super) fn new(node: &Arc<Node>) -> Self {
        let mut info = Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            node: Arc::clone(node),
            allocatable: Resources::default(),
            pod_limit: 0,
            unschedulable: false,
            taints: Box::default(),
            images: HashMap::new(),
            usage: Usage::default(),
            running: Vec::new(),
        };
        info.refresh(node);
        info
    }

    pub(super) fn refresh(&mut self, node: &Arc<Node>) {
        self.node = Arc::clone(node);
        let spec = node.spec.as_ref();
        self.unschedulable = spec.is_some_and(|spec| spec.unschedulable == Some(true));
        let taints = spec.and_then(|spec| spec.taints.as_deref());
        self.taints = taints.unwrap_or_default().into();
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::of).unwrap_or_default();
        self.pod_limit = resources::pod_limit(allocatable);
        self.images = status
            .iter()
            .flat_map(|status| status.images.iter().flatten())
            .flat_map(|image| {
                let size = image.size_bytes.unwrap_or(0);
                let names = image.names.iter().flatten().cloned();
                names.map(move |name| (name, size))
            })
            .collect();
    }

    pub(super) fn label(&self, key: &str) -> Option<&str> {
        let labels = self.node.metadata.labels.as_ref()?;
        labels.get(key).map(String::as_str)
    }

    pub(super) fn add(&mut self, request: &Arc<Load>) {
        self.usage.add(request);
        self.running.push(Arc::clone(request));
    }

    /// Another version of a pod that takes what it took.
    pub(super) fn renew(&mut self, request: &Arc<Load>) {
        let mut running = self.running.iter_mut();
        if let Some(known) = running.find(|known| known.uid() == request.uid()) {
            *known = Arc::clone(request);
        }
    }

    pub(super) fn remove(&mut self, request: &Load) {
        let known = self
            .running
            .iter()
            .position(|known| known.uid() == request.uid());
        if let Some(position) = known {
            self.running.swap_remove(position);
            self.usage.remove(request);
        }
    }

    /// Node selector and required node affinity.
    pub(super) fn is_selected(&self, request: &Request) -> bool {
        let labels = || self.node.metadata.labels.as_ref();
        let spec = request.pod.spec.as_ref();
        let wanted = spec.and_then(|spec| spec.node_selector.as_ref());
        let selected = wanted.is_none_or(|wanted| {
            wanted
                .iter()
                .all(|(key, value)| labels().and_then(|labels| labels.get(key)) == Some(value))
        });
        let required = request.node_affinity().and_then(|affinity| {
            affinity
                .required_during_scheduling_ignored_during_execution
                .as_ref()
        });
        selected && required.is_none_or(|selector| affinity::selects(selector, &self.node))
    }

    pub(super) fn is_tolerated(&self, request: &Request) -> bool {
        let effects = ["NoSchedule", "NoExecute"];
        affinity::untolerated(&self.taints, request.tolerations(), &effects)
            .next()
            .is_none()
    }
}
