//! HorizontalPodAutoscalers on CPU and memory, by what the nodes report that pods use, and on whatever other servers
//! measure (`sources`): how many pods are wanted (`plan`, and `replicas` for one `metric`; pure), how fast that may
//! change (`behavior`, pure), and the scale subresource. Where two of them are about one pod, none scales (`rivals`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::worker::Next;
use crate::cache::{self, Cache, ObjectKey, Queue, Subscription};
use crate::extension::Extensions;
use crate::kinds::KindRef;
use crate::registry::selector::{Requirement, parse_labels};
use crate::registry::{ApiError, Client, EventType, WriteOptions, object, scale};
use crate::usage::UsageBook;

mod behavior;
mod metric;
mod plan;
mod replicas;
mod rivals;
mod sources;
#[cfg(test)]
mod tests;

use behavior::History;
use plan::{Condition, Findings, Unselected, View, condition, plan, set};
use rivals::Rivals;
use sources::Sources;

pub(super) const NAME: &str = "horizontal-pod-autoscaler";
/// How often each one is looked at.
const PERIOD: Duration = Duration::from_secs(15);
pub(super) struct Controller {
    client: Client,
    cache: Cache,
    usage: UsageBook,
    sources: Sources,
    histories: Mutex<HashMap<String, History>>,
    rivals: Mutex<Rivals>,
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

/// Which pods a Scale is about, or why it does not say.
fn selected(scale: &Value) -> Result<Vec<Requirement>, Unselected> {
    let text = scale["status"]["selector"].as_str().unwrap_or("");
    let invalid = |event: &'static str, said: String, message: String| Unselected {
        reason: "InvalidSelector",
        message,
        event: (event, said),
    };
    if text.is_empty() {
        let message = "the HPA target's scale is missing a selector".to_owned();
        let said = "selector is required".to_owned();
        return Err(invalid("SelectorRequired", said, message));
    }
    parse_labels(text).map_err(|why| {
        let message = format!(
            "couldn't convert selector into a corresponding internal selector object: {why}"
        );
        invalid("InvalidSelector", message.clone(), message)
    })
}

impl Controller {
    pub(super) fn new(
        client: &Client,
        cache: &Cache,
        usage: &UsageBook,
        extensions: Option<&Extensions>,
    ) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            usage: usage.clone(),
            sources: Sources {
                cache: cache.clone(),
                extensions: extensions.cloned(),
            },
            histories: Mutex::default(),
            rivals: Mutex::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(scaler) = self.cache.autoscalers.get_key(&key) else {
            self.rivals().forget(&key);
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
        let pods = self.pods(&key, &scale);
        let said = if pods.is_ok() && plan::needs_metrics(spec, current) {
            let selector = scale["status"]["selector"].as_str().unwrap_or("");
            let registry = self.client.registry();
            self.sources
                .ask(registry, &key.namespace, spec, selector)
                .await
        } else {
            HashMap::new()
        };
        let usage = self.usage.pods(&key.namespace, now).await;
        let uid = scaler.metadata.uid.clone().unwrap_or_default();
        let mut history = self
            .known_history(&uid)
            .unwrap_or_else(|| History::begun(current, now));
        let view = View {
            namespace: &key.namespace,
            spec,
            current,
            there: scale["status"]["replicas"].as_i64().unwrap_or(0),
            pods: pods.as_deref(),
            usage: &usage,
            said: &said,
            now,
        };
        let mut findings = plan(&view, &mut history);
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
                    findings.failed = true;
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

    fn rivals(&self) -> MutexGuard<'_, Rivals> {
        self.rivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pods(&self, key: &ObjectKey, scale: &Value) -> Result<Vec<Arc<Pod>>, Unselected> {
        let wanted = selected(scale)?;
        let labels = wanted.iter().filter_map(Requirement::only);
        let mut pods = cache::candidates(&self.cache.pods, &key.namespace, labels);
        pods.retain(|pod| rivals::selects(&wanted, pod));
        let mut rivals = self.rivals();
        rivals.put(key, wanted);
        let text = scale["status"]["selector"].as_str().unwrap_or("");
        rivals.check(key, text, &pods)?;
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
            // None of them are not written.
            current_replicas: (current.map(number).or(old.current_replicas))
                .filter(|count| *count > 0),
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

fn merged(
    old: Option<Vec<HorizontalPodAutoscalerCondition>>,
    new: &[Condition],
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
