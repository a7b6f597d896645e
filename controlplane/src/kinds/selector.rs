//! Label selectors as objects have them: matching and validation. Selectors in query strings are the API
//! server's.

use serde_json::Value;

use super::access::{list, strings, text};
use super::errors::Errors;
use super::names;

/// Whether labels (a JSON map, or `None`) match a `LabelSelector`. An empty selector matches everything.
pub(crate) fn matches(selector: &Value, labels: Option<&Value>) -> bool {
    let label = |key: &str| {
        labels
            .and_then(|labels| labels.get(key))
            .and_then(Value::as_str)
    };
    strings(selector, &["matchLabels"]).all(|(key, value)| label(key) == Some(value))
        && list(selector, &["matchExpressions"]).iter().all(|expr| {
            let found = label(text(expr, &["key"]));
            let listed = || {
                list(expr, &["values"])
                    .iter()
                    .any(|value| value.as_str() == found)
            };
            match text(expr, &["operator"]) {
                "In" => found.is_some() && listed(),
                "NotIn" => found.is_none() || !listed(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// Whether nothing is selected by name or expression.
pub(crate) fn is_empty(selector: &Value) -> bool {
    strings(selector, &["matchLabels"]).next().is_none()
        && list(selector, &["matchExpressions"]).is_empty()
}

/// As `kubectl get -o wide` prints a selector: `app=web,tier in (a,b)`.
pub(crate) fn shown(selector: Option<&Value>) -> String {
    let Some(selector) = selector else {
        return "<none>".into();
    };
    let mut parts: Vec<(String, String)> = strings(selector, &["matchLabels"])
        .map(|(key, value)| (key.to_owned(), format!("{key}={value}")))
        .collect();
    for expr in list(selector, &["matchExpressions"]) {
        let key = text(expr, &["key"]);
        let mut values: Vec<&str> = list(expr, &["values"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let shown = match text(expr, &["operator"]) {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            _ => return "<error>".into(),
        };
        parts.push((key.to_owned(), shown));
    }
    if parts.is_empty() {
        return "<none>".into();
    }
    parts.sort();
    let shown: Vec<String> = parts.into_iter().map(|(_, shown)| shown).collect();
    shown.join(",")
}

pub(crate) fn validate(selector: &Value, field: &str, errors: &mut Errors) {
    labels(
        selector.get("matchLabels"),
        &format!("{field}.matchLabels"),
        errors,
    );
    for (at, expr) in list(selector, &["matchExpressions"]).iter().enumerate() {
        let field = format!("{field}.matchExpressions[{at}]");
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
            other => errors.invalid(
                format!("{field}.operator"),
                other,
                "not a valid selector operator",
            ),
        }
        let key = text(expr, &["key"]);
        errors.format(&format!("{field}.key"), key, names::qualified_name(key));
        for (at, value) in values.iter().filter_map(Value::as_str).enumerate() {
            errors.format(
                &format!("{field}.values[{at}]"),
                value,
                names::label_value(value),
            );
        }
    }
}

/// Checks keys and values of a map of labels.
pub(crate) fn labels(labels: Option<&Value>, field: &str, errors: &mut Errors) {
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.format(field, key, names::qualified_name(key));
        let value = value.as_str().unwrap_or("");
        errors.format(field, value, names::label_value(value));
    }
}
