//! Tests of `registry::admission`.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;

#[test]
fn a_runtime_class_adds_overhead_and_where_to_run() {
    let class = json!({"overhead": {"podFixed": {"cpu": "10m"}},
        "scheduling": {"nodeSelector": {"rt": "crun"}, "tolerations": [{"key": "a", "operator": "Exists"}]}});
    let mut pod = json!({"spec": {"nodeSelector": {"x": "y"}}});
    with_runtime(&mut pod, &class).unwrap();
    assert_eq!(pod["spec"]["overhead"]["cpu"], "10m");
    assert_eq!(pod["spec"]["nodeSelector"], json!({"x": "y", "rt": "crun"}));
    assert_eq!(pod["spec"]["tolerations"].as_array().unwrap().len(), 1);
    let mut other = json!({"spec": {"nodeSelector": {"rt": "runc"}}});
    assert_eq!(
        with_runtime(&mut other, &class).unwrap_err(),
        "pod rejected: conflict: runtimeClass.scheduling.nodeSelector[rt] = crun; pod.spec.nodeSelector[rt] = runc"
    );
    let mut wrong = json!({"spec": {"overhead": {"cpu": "20m"}}});
    assert!(with_runtime(&mut wrong, &class).is_err());
}

#[test]
fn of_default_classes_the_newest_wins() {
    let class = |name: &str, time: &str, default: bool| {
        json!({"metadata": {"name": name, "creationTimestamp": time,
            "annotations": {"storageclass.kubernetes.io/is-default-class": default.to_string()}}})
    };
    let all = [
        class("old", "2026-01-01T00:00:00Z", true),
        class("newer", "2026-01-03T00:00:00Z", false),
        class("b", "2026-01-02T00:00:00Z", true),
        class("a", "2026-01-02T00:00:00Z", true),
    ];
    assert_eq!(object::name(default_class(&all).unwrap()), "a");
    assert!(default_class(&all[1..2]).is_none());
}

#[test]
fn new_nodes_get_no_pods_until_they_are_ready() {
    let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
    let tainted = |mut node: Value| {
        keep_pods_away(&mut node);
        node["spec"]["taints"].clone()
    };
    assert_eq!(tainted(json!({})), json!([taint]));
    let other = json!({"key": "a", "effect": "NoExecute"});
    assert_eq!(
        tainted(json!({"spec": {"taints": [other]}})),
        json!([other, taint])
    );
    assert_eq!(
        tainted(json!({"spec": {"taints": [taint]}})),
        json!([taint])
    );
    let ready = |status: &str| {
        let condition = json!({"type": "Ready", "status": status});
        tainted(json!({"status": {"conditions": [condition]}}))
    };
    assert_eq!(ready("False"), json!([taint]));
    assert_eq!(ready("True"), Value::Null);
}
