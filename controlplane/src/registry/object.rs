//! Objects as JSON: reading metadata, the form they are stored in, and the form that is served.
//!
//! Stored: JSON that begins with `kind`, `apiVersion` and `metadata` in this order, without a
//! resourceVersion (the revision is the store's). Served: the same bytes with
//! `metadata.resourceVersion` spliced in on their way out: kept, it would be a second copy of each object.

use std::borrow::Cow;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Map, Value};

use crate::kinds::Kind;
use crate::store::KeyValue;

const METADATA: &[u8] = b"\"metadata\":{";

/// RFC 3339 in UTC with whole seconds, as `metadata.creationTimestamp` has it.
pub(crate) fn now() -> String {
    rfc3339(jiff::Timestamp::now())
}

pub(crate) fn rfc3339(time: jiff::Timestamp) -> String {
    jiff::Timestamp::from_second(time.as_second())
        .unwrap_or(time)
        .to_string()
}

/// `metadata.<field>` as text, empty when absent.
pub(crate) fn meta<'a>(object: &'a Value, field: &str) -> &'a str {
    object["metadata"][field].as_str().unwrap_or("")
}

pub(crate) fn name(object: &Value) -> &str {
    meta(object, "name")
}

pub(crate) fn namespace(object: &Value) -> &str {
    meta(object, "namespace")
}

pub(crate) fn uid(object: &Value) -> &str {
    meta(object, "uid")
}

pub(crate) fn is_terminating(object: &Value) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

pub(crate) fn finalizers(object: &Value) -> Vec<&str> {
    object["metadata"]["finalizers"]
        .as_array()
        .map(|list| list.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default()
}

/// The metadata map; made when the object has none.
pub(crate) fn meta_mut(object: &mut Value) -> &mut Map<String, Value> {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    let map = object.as_object_mut().expect("made an object above");
    let slot = map
        .entry("metadata")
        .or_insert_with(|| Value::Object(Map::new()));
    if !slot.is_object() {
        *slot = Value::Object(Map::new());
    }
    slot.as_object_mut().expect("made an object above")
}

pub(crate) fn set_meta(object: &mut Value, field: &str, value: impl Into<Value>) {
    meta_mut(object).insert(field.to_owned(), value.into());
}

pub(crate) fn remove_meta(object: &mut Value, field: &str) {
    meta_mut(object).remove(field);
}

/// Removes `null` members: in Kubernetes they are the same as absent ones.
pub(crate) fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// The same for an object of the kind: a custom resource may know fields that are null.
pub(crate) fn strip_absent(kind: &Kind<'_>, value: &mut Value) {
    if kind.is_custom() {
        if let Some(metadata) = value.get_mut("metadata") {
            strip_nulls(metadata);
        }
    } else {
        strip_typed(kind.kind, value);
    }
}

/// The same for an object of a built-in kind, but for what is kept as it was written: the data of a ControllerRevision is
/// compared by its bytes.
pub(crate) fn strip_typed(kind: &str, value: &mut Value) {
    let as_written = match value.get_mut("data") {
        Some(data) if kind == "ControllerRevision" => Some(data.take()),
        _ => None,
    };
    strip_nulls(value);
    if let Some(data) = as_written {
        value["data"] = data;
    }
}

/// The form that the store keeps.
pub(crate) fn encode(object: &Value) -> Bytes {
    let empty = Map::new();
    let map = object.as_object().unwrap_or(&empty);
    let none = Value::String(String::new());
    let mut out = Vec::with_capacity(2048);
    let field = |name: &str| map.get(name).unwrap_or(&none);
    out.extend_from_slice(b"{\"kind\":");
    write_json(&mut out, field("kind"));
    out.extend_from_slice(b",\"apiVersion\":");
    write_json(&mut out, field("apiVersion"));
    out.extend_from_slice(b",\"metadata\":{");
    let metadata = map
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let mut first = true;
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
        write_member(&mut out, &mut first, key, value);
    }
    out.push(b'}');
    let mut first = false;
    for (key, value) in map {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            write_member(&mut out, &mut first, key, value);
        }
    }
    out.push(b'}');
    // It lives as long as the object: without the room that was left for more.
    out.into_boxed_slice().into()
}

fn write_json(out: &mut Vec<u8>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value always serializes to memory");
}

fn write_member(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key).expect("text always serializes to memory");
    out.push(b':');
    write_json(out, value);
}

/// Where a resourceVersion goes in stored bytes, and what goes there.
fn splicing(stored: &[u8], revision: u64) -> Option<(usize, String)> {
    let start = stored
        .windows(METADATA.len())
        .position(|window| window == METADATA)?;
    let at = start + METADATA.len();
    let comma = match stored.get(at) {
        Some(b'}') => "",
        _ => ",",
    };
    Some((at, format!("\"resourceVersion\":\"{revision}\"{comma}")))
}

/// The served form: the stored bytes with the resourceVersion in front of the other metadata.
pub(crate) fn splice(stored: &[u8], revision: u64) -> Bytes {
    let mut out = BytesMut::with_capacity(stored.len() + 64);
    splice_into(&mut out, stored, revision);
    out.freeze()
}

/// The same, behind what is there.
pub(crate) fn splice_into(out: &mut BytesMut, stored: &[u8], revision: u64) {
    let Some((at, version)) = splicing(stored, revision) else {
        return out.put_slice(stored);
    };
    out.put_slice(&stored[..at]);
    out.put_slice(version.as_bytes());
    out.put_slice(&stored[at..]);
}

/// The same in parts, most of which are the stored bytes themselves.
pub(crate) fn parts(kv: &KeyValue) -> [Bytes; 3] {
    let stored = &kv.value;
    match splicing(stored, kv.mod_revision) {
        Some((at, version)) => [stored.slice(..at), version.into(), stored.slice(at..)],
        None => [stored.clone(), Bytes::new(), Bytes::new()],
    }
}

/// The stored bytes without `metadata.managedFields`, which take more memory as values than all else together and say
/// nothing to those who only read. What is not in the stored form is left as it is.
pub(crate) fn without_managers(stored: &[u8]) -> Cow<'_, [u8]> {
    match managers(stored) {
        Some((from, to)) => Cow::Owned([&stored[..from], &stored[to..]].concat()),
        None => Cow::Borrowed(stored),
    }
}

/// Where the member is, with one of the commas around it.
fn managers(stored: &[u8]) -> Option<(usize, usize)> {
    let start = stored
        .windows(METADATA.len())
        .position(|window| window == METADATA)?;
    let first = start + METADATA.len();
    let mut at = first;
    loop {
        let key = at;
        at = skip_text(stored, at)?;
        let is_it = stored[key..at] == *b"\"managedFields\"";
        if *stored.get(at)? != b':' {
            return None;
        }
        at = skip_value(stored, at + 1)?;
        let more = *stored.get(at)? == b',';
        match (is_it, more) {
            (true, true) => return Some((key, at + 1)),
            (true, false) if key > first => return Some((key - 1, at)),
            (true, false) => return Some((key, at)),
            (false, true) => at += 1,
            (false, false) => return None,
        }
    }
}

/// Behind the text that begins at `at`.
fn skip_text(json: &[u8], at: usize) -> Option<usize> {
    if *json.get(at)? != b'"' {
        return None;
    }
    let mut at = at + 1;
    loop {
        match *json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

/// Behind the value that begins at `at`, which is JSON without blanks.
fn skip_value(json: &[u8], mut at: usize) -> Option<usize> {
    let mut depth = 0_usize;
    loop {
        match *json.get(at)? {
            b'"' => at = skip_text(json, at)?,
            b'{' | b'[' => {
                depth += 1;
                at += 1;
            }
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                at += 1;
            }
            _ => at += 1,
        }
        if depth == 0 && matches!(*json.get(at)?, b',' | b'}' | b']') {
            return Some(at);
        }
    }
}

/// The object as JSON, with its resourceVersion.
pub(crate) fn decode(kv: &KeyValue) -> Value {
    decode_at(kv, kv.mod_revision)
}

/// The object as it was, under the resourceVersion of its deletion.
pub(crate) fn decode_at(kv: &KeyValue, revision: u64) -> Value {
    let mut object: Value = serde_json::from_slice(&kv.value).unwrap_or_default();
    set_meta(&mut object, "resourceVersion", revision.to_string());
    object
}

#[cfg(test)]
mod tests;
