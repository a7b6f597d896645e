//! Rules of a Job about failures and successes. Pure.

use k8s_openapi::api::batch::v1::{
    Job, PodFailurePolicyOnExitCodesRequirement, PodFailurePolicyOnPodConditionsPattern,
};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes};
use super::pods;
use crate::controllers::podstate;

/// What a pod's failure means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It counts against the back-off limit.
    Count,
    /// It is replaced and counts nowhere.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The Job has failed; why.
    FailJob(String),
}

/// The first rule that matches decides. Asked of pods that have failed, which one does too that was evicted and is only
/// held by finalizers: its phase says nothing of that, its conditions do.
pub(super) fn judge(job: &Job, pod: &Pod) -> Verdict {
    let policy = job
        .spec
        .as_ref()
        .and_then(|spec| spec.pod_failure_policy.as_ref());
    let Some(policy) = policy else {
        return Verdict::Count;
    };
    for (index, rule) in policy.rules.iter().enumerate() {
        let matched = match &rule.on_exit_codes {
            Some(codes) => exit_codes(pod, codes),
            None => conditions(pod, rule.on_pod_conditions.as_deref().unwrap_or_default()),
        };
        let Some(what) = matched else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => Verdict::FailJob(format!("{what} matching FailJob rule at index {index}")),
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

fn named(pod: &Pod) -> String {
    format!(
        "{}/{}",
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default()
    )
}

/// A container that ended badly and by a code that the rule means.
fn exit_codes(pod: &Pod, rule: &PodFailurePolicyOnExitCodesRequirement) -> Option<String> {
    pods::statuses(pod)
        .filter(|status| {
            rule.container_name
                .as_ref()
                .is_none_or(|name| *name == status.name)
        })
        .filter_map(|status| {
            let code = status.state.as_ref()?.terminated.as_ref()?.exit_code;
            Some((status, code))
        })
        .find(|(_, code)| *code != 0 && rule.values.contains(code) == (rule.operator == "In"))
        .map(|(status, code)| {
            format!(
                "Container {} for pod {} failed with exit code {code}",
                status.name,
                named(pod)
            )
        })
}

fn conditions(pod: &Pod, patterns: &[PodFailurePolicyOnPodConditionsPattern]) -> Option<String> {
    patterns
        .iter()
        .find(|pattern| {
            podstate::condition(pod, &pattern.type_).is_some_and(|condition| {
                condition.status == pattern.status.as_deref().unwrap_or("True")
            })
        })
        .map(|pattern| format!("Pod {} has condition {}", named(pod), pattern.type_))
}

/// The first rule of the success policy that these successes satisfy.
pub(super) fn success(job: &Job, succeeded: &Indexes) -> Option<String> {
    let spec = job.spec.as_ref()?;
    let completions = spec.completions.unwrap_or(0);
    let rules = &spec.success_policy.as_ref()?.rules;
    let met = rules.iter().position(|rule| {
        let wanted = rule
            .succeeded_indexes
            .as_deref()
            .map(|text| indexes::parse(text, completions));
        let have = match &wanted {
            Some(wanted) => wanted.intersection(succeeded).count(),
            None => succeeded.len(),
        };
        let need = match (rule.succeeded_count, &wanted) {
            (Some(count), _) => usize::try_from(count).unwrap_or(0),
            (None, Some(wanted)) => wanted.len(),
            (None, None) => return false,
        };
        have >= need
    });
    met.map(|index| format!("Matched rules at index {index}"))
}
