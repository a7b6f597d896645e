//! What a Job says about the failures and successes that end it early.

use std::collections::HashSet;

use serde_json::Value;

use crate::kinds::access::{at, integer, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;

const MOST_RULES: usize = 20;
const MOST_PATTERNS: usize = 20;
const MOST_EXIT_CODES: usize = 255;

pub(super) fn failure(job: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.podFailurePolicy.rules";
    let Some(policy) = at(job, &["spec", "podFailurePolicy"]) else {
        return;
    };
    let rules = list(policy, &["rules"]);
    if rules.len() > MOST_RULES {
        errors.too_many(FIELD, rules.len(), MOST_RULES);
        return;
    }
    let containers: HashSet<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|kind| list(job, &["spec", "template", "spec", kind]))
        .map(|container| text(container, &["name"]))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        failure_rule(job, rule, &format!("{FIELD}[{index}]"), &containers, errors);
    }
}

fn failure_rule(
    job: &Value,
    rule: &Value,
    field: &str,
    containers: &HashSet<&str>,
    errors: &mut Errors,
) {
    const ACTIONS: &[&str] = &["Count", "FailIndex", "FailJob", "Ignore"];
    match text(rule, &["action"]) {
        "" => errors.required(
            format!("{field}.action"),
            "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]",
        ),
        "FailIndex" if at(job, &["spec", "backoffLimitPerIndex"]).is_none() => errors.invalid(
            format!("{field}.action"),
            "FailIndex",
            "requires the backoffLimitPerIndex to be set",
        ),
        known if ACTIONS.contains(&known) => {}
        other => errors.not_supported(format!("{field}.action"), other, ACTIONS),
    }
    let codes = at(rule, &["onExitCodes"]);
    let conditions = list(rule, &["onPodConditions"]);
    match (codes, conditions.is_empty()) {
        (Some(_), false) => errors.invalid(
            field,
            rule.clone(),
            "specifying both OnExitCodes and OnPodConditions is not supported",
        ),
        (None, true) => errors.invalid(
            field,
            rule.clone(),
            "specifying one of OnExitCodes and OnPodConditions is required",
        ),
        _ => {}
    }
    if let Some(codes) = codes {
        exit_codes(codes, &format!("{field}.onExitCodes"), containers, errors);
    }
    if conditions.len() > MOST_PATTERNS {
        errors.too_many(
            format!("{field}.onPodConditions"),
            conditions.len(),
            MOST_PATTERNS,
        );
    }
    for (index, pattern) in conditions.iter().enumerate() {
        let field = format!("{field}.onPodConditions[{index}]");
        let kind = text(pattern, &["type"]);
        errors.format(&format!("{field}.type"), kind, names::qualified_name(kind));
        match text(pattern, &["status"]) {
            "True" | "False" | "Unknown" => {}
            "" => errors.required(
                format!("{field}.status"),
                "valid values: [\"False\" \"True\" \"Unknown\"]",
            ),
            other => errors.not_supported(
                format!("{field}.status"),
                other,
                &["False", "True", "Unknown"],
            ),
        }
    }
}

fn exit_codes(codes: &Value, field: &str, containers: &HashSet<&str>, errors: &mut Errors) {
    let operator = text(codes, &["operator"]);
    match operator {
        "In" | "NotIn" => {}
        "" => errors.required(
            format!("{field}.operator"),
            "valid values: [\"In\" \"NotIn\"]",
        ),
        other => errors.not_supported(format!("{field}.operator"), other, &["In", "NotIn"]),
    }
    let container = text(codes, &["containerName"]);
    if !container.is_empty() && !containers.contains(container) {
        errors.invalid(
            format!("{field}.containerName"),
            container,
            "must be one of the container or initContainer names in the pod template",
        );
    }
    let values = list(codes, &["values"]);
    if values.is_empty() {
        errors.invalid(
            format!("{field}.values"),
            Value::Array(Vec::new()),
            "at least one value is required",
        );
    } else if values.len() > MOST_EXIT_CODES {
        errors.too_many(format!("{field}.values"), values.len(), MOST_EXIT_CODES);
    }
    let mut last = None;
    for (index, value) in values.iter().filter_map(Value::as_i64).enumerate() {
        let field = format!("{field}.values[{index}]");
        if value == 0 && operator == "In" {
            errors.invalid(field, value, "must not be 0 for the In operator");
        } else if last == Some(value) {
            errors.duplicate(field, value);
        } else if last.is_some_and(|last| last > value) {
            errors.invalid(field, value, "must be ordered");
        }
        last = Some(value);
    }
}

pub(super) fn success(job: &Value, errors: &mut Errors) {
    const FIELD: &str = "spec.successPolicy.rules";
    let Some(policy) = at(job, &["spec", "successPolicy"]) else {
        return;
    };
    let rules = list(policy, &["rules"]);
    let completions = integer(job, &["spec", "completions"]).unwrap_or(0);
    if rules.is_empty() {
        errors.required(
            FIELD,
            "at least one rules must be specified when the successPolicy is specified",
        );
    }
    if rules.len() > MOST_RULES {
        errors.too_many(FIELD, rules.len(), MOST_RULES);
    }
    for (index, rule) in rules.iter().enumerate() {
        let field = format!("{FIELD}[{index}]");
        let count = integer(rule, &["succeededCount"]);
        let indexes = at(rule, &["succeededIndexes"]).and_then(Value::as_str);
        if count.is_none() && indexes.is_none() {
            errors.required(
                field.as_str(),
                "at least one of succeededCount or succeededIndexes must be specified",
            );
        }
        let mut most = completions;
        if let Some(indexes) = indexes {
            match total(indexes, completions) {
                Ok(total) => most = total,
                Err(why) => {
                    errors.invalid(format!("{field}.succeededIndexes"), indexes, &why);
                }
            }
        }
        if let Some(count) = count {
            if count < 0 {
                errors.invalid(
                    format!("{field}.succeededCount"),
                    count,
                    "must be greater than or equal to 0",
                );
            } else if count > most {
                errors.invalid(
                    format!("{field}.succeededCount"),
                    count,
                    &format!(
                        "must be less than or equal to {most} (the number of indexes specified)"
                    ),
                );
            }
        }
    }
}

/// How many indexes `0,3-5` names.
fn total(text: &str, completions: i64) -> Result<i64, String> {
    let mut total = 0;
    let mut last = -1;
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, end) = part.split_once('-').unwrap_or((part, part));
        let parse = |number: &str| {
            number
                .parse::<i64>()
                .map_err(|_| format!("error parsing success policy indexes: cannot convert string to integer for index: {number:?}"))
        };
        let (first, end) = (parse(first)?, parse(end)?);
        if end >= completions {
            return Err(format!(
                "error parsing success policy indexes: too large index: \"{end}\""
            ));
        }
        if first <= last || end < first {
            return Err(format!(
                "error parsing success policy indexes: non-increasing order, previous: {last}, current: {first}"
            ));
        }
        total += end - first + 1;
        last = end;
    }
    Ok(total)
}

/// A path below a domain, as of a finalizer.
pub(super) fn managed_by(manager: &str, errors: &mut Errors) {
    const FIELD: &str = "spec.managedBy";
    const MOST: usize = 63;
    let good = manager
        .split_once('/')
        .is_some_and(|(domain, path)| names::dns_subdomain(domain).is_empty() && !path.is_empty());
    if !good {
        errors.invalid(
            FIELD,
            manager,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
    }
    if manager.len() > MOST {
        errors.too_long(FIELD, MOST);
    }
}
