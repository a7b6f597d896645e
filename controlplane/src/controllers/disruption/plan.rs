//! The status of a budget from its pods. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, OwnerReference, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::DELETION_TIMEOUT;
use crate::controllers::owner::controller_of;
use crate::controllers::podstate;
use crate::kinds::int_or_percent;

pub(super) struct View<'a> {
    pub(super) budget: &'a PodDisruptionBudget,
    pub(super) pods: &'a [Arc<Pod>],
    /// Per controller of the pods how many it wants, or why that cannot be known.
    pub(super) scales: Vec<Result<i64, String>>,
}

#[derive(Debug, Default)]
pub(super) struct Done {
    /// `None` when it is right already.
    pub(super) status: Option<PodDisruptionBudgetStatus>,
    pub(super) problem: Option<String>,
    /// Pods whose eviction is given up: nobody has deleted them.
    pub(super) kept: Vec<Arc<Pod>>,
    pub(super) again: Option<Duration>,
}

/// Each controller of the pods once, with the name of one of its pods.
pub(super) fn controllers(pods: &[Arc<Pod>]) -> Vec<(OwnerReference, String)> {
    let mut found: BTreeMap<String, (OwnerReference, String)> = BTreeMap::new();
    for pod in pods {
        if let Some(owner) = controller_of(&pod.metadata) {
            let name = pod.metadata.name.clone().unwrap_or_default();
            found
                .entry(owner.uid.clone())
                .or_insert_with(|| (owner.clone(), name));
        }
    }
    found.into_values().collect()
}

/// What is to be said of pods that nobody has a number for, where it would be needed.
pub(super) fn unmanaged(view: &View<'_>) -> Option<String> {
    let spec = view.budget.spec.as_ref()?;
    let counted = spec.max_unavailable.is_some()
        || matches!(spec.min_available, Some(IntOrString::String(_)));
    let mut pods = view.pods.iter();
    if !counted || pods.all(|pod| controller_of(&pod.metadata).is_some()) {
        return None;
    }
    let selector = serde_json::to_string(&spec.selector).unwrap_or_default();
    Some(format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be unmanaged. As a result, \
         the status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
         for these pods please set \".spec.minAvailable\" field of the PDB to an integer value."
    ))
}

fn resolve(value: &IntOrString, total: i64) -> i64 {
    let value = match value {
        IntOrString::Int(number) => (*number).into(),
        IntOrString::String(text) => text.clone().into(),
    };
    int_or_percent::resolve(&value, total, true).unwrap_or(0)
}

/// Pods that there should be, and that must be healthy.
fn wanted(view: &View<'_>) -> Result<(i64, i64), String> {
    let there = i64::try_from(view.pods.len()).unwrap_or(i64::MAX);
    let scale = || view.scales.iter().cloned().sum::<Result<i64, String>>();
    let Some(spec) = &view.budget.spec else {
        return Ok((there, 0));
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let all = scale()?;
            Ok((all, (all - resolve(most, all)).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => Ok((there, i64::from(*least))),
        (None, Some(least)) => {
            let all = scale()?;
            Ok((all, resolve(least, all)))
        }
        (None, None) => Ok((there, 0)),
    }
}

pub(super) fn plan(view: &View<'_>, now: Timestamp) -> Done {
    let old = view.budget.status.clone().unwrap_or_default();
    let Disrupted {
        waited_for: disrupted,
        kept,
        again,
    } = disrupted(view, &old, now);
    let healthy = view.pods.iter().filter(|pod| {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        !podstate::is_terminating(pod) && !disrupted.contains_key(name) && podstate::is_ready(pod)
    });
    let current = i64::try_from(healthy.count()).unwrap_or(i64::MAX);
    let (expected, desired, problem) = match wanted(view) {
        Ok((expected, desired)) => (expected, desired, None),
        Err(problem) => (
            i64::from(old.expected_pods.unwrap_or(0)),
            i64::from(old.desired_healthy.unwrap_or(0)),
            Some(problem),
        ),
    };
    // What cannot be worked out allows nothing.
    let allowed = if expected > 0 && problem.is_none() {
        (current - desired).max(0)
    } else {
        0
    };
    let generation = view.budget.metadata.generation;
    let condition = match &problem {
        Some(problem) => ("False", "SyncFailed", problem.as_str()),
        None if allowed > 0 => ("True", "SufficientPods", ""),
        None => ("False", "InsufficientPods", ""),
    };
    let number = |value: i64| Some(i32::try_from(value).unwrap_or(i32::MAX));
    let status = PodDisruptionBudgetStatus {
        conditions: Some(conditions(&old, condition, generation, now)),
        current_healthy: number(current),
        desired_healthy: number(desired),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        disruptions_allowed: number(allowed),
        expected_pods: number(expected),
        observed_generation: generation,
    };
    Done {
        status: (status != old).then_some(status),
        problem,
        kept,
        again,
    }
}

/// Evictions that the status tells of.
#[derive(Debug, Default)]
struct Disrupted {
    /// Whose pods are not gone yet.
    waited_for: BTreeMap<String, Time>,
    /// Pods for whose end it was waited long enough.
    kept: Vec<Arc<Pod>>,
    /// When the next is given up.
    again: Option<Duration>,
}

fn disrupted(view: &View<'_>, old: &PodDisruptionBudgetStatus, now: Timestamp) -> Disrupted {
    let mut found = Disrupted::default();
    for (name, since) in old.disrupted_pods.iter().flatten() {
        let there = view
            .pods
            .iter()
            .find(|pod| pod.metadata.name.as_ref() == Some(name) && !podstate::is_terminating(pod));
        let Some(pod) = there else { continue };
        let age = now.duration_since(since.0).unsigned_abs();
        if age >= DELETION_TIMEOUT {
            found.kept.push(Arc::clone(pod));
            continue;
        }
        let left = DELETION_TIMEOUT - age;
        found.again = Some(found.again.map_or(left, |sooner| sooner.min(left)));
        found.waited_for.insert(name.clone(), since.clone());
    }
    found
}

fn conditions(
    old: &PodDisruptionBudgetStatus,
    (status, reason, message): (&str, &str, &str),
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    const KIND: &str = "DisruptionAllowed";
    let mut all = old.conditions.clone().unwrap_or_default();
    let before = all.iter().find(|known| known.type_ == KIND);
    let since = before
        .filter(|known| known.status == status)
        .map_or(Time(now), |known| known.last_transition_time.clone());
    let condition = Condition {
        type_: KIND.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message: message.to_owned(),
        observed_generation: generation,
        last_transition_time: since,
    };
    all.retain(|known| known.type_ != KIND);
    all.push(condition);
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;

    fn budget(spec: &Value, status: &Value) -> PodDisruptionBudget {
        serde_json::from_value(json!({
            "metadata": {"name": "b", "namespace": "ns", "generation": 3}, "spec": spec, "status": status,
        }))
        .unwrap()
    }

    fn pods(ready: usize, not: usize) -> Vec<Arc<Pod>> {
        (0..ready + not)
            .map(|number| {
                let state = if number < ready { "True" } else { "False" };
                Arc::new(
                    serde_json::from_value(json!({
                        "metadata": {"name": format!("p{number}"), "namespace": "ns"},
                        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": state}]},
                    }))
                    .unwrap(),
                )
            })
            .collect()
    }

    fn numbers(spec: &Value, pods: &[Arc<Pod>], scale: i64) -> (i32, i32, i32, i32) {
        let budget = budget(spec, &json!({}));
        let view = View {
            budget: &budget,
            pods,
            scales: vec![Ok(scale)],
        };
        let status = plan(&view, Timestamp::UNIX_EPOCH).status.unwrap();
        assert_eq!(status.observed_generation, Some(3));
        (
            status.disruptions_allowed.unwrap(),
            status.current_healthy.unwrap(),
            status.desired_healthy.unwrap(),
            status.expected_pods.unwrap(),
        )
    }

    #[test]
    fn the_status_is_that_of_kubernetes() {
        assert_eq!(
            numbers(&json!({"minAvailable": 2}), &pods(3, 0), 3),
            (1, 3, 2, 3)
        );
        assert_eq!(
            numbers(&json!({"minAvailable": "50%"}), &pods(3, 0), 3),
            (1, 3, 2, 3)
        );
        assert_eq!(
            numbers(&json!({"maxUnavailable": 1}), &pods(2, 1), 3),
            (0, 2, 2, 3)
        );
        assert_eq!(
            numbers(&json!({"maxUnavailable": "34%"}), &pods(3, 0), 3),
            (2, 3, 1, 3)
        );
        assert_eq!(numbers(&json!({"minAvailable": 1}), &[], 0), (0, 0, 1, 0));
    }

    #[test]
    fn an_eviction_counts_until_its_pod_goes_or_it_is_given_up() {
        let status = json!({"disruptedPods": {"p0": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z"}});
        let budget = budget(&json!({"minAvailable": 1}), &status);
        let all = pods(3, 0);
        let view = View {
            budget: &budget,
            pods: &all,
            scales: Vec::new(),
        };
        let at = |seconds| plan(&view, Timestamp::from_second(seconds).unwrap());
        let soon = at(20);
        assert_eq!(soon.again, Some(Duration::from_secs(100)));
        let status = soon.status.unwrap();
        assert_eq!(status.current_healthy, Some(2));
        assert_eq!(status.disrupted_pods.unwrap().len(), 1);
        assert!(soon.kept.is_empty());
        let later = at(130);
        assert_eq!(later.kept[0].metadata.name.as_deref(), Some("p0"));
        let later = later.status.unwrap();
        assert_eq!(later.current_healthy, Some(3));
        assert!(later.disrupted_pods.is_none());
    }

    #[test]
    fn pods_without_a_controller_are_told_of_where_its_number_is_needed() {
        let all = pods(1, 0);
        let said = |spec: &Value| {
            let budget = budget(spec, &json!({}));
            unmanaged(&View {
                budget: &budget,
                pods: &all,
                scales: Vec::new(),
            })
        };
        assert_eq!(said(&json!({"minAvailable": 1})), None);
        let selector = json!({"matchLabels": {"app": "web"}});
        for spec in [
            json!({"minAvailable": "50%", "selector": selector}),
            json!({"maxUnavailable": 1, "selector": selector}),
        ] {
            let said = said(&spec).unwrap();
            assert!(said.contains("were found to be unmanaged"), "{said}");
            assert!(said.contains(r#"{"matchLabels":{"app":"web"}}"#), "{said}");
        }
    }

    #[test]
    fn what_cannot_be_worked_out_allows_nothing() {
        let budget = budget(&json!({"maxUnavailable": 1}), &json!({}));
        let all = pods(3, 0);
        let view = View {
            budget: &budget,
            pods: &all,
            scales: vec![Err(
                "daemonsets.apps does not implement the scale subresource".into(),
            )],
        };
        let done = plan(&view, Timestamp::UNIX_EPOCH);
        let status = done.status.unwrap();
        assert_eq!(status.disruptions_allowed, Some(0));
        let condition = &status.conditions.unwrap()[0];
        assert_eq!(
            (condition.reason.as_str(), condition.message.as_str()),
            (
                "SyncFailed",
                "daemonsets.apps does not implement the scale subresource"
            )
        );
    }
}
