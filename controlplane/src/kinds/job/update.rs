//! What may change in a Job that exists.

use serde_json::Value;

use crate::kinds::access::{at, flag, integer, list, list_mut, object_mut, same, text};
use crate::kinds::errors::Errors;

pub(super) fn spec(object: &Value, old: &Value, errors: &mut Errors) {
    completions(object, old, errors);
    for field in [
        "selector",
        "completionMode",
        "podFailurePolicy",
        "backoffLimitPerIndex",
        "managedBy",
        "successPolicy",
    ] {
        let path = ["spec", field];
        errors.immutable(&format!("spec.{field}"), at(object, &path), at(old, &path));
    }
    template(object, old, errors);
}

/// An Indexed Job may grow and shrink while completions and parallelism stay equal.
fn completions(object: &Value, old: &Value, errors: &mut Errors) {
    let (before, after) = (
        integer(old, &["spec", "completions"]),
        integer(object, &["spec", "completions"]),
    );
    if before == after {
        return;
    }
    const FIELD: &str = "spec.completions";
    if text(object, &["spec", "completionMode"]) == "Indexed" {
        if after.is_some() && after == integer(object, &["spec", "parallelism"]) {
            return;
        }
        errors.invalid(
            FIELD,
            after.map_or(Value::Null, Value::from),
            "can only be modified in tandem with spec.parallelism",
        );
        return;
    }
    errors.immutable(
        FIELD,
        at(object, &["spec", "completions"]),
        at(old, &["spec", "completions"]),
    );
}

/// Where the pods of a Job that has not begun shall run may still be changed.
fn template(object: &Value, old: &Value, errors: &mut Errors) {
    const PATH: [&str; 2] = ["spec", "template"];
    let mut expected = old.clone();
    let unstarted = flag(old, &["spec", "suspend"]) && at(old, &["status", "startTime"]).is_none();
    if unstarted {
        for path in [
            &["metadata", "labels"][..],
            &["metadata", "annotations"],
            &["spec", "nodeSelector"],
            &["spec", "tolerations"],
            &["spec", "schedulingGates"],
            &["spec", "affinity", "nodeAffinity"],
        ] {
            copy(object, &mut expected, &[&PATH[..], path].concat());
        }
        for kind in ["containers", "initContainers"] {
            let path = [&PATH[..], &["spec", kind]].concat();
            let resources: Vec<Value> = list(object, &path)
                .iter()
                .map(|container| container.get("resources").cloned().unwrap_or_default())
                .collect();
            for (container, resources) in list_mut(&mut expected, &path).iter_mut().zip(resources) {
                object_mut(container, &[]).insert("resources".into(), resources);
            }
        }
    }
    errors.immutable("spec.template", at(object, &PATH), at(&expected, &PATH));
}

fn copy(from: &Value, to: &mut Value, path: &[&str]) {
    let Some((last, holder)) = path.split_last() else {
        return;
    };
    match at(from, path) {
        Some(value) => {
            object_mut(to, holder).insert((*last).to_owned(), value.clone());
        }
        None if at(to, path).is_some() => {
            object_mut(to, holder).remove(*last);
        }
        None => {}
    }
}

/// A finished Job stays finished, and what was counted stays counted.
pub(super) fn status(object: &Value, old: Option<&Value>, errors: &mut Errors) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        if let Some(count) = integer(object, &["status", field]).filter(|count| *count < 0) {
            errors.invalid(
                format!("status.{field}"),
                count,
                "must be greater than or equal to 0",
            );
        }
    }
    if super::has(object, "Complete") && super::has(object, "Failed") {
        errors.invalid(
            "status.conditions",
            at(object, &["status", "conditions"])
                .cloned()
                .unwrap_or_default(),
            "cannot set Complete=True and Failed=true conditions",
        );
    }
    let Some(old) = old else { return };
    for kind in ["Complete", "Failed", "FailureTarget", "SuccessCriteriaMet"] {
        if super::has(old, kind) && !super::has(object, kind) {
            errors.invalid(
                "status.conditions",
                at(object, &["status", "conditions"])
                    .cloned()
                    .unwrap_or_default(),
                &format!("cannot disable the terminal {kind}=True condition"),
            );
        }
    }
    if super::has(old, "Complete")
        && !same(
            at(object, &["status", "completionTime"]),
            at(old, &["status", "completionTime"]),
        )
    {
        errors.invalid(
            "status.completionTime",
            at(object, &["status", "completionTime"])
                .cloned()
                .unwrap_or_default(),
            "completionTime cannot be mutated",
        );
    }
}

pub(super) fn warnings(object: &Value) -> Vec<String> {
    let completions = integer(object, &["spec", "completions"]).unwrap_or(0);
    let parallelism = integer(object, &["spec", "parallelism"]).unwrap_or(0);
    let indexed = text(object, &["spec", "completionMode"]) == "Indexed";
    let mut warnings = Vec::new();
    if indexed && completions > 100_000 && parallelism > 10_000 {
        warnings.push(
            "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, \
             Kubernetes might not be able to track completedIndexes when a big number of indexes fail"
                .to_owned(),
        );
    }
    warnings
}
