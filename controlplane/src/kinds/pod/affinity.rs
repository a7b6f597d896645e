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
        let field = format!("{field}.{REQUIRED}.nodeSelectorTerms");
        let terms = list(required, &["nodeSelectorTerms"]);
        if terms.is_empty() {
            errors.required(&*field, "must have at least one node selector term");
        }
        for (index, one) in terms.iter().enumerate() {
            term(one, &format!("{field}[{index}]"), errors);
        }
    }
    for (index, preferred) in list(affinity, &["nodeAffinity", PREFERRED])
        .iter()
        .enumerate()
    {
        let field = format!("{field}.{PREFERRED}[{index}]");
        weight(preferred, &field, errors);
        if let Some(preference) = at(preferred, &["preference"]) {
            term(preference, &format!("{field}.preference"), errors);
        }
    }
}

fn term(term: &Value, field: &str, errors: &mut Errors) {
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
    }
}

fn pod_affinity(affinity: &Value, kind: &str, field: &str, errors: &mut Errors) {
    for (index, term) in list(affinity, &[kind, REQUIRED]).iter().enumerate() {
        pod_term(term, &format!("{field}.{REQUIRED}[{index}]"), errors);
    }
    for (index, preferred) in list(affinity, &[kind, PREFERRED]).iter().enumerate() {
        let field = format!("{field}.{PREFERRED}[{index}]");
        weight(preferred, &field, errors);
        if let Some(term) = at(preferred, &["podAffinityTerm"]) {
            pod_term(term, &format!("{field}.podAffinityTerm"), errors);
        }
    }
}

fn pod_term(term: &Value, field: &str, errors: &mut Errors) {
    for name in ["labelSelector", "namespaceSelector"] {
        if let Some(chosen) = at(term, &[name]) {
            selector::validate(chosen, &format!("{field}.{name}"), errors);
        }
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

fn tolerate(toleration: &Value, field: &str, errors: &mut Errors) {
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
    }
}
