//! The life cycle of nodes: heart-beats, conditions, taints, pod ranges, and the pods of nodes that are gone.
//!
//! One controller for the Node object; [`eviction`] deletes pods that do not tolerate its taints.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, ObjectReference, Pod};

use crate::cache::{BY_NODE, Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client, EventType};

use super::worker::Next;

mod addresses;
mod cidr;
pub(super) mod eviction;
mod plan;
mod zones;

#[cfg(test)]
mod tests;

pub(crate) use cidr::PodRanges;
pub use zones::NodeEviction;

pub(super) const NAME: &str = "node-controller";
const LEASES: &str = "kube-node-lease";
/// How often the ranges for a node are computed anew.
const ATTEMPTS: usize = 32;

/// When something of a node last changed, by this member's own clock: the clocks of nodes do not matter.
#[derive(Debug)]
struct Heard {
    beat: plan::Beat,
    at: Instant,
}

/// What events are told of.
#[derive(Debug)]
struct Known {
    uid: Option<String>,
    unschedulable: bool,
}

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    pod_ranges: PodRanges,
    heard: Mutex<HashMap<ObjectKey, Heard>>,
    /// Nodes as they were when they were looked at last.
    known: Mutex<HashMap<ObjectKey, Known>>,
    /// Addresses that were compared with those of the other nodes.
    compared: Mutex<HashMap<ObjectKey, BTreeSet<IpAddr>>>,
    /// Ranges of nodes that do not have them yet as far as the cache shows.
    given: Mutex<HashMap<ObjectKey, Vec<IpNet>>>,
    /// Held while a range is looked for in the store.
    searching: tokio::sync::Mutex<()>,
    grace: Duration,
    limits: NodeEviction,
    pace: Mutex<zones::Pace>,
    /// What times are measured from.
    since: Instant,
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let nodes = {
        let queue = queue.clone();
        cache
            .nodes
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let leases = {
        let queue = queue.clone();
        cache.leases.subscribe(move |delta| {
            if delta.key.namespace.as_ref() == LEASES {
                queue.add(ObjectKey::cluster(&delta.key.name));
            }
        })
    };
    vec![nodes, leases]
}

impl Controller {
    /// A node that was not heard of for `grace` is unreachable.
    pub(super) fn new(
        client: &Client,
        cache: &Cache,
        pod_ranges: &PodRanges,
        grace: Duration,
        limits: NodeEviction,
    ) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            pod_ranges: pod_ranges.clone(),
            heard: Mutex::default(),
            known: Mutex::default(),
            compared: Mutex::default(),
            given: Mutex::default(),
            searching: tokio::sync::Mutex::default(),
            grace,
            limits,
            pace: Mutex::default(),
            since: Instant::now(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(node) = self.cache.nodes.get_key(&key) else {
            self.heard.lock().expect("no panic while held").remove(&key);
            self.is_gone(&key);
            self.compared
                .lock()
                .expect("no panic while held")
                .remove(&key);
            return Ok(Next::Wait);
        };
        let silent_for = self.silence(&key, &node);
        let silent = silent_for >= self.grace;
        let now = Timestamp::now();
        self.welcome(&key, &node, now);
        let mut current = node.as_ref().clone();
        if silent && let Some(changed) = plan::silenced(&current, now) {
            current = self.client.update_status(&changed).await?;
        }
        self.announce(&node, &current);
        self.warn_of_duplicates(&key, &current);
        if !plan::is_ready(&current) && plan::ready(&current).is_some() {
            self.mark_pods(&key, now).await?;
        }
        let (emptying, again) = self.emptying(&current);
        if let Some(changed) = plan::tainted(&current, emptying, now) {
            if plan::is_emptied(&current) && !plan::is_emptied(&changed) && again.is_some() {
                tracing::warn!(node = %key.name, "no node is ready: its pods stay");
            }
            current = self.client.update(&changed).await?;
        }
        if plan::needs_cidr(&current) && !self.pod_ranges.is_empty() {
            self.allocate(&current).await?;
        }
        let silent_in = self.grace.saturating_sub(silent_for) + Duration::from_millis(10);
        let silent_in = (!silent).then_some(silent_in);
        let next = silent_in.into_iter().chain(again).min();
        Ok(next.map_or(Next::Wait, Next::After))
    }

    /// Whether the node's pods are driven away, and when to ask again.
    fn emptying(&self, node: &Node) -> (plan::Emptying, Option<Duration>) {
        if plan::emptying_taint(node).is_none() {
            return (plan::Emptying::Begin, None);
        }
        let nodes = self.cache.nodes.list("");
        // The cache may not have yet what was just written of this one.
        let others = nodes.iter().map(AsRef::as_ref);
        let others = others.filter(|other| other.metadata.name != node.metadata.name);
        let zones = {
            let heard = self.heard.lock().expect("no panic while held");
            zones::census(others.chain([node]), |node| {
                let known = heard.get(&ObjectKey::of(node));
                known.is_some_and(|known| known.at.elapsed() >= self.grace)
            })
        };
        let zone = zones::Zone::of(node);
        let (grace, now) = (self.grace, self.since.elapsed());
        let mut pace = self.pace.lock().expect("no panic while held");
        if plan::is_emptied(node) && zones.values().any(|zone| zone.ready > 0) {
            return (plan::Emptying::Keep, Some(zones::LOOK_AGAIN));
        }
        match pace.judge(&zone, &zones, &self.limits, grace, now) {
            zones::Verdict::Now => (plan::Emptying::Begin, Some(zones::LOOK_AGAIN)),
            zones::Verdict::Later(after) => {
                tracing::debug!(node = node.metadata.name, %zone, "its pods stay for now");
                (plan::Emptying::Keep, Some(after))
            }
            zones::Verdict::CalledOff(after) => (plan::Emptying::CallOff, Some(after)),
        }
    }

    /// How long nothing was heard of the node.
    fn silence(&self, key: &ObjectKey, node: &Node) -> Duration {
        let lease = self.cache.leases.get(LEASES, &key.name);
        let beat = plan::beat(node, lease.as_deref());
        let mut heard = self.heard.lock().expect("no panic while held");
        let known = heard.entry(key.clone()).or_insert_with(|| Heard {
            beat: beat.clone(),
            at: Instant::now(),
        });
        if known.beat != beat {
            *known = Heard {
                beat,
                at: Instant::now(),
            };
        }
        known.at.elapsed()
    }

    /// Tells of a node that has just come, and whether pods may come to it. Who takes over from another leader says nothing
    /// of the nodes that were there before.
    fn welcome(&self, key: &ObjectKey, node: &Node, now: Timestamp) {
        let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable);
        let unschedulable = unschedulable.unwrap_or_default();
        let uid = node.metadata.uid.clone();
        let before = {
            let uid = uid.clone();
            let mut known = self.known.lock().expect("no panic while held");
            known.insert(key.clone(), Known { uid, unschedulable })
        };
        let name = &key.name;
        let before = before.filter(|before| before.uid == uid);
        if before.is_none() && plan::is_new(node, now) {
            let message = format!("Node {name} event: Registered Node {name} in Controller");
            self.client
                .event(node, EventType::Normal, "RegisteredNode", &message);
        }
        if before.is_some_and(|before| before.unschedulable != unschedulable) {
            let reason = if unschedulable {
                "NodeNotSchedulable"
            } else {
                "NodeSchedulable"
            };
            let message = format!("Node {name} status is now: {reason}");
            self.client.event(node, EventType::Normal, reason, &message);
        }
    }

    fn is_gone(&self, key: &ObjectKey) {
        let mut known = self.known.lock().expect("no panic while held");
        let Some(known) = known.remove(key) else {
            return;
        };
        let name = &key.name;
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(name.to_string()),
            uid: known.uid,
            ..ObjectReference::default()
        };
        let message = format!("Node {name} event: Removing Node {name} from Controller");
        self.client
            .event_about(about, EventType::Normal, "RemovingNode", &message, "");
    }

    fn announce(&self, before: &Node, after: &Node) {
        if plan::is_ready(before) && !plan::is_ready(after) {
            let name = after.metadata.name.as_deref().unwrap_or_default();
            let message = format!("Node {name} status is now: NodeNotReady");
            self.client
                .event(after, EventType::Normal, "NodeNotReady", &message);
        }
    }

    /// Pods of a node that is not ready are not ready either: their endpoints must go.
    async fn mark_pods(&self, key: &ObjectKey, now: Timestamp) -> Result<(), ApiError> {
        for pod in self.cache.pods.indexed(BY_NODE, &key.name) {
            let Some(changed) = plan::pod_not_ready(&pod, now) else {
                continue;
            };
            match self.client.update_status::<Pod>(&changed).await {
                Ok(pod) => {
                    let message = "Node is not ready";
                    self.client
                        .event(&pod, EventType::Warning, "NodeNotReady", message);
                }
                Err(error) if error.code() == 404 => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives the node ranges that no other node has. Another member, or somebody's hand, may give them to another node in the
    /// meantime: the write is refused then, and the nodes are read from the store. At first the cache is asked, since
    /// thousands of nodes may come together.
    async fn allocate(&self, node: &Node) -> Result<(), ApiError> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        if let Some(ranges) = self.cut(node) {
            // Whatever else changes of the node at the same time.
            let patch = cidr::patch(node, &ranges);
            let given = self
                .client
                .merge_patch_unread::<Node>("", name, &patch)
                .await;
            let Err(error) = given else {
                return Ok(());
            };
            let mut given = self.given.lock().expect("no panic while held");
            given.remove(&ObjectKey::of(node));
            drop(given);
            match error.code() {
                404 => return Ok(()),
                409 | 422 => {}
                _ => return Err(error),
            }
        }
        let _searching = self.searching.lock().await;
        for _ in 0..ATTEMPTS {
            let (nodes, _) = self.client.list::<Node>("").await?;
            let Some(live) = nodes
                .iter()
                .find(|other| other.metadata.name == node.metadata.name)
            else {
                return Ok(());
            };
            if !plan::needs_cidr(live) {
                return Ok(());
            }
            let used: Vec<_> = nodes
                .iter()
                .flat_map(|other| cidr::ranges_of(other))
                .collect();
            let Some(ranges) = self.pod_ranges.allocate(&used) else {
                let message = format!("Node {name} status is now: CIDRNotAvailable");
                self.client
                    .event(node, EventType::Normal, "CIDRNotAvailable", &message);
                return Err(super::context_error(&format!(
                    "no pod range is left for node {name}"
                )));
            };
            match self.client.update(&cidr::with_ranges(live, &ranges)).await {
                Err(error) if matches!(error.code(), 409 | 422) => {
                    tracing::debug!(node = name, %error, "another node got the range first");
                }
                result => return result.map(|_| ()),
            }
        }
        Err(super::context_error(&format!(
            "the pod ranges for node {name} were taken again and again"
        )))
    }

    /// What the node is to have, by the cache and by what was given since. The nodes are looked at once for all that wait.
    fn cut(&self, node: &Node) -> Option<Vec<IpNet>> {
        let key = ObjectKey::of(node);
        let mut given = self.given.lock().expect("no panic while held");
        if let Some(ranges) = given.get(&key) {
            return Some(ranges.clone());
        }
        given.retain(|key, _| {
            let known = self.cache.nodes.get_key(key);
            known.is_some_and(|node| plan::needs_cidr(&node))
        });
        let nodes = self.cache.nodes.list("");
        let mut used: Vec<_> = nodes
            .iter()
            .flat_map(|node| cidr::ranges_of(node))
            .collect();
        used.extend(given.values().flatten());
        let waiting = nodes.iter().filter(|node| plan::needs_cidr(node));
        let waiting = waiting.map(|node| ObjectKey::of(node.as_ref()));
        let first = std::iter::once(key.clone());
        let mut free = self.pod_ranges.free(&used);
        for key in first.chain(waiting) {
            if let Entry::Vacant(place) = given.entry(key)
                && let Some(ranges) = free.next()
            {
                place.insert(ranges);
            }
        }
        given.get(&key).cloned()
    }

    /// An address that two nodes report leads the others to the wrong one.
    fn warn_of_duplicates(&self, key: &ObjectKey, node: &Node) {
        let mine = addresses::internal(node);
        {
            let mut compared = self.compared.lock().expect("no panic while held");
            if compared.get(key) == Some(&mine) {
                return;
            }
            compared.insert(key.clone(), mine);
        }
        let nodes = self.cache.nodes.list("");
        for duplicate in addresses::duplicates(node, &nodes) {
            self.client
                .event(node, EventType::Warning, "DuplicateNodeAddress", &duplicate);
        }
    }
}
