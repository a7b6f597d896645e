//! What may be written through `ephemeralcontainers` and `resize`: everything else in the body is passed over, as in
//! Kubernetes, and what existed before keeps its shape.

use serde_json::{Map, Value};

use super::qos;
use crate::kinds::access::{at, list, list_mut, map, object_mut, same, text};
use crate::kinds::errors::{Errors, quote};

/// The kubelet's copy of a static pod: what it runs is decided by a file on its node.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Leaves the old pod with the new one's ephemeral containers.
pub(super) fn keep_ephemeral(object: &mut Value, old: &Value) {
    let added = at(object, &["spec", "ephemeralContainers"]).cloned();
    keep_old(object, old);
    let spec = object_mut(object, &["spec"]);
    match added {
        Some(added) => spec.insert("ephemeralContainers".into(), added),
        None => spec.remove("ephemeralContainers"),
    };
}

/// Leaves the old pod with the new one's resources.
pub(super) fn keep_resources(object: &mut Value, old: &Value) {
    let wanted = object.clone();
    keep_old(object, old);
    for kind in ["containers", "initContainers"] {
        for container in list_mut(object, &["spec", kind]) {
            let name = text(container, &["name"]).to_owned();
            let named = |new: &&Value| text(new, &["name"]) == name;
            let Some(new) = list(&wanted, &["spec", kind]).iter().find(named) else {
                continue;
            };
            copy(
                new,
                object_mut(container, &[]),
                &["resources", "resizePolicy"],
            );
        }
    }
    let empty = Value::Null;
    let new = wanted.get("spec").unwrap_or(&empty);
    copy(new, object_mut(object, &["spec"]), &["resources"]);
}

fn copy(from: &Value, to: &mut Map<String, Value>, fields: &[&str]) {
    for field in fields {
        match from.get(*field) {
            Some(value) => to.insert((*field).to_owned(), value.clone()),
            None => to.remove(*field),
        };
    }
}

/// All but what the machinery of writes needs of the new object.
fn keep_old(object: &mut Value, old: &Value) {
    for field in ["spec", "status"] {
        match old.get(field) {
            Some(value) => object_mut(object, &[]).insert(field.into(), value.clone()),
            None => object_mut(object, &[]).remove(field),
        };
    }
    let kept = ["labels", "annotations", "finalizers", "ownerReferences"];
    let empty = Value::Null;
    let before = old.get("metadata").unwrap_or(&empty);
    copy(before, object_mut(object, &["metadata"]), &kept);
}

fn is_mirror(pod: &Value) -> bool {
    map(pod, &["metadata", "annotations"]).is_some_and(|all| all.contains_key(MIRROR))
}

pub(super) fn ephemeral(object: &Value, old: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.ephemeralContainers";
    if is_mirror(old) {
        errors.forbidden("", "static pods do not support ephemeral containers");
    }
    let after = list(object, &["spec", "ephemeralContainers"]);
    for before in list(old, &["spec", "ephemeralContainers"]) {
        let name = text(before, &["name"]);
        let what = match after.iter().find(|new| text(new, &["name"]) == name) {
            None => "removed",
            Some(new) if !same(Some(new), Some(before)) => "changed",
            Some(_) => continue,
        };
        let message = format!(
            "existing ephemeral containers {} may not be {what}\n",
            quote(name)
        );
        errors.forbidden(FIELD, &message);
    }
    for (index, container) in after.iter().enumerate() {
        let target = text(container, &["targetContainerName"]);
        let all = list(object, &["spec", "containers"]).iter();
        let mut all = all.chain(list(object, &["spec", "initContainers"]));
        if !target.is_empty() && !all.any(|known| text(known, &["name"]) == target) {
            errors.not_found(format!("{FIELD}[{index}].targetContainerName"), target);
        }
    }
}

pub(super) fn resize(object: &Value, old: &Value, errors: &mut Errors) {
    if is_mirror(old) {
        errors.forbidden("", "static pods cannot be resized");
    }
    let phase = text(old, &["status", "phase"]);
    if matches!(phase, "Succeeded" | "Failed") {
        errors.forbidden("", "Pod is not running: it cannot be resized");
    }
    let (before, after) = (qos::class(old), qos::class(object));
    if before != after {
        errors.invalid(
            "spec",
            after,
            "Pod QOS Class may not change as a result of resizing",
        );
    }
    for kind in ["containers", "initContainers"] {
        let all = list(object, &["spec", kind])
            .iter()
            .zip(list(old, &["spec", kind]));
        for (index, (new, before)) in all.enumerate() {
            let field = format!("spec.{kind}[{index}].resources");
            resources(new, before, &field, errors);
            let is_sidecar = text(before, &["restartPolicy"]) == "Always";
            let changed = !same(new.get("resources"), before.get("resources"));
            if kind == "initContainers" && !is_sidecar && changed {
                errors.forbidden(
                    field,
                    "resources for non-sidecar init containers are immutable",
                );
            }
        }
    }
}

fn resources(new: &Value, before: &Value, field: &str, errors: &mut Errors) {
    for kind in ["limits", "requests"] {
        let empty = Map::new();
        let of = |container| map(container, &["resources", kind]).unwrap_or(&empty);
        let (new, before) = (of(new), of(before));
        for name in before.keys().filter(|name| !new.contains_key(*name)) {
            if matches!(name.as_str(), "cpu" | "memory") {
                let message = format!("resource {kind} cannot be removed");
                errors.forbidden(format!("{field}.{kind}"), &message);
            }
        }
        let changed = |name: &&String| !same(new.get(*name), before.get(*name));
        let immutable = |name: &&String| !matches!(name.as_str(), "cpu" | "memory");
        if new
            .keys()
            .chain(before.keys())
            .filter(immutable)
            .any(|name| changed(&name))
        {
            errors.forbidden(
                format!("{field}.{kind}"),
                "only cpu and memory resources are mutable",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    fn pod(requests: Value, ephemeral: Value) -> Value {
        json!({"metadata": {"name": "p", "resourceVersion": "1", "labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}],
                "ephemeralContainers": ephemeral},
            "status": {"phase": "Running"}})
    }

    #[test]
    fn only_what_the_subresource_is_for_is_taken() {
        let old = pod(json!({"cpu": "1"}), json!([]));
        let mut new = pod(json!({"cpu": "2"}), json!([{"name": "look"}]));
        new["spec"]["containers"][0]["image"] = "other".into();
        new["metadata"]["labels"] = json!({});
        let mut resized = new.clone();
        keep_resources(&mut resized, &old);
        assert_eq!(resized, pod(json!({"cpu": "2"}), json!([])));
        keep_ephemeral(&mut new, &old);
        assert_eq!(new, pod(json!({"cpu": "1"}), json!([{"name": "look"}])));
    }

    #[test]
    fn what_was_added_stays_as_it_is() {
        let errors = |before: Value, after: Value| {
            let mut errors = Errors::new();
            ephemeral(&pod(json!({}), after), &pod(json!({}), before), &mut errors);
            errors.into_vec().len()
        };
        let one = json!([{"name": "look", "image": "a"}]);
        assert_eq!(errors(json!([]), one.clone()), 0);
        assert_eq!(errors(one.clone(), json!([])), 1);
        assert_eq!(errors(one, json!([{"name": "look", "image": "b"}])), 1);
    }

    #[test]
    fn resizing_keeps_the_class_and_takes_nothing_away() {
        for (before, after, count) in [
            (json!({"cpu": "1"}), json!({"cpu": "2"}), 0),
            (json!({"cpu": "1"}), json!({"cpu": "1", "memory": "1Gi"}), 0),
            (json!({"cpu": "1", "memory": "1"}), json!({"cpu": "1"}), 1),
            (json!({}), json!({"cpu": "1"}), 1),
            (
                json!({"cpu": "1", "ephemeral-storage": "1"}),
                json!({"cpu": "1", "ephemeral-storage": "2"}),
                1,
            ),
        ] {
            let mut errors = Errors::new();
            let (new, old) = (pod(after, json!([])), pod(before, json!([])));
            resize(&new, &old, &mut errors);
            let errors = errors.into_vec();
            assert_eq!(errors.len(), count, "{errors:?}");
        }
    }
}
