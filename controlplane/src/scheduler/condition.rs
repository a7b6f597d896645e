//! What the scheduler writes into the status of a pod: why it has no node, and that it is put out for another. Pure.

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::NAME;
use super::request::PREEMPTED;
use super::state::Nomination;

/// Why a pod is not on a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No node fits.
    Unschedulable,
    /// One fits, and something went wrong.
    Error,
}

impl Refusal {
    fn reason(self) -> &'static str {
        match self {
            Self::Unschedulable => "Unschedulable",
            Self::Error => "SchedulerError",
        }
    }
}

/// The pod that is put out, with the condition that says so.
pub(super) fn as_target(pod: &Pod, now: jiff::Timestamp) -> Pod {
    let mut changed = pod.clone();
    let status = changed.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != "DisruptionTarget");
    conditions.push(PodCondition {
        type_: "DisruptionTarget".to_owned(),
        status: "True".to_owned(),
        reason: Some(PREEMPTED.to_owned()),
        message: Some(format!(
            "{NAME}: preempting to accommodate a higher priority pod"
        )),
        last_transition_time: Some(Time(now)),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
    changed
}

/// The pod with `PodScheduled=False`; `None` when it says so already.
pub(super) fn with_condition(
    pod: &Pod,
    refusal: Refusal,
    why: &str,
    nomination: Nomination<'_>,
    now: jiff::Timestamp,
) -> Option<Pod> {
    let mut changed = pod.clone();
    let status = changed.status.get_or_insert_default();
    let before = status.nominated_node_name.clone();
    match nomination {
        Nomination::Kept => {}
        Nomination::Lost => status.nominated_node_name = None,
        Nomination::Of(node) => status.nominated_node_name = Some(node.to_owned()),
    }
    let nominated = status.nominated_node_name != before;
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled");
    let was_false = old.is_some_and(|old| old.status == "False");
    let same = old.is_some_and(|old| {
        old.message.as_deref() == Some(why)
            && old.reason.as_deref() == Some(refusal.reason())
            && old.observed_generation == pod.metadata.generation
    });
    if !nominated && was_false && same {
        return None;
    }
    let since = old
        .filter(|_| was_false)
        .and_then(|old| old.last_transition_time.clone())
        .unwrap_or(Time(now));
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some(refusal.reason().to_owned()),
        message: Some(why.to_owned()),
        last_transition_time: Some(since),
        observed_generation: pod.metadata.generation,
        ..PodCondition::default()
    });
    Some(changed)
}
