//! autoscaling/v1 has one target, CPU; what else the object has is in annotations there. Pure.

use serde_json::{Value, json};

use crate::kinds::access::{at, integer, list, object_mut, text};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

fn is_cpu(metric: &Value) -> bool {
    text(metric, &["type"]) == "Resource" && text(metric, &["resource", "name"]) == "cpu"
}

fn is_cpu_target(metric: &Value) -> bool {
    is_cpu(metric) && at(metric, &["resource", "target", "averageUtilization"]).is_some()
}

fn annotate(object: &mut Value, key: &str, value: &Value) {
    object_mut(object, &["metadata", "annotations"]).insert(key.into(), value.to_string().into());
}

/// The stored form as autoscaling/v1.
pub(crate) fn to_v1(object: &Value) -> Value {
    let mut out = object.clone();
    out["apiVersion"] = "autoscaling/v1".into();
    let metrics = list(object, &["spec", "metrics"]);
    let target = metrics.iter().find(|metric| is_cpu_target(metric));
    let spec = object_mut(&mut out, &["spec"]);
    spec.remove("metrics");
    let behavior = spec.remove("behavior");
    if let Some(target) = target {
        let percent = target["resource"]["target"]["averageUtilization"].clone();
        spec.insert("targetCPUUtilizationPercentage".into(), percent);
    }
    let others: Vec<&Value> = metrics
        .iter()
        .filter(|metric| !target.is_some_and(|target| std::ptr::eq(target, *metric)))
        .collect();
    if !others.is_empty() {
        annotate(&mut out, METRICS, &json!(others));
    }
    if let Some(behavior) = behavior {
        annotate(&mut out, BEHAVIOR, &behavior);
    }
    if object.get("status").is_some() {
        let status = object_mut(&mut out, &["status"]);
        let current = status.remove("currentMetrics").unwrap_or_default();
        let conditions = status.remove("conditions");
        let percent = list(&current, &[])
            .iter()
            .find(|metric| is_cpu(metric))
            .and_then(|metric| integer(metric, &["resource", "current", "averageUtilization"]));
        if let Some(percent) = percent {
            status.insert("currentCPUUtilizationPercentage".into(), percent.into());
        }
        if !list(&current, &[]).is_empty() {
            annotate(&mut out, CURRENT, &current);
        }
        if let Some(conditions) = conditions {
            annotate(&mut out, CONDITIONS, &conditions);
        }
    }
    out
}

/// A body of autoscaling/v1 as it is stored.
pub(crate) fn to_v2(object: &Value) -> Value {
    let mut out = object.clone();
    out["apiVersion"] = "autoscaling/v2".into();
    let mut taken = |key: &str| -> Option<Value> {
        let annotations = out.get_mut("metadata")?.get_mut("annotations")?;
        let value = annotations.as_object_mut()?.remove(key)?;
        serde_json::from_str(value.as_str()?).ok()
    };
    let others = taken(METRICS);
    let current = taken(CURRENT);
    let conditions = taken(CONDITIONS);
    let behavior = taken(BEHAVIOR);
    let spec = object_mut(&mut out, &["spec"]);
    let mut metrics = Vec::new();
    if let Some(percent) = spec.remove("targetCPUUtilizationPercentage") {
        metrics.push(json!({"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": percent},
        }}));
    }
    if let Some(Value::Array(others)) = others {
        metrics.extend(others);
    }
    if !metrics.is_empty() {
        spec.insert("metrics".into(), metrics.into());
    }
    if let Some(behavior) = behavior.filter(Value::is_object) {
        spec.insert("behavior".into(), behavior);
    }
    if out.get("status").is_some_and(Value::is_object) {
        let status = object_mut(&mut out, &["status"]);
        status.remove("currentCPUUtilizationPercentage");
        for (name, value) in [("currentMetrics", current), ("conditions", conditions)] {
            if let Some(value) = value.filter(Value::is_array) {
                status.insert(name.into(), value);
            }
        }
    }
    out
}
