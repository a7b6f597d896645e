//! HorizontalPodAutoscalers on CPU and memory, by what the nodes report that pods use: how many pods are wanted
//! (`replicas`, pure), how fast that may change (`behavior`, pure), and the scale subresource.
//!
//! Pods, Object and External metrics have no source here: they are reported as not available.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricSpec, MetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::worker::Next;
use crate::cache::{self, Cache, ObjectKey, Queue, Subscription};
use crate::kinds::KindRef;
use crate::registry::selector::{Requirement, parse_labels};
use crate::registry::{ApiError, Client, EventType, WriteOptions, object, scale};
use crate::scheduler::milli;
use crate::usage::{PodUsage, UsageBook};

mod behavior;
mod replicas;
#[cfg(test)]
mod tests;

use behavior::{History, Limited};
use replicas::{Metric, Proposal, Target, Tolerance};

pub(super) const NAME: &str = "horizontal-pod-autoscaler";
/// How often each one is looked at.
const PERIOD: Duration = Duration::from_secs(15);
/// A deviation of a tenth is none.
const TOLERANCE: f64 = 0.1;

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    usage: UsageBook,
    histories: Mutex<HashMap<String, History>>,
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let queue = queue.clone();
    vec![cache.autoscalers.subscribe(move |delta| {
        // Its own status is no reason to look again.
        let same = |a: &HorizontalPodAutoscaler, b: &HorizontalPodAutoscaler| a.spec == b.spec;
        if !delta.old.zip(delta.new).is_some_and(|(a, b)| same(a, b)) {
            queue.add(delta.key.clone());
        }
    })]
}

/// What is found out about one autoscaler.
struct Findings {
    replicas: i64,
    conditions: Vec<(&'static str, bool, &'static str, String)>,
    metrics: Vec<MetricStatus>,
    /// For the event.
    why: String,
    /// Reasons and messages of events about metrics that are not known.
    warnings: Vec<(&'static str, String)>,
    /// How many pods there should be could not be found out.
    failed: bool,
}

fn condition(
    kind: &'static str,
    is: bool,
    reason: &'static str,
    message: impl Into<String>,
) -> (&'static str, bool, &'static str, String) {
    (kind, is, reason, message.into())
}

/// Which pods a Scale is about, or why it does not say.
fn selected(scale: &Value) -> Result<Vec<Requirement>, String> {
    let text = scale["status"]["selector"].as_str().unwrap_or("");
    if text.is_empty() {
        return Err("the HPA target's scale is missing a selector".to_owned());
    }
    parse_labels(text).map_err(|why| {
        format!("couldn't convert selector into a corresponding internal selector object: {why}")
    })
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache, usage: &UsageBook) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            usage: usage.clone(),
            histories: Mutex::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(scaler) = self.cache.autoscalers.get_key(&key) else {
            return Ok(Next::Wait);
        };
        let spec = &scaler.spec;
        let now = Timestamp::now();
        let found = self.target(&key.namespace, spec).await;
        let (kind, scale) = match found {
            Ok(found) => found,
            Err(why) => {
                self.client
                    .event(scaler.as_ref(), EventType::Warning, "FailedGetScale", &why);
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {why}"
                );
                let failed = Findings {
                    replicas: 0,
                    conditions: vec![condition("AbleToScale", false, "FailedGetScale", message)],
                    metrics: Vec::new(),
                    why: String::new(),
                    warnings: Vec::new(),
                    failed: true,
                };
                self.write(&scaler, &failed, None, None, now).await?;
                return Ok(Next::After(PERIOD));
            }
        };
        let current = scale["spec"]["replicas"].as_i64().unwrap_or(0);
        let pods = self.pods(&key.namespace, &scale);
        let usage = self.usage.pods(&key.namespace, now).await;
        let uid = scaler.metadata.uid.clone().unwrap_or_default();
        let mut history = self
            .known_history(&uid)
            .unwrap_or_else(|| History::begun(current, now));
        let mut findings = plan(spec, current, pods.as_deref(), &usage, &mut history, now);
        for (reason, message) in &findings.warnings {
            self.client
                .event(scaler.as_ref(), EventType::Warning, reason, message);
        }
        let wanted = findings.replicas;
        let mut scaled = None;
        if wanted != current {
            match self.scale(&kind, &key.namespace, &scale, wanted).await {
                Ok(()) => {
                    let message = format!("New size: {wanted}; reason: {}", findings.why);
                    self.client.event(
                        scaler.as_ref(),
                        EventType::Normal,
                        "SuccessfulRescale",
                        &message,
                    );
                    behavior::note(&mut history, current, wanted, now);
                    set(
                        &mut findings.conditions,
                        condition(
                            "AbleToScale",
                            true,
                            "SucceededRescale",
                            format!(
                                "the HPA controller was able to update the target scale to {wanted}"
                            ),
                        ),
                    );
                    scaled = Some(now);
                }
                Err(error) => {
                    let message = format!(
                        "New size: {wanted}; reason: {}; error: {error}",
                        findings.why
                    );
                    self.client.event(
                        scaler.as_ref(),
                        EventType::Warning,
                        "FailedRescale",
                        &message,
                    );
                    set(
                        &mut findings.conditions,
                        condition(
                            "AbleToScale",
                            false,
                            "FailedUpdateScale",
                            format!(
                                "the HPA controller was unable to update the target scale: {error}"
                            ),
                        ),
                    );
                }
            }
        }
        self.keep(&uid, history);
        self.write(&scaler, &findings, Some(current), scaled, now)
            .await?;
        Ok(Next::After(PERIOD))
    }

    fn known_history(&self, uid: &str) -> Option<History> {
        let all = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        all.get(uid).cloned()
    }

    fn keep(&self, uid: &str, history: History) {
        let mut all = self
            .histories
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() > self.cache.autoscalers.list("").len() {
            let known: std::collections::HashSet<String> = self
                .cache
                .autoscalers
                .list("")
                .iter()
                .filter_map(|scaler| scaler.metadata.uid.clone())
                .collect();
            all.retain(|uid, _| known.contains(uid));
        }
        all.insert(uid.to_owned(), history);
    }

    /// What is scaled: its kind and its Scale.
    async fn target(
        &self,
        namespace: &str,
        spec: &HorizontalPodAutoscalerSpec,
    ) -> Result<(KindRef, Value), String> {
        let reference = &spec.scale_target_ref;
        let api_version = reference.api_version.as_deref().unwrap_or("v1");
        let (group, _) = api_version.split_once('/').unwrap_or(("", api_version));
        let found = self
            .client
            .registry()
            .scalable(api_version, &reference.kind, namespace, &reference.name)
            .await
            .map_err(|error| error.to_string())?;
        let (kind, workload) = found.ok_or_else(|| {
            format!(
                "no matches for kind \"{}\" in group \"{group}\"",
                reference.kind
            )
        })?;
        let scale = scale::of(&kind.get(), &workload);
        Ok((kind, scale))
    }

    fn pods(&self, namespace: &str, scale: &Value) -> Result<Vec<Arc<Pod>>, String> {
        let wanted = selected(scale)?;
        let labels = wanted.iter().filter_map(Requirement::only);
        let mut pods = cache::candidates(&self.cache.pods, namespace, labels);
        let none = BTreeMap::new();
        pods.retain(|pod| {
            let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
            wanted.iter().all(|requirement| requirement.matches(labels))
        });
        Ok(pods)
    }

    async fn scale(
        &self,
        kind: &KindRef,
        namespace: &str,
        current: &Value,
        replicas: i64,
    ) -> Result<(), ApiError> {
        let name = object::name(current);
        let scale = json!({
            "metadata": {"name": name, "resourceVersion": object::meta(current, "resourceVersion")},
            "spec": {"replicas": replicas},
        });
        let options = WriteOptions {
            manager: NAME.to_owned(),
            ..WriteOptions::default()
        };
        self.client
            .registry()
            .update_scale(&kind.get(), namespace, name, &scale, &options)
            .await
            .map(drop)
    }

    async fn write(
        &self,
        scaler: &HorizontalPodAutoscaler,
        findings: &Findings,
        current: Option<i64>,
        scaled: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), ApiError> {
        let old = scaler.status.clone().unwrap_or_default();
        let number = |value: i64| i32::try_from(value).unwrap_or(i32::MAX);
        let status = HorizontalPodAutoscalerStatus {
            conditions: Some(merged(old.conditions.clone(), &findings.conditions, now)),
            current_metrics: (!findings.metrics.is_empty()).then(|| findings.metrics.clone()),
            current_replicas: current.map(number).or(old.current_replicas),
            desired_replicas: if findings.failed {
                old.desired_replicas
            } else {
                number(findings.replicas)
            },
            last_scale_time: scaled.map(Time).or_else(|| old.last_scale_time.clone()),
            observed_generation: scaler.metadata.generation,
        };
        if status == old {
            return Ok(());
        }
        let mut changed = scaler.clone();
        changed.status = Some(status);
        match self.client.update_status(&changed).await {
            Err(error) if matches!(error.code(), 404 | 409) => Ok(()),
            other => other.map(drop),
        }
    }
}

fn set(
    conditions: &mut Vec<(&'static str, bool, &'static str, String)>,
    new: (&'static str, bool, &'static str, String),
) {
    conditions.retain(|known| known.0 != new.0);
    conditions.push(new);
}

fn merged(
    old: Option<Vec<HorizontalPodAutoscalerCondition>>,
    new: &[(&'static str, bool, &'static str, String)],
    now: Timestamp,
) -> Vec<HorizontalPodAutoscalerCondition> {
    let mut all = old.unwrap_or_default();
    for (kind, is, reason, message) in new {
        let status = if *is { "True" } else { "False" };
        let entry = HorizontalPodAutoscalerCondition {
            type_: (*kind).to_owned(),
            status: status.to_owned(),
            reason: Some((*reason).to_owned()),
            message: Some(message.clone()),
            last_transition_time: Some(Time(now)),
        };
        match all.iter_mut().find(|known| known.type_ == *kind) {
            Some(known) if known.status == entry.status => {
                known.reason = entry.reason;
                known.message = entry.message;
            }
            Some(known) => *known = entry,
            None => all.push(entry),
        }
    }
    all
}

fn tolerance(spec: &HorizontalPodAutoscalerSpec) -> Tolerance {
    let of = |rules: Option<&k8s_openapi::api::autoscaling::v2::HPAScalingRules>| {
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

/// The metric and target of a spec, if it is one that is measured here.
fn measured(spec: &MetricSpec) -> Option<(Metric, Target)> {
    let (resource, container, target) = match (&spec.resource, &spec.container_resource) {
        (Some(source), _) => (&source.name, None, &source.target),
        (None, Some(source)) => (&source.name, Some(source.container.clone()), &source.target),
        (None, None) => return None,
    };
    let wanted = match (target.average_utilization, &target.average_value) {
        (Some(percent), _) => Target::Utilization(i64::from(percent)),
        (None, Some(value)) => Target::Average(milli(value)?),
        (None, None) => return None,
    };
    let metric = Metric {
        resource: resource.clone(),
        container,
    };
    Some((metric, wanted))
}

/// The measured value as the status shows it.
fn shown(metric: &Metric, proposal: &Proposal) -> Option<MetricStatus> {
    let average = match metric.resource.as_str() {
        "cpu" => format!("{}m", proposal.average),
        _ => (proposal.average / 1_000).to_string(),
    };
    let mut current = json!({"averageValue": average});
    if let Some(percent) = proposal.utilization {
        current["averageUtilization"] = percent.into();
    }
    let status = match &metric.container {
        None => {
            json!({"type": "Resource", "resource": {"name": metric.resource, "current": current}})
        }
        Some(container) => json!({"type": "ContainerResource", "containerResource": {
            "name": metric.resource, "container": container, "current": current}}),
    };
    serde_json::from_value(status).ok()
}

fn described(metric: &Metric, target: Target) -> String {
    let what = match &metric.container {
        None => format!("{} resource", metric.resource),
        Some(_) => format!("{} container resource", metric.resource),
    };
    match target {
        Target::Utilization(_) => format!("{what} utilization (percentage of request)"),
        Target::Average(_) => what,
    }
}

/// Pure: what the autoscaler wants now.
fn plan(
    spec: &HorizontalPodAutoscalerSpec,
    current: i64,
    pods: Result<&[Arc<Pod>], &String>,
    usage: &[PodUsage],
    history: &mut History,
    now: Timestamp,
) -> Findings {
    let least = i64::from(spec.min_replicas.unwrap_or(1));
    let most = i64::from(spec.max_replicas);
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
    let pods = match pods {
        Ok(pods) => pods,
        Err(why) => {
            let why = why.clone();
            findings.failed = true;
            findings.warnings.push(("InvalidSelector", why.clone()));
            findings
                .conditions
                .push(condition("ScalingActive", false, "InvalidSelector", why));
            return findings;
        }
    };
    let Some((wanted, by)) = strongest(spec, current, pods, usage, &mut findings, now) else {
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
    } = behavior::apply(spec, current, wanted, history, now);
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

/// The largest number that a metric asks for, and which. Without all of them nothing is taken away.
fn strongest(
    spec: &HorizontalPodAutoscalerSpec,
    current: i64,
    pods: &[Arc<Pod>],
    usage: &[PodUsage],
    findings: &mut Findings,
    now: Timestamp,
) -> Option<(i64, String)> {
    let mut best: Option<(i64, String)> = None;
    // Reason, what it says, and where that is from.
    let mut problem: Option<(&'static str, String, String)> = None;
    let mut invalid = 0;
    for one in spec.metrics.iter().flatten() {
        let Some((metric, target)) = measured(one) else {
            let why = format!("metrics of type {} are not available", one.type_);
            invalid += 1;
            findings
                .warnings
                .push(("InvalidMetricSourceType", why.clone()));
            problem.get_or_insert(("InvalidMetricSourceType", why.clone(), why));
            continue;
        };
        let asked = replicas::propose(&metric, target, pods, usage, current, tolerance(spec), now);
        match asked {
            Ok(proposal) => {
                findings.metrics.extend(shown(&metric, &proposal));
                if best
                    .as_ref()
                    .is_none_or(|(most, _)| proposal.replicas > *most)
                {
                    best = Some((proposal.replicas, described(&metric, target)));
                }
            }
            Err(why) => {
                let what = match target {
                    Target::Utilization(_) => "utilization",
                    Target::Average(_) => "value",
                };
                let (reason, source) = match metric.container {
                    None => ("FailedGetResourceMetric", "resource"),
                    Some(_) => ("FailedGetContainerResourceMetric", "container"),
                };
                let name = &metric.resource;
                let why = format!("failed to get {name} {what}: {why}");
                let whole = format!("failed to get {name} {source} metric value: {why}");
                invalid += 1;
                findings.warnings.push((reason, why.clone()));
                problem.get_or_insert((reason, why, whole));
            }
        }
    }
    let holds_back = best.as_ref().is_none_or(|(wanted, _)| *wanted < current);
    if let Some((reason, why, whole)) = problem.filter(|_| holds_back) {
        let all = spec.metrics.iter().flatten().count();
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
