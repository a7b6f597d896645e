//! Which pod goes first when there are too many. Pure.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

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
    crowd: Reverse<usize>,
    ready_for: Option<i32>,
    restarts: Reverse<i32>,
    sidecar_restarts: Reverse<i32>,
    age: Option<i32>,
    /// As good as random: not always the same pod of a set goes.
    uid: String,
}

/// How long ago it was, as a power of two. What is about as old as another is no better for it: otherwise the pods that
/// came last, which are often on one node, would all go.
fn magnitude(since: Option<&Time>, now: Timestamp) -> Option<i32> {
    let ago = now.duration_since(since?.0).as_nanos();
    let ago = u128::try_from(ago).ok().filter(|ago| *ago > 0);
    Some(ago.map_or(-1, |ago| i32::try_from(ago.ilog2()).unwrap_or(i32::MAX)))
}

fn most_restarts(statuses: Option<&Vec<ContainerStatus>>, counts: impl Fn(&str) -> bool) -> i32 {
    let counted = statuses.into_iter().flatten();
    let counted = counted.filter(|status| counts(&status.name));
    counted
        .map(|status| status.restart_count)
        .max()
        .unwrap_or(0)
}

pub(in crate::controllers) fn rank(pod: &Pod, neighbours: &Neighbours, now: Timestamp) -> Rank {
    let node = node(pod);
    let ready = podstate::is_ready(pod);
    let ready_since = podstate::ready_condition(pod)
        .filter(|_| ready)
        .and_then(|condition| condition.last_transition_time.as_ref());
    let status = pod.status.as_ref();
    let init = pod
        .spec
        .iter()
        .flat_map(|spec| spec.init_containers.iter().flatten());
    let is_sidecar = |name: &str| {
        let mut sidecars = init
            .clone()
            .filter(|container| container.restart_policy.as_deref() == Some("Always"));
        sidecars.any(|container| container.name == name)
    };
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
        crowd: Reverse(
            node.and_then(|node| neighbours.get(node))
                .copied()
                .unwrap_or(0),
        ),
        ready_for: magnitude(ready_since, now),
        restarts: Reverse(most_restarts(
            status.and_then(|status| status.container_statuses.as_ref()),
            |_| true,
        )),
        sidecar_restarts: Reverse(most_restarts(
            status.and_then(|status| status.init_container_statuses.as_ref()),
            is_sidecar,
        )),
        age: magnitude(pod.metadata.creation_timestamp.as_ref(), now),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
    }
}
