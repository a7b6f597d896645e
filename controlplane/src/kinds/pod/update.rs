//! What may change in a pod that exists.

use serde_json::Value;

use super::validate;
use crate::kinds::access::{at, integer, list, list_mut, object_mut, same, text};
use crate::kinds::errors::Errors;

const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
                         `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
                         `spec.tolerations` (only additions to existing tolerations),\
                         `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
                         previously negative)";

/// An update of the main resource: everything but a few fields must be as it was.
pub(super) fn spec(object: &Value, old: &Value, errors: &mut Errors) {
    validate::spec(object, "spec", errors);
    validate::images(object, errors);
    for kind in ["containers", "initContainers"] {
        if list(object, &["spec", kind]).len() != list(old, &["spec", kind]).len() {
            errors.forbidden(
                format!("spec.{kind}"),
                "pod updates may not add or remove containers",
            );
            return;
        }
    }
    deadline(object, old, errors);
    tolerations(object, old, errors);
    gates(object, old, errors);
    let mut expected = old.clone();
    for kind in ["containers", "initContainers"] {
        let images: Vec<Value> = list(object, &["spec", kind])
            .iter()
            .map(|container| container.get("image").cloned().unwrap_or_default())
            .collect();
        for (container, image) in list_mut(&mut expected, &["spec", kind])
            .iter_mut()
            .zip(images)
        {
            object_mut(container, &[]).insert("image".into(), image);
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        copy(object, &mut expected, field);
    }
    let before = integer(old, &["spec", "terminationGracePeriodSeconds"]);
    if before.is_some_and(|seconds| seconds < 0)
        && integer(object, &["spec", "terminationGracePeriodSeconds"]) == Some(1)
    {
        copy(object, &mut expected, "terminationGracePeriodSeconds");
    }
    // A pod that is held back from scheduling may still be narrowed in where it can run.
    if !list(old, &["spec", "schedulingGates"]).is_empty() {
        copy(object, &mut expected, "nodeSelector");
        copy(object, &mut expected, "affinity");
    }
    if !same(object.get("spec"), expected.get("spec")) {
        errors.forbidden("spec", FORBIDDEN);
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    let spec = object_mut(to, &["spec"]);
    match at(from, &["spec", field]) {
        Some(value) => spec.insert(field.into(), value.clone()),
        None => spec.remove(field),
    };
}

fn deadline(object: &Value, old: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.activeDeadlineSeconds";
    let after = integer(object, &["spec", "activeDeadlineSeconds"]);
    let Some(before) = integer(old, &["spec", "activeDeadlineSeconds"]) else {
        return;
    };
    match after {
        Some(after) if after > before => errors.invalid(
            FIELD,
            after,
            &format!("must be less than or equal to previous value of {before}"),
        ),
        Some(_) => {}
        None => errors.invalid(
            FIELD,
            Value::Null,
            "must not update from a positive integer to nil value",
        ),
    }
}

fn tolerations(object: &Value, old: &Value, errors: &mut Errors) {
    let after = list(object, &["spec", "tolerations"]);
    let without_seconds = |toleration: &Value| {
        let mut toleration = toleration.clone();
        object_mut(&mut toleration, &[]).remove("tolerationSeconds");
        toleration
    };
    let kept = list(old, &["spec", "tolerations"]).iter().all(|before| {
        after.iter().any(|after| {
            same(
                Some(&without_seconds(after)),
                Some(&without_seconds(before)),
            )
        })
    });
    if !kept {
        errors.forbidden(
            "spec.tolerations",
            "existing toleration can not be modified except its tolerationSeconds",
        );
    }
}

fn gates(object: &Value, old: &Value, errors: &mut Errors) {
    let before = list(old, &["spec", "schedulingGates"]);
    for (index, gate) in list(object, &["spec", "schedulingGates"])
        .iter()
        .enumerate()
    {
        if !before.contains(gate) {
            errors.forbidden(
                format!("spec.schedulingGates[{index}].name"),
                &format!(
                    "only deletion is allowed, but found new scheduling gate '{}'",
                    text(gate, &["name"])
                ),
            );
        }
    }
}

/// A status that a node reports.
pub(super) fn status(object: &Value, old: &Value, errors: &mut Errors) {
    let nominated = text(object, &["status", "nominatedNodeName"]);
    if !nominated.is_empty() {
        errors.format(
            "status.nominatedNodeName",
            nominated,
            crate::kinds::names::dns_subdomain(nominated),
        );
    }
    // What has ended for good does not start again.
    if text(old, &["spec", "restartPolicy"]) == "Always" {
        return;
    }
    let ended = |status: &Value| at(status, &["state", "terminated"]).is_some();
    for before in list(old, &["status", "containerStatuses"]) {
        let name = text(before, &["name"]);
        let after = list(object, &["status", "containerStatuses"])
            .iter()
            .enumerate()
            .find(|(_, status)| text(status, &["name"]) == name);
        let Some((index, after)) = after else {
            continue;
        };
        let failed = integer(before, &["state", "terminated", "exitCode"]).unwrap_or(0) != 0;
        if ended(before)
            && !ended(after)
            && !(failed && text(old, &["spec", "restartPolicy"]) == "OnFailure")
        {
            errors.forbidden(
                format!("status.containerStatuses[{index}].state"),
                "may not be transitioned to non-terminated state",
            );
        }
    }
}
