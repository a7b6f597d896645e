//! The pods of a Job: how they are made, which index they have, how they ended. Pure.

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobSpec};
use k8s_openapi::api::core::v1::{
    Container, ContainerStatus, EnvVar, EnvVarSource, ObjectFieldSelector, Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controllers::owner::controller_reference;
use crate::controllers::podstate;

/// Holds a pod until it is counted.
pub(in crate::controllers) const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
const IGNORED_FAILURES: &str = "batch.kubernetes.io/job-index-ignored-failure-count";
/// The longest host name.
const HOST_NAME: usize = 63;

pub(super) fn spec(job: &Job) -> JobSpec {
    job.spec.clone().unwrap_or_default()
}

pub(super) fn is_indexed(job: &Job) -> bool {
    job.spec
        .as_ref()
        .and_then(|spec| spec.completion_mode.as_deref())
        == Some("Indexed")
}

/// A pod is replaced only when it has ended, not already when its end was asked for.
pub(super) fn replaces_ended_only(job: &Job) -> bool {
    let spec = job.spec.as_ref();
    spec.and_then(|spec| spec.pod_replacement_policy.as_deref()) == Some("Failed")
        || spec.is_some_and(|spec| spec.pod_failure_policy.is_some())
}

pub(in crate::controllers) fn is_tracked(pod: &Pod) -> bool {
    let finalizers = pod.metadata.finalizers.as_deref().unwrap_or_default();
    finalizers.iter().any(|name| name == TRACKING)
}

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(name).map(String::as_str)
}

/// The index that the pod works at.
pub(super) fn index(pod: &Pod) -> Option<i32> {
    annotation(pod, INDEX)?
        .parse()
        .ok()
        .filter(|index| *index >= 0)
}

/// How often pods of its index had failed before it, counted and not.
pub(super) fn failures_before(pod: &Pod) -> (i32, i32) {
    let count = |name| {
        annotation(pod, name)
            .and_then(|count| count.parse().ok())
            .unwrap_or(0)
    };
    (count(FAILURES), count(IGNORED_FAILURES))
}

/// Whether the pod counts as failed; one whose end was asked for does so at once, unless only what has ended
/// is replaced.
pub(super) fn has_failed(job: &Job, pod: &Pod) -> bool {
    let phase = podstate::phase(pod);
    if phase == "Failed" {
        return true;
    }
    if !podstate::is_terminating(pod) || phase == "Succeeded" {
        return false;
    }
    // One that never began will not come to an end by itself, nor will one that is only held by finalizers.
    let over = pod.metadata.deletion_grace_period_seconds == Some(0);
    !replaces_ended_only(job) || over || (phase == "Pending" && !is_bound(pod))
}

fn is_bound(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    node.is_some_and(|node| !node.is_empty())
}

pub(super) fn statuses(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    pod.status.iter().flat_map(|status| {
        let containers = status.container_statuses.iter().flatten();
        containers.chain(status.init_container_statuses.iter().flatten())
    })
}

/// When its last container ended; failing that, the best guess there is.
pub(super) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let finished = statuses(pod)
        .filter_map(|status| {
            status
                .state
                .as_ref()?
                .terminated
                .as_ref()?
                .finished_at
                .as_ref()
        })
        .map(|time| time.0)
        .max();
    finished
        .or_else(|| pod.metadata.deletion_timestamp.as_ref().map(|time| time.0))
        .or_else(|| {
            let ready = podstate::ready_condition(pod)?;
            ready.last_transition_time.as_ref().map(|time| time.0)
        })
        .or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// A pod to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct New {
    pub(super) index: Option<i32>,
    /// Earlier failures of its index, counted and ignored, where the Job limits them.
    pub(super) failures: Option<(i32, i32)>,
}

pub(super) fn pod(job: &Job, new: New) -> Pod {
    let template = spec(job).template;
    let metadata = template.metadata.unwrap_or_default();
    let mut spec = template.spec.unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    let mut annotations = metadata.annotations.unwrap_or_default();
    let mut generate_name = format!("{name}-");
    if let Some(index) = new.index {
        labels.insert(INDEX.to_owned(), index.to_string());
        annotations.insert(INDEX.to_owned(), index.to_string());
        generate_name = format!("{name}-{index}-");
        spec.hostname = Some(host_name(name, index));
        let init = spec.init_containers.iter_mut().flatten();
        for container in spec.containers.iter_mut().chain(init) {
            tell_index(container);
        }
    }
    if let Some((counted, ignored)) = new.failures {
        annotations.insert(FAILURES.to_owned(), counted.to_string());
        if ignored > 0 {
            annotations.insert(IGNORED_FAILURES.to_owned(), ignored.to_string());
        }
    }
    let mut finalizers = metadata.finalizers.unwrap_or_default();
    finalizers.push(TRACKING.to_owned());
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(generate_name),
            namespace: job.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: (!annotations.is_empty()).then_some(annotations),
            finalizers: Some(finalizers),
            owner_references: Some(vec![controller_reference(job)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

fn host_name(job: &str, index: i32) -> String {
    let end = format!("-{index}");
    let room = HOST_NAME.saturating_sub(end.len());
    format!("{}{end}", &job[..job.len().min(room)])
}

fn tell_index(container: &mut Container) {
    const NAME: &str = "JOB_COMPLETION_INDEX";
    let env = container.env.get_or_insert_default();
    if env.iter().any(|variable| variable.name == NAME) {
        return;
    }
    env.push(EnvVar {
        name: NAME.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: None,
                field_path: format!("metadata.annotations['{INDEX}']"),
            }),
            ..EnvVarSource::default()
        }),
    });
}
