//! Hints of Services with the annotation `service.kubernetes.io/topology-mode: Auto`: each zone gets a share
//! of the ready endpoints in proportion to the CPUs of its nodes. Pure.
//!
//! As documented for Kubernetes: no hints at all when there are fewer endpoints than zones, when an endpoint
//! or a node has no zone, or when the zones could not be served without one of them being overloaded by more
//! than a fifth.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointHints, ForZone};

pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// The second is the older name.
const MODES: [&str; 2] = [
    "service.kubernetes.io/topology-mode",
    "service.kubernetes.io/topology-aware-hints",
];
const CONTROL_PLANE: [&str; 2] = [
    "node-role.kubernetes.io/control-plane",
    "node-role.kubernetes.io/master",
];

/// Thousandths of CPUs by zone.
pub(super) type Cpus = BTreeMap<String, i64>;

pub(super) fn is_auto(service: &Service) -> bool {
    let annotations = service.metadata.annotations.as_ref();
    let mode = MODES
        .iter()
        .find_map(|name| annotations.and_then(|annotations| annotations.get(*name)));
    mode.is_some_and(|mode| mode == "Auto" || mode == "auto")
}

pub(super) fn zone_of(node: &Node) -> Option<&String> {
    let labels = node.metadata.labels.as_ref()?;
    labels.get(ZONE).filter(|zone| !zone.is_empty())
}

/// What a node counts for: its zone and CPUs, when it is ready and takes usual pods.
pub(super) fn share_of(node: &Node) -> Option<(Option<String>, i64)> {
    let labels = node.metadata.labels.as_ref();
    let set_apart = CONTROL_PLANE
        .iter()
        .any(|name| labels.is_some_and(|labels| labels.contains_key(*name)));
    let status = node.status.as_ref()?;
    let ready = status
        .conditions
        .iter()
        .flatten()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    if set_apart || !ready {
        return None;
    }
    let resources = status.allocatable.as_ref().or(status.capacity.as_ref());
    let cpus = resources
        .and_then(|resources| resources.get("cpu"))
        .and_then(crate::scheduler::milli);
    Some((zone_of(node).cloned(), cpus.unwrap_or(0)))
}

/// `None` when a node's zone or CPUs are not known, or all nodes are in one zone.
pub(super) fn cpus(nodes: &[Arc<Node>]) -> Option<Cpus> {
    let mut cpus = Cpus::new();
    for (zone, milli) in nodes.iter().filter_map(|node| share_of(node)) {
        if milli <= 0 {
            return None;
        }
        *cpus.entry(zone?).or_default() += milli;
    }
    (cpus.len() > 1).then_some(cpus)
}

/// How many endpoints each zone needs at least, so that none gets more than 1.2 times its share of the
/// traffic on an endpoint; `None` when there are too few.
fn least(cpus: &Cpus, endpoints: usize) -> Option<BTreeMap<&str, usize>> {
    if endpoints < cpus.len() {
        return None;
    }
    let total: u128 = cpus
        .values()
        .map(|milli| u128::from(milli.unsigned_abs()))
        .sum();
    let count = endpoints as u128;
    let mut least = BTreeMap::new();
    for (zone, milli) in cpus {
        let share = u128::from(milli.unsigned_abs()) * count * 5;
        let needed = share.div_ceil(total * 6).max(1);
        least.insert(zone.as_str(), usize::try_from(needed).unwrap_or(usize::MAX));
    }
    let needed: usize = least.values().sum();
    (needed <= endpoints).then_some(least)
}

/// Gives every ready endpoint the zone that it is to serve: its own, unless another is short of endpoints.
pub(super) fn give(endpoints: &mut [Endpoint], cpus: Option<&Cpus>) {
    let zones = cpus.and_then(|cpus| assign(endpoints, cpus));
    let mut zones = zones.unwrap_or_default().into_iter();
    for endpoint in endpoints {
        endpoint.hints = None;
        if !is_ready(endpoint) {
            continue;
        }
        endpoint.hints = zones.next().map(|name| EndpointHints {
            for_zones: Some(vec![ForZone { name }]),
            for_nodes: None,
        });
    }
}

fn is_ready(endpoint: &Endpoint) -> bool {
    let conditions = endpoint.conditions.as_ref();
    conditions.and_then(|conditions| conditions.ready) != Some(false)
}

/// The zones of the ready endpoints, in their order.
fn assign(endpoints: &[Endpoint], cpus: &Cpus) -> Option<Vec<String>> {
    let ready: Vec<&Endpoint> = endpoints.iter().filter(|one| is_ready(one)).collect();
    let least = least(cpus, ready.len())?;
    let mut zones = Vec::with_capacity(ready.len());
    let mut counts: BTreeMap<&str, usize> = least.keys().map(|zone| (*zone, 0)).collect();
    for endpoint in &ready {
        let zone = endpoint.zone.as_deref()?;
        *counts.entry(zone).or_default() += 1;
        zones.push(zone);
    }
    // By address: the same endpoints move whatever order the pods came in.
    let mut order: Vec<usize> = (0..ready.len()).collect();
    order.sort_by(|one, other| ready[*one].addresses.cmp(&ready[*other].addresses));
    for (zone, needed) in &least {
        while counts.get(zone).is_none_or(|count| count < needed) {
            let spare = |zone: &str| {
                let needed = least.get(zone).copied().unwrap_or(0);
                counts
                    .get(zone)
                    .copied()
                    .unwrap_or(0)
                    .saturating_sub(needed)
            };
            // From the zone that can spare most.
            let giver = *order
                .iter()
                .filter(|index| spare(zones[**index]) > 0)
                .max_by_key(|index| (spare(zones[**index]), std::cmp::Reverse(**index)))?;
            *counts.get_mut(zones[giver])? -= 1;
            zones[giver] = *zone;
            *counts.entry(*zone).or_default() += 1;
        }
    }
    Some(zones.into_iter().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests;
