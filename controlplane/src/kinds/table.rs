//! Columns and cells that several kinds share.

use serde_json::Value;

use super::access::{list, strings, text};
use super::{Column, time};

pub(super) const fn column(
    name: &'static str,
    kind: &'static str,
    description: &'static str,
) -> Column {
    Column {
        name,
        kind,
        format: "",
        description,
        priority: 0,
    }
}

/// Shown with `-o wide` only.
pub(super) const fn wide(
    name: &'static str,
    kind: &'static str,
    description: &'static str,
) -> Column {
    Column {
        name,
        kind,
        format: "",
        description,
        priority: 1,
    }
}

pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    description: "Name of the object, unique within its namespace.",
    priority: 0,
};

pub(super) const AGE: Column = column("Age", "string", "Time since the object was created.");

pub(super) fn name(object: &Value) -> Value {
    text(object, &["metadata", "name"]).into()
}

pub(super) fn age(object: &Value, now: i64) -> Value {
    time::age(text(object, &["metadata", "creationTimestamp"]), now).into()
}

/// `a=b,c=d`, or `<none>`.
pub(super) fn labels(value: &Value, path: &[&str]) -> Value {
    let shown: Vec<String> = strings(value, path)
        .map(|(key, value)| format!("{key}={value}"))
        .collect();
    or_none(&shown.join(","))
}

pub(super) fn or_none(value: &str) -> Value {
    if value.is_empty() { "<none>" } else { value }.into()
}

/// Names and images of the containers of a pod template, each joined by commas.
pub(super) fn containers(object: &Value) -> (Value, Value) {
    let containers = list(object, &["spec", "template", "spec", "containers"]);
    let join = |field: &str| {
        let all: Vec<&str> = containers.iter().map(|c| text(c, &[field])).collect();
        Value::from(all.join(","))
    };
    (join("name"), join("image"))
}

/// The first `most` entries and how many more there are.
pub(super) fn first(entries: &[String], most: usize, when_empty: &str) -> Value {
    if entries.is_empty() {
        return when_empty.into();
    }
    let shown = entries[..entries.len().min(most)].join(",");
    if entries.len() > most {
        format!("{shown} + {} more...", entries.len() - most).into()
    } else {
        shown.into()
    }
}
