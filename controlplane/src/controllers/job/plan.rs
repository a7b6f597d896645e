//! What to do about a Job now, and its status. Pure.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobStatus};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::count::{self, Count};
use super::end::{self, Outcome};
use super::pods::{self, New};
use super::wanted;
use crate::controllers::podstate;
use crate::registry::EventType;

#[cfg(test)]
mod tests;

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) job: &'a Job,
    /// The Job's own pods.
    pub(super) pods: &'a [Arc<Pod>],
    /// Uids whose deletion was asked for already.
    pub(super) deleting: &'a HashSet<String>,
    pub(super) now: Timestamp,
}

/// Carried out in this order: nothing is let go before it is on record.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// To be written if it differs.
    pub(super) status: JobStatus,
    /// Pods whose finalizer goes.
    pub(super) untrack: Vec<Arc<Pod>>,
    /// Pods that are too many: their ends count nowhere.
    pub(super) drop: Vec<Arc<Pod>>,
    /// Pods of a Job that ends: what becomes of them counts.
    pub(super) delete: Vec<Arc<Pod>>,
    pub(super) create: Vec<New>,
    pub(super) events: Vec<(EventType, String, String)>,
    pub(super) recheck: Option<Duration>,
}

impl Plan {
    pub(super) fn look_again(&mut self, after: Duration) {
        self.recheck = Some(self.recheck.map_or(after, |other| other.min(after)));
    }

    fn event(&mut self, kind: EventType, reason: &str, message: &str) {
        self.events
            .push((kind, reason.to_owned(), message.to_owned()));
    }
}

pub(in crate::controllers) fn condition<'a>(job: &'a Job, kind: &str) -> Option<&'a JobCondition> {
    let conditions = job.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == kind && condition.status == "True")
}

/// The condition by which the Job is over.
pub(in crate::controllers) fn finished(job: &Job) -> Option<&JobCondition> {
    condition(job, "Complete").or_else(|| condition(job, "Failed"))
}

fn set_condition(
    status: &mut JobStatus,
    kind: &str,
    value: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let conditions = status.conditions.get_or_insert_default();
    conditions.retain(|condition| condition.type_ != kind);
    conditions.push(JobCondition {
        type_: kind.to_owned(),
        status: value.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_probe_time: Some(Time(now)),
        last_transition_time: Some(Time(now)),
    });
}

fn number(count: usize) -> Option<i32> {
    i32::try_from(count).ok().filter(|count| *count > 0)
}

/// Pods at work, and those that were told to end and have not.
pub(super) struct Census {
    pub(super) active: Vec<Arc<Pod>>,
    pub(super) terminating: Vec<Arc<Pod>>,
}

fn census(view: &View<'_>) -> Census {
    let (mut active, mut terminating) = (Vec::new(), Vec::new());
    for pod in view.pods.iter().filter(|pod| !podstate::is_finished(pod)) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        if podstate::is_terminating(pod) {
            // Its grace is over and only its finalizer holds it: nothing runs any more.
            if pod.metadata.deletion_grace_period_seconds != Some(0) {
                terminating.push(Arc::clone(pod));
            }
        } else if view.deleting.contains(uid) {
            terminating.push(Arc::clone(pod));
        } else {
            active.push(Arc::clone(pod));
        }
    }
    Census {
        active,
        terminating,
    }
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan {
        status: view.job.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    let tracked = || {
        view.pods
            .iter()
            .filter(|pod| pods::is_tracked(pod))
            .cloned()
    };
    if finished(view.job).is_some() {
        plan.untrack = tracked().collect();
        return plan;
    }
    let deleted = view.job.metadata.deletion_timestamp.is_some();
    let ending = deleted || end::decided(view.job).is_some();
    let count = count::count(view.job, view.pods, ending);
    let census = census(view);
    if !deleted {
        begin(view, &mut plan);
    }
    let outcome = end::outcome(view.job, &plan.status, &count, &census, view.now);
    report(view, &count, &census, &mut plan);
    plan.untrack.clone_from(&count.untrack);
    if deleted {
        return plan;
    }
    match outcome {
        Some(outcome) => finish(view, &count, &census, &outcome, &mut plan),
        None => {
            wait_for_deadline(view, &mut plan);
            if suspended(view.job) {
                plan.drop.clone_from(&census.active);
            } else {
                wanted::adjust(view, &count, &census, &mut plan);
            }
        }
    }
    plan
}

pub(super) fn suspended(job: &Job) -> bool {
    job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true)
}

/// Start, suspension and resumption.
fn begin(view: &View<'_>, plan: &mut Plan) {
    let was_suspended = condition(view.job, "Suspended").is_some();
    if suspended(view.job) {
        if !was_suspended {
            set_condition(
                &mut plan.status,
                "Suspended",
                "True",
                "JobSuspended",
                "Job suspended",
                view.now,
            );
            plan.event(EventType::Normal, "Suspended", "Job suspended");
        }
        plan.status.start_time = None;
        return;
    }
    if was_suspended {
        set_condition(
            &mut plan.status,
            "Suspended",
            "False",
            "JobResumed",
            "Job resumed",
            view.now,
        );
        plan.event(EventType::Normal, "Resumed", "Job resumed");
        plan.status.start_time = Some(Time(view.now));
    }
    plan.status.start_time.get_or_insert(Time(view.now));
}

fn report(view: &View<'_>, count: &Count, census: &Census, plan: &mut Plan) {
    let ready = census
        .active
        .iter()
        .filter(|pod| podstate::is_ready(pod))
        .count();
    let status = &mut plan.status;
    let some = |count: i32| (count > 0).then_some(count);
    status.active = number(census.active.len());
    status.ready = Some(i32::try_from(ready).unwrap_or(i32::MAX));
    status.terminating = Some(i32::try_from(census.terminating.len()).unwrap_or(i32::MAX));
    status.succeeded = some(count.counted_succeeded);
    status.failed = some(count.counted_failed);
    status.uncounted_terminated_pods = Some(count.uncounted.clone());
    if pods::is_indexed(view.job) {
        let shown = super::indexes::shown;
        let text = shown(&count.completed);
        status.completed_indexes = (!text.is_empty()).then_some(text);
        let limited = pods::spec(view.job).backoff_limit_per_index.is_some();
        status.failed_indexes = limited.then(|| shown(&count.failed_indexes));
    }
}

fn wait_for_deadline(view: &View<'_>, plan: &mut Plan) {
    let deadline = pods::spec(view.job).active_deadline_seconds;
    if let (Some(seconds), Some(start)) = (deadline, &plan.status.start_time)
        && let Ok(at) = start.0.checked_add(SignedDuration::from_secs(seconds))
    {
        let left = Duration::try_from(at.duration_since(view.now)).unwrap_or_default();
        plan.look_again(left + Duration::from_millis(1));
    }
}

/// First the Job says how it will end and its pods go; when they are gone and counted it is over.
fn finish(view: &View<'_>, count: &Count, census: &Census, outcome: &Outcome, plan: &mut Plan) {
    let (target, last) = outcome.conditions();
    if condition(view.job, target).is_none() {
        set_condition(
            &mut plan.status,
            target,
            "True",
            &outcome.reason,
            &outcome.message,
            view.now,
        );
    }
    plan.delete.clone_from(&census.active);
    let tracked = view.pods.iter().any(|pod| pods::is_tracked(pod));
    let pending = count.uncounted.succeeded.is_some() || count.uncounted.failed.is_some();
    if !census.active.is_empty() || !census.terminating.is_empty() || tracked || pending {
        return;
    }
    set_condition(
        &mut plan.status,
        last,
        "True",
        &outcome.reason,
        &outcome.message,
        view.now,
    );
    if outcome.success {
        plan.status.completion_time = Some(Time(view.now));
        plan.event(EventType::Normal, "Completed", "Job completed");
    } else {
        plan.event(EventType::Warning, &outcome.reason, &outcome.message);
    }
}
