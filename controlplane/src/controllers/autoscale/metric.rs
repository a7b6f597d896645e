//! A metric of an autoscaler's spec: by what it is measured, what it is called, and how it is shown. Pure.

use k8s_openapi::api::autoscaling::v2::{
    CrossVersionObjectReference, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::{Value, json};

use super::replicas::{Found, Metric, Target, Whole};
use crate::kinds::quantity::Quantity;
use crate::scheduler::milli;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Source<'a> {
    Resource(Metric, Target),
    /// Of each pod, by another server: thousandths per pod.
    Pods(&'a MetricIdentifier, i64),
    /// Of one object, by another server.
    Object(&'a MetricIdentifier, &'a CrossVersionObjectReference, Whole),
    /// Of something outside the cluster, by another server.
    External(&'a MetricIdentifier, Whole),
}

/// Reason and sentence of what cannot be measured.
type Invalid = (&'static str, String);

fn whole(target: &MetricTarget, kind: &str) -> Result<Whole, String> {
    let average = target.average_value.as_ref().and_then(milli);
    let value = target.value.as_ref().and_then(milli);
    average
        .map(Whole::Average)
        .or(value.map(Whole::Value))
        .ok_or_else(|| {
            format!("invalid {kind} metric source: neither a value target nor an average value target was set")
        })
}

impl<'a> Source<'a> {
    pub(super) fn of(spec: &'a MetricSpec) -> Result<Self, Invalid> {
        if let Some(source) = &spec.pods {
            let wanted = source.target.average_value.as_ref().and_then(milli);
            return wanted
                .map(|wanted| Self::Pods(&source.metric, wanted))
                .ok_or_else(|| {
                    let why = "invalid pods metric source: no average value target was set";
                    ("FailedGetPodsMetric", why.to_owned())
                });
        }
        if let Some(source) = &spec.object {
            return whole(&source.target, "object")
                .map(|wanted| Self::Object(&source.metric, &source.described_object, wanted))
                .map_err(|why| ("FailedGetObjectMetric", why));
        }
        if let Some(source) = &spec.external {
            return whole(&source.target, "external")
                .map(|wanted| Self::External(&source.metric, wanted))
                .map_err(|why| ("FailedGetExternalMetric", why));
        }
        let (resource, container, target) = match (&spec.resource, &spec.container_resource) {
            (Some(source), _) => (&source.name, None, &source.target),
            (None, Some(source)) => (&source.name, Some(source.container.clone()), &source.target),
            (None, None) => {
                let why = format!("unknown metric source type {:?}", spec.type_);
                return Err(("InvalidMetricSourceType", why));
            }
        };
        let metric = Metric {
            resource: resource.clone(),
            container,
        };
        let average = target.average_value.as_ref().and_then(milli);
        let wanted = match (average, target.average_utilization) {
            (Some(value), _) => Target::Average(value),
            (None, Some(percent)) => Target::Utilization(i64::from(percent)),
            (None, None) => {
                let why = "invalid resource metric source: neither an average utilization target nor an average \
                           value (usage) target was set";
                return Err((
                    Self::Resource(metric, Target::Average(0)).reason(),
                    why.to_owned(),
                ));
            }
        };
        Ok(Self::Resource(metric, wanted))
    }

    /// Of the event and the condition when it is not known.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Resource(metric, _) if metric.container.is_some() => {
                "FailedGetContainerResourceMetric"
            }
            Self::Resource(..) => "FailedGetResourceMetric",
            Self::Pods(..) => "FailedGetPodsMetric",
            Self::Object(..) => "FailedGetObjectMetric",
            Self::External(..) => "FailedGetExternalMetric",
        }
    }

    /// Why it is not known: of the metric itself, and among all.
    pub(super) fn problem(&self, namespace: &str, why: &str) -> (String, String) {
        match self {
            Self::Resource(metric, target) => {
                let name = &metric.resource;
                let what = match target {
                    Target::Utilization(_) => "utilization",
                    Target::Average(_) => "usage",
                };
                let why = format!("failed to get {name} {what}: {why}");
                let of = match &metric.container {
                    None => format!("{name} resource"),
                    Some(container) => format!("{container} container"),
                };
                let whole = format!("failed to get {of} metric value: {why}");
                (why, whole)
            }
            Self::Pods(metric, _) => {
                let why = format!("unable to get metric {}: {why}", metric.name);
                let whole = format!("failed to get pods metric value: {why}");
                (why, whole)
            }
            Self::Object(metric, object, _) => {
                let why = format!(
                    "unable to get metric {} on {} {namespace}/{}: {why}",
                    metric.name, object.kind, object.name
                );
                let whole = format!("failed to get object metric value: {why}");
                (why, whole)
            }
            Self::External(metric, _) => {
                let name = &metric.name;
                let selector = printed(metric.selector.as_ref());
                let why =
                    format!("unable to get external metric {namespace}/{name}/{selector}: {why}");
                let whole = format!(
                    "failed to get {name} external metric value: failed to get external metric {name}: {why}"
                );
                (why, whole)
            }
        }
    }

    /// As events and conditions call it.
    pub(super) fn title(&self) -> String {
        match self {
            Self::Resource(metric, Target::Utilization(_)) => {
                let of = if metric.container.is_some() {
                    "container resource"
                } else {
                    "resource"
                };
                let name = &metric.resource;
                format!("{name} {of} utilization (percentage of request)")
            }
            Self::Resource(metric, Target::Average(_)) => format!("{} resource", metric.resource),
            Self::Pods(metric, _) => format!("pods metric {}", metric.name),
            Self::Object(metric, object, _) => format!("{} metric {}", object.kind, metric.name),
            Self::External(metric, _) => {
                let selector = printed(metric.selector.as_ref());
                format!("external metric {}({selector})", metric.name)
            }
        }
    }

    /// What was found, as the status shows it.
    pub(super) fn shown(&self, found: Found) -> Option<MetricStatus> {
        let amount = |milli: i64| -> Value {
            let text = format!("{milli}m");
            text.parse::<Quantity>()
                .map_or(text, |quantity| quantity.to_string())
                .into()
        };
        let current = match found {
            Found::Utilization(percent, average) => {
                json!({"averageUtilization": percent, "averageValue": amount(average)})
            }
            Found::Average(average) => json!({"averageValue": amount(average)}),
            Found::Value(value) => json!({"value": amount(value)}),
        };
        let status = match self {
            Self::Resource(metric, _) => match &metric.container {
                None => {
                    json!({"type": "Resource", "resource": {"name": metric.resource, "current": current}})
                }
                Some(container) => json!({"type": "ContainerResource", "containerResource": {
                    "name": metric.resource, "container": container, "current": current}}),
            },
            Self::Pods(metric, _) => {
                json!({"type": "Pods", "pods": {"metric": metric, "current": current}})
            }
            Self::Object(metric, object, _) => json!({"type": "Object", "object": {
                "describedObject": object, "metric": metric, "current": current}}),
            Self::External(metric, _) => {
                json!({"type": "External", "external": {"metric": metric, "current": current}})
            }
        };
        serde_json::from_value(status).ok()
    }
}

/// A selector in messages, as Kubernetes prints it there.
fn printed(selector: Option<&LabelSelector>) -> String {
    let Some(selector) = selector else {
        return "nil".to_owned();
    };
    let mut labels = String::new();
    for (key, value) in selector.match_labels.iter().flatten() {
        labels.push_str(&format!("{key}: {value},"));
    }
    let mut expressions = String::new();
    for one in selector.match_expressions.iter().flatten() {
        let values = one.values.as_deref().unwrap_or_default().join(" ");
        expressions.push_str(&format!(
            "LabelSelectorRequirement{{Key:{},Operator:{},Values:[{values}],}},",
            one.key, one.operator
        ));
    }
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}
