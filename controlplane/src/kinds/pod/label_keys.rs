//! `matchLabelKeys` and `mismatchLabelKeys`: the pod's own values of these labels join the label selectors of
//! its affinity terms and spreading constraints when it is created. Pure.

use serde_json::{Value, json};

use crate::kinds::access::{list, list_mut, object_mut};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

pub(super) fn merge(pod: &mut Value) {
    let labels = pod["metadata"]["labels"].clone();
    for kind in ["podAffinity", "podAntiAffinity"] {
        for term in list_mut(pod, &["spec", "affinity", kind, REQUIRED]) {
            join(term, &labels);
        }
        for preferred in list_mut(pod, &["spec", "affinity", kind, PREFERRED]) {
            if let Some(term) = preferred.get_mut("podAffinityTerm") {
                join(term, &labels);
            }
        }
    }
    for constraint in list_mut(pod, &["spec", "topologySpreadConstraints"]) {
        join(constraint, &labels);
    }
}

fn join(holder: &mut Value, labels: &Value) {
    if !holder["labelSelector"].is_object() {
        return;
    }
    let mut more = Vec::new();
    for (name, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        for key in list(holder, &[name]).iter().filter_map(Value::as_str) {
            if let Some(value) = labels.get(key).and_then(Value::as_str) {
                more.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    if more.is_empty() {
        return;
    }
    let selector = object_mut(holder, &["labelSelector"]);
    match selector.get_mut("matchExpressions") {
        Some(Value::Array(known)) => {
            more.retain(|expression| !known.contains(expression));
            known.extend(more);
        }
        _ => {
            selector.insert("matchExpressions".into(), more.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_the_pod_join_the_selector() {
        let mut pod = json!({
            "metadata": {"labels": {"rev": "7"}},
            "spec": {"topologySpreadConstraints": [
                {"labelSelector": {"matchLabels": {"app": "a"}}, "matchLabelKeys": ["rev", "none"]},
            ]},
        });
        merge(&mut pod);
        merge(&mut pod);
        assert_eq!(
            pod["spec"]["topologySpreadConstraints"][0]["labelSelector"]["matchExpressions"],
            json!([{"key": "rev", "operator": "In", "values": ["7"]}])
        );
    }
}
