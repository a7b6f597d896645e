//! Which pod goes first when there are too many. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use crate::controllers::podstate;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Active pods of the set and its siblings per node.
pub(in crate::controllers) type Neighbours = HashMap<String, usize>;

pub(in crate::controllers) fn neighbours<'a>(
    pods: impl Iterator<Item = &'a Arc<Pod>>,
) -> Neighbours {
    let mut per_node = Neighbours::new();
    for pod in pods.filter(|pod| podstate::is_active(pod)) {
        if let Some(node) = node(pod) {
            *per_node.entry(node.to_owned()).or_default() += 1;
        }
    }
    per_node
}

fn node(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

/// Compared field by field; the smallest goes first. The order is the documented one: not yet bound,
/// pending, not ready, cheaper, on a crowded node, ready for a shorter time, restarted more often, younger.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::controllers) struct Rank {
    bound: bool,
    phase: u8,
    ready: bool,
    cost: i32,
    crowd: std::cmp::Reverse<usize>,
    /// Later is smaller; in whole seconds.
    ready_since: std::cmp::Reverse<i64>,
    restarts: std::cmp::Reverse<i32>,
    created: std::cmp::Reverse<i64>,
    name: String,
}

pub(in crate::controllers) fn rank(pod: &Pod, neighbours: &Neighbours) -> Rank {
    let node = node(pod);
    let ready = podstate::is_ready(pod);
    let ready_since = podstate::ready_condition(pod)
        .filter(|_| ready)
        .and_then(|condition| condition.last_transition_time.as_ref())
        .map_or(i64::MAX, |time| time.0.as_second());
    Rank {
        bound: node.is_some(),
        phase: match podstate::phase(pod) {
            "Pending" => 0,
            "Running" => 2,
            _ => 1,
        },
        ready,
        cost: pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(DELETION_COST))
            .and_then(|cost| cost.parse().ok())
            .unwrap_or(0),
        crowd: std::cmp::Reverse(
            node.and_then(|node| neighbours.get(node))
                .copied()
                .unwrap_or(0),
        ),
        ready_since: std::cmp::Reverse(ready_since),
        restarts: std::cmp::Reverse(
            pod.status
                .iter()
                .flat_map(|status| status.container_statuses.iter().flatten())
                .map(|container| container.restart_count)
                .max()
                .unwrap_or(0),
        ),
        created: std::cmp::Reverse(
            pod.metadata
                .creation_timestamp
                .as_ref()
                .map_or(i64::MAX, |time| time.0.as_second()),
        ),
        name: pod.metadata.name.clone().unwrap_or_default(),
    }
}
