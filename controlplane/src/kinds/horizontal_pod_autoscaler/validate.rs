//! Validation of a HorizontalPodAutoscaler's spec.

use serde_json::Value;

use super::source;
use crate::kinds::access::{at, integer, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;
use crate::kinds::quantity::Quantity;

pub(super) fn spec(object: &Value, errors: &mut Errors) {
    let least = integer(object, &["spec", "minReplicas"]);
    let most = integer(object, &["spec", "maxReplicas"]).unwrap_or(0);
    if let Some(least) = least
        && least < 1
    {
        errors.invalid(
            "spec.minReplicas",
            least,
            "must be greater than or equal to 1",
        );
    }
    if most < 1 {
        errors.invalid("spec.maxReplicas", most, "must be greater than 0");
    }
    if let Some(least) = least
        && most < least
    {
        errors.invalid(
            "spec.maxReplicas",
            most,
            "must be greater than or equal to `minReplicas`",
        );
    }
    let target = &object["spec"]["scaleTargetRef"];
    reference(target, "spec.scaleTargetRef", errors);
    let metrics = list(object, &["spec", "metrics"]);
    for (index, one) in metrics.iter().enumerate() {
        metric(one, &format!("spec.metrics[{index}]"), errors);
    }
    for side in ["scaleUp", "scaleDown"] {
        if let Some(rules) = at(object, &["spec", "behavior", side]) {
            behavior(rules, &format!("spec.behavior.{side}"), errors);
        }
    }
}

fn reference(reference: &Value, field: &str, errors: &mut Errors) {
    for name in ["kind", "name"] {
        let field = format!("{field}.{name}");
        let value = text(reference, &[name]);
        if value.is_empty() {
            errors.required(field, "");
        } else {
            errors.format(&field, value, names::path_segment(value));
        }
    }
}

fn metric(metric: &Value, field: &str, errors: &mut Errors) {
    const TYPES: &[&str] = &[
        "ContainerResource",
        "External",
        "Object",
        "Pods",
        "Resource",
    ];
    let kind = text(metric, &["type"]);
    if kind.is_empty() {
        errors.required(format!("{field}.type"), "must specify a metric source type");
        return;
    }
    if !TYPES.contains(&kind) {
        errors.not_supported(format!("{field}.type"), kind, TYPES);
        return;
    }
    let source = source(kind);
    let field = format!("{field}.{source}");
    let Some(body) = at(metric, &[source]) else {
        errors.required(
            field,
            "must populate information for the given metric source",
        );
        return;
    };
    if matches!(source, "resource" | "containerResource") && text(body, &["name"]).is_empty() {
        errors.required(format!("{field}.name"), "must specify a resource name");
    }
    if source == "containerResource" && text(body, &["container"]).is_empty() {
        errors.required(format!("{field}.container"), "must specify a container");
    }
    if source == "object" {
        let about = format!("{field}.describedObject");
        reference(&body["describedObject"], &about, errors);
    }
    if matches!(source, "pods" | "object" | "external") {
        let field = format!("{field}.metric.name");
        let name = text(body, &["metric", "name"]);
        if name.is_empty() {
            errors.required(field, "must specify a metric name");
        } else {
            errors.format(&field, name, names::path_segment(name));
        }
    }
    target(&body["target"], &format!("{field}.target"), errors);
}

fn target(target: &Value, field: &str, errors: &mut Errors) {
    const TYPES: &[&str] = &["AverageValue", "Utilization", "Value"];
    let kind = text(target, &["type"]);
    if kind.is_empty() {
        errors.required(format!("{field}.type"), "must specify a metric target type");
    } else if !TYPES.contains(&kind) {
        errors.not_supported(format!("{field}.type"), kind, TYPES);
    }
    for name in ["value", "averageValue"] {
        let amount = text(target, &[name]);
        if amount
            .parse::<Quantity>()
            .is_ok_and(|amount| amount.is_negative() || amount.is_zero())
        {
            errors.invalid(format!("{field}.{name}"), amount, "must be positive");
        }
    }
    let utilization = integer(target, &["averageUtilization"]);
    if let Some(percent) = utilization
        && percent < 1
    {
        errors.invalid(
            format!("{field}.averageUtilization"),
            percent,
            "must be greater than 0",
        );
    }
    let average = at(target, &["averageValue"]).is_some();
    match (utilization.is_some(), average) {
        (false, false) if at(target, &["value"]).is_none() => errors.required(
            format!("{field}.averageUtilization"),
            "must set either a target raw value or a target utilization",
        ),
        (true, true) => errors.forbidden(
            format!("{field}.averageValue"),
            "may not set both a target raw value and a target utilization",
        ),
        _ => {}
    }
}

fn behavior(rules: &Value, field: &str, errors: &mut Errors) {
    const SELECT: &[&str] = &["Disabled", "Max", "Min"];
    if let Some(window) = integer(rules, &["stabilizationWindowSeconds"]) {
        let field = format!("{field}.stabilizationWindowSeconds");
        if window < 0 {
            errors.invalid(field, window, "must be greater than or equal to zero");
        } else if window > 3600 {
            errors.invalid(field, window, "must be less than or equal to 3600");
        }
    }
    let select = text(rules, &["selectPolicy"]);
    if at(rules, &["selectPolicy"]).is_some() && !SELECT.contains(&select) {
        errors.not_supported(format!("{field}.selectPolicy"), select, SELECT);
    }
    let tolerance = text(rules, &["tolerance"]);
    if tolerance
        .parse::<Quantity>()
        .is_ok_and(Quantity::is_negative)
    {
        errors.invalid(
            format!("{field}.tolerance"),
            tolerance,
            "must be greater than or equal to 0",
        );
    }
    let policies = list(rules, &["policies"]);
    if policies.is_empty() {
        errors.required(
            format!("{field}.policies"),
            "must specify at least one Policy",
        );
    }
    for (index, policy) in policies.iter().enumerate() {
        let field = format!("{field}.policies[{index}]");
        let kind = text(policy, &["type"]);
        if !matches!(kind, "Pods" | "Percent") {
            errors.not_supported(format!("{field}.type"), kind, &["Percent", "Pods"]);
        }
        let value = integer(policy, &["value"]).unwrap_or(0);
        if value <= 0 {
            errors.invalid(format!("{field}.value"), value, "must be greater than zero");
        }
        let period = integer(policy, &["periodSeconds"]).unwrap_or(0);
        if period <= 0 {
            errors.invalid(
                format!("{field}.periodSeconds"),
                period,
                "must be greater than zero",
            );
        } else if period > 1800 {
            errors.invalid(
                format!("{field}.periodSeconds"),
                period,
                "must be less than or equal to 1800",
            );
        }
    }
}
