//! How many pods to create, which to delete, and the status. Pure.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

use super::rank::{self, Neighbours};
use crate::controllers::{podstate, selector};
use crate::registry::ApiError;

#[cfg(test)]
mod tests;

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) set: &'a ReplicaSet,
    /// The set's own pods, finished and terminating ones included.
    pub(super) pods: &'a [Arc<Pod>],
    /// Uids whose deletion was asked for already.
    pub(super) deleting: &'a HashSet<String>,
    pub(super) neighbours: &'a Neighbours,
    pub(super) now: Timestamp,
}

#[derive(Debug, PartialEq)]
pub(super) enum Plan {
    Keep,
    Create(usize),
    Delete(Vec<Arc<Pod>>),
}

pub(super) fn selects(set: &ReplicaSet, pod: &Pod) -> bool {
    set.spec
        .as_ref()
        .is_some_and(|spec| selector::matches(&spec.selector, pod.metadata.labels.as_ref()))
}

fn wanted(set: &ReplicaSet) -> usize {
    let replicas = set.spec.as_ref().and_then(|spec| spec.replicas);
    usize::try_from(replicas.unwrap_or(1)).unwrap_or(0)
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    if view.set.metadata.deletion_timestamp.is_some() {
        return Plan::Keep;
    }
    let active: Vec<&Arc<Pod>> = view
        .pods
        .iter()
        .filter(|pod| podstate::is_active(pod))
        .filter(|pod| {
            let uid = pod.metadata.uid.as_deref().unwrap_or_default();
            !view.deleting.contains(uid)
        })
        .collect();
    let wanted = wanted(view.set);
    if active.len() < wanted {
        return Plan::Create(wanted - active.len());
    }
    if active.len() == wanted {
        return Plan::Keep;
    }
    let surplus = active.len() - wanted;
    let mut ranked: Vec<Arc<Pod>> = active.into_iter().map(Arc::clone).collect();
    ranked.sort_by_cached_key(|pod| rank::rank(pod, view.neighbours, view.now));
    ranked.truncate(surplus);
    Plan::Delete(ranked)
}

/// The pod that every creation of this set sends.
pub(super) fn pod_from_template(set: &ReplicaSet, owner: OwnerReference) -> Pod {
    let template = set
        .spec
        .as_ref()
        .and_then(|spec| spec.template.clone())
        .unwrap_or_default();
    let metadata = template.metadata.unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!(
                "{}-",
                set.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: set.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}

/// The status to write (`None` when it is right already), and when a pod becomes available with time alone.
pub(super) fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<(&Plan, &ApiError)>,
    now: Timestamp,
) -> (Option<ReplicaSetStatus>, Option<Duration>) {
    let spec = set.spec.clone().unwrap_or_default();
    let template_labels = spec
        .template
        .as_ref()
        .and_then(|template| template.metadata.as_ref())
        .and_then(|metadata| metadata.labels.clone())
        .unwrap_or_default();
    let (mut replicas, mut labeled, mut ready, mut available) = (0, 0, 0, 0);
    let mut recheck: Option<Duration> = None;
    let terminating = pods
        .iter()
        .filter(|pod| podstate::is_terminating(pod) && !podstate::is_finished(pod))
        .count();
    for pod in pods.iter().filter(|pod| podstate::is_active(pod)) {
        replicas += 1;
        if template_labels.is_empty()
            || selector::contains(pod.metadata.labels.as_ref(), &template_labels)
        {
            labeled += 1;
        }
        if !podstate::is_ready(pod) {
            continue;
        }
        ready += 1;
        match podstate::availability(pod, spec.min_ready_seconds.unwrap_or(0), now) {
            Ok(()) => available += 1,
            Err(Some(left)) => recheck = Some(recheck.map_or(left, |other| other.min(left))),
            Err(None) => {}
        }
    }
    let old = set.status.clone().unwrap_or_default();
    // As Kubernetes shows it: a count of nothing is not there.
    let some = |count: i32| (count > 0).then_some(count);
    let new = ReplicaSetStatus {
        replicas,
        fully_labeled_replicas: some(labeled),
        ready_replicas: some(ready),
        available_replicas: some(available),
        observed_generation: set.metadata.generation,
        conditions: conditions(&old, failure, now),
        terminating_replicas: Some(i32::try_from(terminating).unwrap_or(i32::MAX)),
    };
    (changed(&old, &new).then_some(new), recheck)
}

fn changed(old: &ReplicaSetStatus, new: &ReplicaSetStatus) -> bool {
    let zero = |count: Option<i32>| count.unwrap_or(0);
    old.replicas != new.replicas
        || zero(old.fully_labeled_replicas) != zero(new.fully_labeled_replicas)
        || zero(old.ready_replicas) != zero(new.ready_replicas)
        || zero(old.available_replicas) != zero(new.available_replicas)
        || zero(old.terminating_replicas) != zero(new.terminating_replicas)
        || old.observed_generation != new.observed_generation
        || old.conditions.as_deref().unwrap_or_default()
            != new.conditions.as_deref().unwrap_or_default()
}

/// `ReplicaFailure` is there while pods cannot be created or deleted.
fn conditions(
    old: &ReplicaSetStatus,
    failure: Option<(&Plan, &ApiError)>,
    now: Timestamp,
) -> Option<Vec<ReplicaSetCondition>> {
    let known = old.conditions.iter().flatten();
    let Some((plan, error)) = failure else {
        let rest: Vec<_> = known
            .filter(|condition| condition.type_ != "ReplicaFailure")
            .cloned()
            .collect();
        return (!rest.is_empty()).then_some(rest);
    };
    let reason = match plan {
        Plan::Delete(_) => "FailedDelete",
        Plan::Keep | Plan::Create(_) => "FailedCreate",
    };
    let same = known.clone().find(|condition| {
        condition.type_ == "ReplicaFailure" && condition.reason.as_deref() == Some(reason)
    });
    let condition = same.cloned().unwrap_or_else(|| ReplicaSetCondition {
        type_: "ReplicaFailure".to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(error.to_string()),
        last_transition_time: Some(Time(now)),
    });
    let mut all: Vec<_> = known
        .filter(|condition| condition.type_ != "ReplicaFailure")
        .cloned()
        .collect();
    all.push(condition);
    Some(all)
}
