//! What a node's silence and conditions mean. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};

use crate::controllers::podstate;

pub(super) const NOT_READY: &str = "node.kubernetes.io/not-ready";
pub(super) const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that are taints while they are True.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    (
        "NetworkUnavailable",
        "node.kubernetes.io/network-unavailable",
    ),
];
/// Conditions that are unknown when the node is silent.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];
/// Keys of the taints that are made here and nowhere else.
const OURS: [&str; 7] = [
    NOT_READY,
    UNREACHABLE,
    UNSCHEDULABLE,
    PRESSURES[0].1,
    PRESSURES[1].1,
    PRESSURES[2].1,
    PRESSURES[3].1,
];

/// Whatever a living node changes again and again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Beat {
    renewed: Option<MicroTime>,
    reported: Option<Time>,
}

pub(super) fn beat(node: &Node, lease: Option<&Lease>) -> Beat {
    Beat {
        renewed: lease
            .and_then(|lease| lease.spec.as_ref())
            .and_then(|spec| spec.renew_time.clone()),
        reported: ready(node).and_then(|condition| condition.last_heartbeat_time.clone()),
    }
}

fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|condition| condition.type_ == kind)
}

/// A node that was made so lately has just come.
const NEW: SignedDuration = SignedDuration::from_secs(60);

pub(super) fn is_new(node: &Node, now: Timestamp) -> bool {
    let made = node.metadata.creation_timestamp.as_ref();
    made.is_some_and(|made| now.duration_since(made.0) < NEW)
}

pub(super) fn ready(node: &Node) -> Option<&NodeCondition> {
    condition(node, "Ready")
}

pub(super) fn is_ready(node: &Node) -> bool {
    ready(node).is_some_and(|condition| condition.status == "True")
}

pub(super) fn needs_cidr(node: &Node) -> bool {
    node.metadata.deletion_timestamp.is_none()
        && node
            .spec
            .as_ref()
            .and_then(|spec| spec.pod_cidr.as_deref())
            .is_none_or(str::is_empty)
}

/// The node with all that it reports itself as unknown; `None` when it says so already.
pub(super) fn silenced(node: &Node, now: Timestamp) -> Option<Node> {
    let mut changed = node.clone();
    let conditions = changed
        .status
        .get_or_insert_default()
        .conditions
        .get_or_insert_default();
    for kind in REPORTED {
        let unknown = |reason: &str, message: &str| NodeCondition {
            type_: kind.to_owned(),
            status: "Unknown".to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message.to_owned()),
            last_transition_time: Some(Time(now)),
            last_heartbeat_time: None,
        };
        match conditions
            .iter_mut()
            .find(|condition| condition.type_ == kind)
        {
            Some(known) if known.status == "Unknown" => {}
            Some(known) => {
                let heartbeat = known.last_heartbeat_time.take();
                let stopped = "Kubelet stopped posting node status.";
                *known = NodeCondition {
                    last_heartbeat_time: heartbeat,
                    ..unknown("NodeStatusUnknown", stopped)
                };
            }
            None => {
                let never = "Kubelet never posted node status.";
                conditions.push(unknown("NodeStatusNeverUpdated", never));
            }
        }
    }
    (changed.status != node.status).then_some(changed)
}

/// Whether a node that is not ready drives its pods away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Emptying {
    Begin,
    /// Goes on where it was begun.
    Keep,
    CallOff,
}

/// The taint that drives pods away from the node, if it is not ready. One that has not reported yet gives no new pods,
/// but drives none away.
pub(super) fn emptying_taint(node: &Node) -> Option<&'static str> {
    match ready(node)?.status.as_str() {
        "True" => None,
        "Unknown" => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    }
}

/// Whether the node has one of the taints that drive pods away from nodes that are not ready.
pub(super) fn is_emptied(node: &Node) -> bool {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    let mut keys = taints.filter(|taint| taint.effect == "NoExecute");
    keys.any(|taint| [UNREACHABLE, NOT_READY].contains(&taint.key.as_str()))
}

fn wanted_taints(node: &Node, emptying: Emptying) -> Vec<(&'static str, &'static str)> {
    let mut wanted = Vec::new();
    if let Some(key) = emptying_taint(node) {
        wanted.push((key, "NoSchedule"));
        if emptying == Emptying::Begin || (emptying == Emptying::Keep && is_emptied(node)) {
            wanted.push((key, "NoExecute"));
        }
    } else if ready(node).is_none() {
        wanted.push((NOT_READY, "NoSchedule"));
    }
    for (kind, taint) in PRESSURES {
        if condition(node, kind).is_some_and(|condition| condition.status == "True") {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if node
        .spec
        .as_ref()
        .is_some_and(|spec| spec.unschedulable == Some(true))
    {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    wanted
}

/// The node with the taints that its conditions ask for; those of others stay. `None` when they are right.
pub(super) fn tainted(node: &Node, emptying: Emptying, now: Timestamp) -> Option<Node> {
    let wanted = wanted_taints(node, emptying);
    let old: Vec<Taint> = node
        .spec
        .as_ref()
        .and_then(|spec| spec.taints.clone())
        .unwrap_or_default();
    let mut taints: Vec<Taint> = old
        .iter()
        .filter(|taint| {
            !OURS.contains(&taint.key.as_str())
                || wanted.contains(&(taint.key.as_str(), taint.effect.as_str()))
        })
        .cloned()
        .collect();
    for (key, effect) in wanted {
        if taints
            .iter()
            .any(|taint| taint.key == key && taint.effect == effect)
        {
            continue;
        }
        taints.push(Taint {
            key: key.to_owned(),
            effect: effect.to_owned(),
            // From here the pods' tolerationSeconds count.
            time_added: (effect == "NoExecute").then_some(Time(now)),
            value: None,
        });
    }
    if taints == old {
        return None;
    }
    let mut changed = node.clone();
    changed.spec.get_or_insert_default().taints = (!taints.is_empty()).then_some(taints);
    Some(changed)
}

/// The pod as not ready; `None` when it is not ready anyway.
pub(super) fn pod_not_ready(pod: &Pod, now: Timestamp) -> Option<Pod> {
    if !podstate::is_ready(pod) {
        return None;
    }
    let mut changed = pod.clone();
    let conditions = changed.status.as_mut()?.conditions.as_mut()?;
    for condition in conditions
        .iter_mut()
        .filter(|condition| condition.type_ == "Ready")
    {
        "False".clone_into(&mut condition.status);
        condition.last_transition_time = Some(Time(now));
        condition.observed_generation = pod.metadata.generation;
    }
    Some(changed)
}
