//! Volumes, claims, classes, budgets and autoscalers.

use serde_json::{Value, json};

use super::{changed, kind, problems};
use crate::kinds::horizontal_pod_autoscaler::{to_v1, to_v2};

fn claim() -> Value {
    json!({"metadata": {"name": "c"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "storageClassName": "local", "resources": {"requests": {"storage": "1Gi"}}}})
}

#[test]
fn a_claim_keeps_its_spec_until_it_is_bound() {
    assert!(problems(kind("PersistentVolumeClaim"), claim()).is_empty());
    let mut bound = claim();
    bound["spec"]["volumeName"] = "v".into();
    let (errors, _) = changed(kind("PersistentVolumeClaim"), claim(), bound, "");
    assert!(errors.is_empty(), "{errors:?}");
    let mut larger = claim();
    larger["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    let (errors, _) = changed(kind("PersistentVolumeClaim"), claim(), larger, "");
    assert_eq!(
        errors,
        [
            "spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"
        ]
    );
    let mut many = claim();
    many["spec"]["accessModes"] = json!(["ReadWriteOncePod", "ReadWriteOnce"]);
    assert_eq!(
        problems(kind("PersistentVolumeClaim"), many),
        ["spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"]
    );
}

#[test]
fn a_local_volume_needs_to_know_its_nodes() {
    let volume = json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"], "local": {"path": "/mnt/a"}}});
    assert_eq!(
        problems(kind("PersistentVolume"), volume),
        ["spec.nodeAffinity: Required value: Local volume requires node affinity"]
    );
}

#[test]
fn system_priorities_are_the_systems() {
    let class = |name: &str, value: i64| json!({"metadata": {"name": name}, "value": value});
    assert!(problems(kind("PriorityClass"), class("high", 1_000_000_000)).is_empty());
    assert!(
        problems(
            kind("PriorityClass"),
            class("system-node-critical", 2_000_001_000)
        )
        .is_empty()
    );
    assert_eq!(
        problems(kind("PriorityClass"), class("high", 1_000_000_001)),
        ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
    );
    assert_eq!(
        problems(kind("PriorityClass"), class("system-x", 1)),
        [
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class"
        ]
    );
}

#[test]
fn a_budget_has_one_bound() {
    let budget = json!({"metadata": {"name": "b"}, "spec": {"minAvailable": "101%"}});
    assert_eq!(
        problems(kind("PodDisruptionBudget"), budget),
        ["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"]
    );
}

#[test]
fn an_autoscaler_is_the_same_in_both_versions() {
    let old = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"}, "spec": {"maxReplicas": 5, "targetCPUUtilizationPercentage": 60,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}}});
    let stored = to_v2(&old);
    assert_eq!(
        stored["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        60
    );
    assert_eq!(to_v1(&stored), old);
    let mut more = stored.clone();
    more["spec"]["metrics"] = json!([
        {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
    ]);
    let shown = to_v1(&more);
    assert!(
        shown["metadata"]["annotations"]["autoscaling.alpha.kubernetes.io/metrics"].is_string()
    );
    let back = to_v2(&shown);
    assert_eq!(back["spec"]["metrics"], more["spec"]["metrics"]);
}
