//! Nodes with what runs on them, kept up to date change by change. Pure.
//!
//! A pod is placed when a decision is made ("assumed"), before the store knows; the store's answer confirms
//! or withdraws it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use super::request::{HostPort, Request};
use super::resources::{self, Resources};

#[derive(Debug)]
pub(super) struct NodeInfo {
    pub(super) name: String,
    pub(super) node: Arc<Node>,
    pub(super) allocatable: Resources,
    pub(super) pod_limit: i64,
    pub(super) images: HashSet<String>,
    pub(super) zone: String,
    pub(super) pods: i64,
    pub(super) requested: Resources,
    pub(super) weight: Resources,
    pub(super) ports: Vec<HostPort>,
    /// Pods per spreading group.
    pub(super) groups: HashMap<u64, i64>,
}

impl NodeInfo {
    fn new(node: &Arc<Node>) -> Self {
        let mut info = Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            node: Arc::clone(node),
            allocatable: Resources::default(),
            pod_limit: 0,
            images: HashSet::new(),
            zone: String::new(),
            pods: 0,
            requested: Resources::default(),
            weight: Resources::default(),
            ports: Vec::new(),
            groups: HashMap::new(),
        };
        info.refresh(node);
        info
    }

    fn refresh(&mut self, node: &Arc<Node>) {
        self.node = Arc::clone(node);
        let status = node.status.as_ref();
        let allocatable = status.and_then(|status| status.allocatable.as_ref());
        self.allocatable = allocatable.map(Resources::of).unwrap_or_default();
        self.pod_limit = resources::pod_limit(allocatable);
        self.images = status
            .iter()
            .flat_map(|status| status.images.iter().flatten())
            .flat_map(|image| image.names.iter().flatten().cloned())
            .collect();
        self.zone = node
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("topology.kubernetes.io/zone"))
            .cloned()
            .unwrap_or_default();
    }

    pub(super) fn taints(&self) -> &[Taint] {
        self.node
            .spec
            .as_ref()
            .and_then(|spec| spec.taints.as_deref())
            .unwrap_or_default()
    }

    fn add(&mut self, request: &Request) {
        self.pods += 1;
        self.requested.add(&request.resources);
        self.weight.add(&request.weight);
        self.ports.extend(request.ports.iter().cloned());
        *self.groups.entry(request.group).or_default() += 1;
    }

    fn remove(&mut self, request: &Request) {
        self.pods -= 1;
        self.requested.subtract(&request.resources);
        self.weight.subtract(&request.weight);
        for port in &request.ports {
            if let Some(position) = self.ports.iter().position(|known| known == port) {
                self.ports.swap_remove(position);
            }
        }
        if let Some(count) = self.groups.get_mut(&request.group) {
            *count -= 1;
            if *count == 0 {
                self.groups.remove(&request.group);
            }
        }
    }
}

#[derive(Debug)]
struct Placed {
    node: String,
    request: Arc<Request>,
}

#[derive(Debug, Default)]
pub(super) struct Snapshot {
    nodes: Vec<NodeInfo>,
    positions: HashMap<String, usize>,
    /// By pod uid; also pods on nodes that are not known (yet).
    placed: HashMap<String, Placed>,
    /// Uids of pods on unknown nodes.
    homeless: HashMap<String, HashSet<String>>,
}

impl Snapshot {
    pub(super) fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub(super) fn put_node(&mut self, node: &Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(position) = self.positions.get(&name) {
            self.nodes[*position].refresh(node);
            return;
        }
        let mut info = NodeInfo::new(node);
        for uid in self.homeless.remove(&name).unwrap_or_default() {
            if let Some(placed) = self.placed.get(&uid) {
                info.add(&placed.request);
            }
        }
        self.positions.insert(name, self.nodes.len());
        self.nodes.push(info);
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        let Some(position) = self.positions.remove(name) else {
            return;
        };
        self.nodes.swap_remove(position);
        if let Some(moved) = self.nodes.get(position) {
            self.positions.insert(moved.name.clone(), position);
        }
        let stranded: HashSet<String> = self
            .placed
            .iter()
            .filter(|(_, placed)| placed.node == name)
            .map(|(uid, _)| uid.clone())
            .collect();
        if !stranded.is_empty() {
            self.homeless.insert(name.to_owned(), stranded);
        }
    }

    /// The pod is (or is assumed to be) on the node. Placing it again replaces what was known.
    pub(super) fn place(&mut self, request: Arc<Request>, node: &str) {
        let uid = request.uid().to_owned();
        self.remove(&uid);
        match self.positions.get(node) {
            Some(position) => self.nodes[*position].add(&request),
            None => {
                self.homeless
                    .entry(node.to_owned())
                    .or_default()
                    .insert(uid.clone());
            }
        }
        let node = node.to_owned();
        self.placed.insert(uid, Placed { node, request });
    }

    /// True when the pod was there.
    pub(super) fn remove(&mut self, uid: &str) -> bool {
        let Some(placed) = self.placed.remove(uid) else {
            return false;
        };
        if let Some(position) = self.positions.get(&placed.node) {
            self.nodes[*position].remove(&placed.request);
        } else if let Some(uids) = self.homeless.get_mut(&placed.node) {
            uids.remove(uid);
            if uids.is_empty() {
                self.homeless.remove(&placed.node);
            }
        }
        true
    }

    pub(super) fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }
}
