//! Tests of `controllers::job::plan`.

#![allow(clippy::unwrap_used)]

use k8s_openapi::api::batch::v1::{
    JobSpec, PodFailurePolicy, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyRule,
    SuccessPolicy, SuccessPolicyRule, UncountedTerminatedPods,
};
use k8s_openapi::api::core::v1::{ContainerState, ContainerStateTerminated, ContainerStatus};

use super::*;
use crate::controllers::fixtures::{at, metadata, selector, template};

fn job(completions: Option<i32>, parallelism: i32) -> Job {
    Job {
        metadata: metadata("work"),
        spec: Some(JobSpec {
            completions,
            parallelism: Some(parallelism),
            backoff_limit: Some(6),
            selector: Some(selector()),
            template: template(),
            ..JobSpec::default()
        }),
        status: None,
    }
}

fn indexed(completions: i32) -> Job {
    let mut job = job(Some(completions), completions);
    job.spec.as_mut().unwrap().completion_mode = Some("Indexed".into());
    job
}

fn spec(job: &mut Job) -> &mut JobSpec {
    job.spec.as_mut().unwrap()
}

/// A pod of this phase, held by the finalizer, that ended (if so) at second 0.
fn pod(name: &str, phase: &str) -> Pod {
    let mut pod = crate::controllers::fixtures::pod(name, Some("n"), None);
    pod.metadata.finalizers = Some(vec![pods::TRACKING.into()]);
    let status = pod.status.as_mut().unwrap();
    status.phase = Some(phase.into());
    if phase == "Failed" || phase == "Succeeded" {
        status.container_statuses = Some(vec![ContainerStatus {
            name: "c".into(),
            state: Some(ContainerState {
                terminated: Some(ContainerStateTerminated {
                    exit_code: if phase == "Failed" { 42 } else { 0 },
                    finished_at: Some(Time(at(0))),
                    ..ContainerStateTerminated::default()
                }),
                ..ContainerState::default()
            }),
            ..ContainerStatus::default()
        }]);
    }
    pod
}

fn of_index(index: i32, phase: &str) -> Pod {
    let mut pod = pod(&format!("i{index}-{phase}"), phase);
    let new = New {
        index: Some(index),
        failures: Some((0, 0)),
    };
    pod.metadata.annotations = pods::pod(&indexed(9), new).metadata.annotations;
    pod
}

fn untracked(mut pod: Pod) -> Pod {
    pod.metadata.finalizers = None;
    pod
}

fn look(job: &Job, pods: &[Pod], second: i64) -> Plan {
    let pods: Vec<Arc<Pod>> = pods.iter().cloned().map(Arc::new).collect();
    plan(&View {
        job,
        pods: &pods,
        deleting: &HashSet::new(),
        now: at(second),
    })
}

fn names(pods: &[Arc<Pod>]) -> Vec<&str> {
    pods.iter()
        .map(|pod| pod.metadata.name.as_deref().unwrap())
        .collect()
}

fn conditions(plan: &Plan) -> Vec<(&str, &str)> {
    let conditions = plan.status.conditions.iter().flatten();
    conditions
        .filter(|condition| condition.status == "True")
        .map(|one| {
            (
                one.type_.as_str(),
                one.reason.as_deref().unwrap_or_default(),
            )
        })
        .collect()
}

/// What happens when the plan is carried out.
fn done(job: &mut Job, pods: &mut Vec<Pod>, plan: &Plan) {
    job.status = Some(plan.status.clone());
    for pod in pods.iter_mut() {
        let uid = |other: &Arc<Pod>| other.metadata.uid == pod.metadata.uid;
        if plan.untrack.iter().any(uid) {
            pod.metadata.finalizers = None;
        }
    }
    pods.retain(|pod| {
        let uid = |other: &Arc<Pod>| other.metadata.uid == pod.metadata.uid;
        !plan.delete.iter().any(uid) && !plan.drop.iter().any(uid)
    });
}

#[test]
fn pods_are_made_up_to_the_parallelism_and_no_more_than_are_missing() {
    let mut job = job(Some(5), 3);
    assert_eq!(look(&job, &[], 0).create.len(), 3);
    job.status = Some(JobStatus {
        succeeded: Some(4),
        ..JobStatus::default()
    });
    assert_eq!(look(&job, &[], 0).create.len(), 1);
    let running = [pod("a", "Running"), pod("b", "Running")];
    let plan = look(&job, &running, 0);
    assert_eq!((plan.create.len(), plan.drop.len()), (0, 1));
    spec(&mut job).suspend = Some(true);
    let plan = look(&job, &running, 0);
    assert_eq!(names(&plan.drop), ["a", "b"]);
    assert_eq!(conditions(&plan), [("Suspended", "JobSuspended")]);
    assert_eq!(plan.status.start_time, None);
}

#[test]
fn each_end_is_counted_once_whatever_is_seen_in_between() {
    let mut job = job(Some(1), 1);
    let mut pods = vec![pod("a", "Succeeded")];
    // On record first; the finalizer goes after that.
    let plan = look(&job, &pods, 1);
    let uncounted = plan.status.uncounted_terminated_pods.clone().unwrap();
    assert_eq!(uncounted.succeeded.unwrap(), ["uid-a"]);
    assert_eq!((plan.status.succeeded, plan.create.len()), (None, 0));
    assert_eq!(names(&plan.untrack), ["a"]);
    assert_eq!(
        conditions(&plan),
        [("SuccessCriteriaMet", "CompletionsReached")]
    );
    // The status was written, the finalizer not taken: the same again.
    job.status = Some(plan.status);
    let plan = look(&job, &pods, 2);
    assert_eq!(
        plan.status
            .uncounted_terminated_pods
            .clone()
            .unwrap()
            .succeeded
            .unwrap()
            .len(),
        1
    );
    done(&mut job, &mut pods, &plan);
    // Now it counts, also when the pod is gone.
    pods.clear();
    let plan = look(&job, &pods, 3);
    assert_eq!(plan.status.succeeded, Some(1));
    assert_eq!(
        plan.status.uncounted_terminated_pods,
        Some(UncountedTerminatedPods::default())
    );
    assert_eq!(conditions(&plan)[1], ("Complete", "CompletionsReached"));
    assert_eq!(plan.status.completion_time, Some(Time(at(3))));
    job.status = Some(plan.status);
    let plan = look(&job, &[pod("stray", "Running")], 4);
    assert_eq!(names(&plan.untrack), ["stray"]);
    assert!(plan.create.is_empty());
}

#[test]
fn failures_delay_the_next_pod_and_end_the_job_at_the_limit() {
    let mut job = job(Some(1), 1);
    let failed: Vec<Pod> = ["a", "b"].map(|name| untracked(pod(name, "Failed"))).into();
    job.status = Some(JobStatus {
        failed: Some(2),
        ..JobStatus::default()
    });
    let plan = look(&job, &failed, 5);
    assert!(plan.create.is_empty());
    assert_eq!(plan.recheck, Some(Duration::from_secs(15)));
    assert_eq!(look(&job, &failed, 20).create.len(), 1);
    spec(&mut job).backoff_limit = Some(1);
    let plan = look(&job, &failed, 5);
    assert_eq!(
        conditions(&plan),
        [
            ("FailureTarget", "BackoffLimitExceeded"),
            ("Failed", "BackoffLimitExceeded")
        ]
    );
    assert_eq!(
        plan.events[0].2,
        "Job has reached the specified backoff limit"
    );
}

#[test]
fn a_deadline_ends_the_pods_first_and_then_the_job() {
    let mut job = job(Some(1), 1);
    spec(&mut job).active_deadline_seconds = Some(10);
    job.status = Some(JobStatus {
        start_time: Some(Time(at(0))),
        ..JobStatus::default()
    });
    assert_eq!(
        look(&job, &[pod("a", "Running")], 9).recheck,
        Some(Duration::from_millis(1_001))
    );
    let plan = look(&job, &[pod("a", "Running")], 10);
    assert_eq!(names(&plan.delete), ["a"]);
    assert_eq!(conditions(&plan), [("FailureTarget", "DeadlineExceeded")]);
    job.status = Some(plan.status);
    let mut ending = pod("a", "Running");
    ending.metadata.deletion_timestamp = Some(Time(at(40)));
    let plan = look(&job, &[ending], 11);
    assert_eq!(
        (plan.status.terminating, conditions(&plan).len()),
        (Some(1), 1)
    );
    job.status = Some(plan.status);
    let plan = look(&job, &[], 12);
    assert_eq!(conditions(&plan)[1], ("Failed", "DeadlineExceeded"));
    assert_eq!(plan.status.failed, Some(1));
}

#[test]
fn an_indexed_job_fills_its_indexes() {
    let mut job = indexed(4);
    spec(&mut job).parallelism = Some(2);
    let made =
        |plan: &Plan| -> Vec<i32> { plan.create.iter().filter_map(|new| new.index).collect() };
    let mut pods = vec![of_index(0, "Succeeded"), of_index(1, "Running")];
    let plan = look(&job, &pods, 30);
    assert_eq!(made(&plan), [2]);
    assert_eq!(plan.status.completed_indexes.as_deref(), Some("0"));
    assert_eq!(plan.status.succeeded, Some(1));
    done(&mut job, &mut pods, &plan);
    pods.push(of_index(1, "Running"));
    pods.last_mut().unwrap().metadata.uid = Some("twin".into());
    pods.push(of_index(7, "Running"));
    assert_eq!(look(&job, &pods, 31).drop.len(), 2);
    // Elastic: it may end sooner than it was begun.
    spec(&mut job).completions = Some(1);
    let plan = look(&job, &pods[..1], 32);
    assert_eq!(conditions(&plan)[1], ("Complete", "CompletionsReached"));
}

#[test]
fn an_index_has_failures_of_its_own() {
    let mut job = indexed(2);
    spec(&mut job).backoff_limit_per_index = Some(1);
    spec(&mut job).backoff_limit = Some(i32::MAX);
    let mut pods = vec![of_index(0, "Failed"), of_index(1, "Running")];
    let plan = look(&job, &pods, 5);
    // It is on record, but not let go before it has a successor.
    assert!(plan.untrack.is_empty() && plan.create.is_empty());
    assert_eq!(plan.recheck, Some(Duration::from_secs(5)));
    job.status = Some(plan.status);
    let plan = look(&job, &pods, 10);
    assert_eq!(
        plan.create,
        [New {
            index: Some(0),
            failures: Some((1, 0))
        }]
    );
    let mut second = of_index(0, "Failed");
    second.metadata.uid = Some("second".into());
    second.metadata.annotations = pods::pod(&job, plan.create[0]).metadata.annotations;
    pods.push(second);
    let plan = look(&job, &pods, 60);
    assert_eq!(plan.status.failed_indexes.as_deref(), Some("0"));
    assert!(plan.create.is_empty());
    pods[1] = of_index(1, "Succeeded");
    let plan = look(&job, &pods, 60);
    assert_eq!(conditions(&plan)[0], ("FailureTarget", "FailedIndexes"));
    spec(&mut job).max_failed_indexes = Some(0);
    let plan = look(&job, &pods, 60);
    assert_eq!(
        conditions(&plan)[0],
        ("FailureTarget", "MaxFailedIndexesExceeded")
    );
}

fn rule(action: &str) -> Option<PodFailurePolicy> {
    Some(PodFailurePolicy {
        rules: vec![PodFailurePolicyRule {
            action: action.into(),
            on_exit_codes: Some(PodFailurePolicyOnExitCodesRequirement {
                container_name: None,
                operator: "In".into(),
                values: vec![42],
            }),
            on_pod_conditions: None,
        }],
    })
}

#[test]
fn a_failure_policy_ends_the_job_or_ignores_the_failure() {
    let mut job = job(Some(2), 2);
    let pods = [pod("a", "Failed"), pod("b", "Running")];
    spec(&mut job).pod_failure_policy = rule("FailJob");
    let plan = look(&job, &pods, 5);
    assert_eq!(conditions(&plan), [("FailureTarget", "PodFailurePolicy")]);
    assert_eq!(names(&plan.delete), ["b"]);
    assert_eq!(
        plan.status.conditions.as_ref().unwrap()[0]
            .message
            .as_deref(),
        Some("Container c for pod ns/a failed with exit code 42 matching FailJob rule at index 0")
    );
    spec(&mut job).pod_failure_policy = rule("Ignore");
    let plan = look(&job, &pods, 60);
    assert_eq!(
        plan.status.uncounted_terminated_pods,
        Some(UncountedTerminatedPods::default())
    );
    assert_eq!((names(&plan.untrack), plan.create.len()), (vec!["a"], 1));
}

#[test]
fn an_evicted_pod_that_had_no_time_to_fail_is_judged_by_its_conditions() {
    use k8s_openapi::api::batch::v1::PodFailurePolicyOnPodConditionsPattern;
    use k8s_openapi::api::core::v1::PodCondition;
    let mut job = job(None, 1);
    spec(&mut job).backoff_limit = Some(0);
    spec(&mut job).pod_replacement_policy = Some("Failed".into());
    spec(&mut job).pod_failure_policy = Some(PodFailurePolicy {
        rules: vec![PodFailurePolicyRule {
            action: "Ignore".into(),
            on_pod_conditions: Some(vec![PodFailurePolicyOnPodConditionsPattern {
                type_: "DisruptionTarget".into(),
                status: Some("True".into()),
            }]),
            ..PodFailurePolicyRule::default()
        }],
    });
    // With no grace period: told to end and held by its finalizer alone, whatever its phase.
    let mut evicted = pod("a", "Running");
    evicted.metadata.deletion_timestamp = Some(Time(at(0)));
    evicted.metadata.deletion_grace_period_seconds = Some(0);
    let deleted = look(&job, std::slice::from_ref(&evicted), 0);
    assert_eq!(
        conditions(&deleted),
        [("FailureTarget", "BackoffLimitExceeded")]
    );
    let status = evicted.status.as_mut().unwrap();
    status.conditions = Some(vec![PodCondition {
        type_: "DisruptionTarget".into(),
        status: "True".into(),
        ..PodCondition::default()
    }]);
    let plan = look(&job, &[evicted], 0);
    assert_eq!(conditions(&plan), []);
    assert_eq!(names(&plan.untrack), ["a"]);
    assert_eq!(plan.status.failed, None);
    job.status = Some(plan.status);
    assert_eq!(look(&job, &[], 1).create.len(), 1);
}

#[test]
fn a_success_policy_ends_the_job_early() {
    let mut job = indexed(3);
    spec(&mut job).success_policy = Some(SuccessPolicy {
        rules: vec![SuccessPolicyRule {
            succeeded_indexes: Some("0,2".into()),
            succeeded_count: Some(1),
        }],
    });
    let pods = [of_index(1, "Succeeded"), of_index(0, "Running")];
    assert!(conditions(&look(&job, &pods, 5)).is_empty());
    let pods = [of_index(2, "Succeeded"), of_index(0, "Running")];
    let plan = look(&job, &pods, 5);
    assert_eq!(conditions(&plan), [("SuccessCriteriaMet", "SuccessPolicy")]);
    assert_eq!(names(&plan.delete), ["i0-Running"]);
}

#[test]
fn a_pod_that_is_told_to_end_is_replaced_at_once_or_when_it_has() {
    let mut job = job(Some(1), 1);
    let mut ending = pod("a", "Running");
    ending.metadata.deletion_timestamp = Some(Time(at(0)));
    let plan = look(&job, &[ending.clone()], 30);
    assert_eq!((names(&plan.untrack), plan.create.len()), (vec!["a"], 1));
    spec(&mut job).pod_replacement_policy = Some("Failed".into());
    let plan = look(&job, &[ending], 30);
    assert!(plan.untrack.is_empty() && plan.create.is_empty());
}
