//! Tests of `controllers::cronjob::plan`.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus, JobTemplateSpec};

use super::*;
use crate::controllers::fixtures::{metadata, template};

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn cron(schedule: &str) -> CronJob {
    let mut metadata = metadata("tick");
    metadata.creation_timestamp = Some(Time(time("2026-01-01T00:00:30Z")));
    CronJob {
        metadata,
        spec: CronJobSpec {
            schedule: schedule.into(),
            concurrency_policy: Some("Allow".into()),
            job_template: JobTemplateSpec {
                metadata: None,
                spec: Some(JobSpec {
                    template: template(),
                    ..JobSpec::default()
                }),
            },
            ..CronJobSpec::default()
        },
        status: None,
    }
}

fn job(name: &str, end: Option<(&str, &str)>) -> Arc<Job> {
    let mut metadata = metadata(name);
    metadata.annotations = Some([(SCHEDULED_AT.to_owned(), String::new())].into());
    Arc::new(Job {
        metadata,
        spec: None,
        status: end.map(|(kind, at)| JobStatus {
            start_time: Some(Time(time(at))),
            completion_time: Some(Time(time(at))),
            conditions: Some(vec![JobCondition {
                type_: kind.into(),
                status: "True".into(),
                ..JobCondition::default()
            }]),
            ..JobStatus::default()
        }),
    })
}

fn look(cron: &CronJob, jobs: &[Arc<Job>], now: &str) -> Plan {
    plan(&View {
        cron,
        jobs,
        now: time(now),
    })
}

fn due(plan: &Plan) -> Option<String> {
    plan.create.as_ref().map(|(_, due)| due.to_string())
}

#[test]
fn a_job_is_made_when_it_is_due_and_the_next_time_is_known() {
    let cron = cron("*/10 * * * *");
    let plan = look(&cron, &[], "2026-01-01T00:05:00Z");
    assert_eq!(due(&plan), None);
    assert_eq!(plan.recheck, Some(Duration::from_secs(300) + SLACK));
    let plan = look(&cron, &[], "2026-01-01T00:10:01Z");
    let (job, at) = plan.create.unwrap();
    assert_eq!(at.to_string(), "2026-01-01T00:10:00Z");
    assert_eq!(job.metadata.name.as_deref(), Some("tick-29453770"));
    assert_eq!(
        job.metadata.annotations.unwrap()[SCHEDULED_AT],
        "2026-01-01T00:10:00Z"
    );
}

#[test]
fn of_the_template_a_job_has_labels_and_annotations() {
    let mut cron = cron("*/10 * * * *");
    cron.spec.job_template.metadata = Some(ObjectMeta {
        labels: Some([("app".to_owned(), "tick".to_owned())].into()),
        finalizers: Some(vec!["example.com/hold".into()]),
        name: Some("other".into()),
        ..ObjectMeta::default()
    });
    let plan = look(&cron, &[], "2026-01-01T00:10:01Z");
    let made = plan.create.unwrap().0.metadata;
    assert_eq!(made.labels.unwrap()["app"], "tick");
    assert_eq!(made.finalizers, None);
    assert_eq!(made.name.as_deref(), Some("tick-29453770"));
}

#[test]
fn a_zone_that_there_is_not_is_told_as_such() {
    let mut cron = cron("*/10 * * * *");
    cron.spec.time_zone = Some("Mars/Olympus".into());
    let plan = look(&cron, &[], "2026-01-01T00:10:01Z");
    let (_, reason, message) = &plan.events[0];
    assert_eq!(
        (reason.as_str(), message.as_str()),
        (
            "UnknownTimeZone",
            "invalid timeZone: \"Mars/Olympus\": unknown time zone Mars/Olympus"
        )
    );
}

#[test]
fn of_the_missed_times_only_the_last_is_made_up_for() {
    let mut cron = cron("* * * * *");
    let plan = look(&cron, &[], "2026-01-03T00:10:20Z");
    assert_eq!(due(&plan).unwrap(), "2026-01-03T00:10:00Z");
    let (_, reason, message) = &plan.events[0];
    assert_eq!(
        (reason.as_str(), message.as_str()),
        (
            "TooManyMissedTimes",
            "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew"
        )
    );
    // A deadline that leaves as many says so as well; a hundred are not too many.
    cron.spec.starting_deadline_seconds = Some(2 * 60 * 60);
    let plan = look(&cron, &[], "2026-01-03T00:10:20Z");
    assert_eq!(plan.events[0].1, "TooManyMissedTimes");
    cron.spec.starting_deadline_seconds = Some(100 * 60);
    let plan = look(&cron, &[], "2026-01-03T00:10:20Z");
    assert!(due(&plan).is_some() && plan.events.is_empty());
    cron.spec.starting_deadline_seconds = Some(10);
    assert_eq!(due(&look(&cron, &[], "2026-01-03T00:10:20Z")), None);
    assert!(due(&look(&cron, &[], "2026-01-03T00:10:09Z")).is_some());
    cron.spec.suspend = Some(true);
    let plan = look(&cron, &[], "2026-01-03T00:10:09Z");
    assert_eq!((due(&plan), plan.recheck), (None, None));
}

#[test]
fn what_still_runs_is_heeded_as_the_policy_says() {
    let mut cron = cron("*/10 * * * *");
    let running = [job("tick-1", None)];
    let now = "2026-01-01T00:10:01Z";
    let plan = look(&cron, &running, now);
    assert!(due(&plan).is_some());
    assert_eq!(plan.status.active.unwrap().len(), 1);
    cron.spec.concurrency_policy = Some("Forbid".into());
    let plan = look(&cron, &running, now);
    assert_eq!(
        (due(&plan), plan.events[0].1.as_str()),
        (None, "JobAlreadyActive")
    );
    cron.spec.concurrency_policy = Some("Replace".into());
    let plan = look(&cron, &running, now);
    assert_eq!((due(&plan).is_some(), plan.replace.len()), (true, 1));
}

#[test]
fn a_job_of_this_time_is_not_made_twice() {
    let cron = cron("*/10 * * * *");
    // It was made, and then the leader changed before the status was written.
    let plan = look(&cron, &[job("tick-29453770", None)], "2026-01-01T00:10:01Z");
    assert_eq!(due(&plan), None);
    assert_eq!(
        plan.status.last_schedule_time,
        Some(Time(time("2026-01-01T00:10:00Z")))
    );
}

#[test]
fn history_is_kept_to_its_limits() {
    let mut cron = cron("0 0 1 1 *");
    cron.spec.successful_jobs_history_limit = Some(1);
    cron.spec.failed_jobs_history_limit = Some(0);
    cron.status = Some(CronJobStatus {
        active: Some(vec![
            reference(&job("b", None)),
            reference(&job("lost", None)),
        ]),
        ..CronJobStatus::default()
    });
    let jobs = [
        job("a", Some(("Complete", "2026-01-01T00:01:00Z"))),
        job("b", Some(("Complete", "2026-01-01T00:02:00Z"))),
        job("c", Some(("Failed", "2026-01-01T00:03:00Z"))),
    ];
    let plan = look(&cron, &jobs, "2026-01-01T00:10:01Z");
    let names: Vec<_> = plan
        .forget
        .iter()
        .map(|job| job.metadata.name.as_deref().unwrap())
        .collect();
    assert_eq!(names, ["a", "c"]);
    assert_eq!(plan.status.active, None);
    assert_eq!(
        plan.status.last_successful_time,
        Some(Time(time("2026-01-01T00:02:00Z")))
    );
    let reasons: Vec<_> = plan
        .events
        .iter()
        .map(|(_, reason, _)| reason.as_str())
        .collect();
    assert_eq!(reasons, ["SawCompletedJob", "MissingJob"]);
}
