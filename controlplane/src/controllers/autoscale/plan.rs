//! What an autoscaler wants now, and what it says of itself. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HPAScalingRules, HorizontalPodAutoscalerSpec, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;

use super::behavior::{self, History, Limited};
use super::metric::Source;
use super::replicas::{self, Proposal, Tolerance};
use crate::scheduler::milli;
use crate::usage::PodUsage;

/// A deviation of a tenth is none.
const TOLERANCE: f64 = 0.1;

/// Type, status, reason and message.
pub(super) type Condition = (&'static str, bool, &'static str, String);

/// What is found out about one autoscaler.
#[derive(Debug)]
pub(super) struct Findings {
    pub(super) replicas: i64,
    pub(super) conditions: Vec<Condition>,
    pub(super) metrics: Vec<MetricStatus>,
    /// For the event.
    pub(super) why: String,
    /// Reasons and messages of events about what is not known.
    pub(super) warnings: Vec<(&'static str, String)>,
    /// How many pods there should be could not be found out, or not be written.
    pub(super) failed: bool,
}

/// Why it is not known which pods an autoscaler is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unselected {
    /// Of the condition.
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// Reason and message of the event.
    pub(super) event: (&'static str, String),
}

/// What another server has said of a metric: thousandths.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// By name of the pod.
    Pods(HashMap<String, i64>),
    Whole(i64),
}

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) namespace: &'a str,
    pub(super) spec: &'a HorizontalPodAutoscalerSpec,
    /// How many pods the workload is to have, and how many it says that it has.
    pub(super) current: i64,
    pub(super) there: i64,
    pub(super) pods: Result<&'a [Arc<Pod>], &'a Unselected>,
    pub(super) usage: &'a [PodUsage],
    /// By place in the spec, of the metrics that other servers measure.
    pub(super) said: &'a HashMap<usize, Result<Said, String>>,
    pub(super) now: Timestamp,
}

pub(super) fn condition(
    kind: &'static str,
    is: bool,
    reason: &'static str,
    message: impl Into<String>,
) -> Condition {
    (kind, is, reason, message.into())
}

pub(super) fn set(conditions: &mut Vec<Condition>, new: Condition) {
    conditions.retain(|known| known.0 != new.0);
    conditions.push(new);
}

fn bounds(spec: &HorizontalPodAutoscalerSpec) -> (i64, i64) {
    let least = spec.min_replicas.unwrap_or(1);
    (i64::from(least), i64::from(spec.max_replicas))
}

/// Whether it takes metrics to say how many pods there should be.
pub(super) fn needs_metrics(spec: &HorizontalPodAutoscalerSpec, current: i64) -> bool {
    let (least, most) = bounds(spec);
    (least..=most).contains(&current)
}

fn tolerance(spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
    let of = |rules: Option<&HPAScalingRules>| {
        let given = rules
            .and_then(|rules| rules.tolerance.as_ref())
            .and_then(milli);
        #[allow(clippy::cast_precision_loss)]
        given.map_or(TOLERANCE, |milli| milli as f64 / 1_000.0)
    };
    let behavior = spec.behavior.as_ref();
    Tolerance {
        up: of(behavior.and_then(|behavior| behavior.scale_up.as_ref())),
        down: of(behavior.and_then(|behavior| behavior.scale_down.as_ref())),
    }
}

pub(super) fn plan(view: &View<'_>, history: &mut History) -> Findings {
    let (spec, current) = (view.spec, view.current);
    let (least, most) = bounds(spec);
    let mut findings = Findings {
        replicas: current,
        conditions: vec![condition(
            "AbleToScale",
            true,
            "SucceededGetScale",
            "the HPA controller was able to get the target's current scale",
        )],
        metrics: Vec::new(),
        why: String::new(),
        warnings: Vec::new(),
        failed: false,
    };
    if current == 0 && least != 0 {
        findings.conditions.push(condition(
            "ScalingActive",
            false,
            "ScalingDisabled",
            "scaling is disabled since the replica count of the target is zero",
        ));
        return findings;
    }
    if current > most {
        findings.replicas = most;
        findings.why = "Current number of replicas above Spec.MaxReplicas".to_owned();
        return findings;
    }
    if current < least {
        findings.replicas = least;
        findings.why = "Current number of replicas below Spec.MinReplicas".to_owned();
        return findings;
    }
    let pods = match view.pods {
        Ok(pods) => pods,
        Err(why) => {
            let (_, said) = &why.event;
            let none = ("FailedComputeMetricsReplicas", said.clone());
            findings.failed = true;
            findings.warnings = vec![why.event.clone(), none];
            let message = why.message.clone();
            let active = condition("ScalingActive", false, why.reason, message);
            findings.conditions.push(active);
            return findings;
        }
    };
    let Some((wanted, by)) = strongest(view, pods, &mut findings) else {
        return findings;
    };
    findings.why = if wanted > current {
        format!("{by} above target")
    } else {
        "All metrics below target".to_owned()
    };
    let Limited {
        replicas,
        stabilized,
        limited,
    } = behavior::apply(spec, current, wanted, history, view.now);
    findings.replicas = replicas;
    let (reason, message) =
        stabilized.unwrap_or(("ReadyForNewScale", "recommended size matches current size"));
    set(
        &mut findings.conditions,
        condition("AbleToScale", true, reason, message),
    );
    let (is, (reason, message)) = match limited {
        Some(why) => (true, why),
        None => (
            false,
            (
                "DesiredWithinRange",
                "the desired count is within the acceptable range",
            ),
        ),
    };
    findings
        .conditions
        .push(condition("ScalingLimited", is, reason, message));
    findings
}

/// What one metric asks for.
fn propose(
    view: &View<'_>,
    pods: &[Arc<Pod>],
    index: usize,
    source: &Source<'_>,
) -> Result<Proposal, String> {
    let tolerance = tolerance(view.spec);
    let said = || {
        let said = view.said.get(&index).cloned();
        said.unwrap_or_else(|| Err("it was not asked for".to_owned()))
    };
    let wrong = || "it is measured otherwise".to_owned();
    match source {
        Source::Resource(metric, target) => replicas::of_resource(
            metric,
            *target,
            pods,
            view.usage,
            view.current,
            tolerance,
            view.now,
        ),
        Source::Pods(_, wanted) => match said()? {
            Said::Pods(amounts) => {
                replicas::of_pods(&amounts, *wanted, pods, view.current, tolerance)
            }
            Said::Whole(_) => Err(wrong()),
        },
        Source::Object(_, _, wanted) | Source::External(_, wanted) => match said()? {
            Said::Whole(amount) => {
                let replicas = (view.current, view.there);
                replicas::of_whole(amount, *wanted, pods, replicas, tolerance)
            }
            Said::Pods(_) => Err(wrong()),
        },
    }
}

/// The largest number that a metric asks for, and which. Without all of them nothing is taken away.
fn strongest(view: &View<'_>, pods: &[Arc<Pod>], findings: &mut Findings) -> Option<(i64, String)> {
    let mut best: Option<(i64, String)> = None;
    // Reason, what it says, and where that is from.
    let mut problem: Option<(&'static str, String, String)> = None;
    let mut invalid = 0;
    for (index, one) in view.spec.metrics.iter().flatten().enumerate() {
        let asked = match Source::of(one) {
            Err((reason, why)) => Err((reason, why.clone(), why)),
            Ok(source) => match propose(view, pods, index, &source) {
                Ok(proposal) => Ok((source, proposal)),
                Err(why) => {
                    let (why, whole) = source.problem(view.namespace, &why);
                    Err((source.reason(), why, whole))
                }
            },
        };
        match asked {
            Ok((source, proposal)) => {
                let shown = source.shown(proposal.found).unwrap_or_default();
                findings.metrics.push(shown);
                let more = |(most, _): &(i64, String)| proposal.replicas > *most;
                if best.as_ref().is_none_or(more) {
                    best = Some((proposal.replicas, source.title()));
                }
            }
            Err((reason, why, whole)) => {
                invalid += 1;
                // Each metric has its place in the status, as in the spec.
                findings.metrics.push(MetricStatus::default());
                findings.warnings.push((reason, why.clone()));
                problem.get_or_insert((reason, why, whole));
            }
        }
    }
    let holds_back = best
        .as_ref()
        .is_none_or(|(wanted, _)| *wanted < view.current);
    if let Some((reason, why, whole)) = problem.filter(|_| holds_back) {
        let all = view.spec.metrics.iter().flatten().count();
        findings.failed = true;
        findings.warnings.push((
            "FailedComputeMetricsReplicas",
            format!("invalid metrics ({invalid} invalid out of {all}), first error is: {whole}"),
        ));
        let message = format!("the HPA was unable to compute the replica count: {why}");
        findings
            .conditions
            .push(condition("ScalingActive", false, reason, message));
        return None;
    }
    let (wanted, by) = best?;
    let message = format!("the HPA was able to successfully calculate a replica count from {by}");
    findings.conditions.push(condition(
        "ScalingActive",
        true,
        "ValidMetricFound",
        message,
    ));
    Some((wanted, by))
}
