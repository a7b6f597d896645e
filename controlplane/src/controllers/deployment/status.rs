//! A Deployment's status: counts and the conditions Available, Progressing and ReplicaFailure. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::rolling;

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// What the plan did that the Progressing condition tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Made this new set.
    Created,
    Other,
}

/// Sets the condition unless status and reason are the same already; a transition is a change of status.
fn set(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = conditions.iter().find(|old| old.type_ == new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time
                .clone_from(&old.last_transition_time);
        }
    }
    conditions.retain(|old| old.type_ != new.type_);
    conditions.push(new);
}

fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_transition_time: Some(Time(now)),
        last_update_time: Some(Time(now)),
    }
}

fn find<'a>(conditions: &'a [DeploymentCondition], kind: &str) -> Option<&'a DeploymentCondition> {
    conditions.iter().find(|condition| condition.type_ == kind)
}

fn is(condition: Option<&DeploymentCondition>, reason: &str) -> bool {
    condition.and_then(|condition| condition.reason.as_deref()) == Some(reason)
}

/// All wanted pods are of the new template and available, and nothing else runs.
pub(super) fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let desired = rolling::desired(deployment);
    status.updated_replicas.unwrap_or(0) == desired
        && status.replicas.unwrap_or(0) == desired
        && status.available_replicas.unwrap_or(0) == desired
        && status.observed_generation >= deployment.metadata.generation
}

/// The status that these sets make, and when the progress deadline must be looked at again.
pub(super) fn status(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    all: &[Arc<ReplicaSet>],
    step: Step,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let old = deployment.status.clone().unwrap_or_default();
    let sum = |count: fn(&k8s_openapi::api::apps::v1::ReplicaSetStatus) -> i32| {
        all.iter()
            .filter_map(|set| set.status.as_ref())
            .map(count)
            .sum::<i32>()
    };
    let replicas = sum(|status| status.replicas);
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let some = |count: i32| (count > 0).then_some(count);
    let mut status = DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(replicas),
        updated_replicas: some(
            new.and_then(|set| set.status.as_ref())
                .map_or(0, |status| status.replicas),
        ),
        ready_replicas: some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(rolling::total(all) - available),
        collision_count: old.collision_count,
        conditions: None,
        terminating_replicas: some(sum(|status| status.terminating_replicas.unwrap_or(0))),
    };
    let mut conditions = old.conditions.clone().unwrap_or_default();
    let least = rolling::desired(deployment) - rolling::limits(deployment).1;
    if available >= least {
        let message = "Deployment has minimum availability.".to_owned();
        let reason = "MinimumReplicasAvailable";
        set(
            &mut conditions,
            condition("Available", "True", reason, message, now),
        );
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        let reason = "MinimumReplicasUnavailable";
        set(
            &mut conditions,
            condition("Available", "False", reason, message, now),
        );
    }
    let recheck = progress(deployment, new, &old, &status, &mut conditions, step, now);
    failures(all, &mut conditions);
    status.conditions = Some(conditions);
    (status, recheck)
}

fn progress(
    deployment: &Deployment,
    new: Option<&ReplicaSet>,
    old: &DeploymentStatus,
    status: &DeploymentStatus,
    conditions: &mut Vec<DeploymentCondition>,
    step: Step,
    now: Timestamp,
) -> Option<Duration> {
    let spec = deployment.spec.clone().unwrap_or_default();
    let deadline = spec.progress_deadline_seconds.unwrap_or(600);
    if deadline == i32::MAX {
        conditions.retain(|condition| condition.type_ != "Progressing");
        return None;
    }
    let current = find(conditions, "Progressing").cloned();
    if spec.paused == Some(true) {
        if !is(current.as_ref(), "DeploymentPaused") && !is(current.as_ref(), TIMED_OUT) {
            let message = "Deployment is paused".to_owned();
            let paused = condition("Progressing", "Unknown", "DeploymentPaused", message, now);
            set(conditions, paused);
        }
        return None;
    }
    let what = new
        .and_then(|set| set.metadata.name.as_deref())
        .map_or_else(
            || {
                format!(
                    "Deployment \"{}\"",
                    deployment.metadata.name.as_deref().unwrap_or_default()
                )
            },
            |name| format!("ReplicaSet \"{name}\""),
        );
    if step == Step::Created {
        let name = new
            .and_then(|set| set.metadata.name.as_deref())
            .unwrap_or_default();
        let message = format!("Created new replica set \"{name}\"");
        replace(
            conditions,
            condition("Progressing", "True", "NewReplicaSetCreated", message, now),
        );
        return Some(seconds(deadline));
    }
    if is(current.as_ref(), "DeploymentPaused") {
        let message = "Deployment is resumed".to_owned();
        let resumed = condition("Progressing", "Unknown", "DeploymentResumed", message, now);
        set(conditions, resumed);
        return Some(seconds(deadline));
    }
    if is_complete(deployment, status) {
        let message = format!("{what} has successfully progressed.");
        set(
            conditions,
            condition("Progressing", "True", COMPLETE, message, now),
        );
        return None;
    }
    // Once complete it stays so until there is another template: pods that fail later are no rollout.
    let settled = is(current.as_ref(), COMPLETE) && status.replicas == status.updated_replicas;
    if settled {
        return None;
    }
    if has_progressed(old, status) || current.is_none() || is(current.as_ref(), COMPLETE) {
        let message = format!("{what} is progressing.");
        replace(
            conditions,
            condition("Progressing", "True", "ReplicaSetUpdated", message, now),
        );
        return Some(seconds(deadline));
    }
    if is(current.as_ref(), TIMED_OUT) {
        return None;
    }
    let since = current
        .and_then(|condition| condition.last_update_time)
        .map_or(now, |time| time.0);
    let left = since.as_second() + i64::from(deadline) - now.as_second();
    if left > 0 {
        return Some(Duration::from_secs(left.unsigned_abs()));
    }
    let message = format!("{what} has timed out progressing.");
    set(
        conditions,
        condition("Progressing", "False", TIMED_OUT, message, now),
    );
    None
}

/// Like [`set`], but the time of the last update moves on even where nothing else changes.
fn replace(conditions: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = find(conditions, &new.type_)
        && old.status == new.status
    {
        new.last_transition_time
            .clone_from(&old.last_transition_time);
    }
    conditions.retain(|old| old.type_ != new.type_);
    conditions.push(new);
}

fn has_progressed(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let n = |count: Option<i32>| count.unwrap_or(0);
    n(new.updated_replicas) > n(old.updated_replicas)
        || n(new.replicas) - n(new.updated_replicas) < n(old.replicas) - n(old.updated_replicas)
        || n(new.ready_replicas) > n(old.ready_replicas)
        || n(new.available_replicas) > n(old.available_replicas)
}

/// A set that cannot create its pods makes its Deployment say so.
fn failures(all: &[Arc<ReplicaSet>], conditions: &mut Vec<DeploymentCondition>) {
    let failure = all
        .iter()
        .filter_map(|set| set.status.as_ref()?.conditions.as_ref())
        .flatten()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True");
    match failure {
        Some(failure) => {
            let now = failure
                .last_transition_time
                .as_ref()
                .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
            let reason = failure.reason.as_deref().unwrap_or_default();
            let message = failure.message.clone().unwrap_or_default();
            set(
                conditions,
                condition("ReplicaFailure", "True", reason, message, now),
            );
        }
        None => conditions.retain(|condition| condition.type_ != "ReplicaFailure"),
    }
}

pub(super) const CREATE_FAILED: &str = "ReplicaSetCreateError";

/// The new ReplicaSet was refused, which is told where progress is.
pub(super) fn create_failed(
    deployment: &Deployment,
    message: &str,
    now: Timestamp,
) -> Option<DeploymentStatus> {
    let spec = deployment.spec.as_ref();
    if spec.and_then(|spec| spec.progress_deadline_seconds) == Some(i32::MAX) {
        return None;
    }
    let mut status = deployment.status.clone().unwrap_or_default();
    let mut conditions = status.conditions.take().unwrap_or_default();
    let before = conditions.clone();
    let message = message.to_owned();
    set(
        &mut conditions,
        condition("Progressing", "False", CREATE_FAILED, message, now),
    );
    let changed = conditions != before;
    status.conditions = Some(conditions);
    status.observed_generation = deployment.metadata.generation;
    changed.then_some(status)
}

fn seconds(deadline: i32) -> Duration {
    Duration::from_secs(u64::try_from(deadline).unwrap_or(0) + 1)
}
