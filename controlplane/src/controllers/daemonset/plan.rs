//! What to do about a DaemonSet now. Pure: first every node has the pods that it should, then one step of a
//! rolling update.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::pods::{self, Fit};
use super::rolling;
use crate::controllers::podstate;
use crate::controllers::revisions::HASH_LABEL;

#[cfg(test)]
mod tests;

/// Pods that one step makes or removes at the most.
const BURST: usize = 250;

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) set: &'a DaemonSet,
    pub(super) nodes: &'a [Arc<Node>],
    /// The set's own pods.
    pub(super) pods: &'a [Arc<Pod>],
    /// Uids whose deletion was asked for already.
    pub(super) deleting: &'a HashSet<String>,
    /// Nodes where a pod failed so lately that its successor must wait.
    pub(super) held: &'a HashSet<String>,
    /// Hash of the current template.
    pub(super) hash: &'a str,
    pub(super) now: Timestamp,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    /// Nodes that get a pod.
    pub(super) create: Vec<String>,
    pub(super) delete: Vec<Arc<Pod>>,
    /// Those of them that failed, and those that succeeded, which no daemon should.
    pub(super) failed: Vec<Arc<Pod>>,
    pub(super) succeeded: Vec<Arc<Pod>>,
}

/// A node with what the set has there.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) node: &'a str,
    pub(super) fit: Fit,
    /// Terminating ones included; those that are bound first, and of them the oldest.
    pub(super) pods: Vec<&'a Arc<Pod>>,
}

impl View<'_> {
    pub(super) fn is_terminating(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        podstate::is_terminating(pod) || self.deleting.contains(uid)
    }

    pub(super) fn is_current(&self, pod: &Pod) -> bool {
        let labels = pod.metadata.labels.as_ref();
        labels
            .and_then(|labels| labels.get(HASH_LABEL))
            .map(String::as_str)
            == Some(self.hash)
    }

    pub(super) fn is_available(&self, pod: &Pod) -> bool {
        let seconds = self
            .set
            .spec
            .as_ref()
            .and_then(|spec| spec.min_ready_seconds);
        podstate::availability(pod, seconds.unwrap_or(0), self.now).is_ok()
    }
}

/// Every node in order of names, and pods whose node is not there.
pub(super) fn places<'a>(view: &View<'a>) -> (Vec<Place<'a>>, Vec<&'a Arc<Pod>>) {
    let mut by_node: BTreeMap<&str, Vec<&Arc<Pod>>> = BTreeMap::new();
    for pod in view.pods {
        by_node
            .entry(pods::node_of(pod).unwrap_or_default())
            .or_default()
            .push(pod);
    }
    let spec = pods::pod_spec(view.set);
    let mut places = Vec::with_capacity(view.nodes.len());
    for node in view.nodes {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let mut here = by_node.remove(name).unwrap_or_default();
        here.sort_by_key(|pod| {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            (
                node.is_none_or(str::is_empty),
                pod.metadata.creation_timestamp.clone(),
                pod.metadata.name.clone(),
            )
        });
        places.push(Place {
            node: name,
            fit: pods::fit(&spec, node),
            pods: here,
        });
    }
    (places, by_node.into_values().flatten().collect())
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    if view.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let (places, homeless) = places(view);
    for place in &places {
        manage(view, place, &mut plan);
    }
    // Never bound, and what they were made for is gone. Bound ones are for the pod collector.
    plan.delete.extend(
        homeless
            .into_iter()
            .filter(|pod| {
                let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
                bound.is_none_or(str::is_empty) && !view.is_terminating(pod)
            })
            .cloned(),
    );
    if plan == Plan::default() && rolling::rolls(view.set) {
        rolling::step(view, &places, &mut plan);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

fn manage(view: &View<'_>, place: &Place<'_>, plan: &mut Plan) {
    let alive = || place.pods.iter().filter(|pod| !view.is_terminating(pod));
    if !place.fit.stays {
        plan.delete.extend(alive().map(|pod| Arc::clone(pod)));
        return;
    }
    if place.pods.is_empty() {
        if place.fit.runs && !view.held.contains(place.node) {
            plan.create.push(place.node.to_owned());
        }
        return;
    }
    let mut running = Vec::new();
    for pod in alive() {
        match podstate::phase(pod) {
            "Failed" => {
                if !view.held.contains(place.node) {
                    plan.failed.push(Arc::clone(pod));
                    plan.delete.push(Arc::clone(pod));
                }
            }
            "Succeeded" => {
                plan.succeeded.push(Arc::clone(pod));
                plan.delete.push(Arc::clone(pod));
            }
            _ => running.push(*pod),
        }
    }
    let surplus = if rolling::rolls(view.set) && rolling::surges(view.set) {
        rolling::surplus_of_surge(view, &running)
    } else {
        // The oldest stays.
        running.iter().skip(1).copied().collect()
    };
    plan.delete.extend(surplus.into_iter().cloned());
}
