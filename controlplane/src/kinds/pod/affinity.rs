//! Where a pod may run: node selectors, affinity, tolerations, spreading.

use std::collections::HashSet;

use serde_json::Value;

use crate::kinds::access::{at, integer, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::node::taint_effect;
use crate::kinds::{names, selector};

pub(super) fn validate(spec: &Value, field: &str, errors: &mut Errors) {
    selector::labels(
        at(spec, &["nodeSelector"]),
        &format!("{field}.nodeSelector"),
        errors,
    );
    if let Some(affinity) = at(spec, &["affinity"]) {
        node_affinity(affinity, &format!("{field}.affinity.nodeAffinity"), errors);
        for kind in ["podAffinity", "podAntiAffinity"] {
            pod_affinity(affinity, kind, &format!("{field}.affinity.{kind}"), errors);
        }
    }
    for (index, toleration) in list(spec, &["tolerations"]).iter().enumerate() {
        tolerate(toleration, &format!("{field}.tolerations[{index}]"), errors);
    }
    spread(spec, field, errors);
}

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

fn weight(preferred: &Value, field: &str, errors: &mut Errors) {
    let weight = integer(preferred, &["weight"]).unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(
            format!("{field}.weight"),
            weight,
            "must be in the range 1-100",
        );
    }
}

fn node_affinity(affinity: &Value, field: &str, errors: &mut Errors) {
    if let Some(required) = at(affinity, &["nodeAffinity", REQUIRED]) {
        node_selector(required, &format!("{field}.{REQUIRED}"), errors);
    }
    for (index, preferred) in list(affinity, &["nodeAffinity", PREFERRED])
        .iter()
        .enumerate()
    {
        let field = format!("{field}.{PREFERRED}[{index}]");
        weight(preferred, &field, errors);
        if let Some(preference) = at(preferred, &["preference"]) {
            term(preference, &format!("{field}.preference"), false, errors);
        }
    }
}

pub(super) fn node_selector(selector: &Value, field: &str, errors: &mut Errors) {
    let field = format!("{field}.nodeSelectorTerms");
    let terms = list(selector, &["nodeSelectorTerms"]);
    if terms.is_empty() {
        errors.required(&*field, "must have at least one node selector term");
    }
    for (index, one) in terms.iter().enumerate() {
        term(one, &format!("{field}[{index}]"), true, errors);
    }
}

/// What is only preferred may name values that no label has.
fn term(term: &Value, field: &str, required: bool, errors: &mut Errors) {
    for (index, expr) in list(term, &["matchExpressions"]).iter().enumerate() {
        let field = format!("{field}.matchExpressions[{index}]");
        let values = list(expr, &["values"]);
        match text(expr, &["operator"]) {
            "In" | "NotIn" if values.is_empty() => errors.required(
                format!("{field}.values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ),
            "In" | "NotIn" => {}
            "Exists" | "DoesNotExist" => {
                if !values.is_empty() {
                    errors.forbidden(
                        format!("{field}.values"),
                        "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                    );
                }
            }
            "Gt" | "Lt" => {
                if values.len() != 1 {
                    errors.required(
                        format!("{field}.values"),
                        "must be specified single value when `operator` is 'Lt' or 'Gt'",
                    );
                }
            }
            other => errors.invalid(
                format!("{field}.operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = text(expr, &["key"]);
        errors.format(&format!("{field}.key"), key, names::qualified_name(key));
        let values = values.iter().filter_map(Value::as_str).enumerate();
        for (index, value) in values.filter(|_| required) {
            let field = format!("{field}.values[{index}]");
            errors.format(&field, value, names::label_value(value));
        }
    }
    for (index, expr) in list(term, &["matchFields"]).iter().enumerate() {
        match_field(expr, &format!("{field}.matchFields[{index}]"), errors);
    }
}

/// Fields of a node that can be asked for: its name.
fn match_field(expr: &Value, field: &str, errors: &mut Errors) {
    let values = list(expr, &["values"]);
    match text(expr, &["operator"]) {
        "In" | "NotIn" => {
            if values.len() != 1 {
                errors.required(
                    format!("{field}.values"),
                    "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                );
            }
        }
        other => errors.invalid(
            format!("{field}.operator"),
            other,
            "not a valid selector operator",
        ),
    }
    let key = text(expr, &["key"]);
    if key != "metadata.name" {
        errors.invalid(
            format!("{field}.key"),
            key,
            "not a valid field selector key",
        );
    }
    for (index, value) in values.iter().filter_map(Value::as_str).enumerate() {
        errors.format(
            &format!("{field}.values[{index}]"),
            value,
            names::dns_subdomain(value),
        );
    }
}

fn pod_affinity(affinity: &Value, kind: &str, field: &str, errors: &mut Errors) {
    for (index, term) in list(affinity, &[kind, REQUIRED]).iter().enumerate() {
        pod_term(term, &format!("{field}.{REQUIRED}[{index}]"), errors);
    }
    for (index, preferred) in list(affinity, &[kind, PREFERRED]).iter().enumerate() {
        let field = format!("{field}.{PREFERRED}[{index}]");
        weight(preferred, &field, errors);
        let empty = Value::Null;
        let term = at(preferred, &["podAffinityTerm"]).unwrap_or(&empty);
        pod_term(term, &format!("{field}.podAffinityTerm"), errors);
    }
}

fn pod_term(term: &Value, field: &str, errors: &mut Errors) {
    for name in ["labelSelector", "namespaceSelector"] {
        if let Some(chosen) = at(term, &[name]) {
            selector::validate(chosen, &format!("{field}.{name}"), errors);
        }
    }
    label_keys(
        term,
        &["matchLabelKeys", "mismatchLabelKeys"],
        field,
        errors,
    );
    for (index, namespace) in list(term, &["namespaces"]).iter().enumerate() {
        let namespace = namespace.as_str().unwrap_or("");
        errors.format(
            &format!("{field}.namespace[{index}]"),
            namespace,
            names::dns_label(namespace),
        );
    }
    let key = text(term, &["topologyKey"]);
    if key.is_empty() {
        errors.required(format!("{field}.topologyKey"), "can not be empty");
    }
    errors.format(
        &format!("{field}.topologyKey"),
        key,
        names::qualified_name(key),
    );
}

pub(super) fn tolerate(toleration: &Value, field: &str, errors: &mut Errors) {
    let key = text(toleration, &["key"]);
    let operator = text(toleration, &["operator"]);
    let value = text(toleration, &["value"]);
    let effect = text(toleration, &["effect"]);
    if !key.is_empty() {
        errors.format(&format!("{field}.key"), key, names::qualified_name(key));
    } else if operator != "Exists" {
        errors.invalid(
            format!("{field}.operator"),
            operator,
            "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        );
    }
    if at(toleration, &["tolerationSeconds"]).is_some() && effect != "NoExecute" {
        errors.invalid(
            format!("{field}.effect"),
            effect,
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        );
    }
    match operator {
        "" | "Equal" => {
            if let Some(message) = names::label_value(value).first() {
                errors.invalid(format!("{field}.operator"), value, message);
            }
        }
        "Exists" => {
            if !value.is_empty() {
                errors.invalid(
                    format!("{field}.operator"),
                    value,
                    "value must be empty when `operator` is 'Exists'",
                );
            }
        }
        other => errors.not_supported(format!("{field}.operator"), other, &["Equal", "Exists"]),
    }
    taint_effect(effect, true, &format!("{field}.effect"), errors);
}

fn spread(spec: &Value, field: &str, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, constraint) in list(spec, &["topologySpreadConstraints"])
        .iter()
        .enumerate()
    {
        let field = format!("{field}.topologySpreadConstraints[{index}]");
        let skew = integer(constraint, &["maxSkew"]).unwrap_or(0);
        if skew <= 0 {
            errors.invalid(
                format!("{field}.maxSkew"),
                skew,
                "must be greater than zero",
            );
        }
        let key = text(constraint, &["topologyKey"]);
        if key.is_empty() {
            errors.required(format!("{field}.topologyKey"), "can not be empty");
        }
        let when = text(constraint, &["whenUnsatisfiable"]);
        if !matches!(when, "DoNotSchedule" | "ScheduleAnyway") {
            errors.not_supported(
                format!("{field}.whenUnsatisfiable"),
                when,
                &["DoNotSchedule", "ScheduleAnyway"],
            );
        }
        if !seen.insert((key, when)) {
            errors.duplicate(
                format!("{field}.{{topologyKey, whenUnsatisfiable}}"),
                format!("{{{key}, {when}}}"),
            );
        }
        if let Some(chosen) = at(constraint, &["labelSelector"]) {
            selector::validate(chosen, &format!("{field}.labelSelector"), errors);
        }
        if let Some(domains) = integer(constraint, &["minDomains"]) {
            let field = format!("{field}.minDomains");
            if domains <= 0 {
                errors.invalid(&*field, domains, "must be greater than zero");
            }
            if when != "DoNotSchedule" {
                errors.invalid(
                    field,
                    domains,
                    &format!(
                        "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}"
                    ),
                );
            }
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            let value = text(constraint, &[policy]);
            let given = at(constraint, &[policy]).is_some();
            if given && !matches!(value, "Honor" | "Ignore") {
                errors.not_supported(format!("{field}.{policy}"), value, &["Honor", "Ignore"]);
            }
        }
        label_keys(constraint, &["matchLabelKeys"], &field, errors);
    }
}

/// Keys of the pod's own labels that join (or are kept out by) the label selector.
fn label_keys(holder: &Value, lists: &[&str], field: &str, errors: &mut Errors) {
    let mut seen = HashSet::new();
    for name in lists {
        let keys = list(holder, &[name]);
        if !keys.is_empty() && at(holder, &["labelSelector"]).is_none() {
            errors.forbidden(
                format!("{field}.{name}"),
                "must not be specified when labelSelector is not set",
            );
        }
        for (index, key) in keys.iter().filter_map(Value::as_str).enumerate() {
            let field = format!("{field}.{name}[{index}]");
            errors.format(&field, key, names::qualified_name(key));
            if !seen.insert(key) {
                errors.invalid(
                    field,
                    key,
                    "exists in both matchLabelKeys and mismatchLabelKeys",
                );
            }
        }
    }
}
