//! Nodes with what runs on them, kept up to date change by change. Pure.
//!
//! A pod is placed when a decision is made ("assumed"), before the store knows; the store's answer confirms
//! or withdraws it. Besides the nodes it keeps what questions about other pods need: pods counted by node
//! per class of equal labels, per owner, and per thing that they say of other pods. So that such a question
//! costs as much as there are kinds of pods, not pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};

use super::node_info::NodeInfo;
use super::request::{Affinity, Class, Load, Request, Standing};
use super::selector::Labels;

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";

type Fast<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
/// Pods by the slot of their node.
pub(super) type Counts = Fast<usize, i64>;

/// The values of one label, numbered; 0 is for nodes without it.
#[derive(Debug, Default)]
pub(super) struct Topology {
    numbers: HashMap<String, u32>,
    of_slot: Vec<u32>,
}

impl Topology {
    pub(super) fn of(&self, slot: usize) -> u32 {
        self.of_slot.get(slot).copied().unwrap_or(0)
    }

    fn set(&mut self, slot: usize, value: Option<&str>) {
        let next = u32::try_from(self.numbers.len() + 1).unwrap_or(u32::MAX);
        let number = value.map_or(0, |value| match self.numbers.get(value) {
            Some(number) => *number,
            None => {
                self.numbers.insert(value.to_owned(), next);
                next
            }
        });
        if self.of_slot.len() <= slot {
            self.of_slot.resize(slot + 1, 0);
        }
        self.of_slot[slot] = number;
    }
}

/// Pods of one owner.
#[derive(Debug, Default)]
pub(super) struct Group {
    pub(super) nodes: Counts,
    pub(super) zones: Fast<u32, i64>,
}

#[derive(Debug)]
pub(super) struct Holders {
    pub(super) affinity: Arc<Affinity>,
    pub(super) nodes: Counts,
}

/// A pod that is on a node, or is assumed to be.
#[derive(Debug)]
pub(super) struct Placed {
    pub(super) node: String,
    pub(super) load: Arc<Load>,
}

#[derive(Debug, Default)]
pub(super) struct Snapshot {
    slots: Vec<Option<NodeInfo>>,
    /// Slots in use, in the order in which nodes are looked at.
    order: Vec<usize>,
    free: Vec<usize>,
    by_name: HashMap<String, usize>,
    /// By pod uid; also pods on nodes that are not known (yet).
    placed: HashMap<String, Placed>,
    /// Uids of pods on unknown nodes.
    homeless: HashMap<String, HashSet<String>>,
    topologies: HashMap<String, Topology>,
    pub(super) classes: HashMap<Arc<Class>, Counts>,
    pub(super) holders: HashMap<String, Holders>,
    groups: Fast<u64, Group>,
    /// Nodes that have the image.
    images: HashMap<String, i64>,
    /// Pods by claim.
    claims: HashMap<String, i64>,
    namespaces: HashMap<String, Labels>,
    /// Pods that room was made for, by node.
    nominated: HashMap<String, Vec<Arc<Request>>>,
}

fn count<K: Eq + std::hash::Hash, S: std::hash::BuildHasher>(
    counts: &mut HashMap<K, i64, S>,
    key: K,
    by: i64,
) {
    let slot = counts.entry(key);
    match slot {
        std::collections::hash_map::Entry::Occupied(mut known) => {
            *known.get_mut() += by;
            if *known.get() <= 0 {
                known.remove();
            }
        }
        std::collections::hash_map::Entry::Vacant(new) => {
            if by > 0 {
                new.insert(by);
            }
        }
    }
}

impl Snapshot {
    /// Slots of all nodes.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }

    pub(super) fn node(&self, slot: usize) -> &NodeInfo {
        self.slots[slot]
            .as_ref()
            .expect("slots in the order are in use")
    }

    pub(super) fn slot(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (usize, &NodeInfo)> {
        self.order.iter().map(|slot| (*slot, self.node(*slot)))
    }

    /// The numbering of a label; [`Snapshot::learn`] it first.
    pub(super) fn topology(&self, key: &str) -> Option<&Topology> {
        self.topologies.get(key)
    }

    pub(super) fn learn(&mut self, key: &str) {
        if self.topologies.contains_key(key) {
            return;
        }
        let mut topology = Topology::default();
        for (slot, info) in self.nodes() {
            topology.set(slot, info.label(key));
        }
        self.topologies.insert(key.to_owned(), topology);
    }

    pub(super) fn group(&self, group: u64) -> Option<&Group> {
        self.groups.get(&group)
    }

    /// The part of the nodes that have the image, 0 to 1.
    #[allow(clippy::cast_precision_loss)]
    pub(super) fn image_spread(&self, image: &str) -> f64 {
        let with = self.images.get(image).copied().unwrap_or(0);
        with as f64 / self.len().max(1) as f64
    }

    pub(super) fn uses_claim(&self, claim: &str) -> bool {
        self.claims.contains_key(claim)
    }

    pub(super) fn namespace(&self, name: &str) -> &Labels {
        static NONE: Labels = Labels::new();
        self.namespaces.get(name).unwrap_or(&NONE)
    }

    pub(super) fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => self.namespaces.insert(name.to_owned(), labels),
            None => self.namespaces.remove(name),
        };
    }

    pub(super) fn put_node(&mut self, node: &Arc<Node>) {
        self.learn(ZONE);
        let name = node.metadata.name.clone().unwrap_or_default();
        let Some(slot) = self.slot(&name) else {
            self.new_node(name, node);
            return;
        };
        // What runs there may be in another zone from now on.
        let relabeled = self.node(slot).node.metadata.labels != node.metadata.labels;
        let running = if relabeled {
            self.node(slot).running.clone()
        } else {
            Vec::new()
        };
        for request in &running {
            self.index(request, slot, -1);
        }
        self.count_images(slot, -1);
        if let Some(info) = self.slots[slot].as_mut() {
            info.refresh(node);
        }
        self.count_images(slot, 1);
        if relabeled {
            self.number(slot);
        }
        for request in &running {
            self.index(request, slot, 1);
        }
    }

    fn new_node(&mut self, name: String, node: &Arc<Node>) {
        let info = NodeInfo::new(node);
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot] = Some(info);
                slot
            }
            None => {
                self.slots.push(Some(info));
                self.slots.len() - 1
            }
        };
        self.order.push(slot);
        self.by_name.insert(name.clone(), slot);
        self.number(slot);
        self.count_images(slot, 1);
        for uid in self.homeless.remove(&name).unwrap_or_default() {
            if let Some(placed) = self.placed.get(&uid) {
                let load = Arc::clone(&placed.load);
                self.enter(&load, slot);
            }
        }
    }

    fn number(&mut self, slot: usize) {
        let info = self.slots[slot].as_ref();
        for (key, topology) in &mut self.topologies {
            topology.set(slot, info.and_then(|info| info.label(key)));
        }
    }

    fn count_images(&mut self, slot: usize, by: i64) {
        let Some(info) = self.slots[slot].as_ref() else {
            return;
        };
        for image in info.images.keys() {
            count(&mut self.images, image.clone(), by);
        }
    }

    pub(super) fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.by_name.remove(name) else {
            return;
        };
        let running = std::mem::take(
            &mut self.slots[slot]
                .as_mut()
                .expect("known by name, so in use")
                .running,
        );
        let mut stranded = HashSet::new();
        for request in &running {
            self.index(request, slot, -1);
            stranded.insert(request.uid().to_owned());
        }
        self.count_images(slot, -1);
        self.slots[slot] = None;
        self.number(slot);
        self.order.retain(|known| *known != slot);
        self.free.push(slot);
        if !stranded.is_empty() {
            self.homeless.insert(name.to_owned(), stranded);
        }
    }

    fn enter(&mut self, request: &Arc<Load>, slot: usize) {
        for key in request.affinity.iter().flat_map(|affinity| affinity.keys()) {
            self.learn(key);
        }
        if let Some(info) = self.slots[slot].as_mut() {
            info.add(request);
        }
        self.index(request, slot, 1);
    }

    fn index(&mut self, request: &Load, slot: usize, by: i64) {
        let zone = self.topology(ZONE).map_or(0, |zones| zones.of(slot));
        let group = self.groups.entry(request.group).or_default();
        count(&mut group.nodes, slot, by);
        if zone != 0 {
            count(&mut group.zones, zone, by);
        }
        if group.nodes.is_empty() {
            self.groups.remove(&request.group);
        }
        let class = self.classes.entry(Arc::clone(&request.class)).or_default();
        count(class, slot, by);
        if class.is_empty() {
            self.classes.remove(&request.class);
        }
        if let Some(affinity) = &request.affinity {
            let holders = self
                .holders
                .entry(affinity.identity.clone())
                .or_insert_with(|| Holders {
                    affinity: Arc::clone(affinity),
                    nodes: Counts::default(),
                });
            count(&mut holders.nodes, slot, by);
            if holders.nodes.is_empty() {
                self.holders.remove(&affinity.identity);
            }
        }
        for claim in &request.claims {
            count(&mut self.claims, claim.clone(), by);
        }
    }

    /// The pod is (or is assumed to be) on the node. Placing it again replaces what was known, which is returned.
    pub(super) fn place(&mut self, load: Arc<Load>, node: &str) -> Option<Placed> {
        let uid = load.uid().to_owned();
        let before = self.remove(&uid);
        match self.slot(node) {
            Some(slot) => self.enter(&load, slot),
            None => {
                self.homeless
                    .entry(node.to_owned())
                    .or_default()
                    .insert(uid.clone());
            }
        }
        let node = node.to_owned();
        self.placed.insert(uid, Placed { node, load });
        before
    }

    /// Another version of a placed pod, with the same spec and labels.
    pub(super) fn renew(&mut self, uid: &str, pod: &Pod) {
        let standing = Standing::of(pod);
        let Some(placed) = self.placed.get_mut(uid) else {
            return;
        };
        if placed.load.standing == standing {
            return;
        }
        let mut load = Load::clone(&placed.load);
        load.standing = standing;
        placed.load = Arc::new(load);
        if let Some(slot) = self.by_name.get(&placed.node)
            && let Some(info) = self.slots[*slot].as_mut()
        {
            info.renew(&placed.load);
        }
    }

    /// What the pod is, with the class that others of its kind have.
    pub(super) fn load(&self, pod: &Pod) -> Load {
        Load::new(pod, |class| {
            let known = self.classes.get_key_value(class);
            known.map(|(class, _)| Arc::clone(class))
        })
    }

    pub(super) fn request(&self, pod: &Arc<Pod>) -> Arc<Request> {
        Arc::new(Request::new(pod, self.load(pod)))
    }

    /// What was known of the pod.
    pub(super) fn remove(&mut self, uid: &str) -> Option<Placed> {
        let placed = self.placed.remove(uid)?;
        if let Some(slot) = self.slot(&placed.node) {
            if let Some(info) = self.slots[slot].as_mut() {
                info.remove(&placed.load);
            }
            self.index(&placed.load, slot, -1);
        } else if let Some(uids) = self.homeless.get_mut(&placed.node) {
            uids.remove(uid);
            if uids.is_empty() {
                self.homeless.remove(&placed.node);
            }
        }
        Some(placed)
    }

    pub(super) fn is_placed(&self, uid: &str) -> bool {
        self.placed.contains_key(uid)
    }

    /// Room is made on the node for the pod.
    pub(super) fn nominate(&mut self, request: &Arc<Request>, node: &str) {
        self.forget_nomination(request.uid());
        self.nominated
            .entry(node.to_owned())
            .or_default()
            .push(Arc::clone(request));
    }

    /// The node that room was made on for the pod.
    pub(super) fn forget_nomination(&mut self, uid: &str) -> Option<String> {
        let is_it = |request: &Arc<Request>| request.uid() == uid;
        let mut all = self.nominated.iter();
        let node = all.find(|(_, all)| all.iter().any(is_it))?.0.clone();
        if let Some(all) = self.nominated.get_mut(&node) {
            all.retain(|request| !is_it(request));
            if all.is_empty() {
                self.nominated.remove(&node);
            }
        }
        Some(node)
    }

    /// Whether a pod keeps others away, which depends on their labels.
    pub(super) fn keeps_away(&self) -> bool {
        let mut all = self.holders.values();
        all.any(|holders| !holders.affinity.anti.is_empty())
    }

    /// Whether room is kept for anybody.
    pub(super) fn has_nominations(&self) -> bool {
        !self.nominated.is_empty()
    }

    /// Pods that room was made for on the node.
    pub(super) fn nominated(&self, node: &str) -> &[Arc<Request>] {
        self.nominated.get(node).map_or(&[], Vec::as_slice)
    }
}
