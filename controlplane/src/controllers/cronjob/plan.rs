//! What to do about a CronJob now. Pure.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use crate::controllers::job;
use crate::controllers::owner::controller_reference;
use crate::kinds::schedule::{Schedule, ScheduleError, until};
use crate::registry::EventType;

#[cfg(test)]
mod tests;

const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More times than these, the one that is due included, are told.
const TOO_MANY: i64 = 100;
/// After a time that is due, so that it is past when it is looked at.
const SLACK: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) cron: &'a CronJob,
    /// The CronJob's own Jobs.
    pub(super) jobs: &'a [Arc<Job>],
    pub(super) now: Timestamp,
}

#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) status: CronJobStatus,
    /// A Job that is due, and when it was.
    pub(super) create: Option<(Box<Job>, Timestamp)>,
    /// Jobs that make room for it.
    pub(super) replace: Vec<Arc<Job>>,
    /// Finished ones beyond the history limits.
    pub(super) forget: Vec<Arc<Job>>,
    pub(super) events: Vec<(EventType, String, String)>,
    pub(super) recheck: Option<Duration>,
}

impl Plan {
    fn event(&mut self, kind: EventType, reason: &str, message: String) {
        self.events.push((kind, reason.to_owned(), message));
    }
}

fn spec(cron: &CronJob) -> CronJobSpec {
    cron.spec.clone()
}

pub(super) fn reference(job: &Job) -> ObjectReference {
    ObjectReference {
        api_version: Some("batch/v1".to_owned()),
        kind: Some("Job".to_owned()),
        name: job.metadata.name.clone(),
        namespace: job.metadata.namespace.clone(),
        uid: job.metadata.uid.clone(),
        resource_version: job.metadata.resource_version.clone(),
        field_path: None,
    }
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan {
        status: view.cron.status.clone().unwrap_or_default(),
        ..Plan::default()
    };
    note_jobs(view, &mut plan);
    if view.cron.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    forget(view, &mut plan);
    start(view, &mut plan);
    if plan.status.active.as_ref().is_some_and(Vec::is_empty) {
        plan.status.active = None;
    }
    plan
}

/// Brings the list of active Jobs up to date.
fn note_jobs(view: &View<'_>, plan: &mut Plan) {
    let mut active = plan.status.active.take().unwrap_or_default();
    for job in view.jobs {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let listed = active.iter().any(|one| one.uid == job.metadata.uid);
        match job::finished(job) {
            None if !listed => {
                let annotations = job.metadata.annotations.as_ref();
                if annotations.is_some_and(|all| all.contains_key(SCHEDULED_AT)) {
                    // Made here, but the status was not written.
                    active.push(reference(job));
                    continue;
                }
                // Made by hand: it is in nobody's way.
                let message =
                    format!("Saw a job that the controller did not create or forgot: {name}");
                plan.event(EventType::Warning, "UnexpectedJob", message);
            }
            None => {}
            Some(condition) => {
                if listed {
                    active.retain(|one| one.uid != job.metadata.uid);
                    let message =
                        format!("Saw completed job: {name}, condition: {}", condition.type_);
                    plan.event(EventType::Normal, "SawCompletedJob", message);
                }
                let end = job
                    .status
                    .as_ref()
                    .and_then(|status| status.completion_time.clone());
                if condition.type_ == "Complete" && end > plan.status.last_successful_time {
                    plan.status.last_successful_time = end;
                }
            }
        }
    }
    active.retain(|one| {
        let there = view.jobs.iter().any(|job| job.metadata.uid == one.uid);
        if !there {
            let name = one.name.as_deref().unwrap_or_default();
            plan.events.push((
                EventType::Normal,
                "MissingJob".to_owned(),
                format!("Active job went missing: {name}"),
            ));
        }
        there
    });
    plan.status.active = Some(active);
}

/// The oldest finished Jobs beyond the limits.
fn forget(view: &View<'_>, plan: &mut Plan) {
    let spec = spec(view.cron);
    for (kind, limit) in [
        ("Complete", spec.successful_jobs_history_limit),
        ("Failed", spec.failed_jobs_history_limit),
    ] {
        let Some(limit) = limit.and_then(|limit| usize::try_from(limit).ok()) else {
            continue;
        };
        let mut finished: Vec<&Arc<Job>> = view
            .jobs
            .iter()
            .filter(|job| {
                job.metadata.deletion_timestamp.is_none()
                    && job::finished(job).is_some_and(|end| end.type_ == kind)
            })
            .collect();
        finished.sort_by_key(|job| {
            let started = job
                .status
                .as_ref()
                .and_then(|status| status.start_time.clone());
            (started, job.metadata.name.clone())
        });
        let surplus = finished.len().saturating_sub(limit);
        plan.forget
            .extend(finished.into_iter().take(surplus).cloned());
    }
}

/// The last time at which it was due, and how many there were with those before it that were missed; 0 where there
/// was only this one.
fn last_due(cron: &CronJob, schedule: &Schedule, now: Timestamp) -> Option<(Timestamp, i64)> {
    let created = cron.metadata.creation_timestamp.as_ref()?.0;
    let last = cron
        .status
        .as_ref()
        .and_then(|status| status.last_schedule_time.as_ref())
        .map(|time| time.0);
    let mut earliest = last.unwrap_or(created);
    if let Some(seconds) = spec(cron).starting_deadline_seconds
        && let Ok(deadline) = now.checked_sub(SignedDuration::from_secs(seconds))
    {
        earliest = earliest.max(deadline);
    }
    let first = schedule.next(earliest).filter(|first| *first <= now)?;
    let Some(second) = schedule.next(first).filter(|second| *second <= now) else {
        return Some((first, 0));
    };
    // Far back: most of the way in one step, by the distance of the first two.
    let step = second.duration_since(first).as_secs().max(1);
    let missed = now.duration_since(first).as_secs() / step + 1;
    let near = i64::max(missed - 2, 0).saturating_mul(step);
    let near = first
        .checked_add(SignedDuration::from_secs(near - 1))
        .unwrap_or(first)
        .max(earliest);
    let mut last = first;
    let mut next = schedule.next(near);
    while let Some(at) = next.filter(|at| *at <= now) {
        last = last.max(at);
        next = schedule.next(at);
    }
    Some((last, missed))
}

fn start(view: &View<'_>, plan: &mut Plan) {
    let spec = spec(view.cron);
    let schedule = match Schedule::parse(&spec.schedule, spec.time_zone.as_deref()) {
        Ok(schedule) => schedule,
        Err(ScheduleError::Zone(zone)) => {
            let message = format!("invalid timeZone: {zone:?}: unknown time zone {zone}");
            plan.event(EventType::Warning, "UnknownTimeZone", message);
            return;
        }
        Err(error) => {
            let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
            plan.event(EventType::Warning, "UnparseableSchedule", message);
            return;
        }
    };
    if spec.suspend == Some(true) {
        return;
    }
    let next = schedule.next(view.now);
    plan.recheck = next.map(|next| until(next, view.now) + SLACK);
    let Some((due, missed)) = last_due(view.cron, &schedule, view.now) else {
        return;
    };
    if missed > TOO_MANY {
        // Without the number, which would make another event of each.
        let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
        plan.event(EventType::Warning, "TooManyMissedTimes", message.to_owned());
    }
    if let Some(seconds) = spec.starting_deadline_seconds
        && view.now.duration_since(due) > SignedDuration::from_secs(seconds)
    {
        let message = format!(
            "Missed scheduled time to start a job: {}",
            schedule.local(due)
        );
        plan.event(EventType::Warning, "MissSchedule", message);
        return;
    }
    let job = job_for(view.cron, &schedule, due);
    let listed = |one: &ObjectReference| one.name == job.metadata.name;
    let made = view
        .jobs
        .iter()
        .any(|other| other.metadata.name == job.metadata.name);
    let active = plan.status.active.get_or_insert_default();
    if active.iter().any(listed) || made {
        // The status was not written when it was made.
        plan.status.last_schedule_time = Some(Time(due));
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let message = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.event(EventType::Normal, "JobAlreadyActive", message.to_owned());
            return;
        }
        Some("Replace") => {
            plan.replace = view
                .jobs
                .iter()
                .filter(|job| active.iter().any(|one| one.uid == job.metadata.uid))
                .cloned()
                .collect();
        }
        _ => {}
    }
    plan.create = Some((Box::new(job), due));
}

/// Its name follows from the time, so that one time makes one Job whoever tries. Of the template's metadata it has
/// labels and annotations, as in Kubernetes: a finalizer would have to be taken off each.
fn job_for(cron: &CronJob, schedule: &Schedule, due: Timestamp) -> Job {
    let template = spec(cron).job_template;
    let metadata = template.metadata.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    annotations.insert(SCHEDULED_AT.to_owned(), schedule.local(due));
    Job {
        metadata: ObjectMeta {
            name: Some(format!(
                "{}-{}",
                cron.metadata.name.as_deref().unwrap_or_default(),
                due.as_second() / 60
            )),
            namespace: cron.metadata.namespace.clone(),
            labels: metadata.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![controller_reference(cron)]),
            creation_timestamp: None,
            ..ObjectMeta::default()
        },
        spec: template.spec,
        status: None,
    }
}
