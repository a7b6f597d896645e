//! Reading fields of an object that is plain JSON. A field of the wrong type reads as absent: types were
//! checked against the schema before, and nothing here may panic on what a client sent.

use serde_json::{Map, Value};

/// The value at `path`, one step per entry.
pub(crate) fn at<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Value> {
    path.iter()
        .try_fold(value, |value, step| value.get(*step))
        .filter(|value| !value.is_null())
}

/// The string at `path`, empty when absent.
pub(crate) fn text<'a>(value: &'a Value, path: &[&str]) -> &'a str {
    at(value, path).and_then(Value::as_str).unwrap_or("")
}

pub(crate) fn integer(value: &Value, path: &[&str]) -> Option<i64> {
    at(value, path).and_then(Value::as_i64)
}

pub(crate) fn flag(value: &Value, path: &[&str]) -> bool {
    at(value, path).and_then(Value::as_bool).unwrap_or(false)
}

/// The list at `path`, empty when absent.
pub(crate) fn list<'a>(value: &'a Value, path: &[&str]) -> &'a [Value] {
    at(value, path)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

pub(crate) fn map<'a>(value: &'a Value, path: &[&str]) -> Option<&'a Map<String, Value>> {
    at(value, path).and_then(Value::as_object)
}

/// Key and value of a map of strings.
pub(crate) fn strings<'a>(
    value: &'a Value,
    path: &[&str],
) -> impl Iterator<Item = (&'a str, &'a str)> {
    map(value, path)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.as_str(), value.as_str().unwrap_or("")))
}

/// The object at `path`, made where it is missing.
pub(crate) fn object_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Map<String, Value> {
    let mut current = value;
    for step in path {
        current = ensure_object(current).entry(*step).or_insert(Value::Null);
    }
    ensure_object(current)
}

fn ensure_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => map,
        _ => unreachable!("it was made an object above"),
    }
}

/// The list at `path` if it is there.
pub(crate) fn list_mut<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut [Value] {
    let mut current = value;
    for step in path {
        match current.get_mut(*step) {
            Some(next) => current = next,
            None => return &mut [],
        }
    }
    match current {
        Value::Array(list) => list,
        _ => &mut [],
    }
}

/// Sets `key` where it is absent, null or an empty string.
pub(crate) fn fill(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if is_unset(object.get(key)) {
        object.insert(key.to_owned(), value.into());
    }
}

/// Fills in a number that is not given, or given as 0 where that says the same.
pub(crate) fn fill_number(object: &mut Map<String, Value>, key: &str, value: i64) {
    if object.get(key).is_none_or(|old| old.is_null() || *old == 0) {
        object.insert(key.to_owned(), value.into());
    }
}

/// Sets `key` where it is absent or null: an empty string that somebody wrote is for validation to refuse.
pub(crate) fn fill_absent(object: &mut Map<String, Value>, key: &str, value: impl Into<Value>) {
    if object.get(key).is_none_or(Value::is_null) {
        object.insert(key.to_owned(), value.into());
    }
}

pub(crate) fn is_unset(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        _ => false,
    }
}

/// Whether two values mean the same to Kubernetes: absent, null, empty list and empty map are equal, and so
/// are an absent string and an empty one.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a, b) {
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(key, value)| same(Some(value), b.get(key)))
                && b.iter()
                    .filter(|(key, _)| !a.contains_key(*key))
                    .all(|(_, value)| same(None, Some(value)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (a, b) => a == b || (is_empty(a) && is_empty(b)),
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => text.is_empty(),
        Some(Value::Array(list)) => list.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}
