//! Objects as JSON: reading metadata, the form they are stored in, and the form that is served.
//!
//! Stored: JSON that begins with `kind`, `apiVersion` and `metadata` in this order, without a
//! resourceVersion (the revision is the store's). Served: the same bytes with
//! `metadata.resourceVersion` spliced in, made once per version.

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
    let mut out = BytesMut::with_capacity(512).writer();
    let field = |name: &str| {
        map.get(name)
            .cloned()
            .unwrap_or(Value::String(String::new()))
    };
    write(&mut out, b"{\"kind\":");
    write_json(&mut out, &field("kind"));
    write(&mut out, b",\"apiVersion\":");
    write_json(&mut out, &field("apiVersion"));
    write(&mut out, b",\"metadata\":{");
    let metadata = map
        .get("metadata")
        .and_then(Value::as_object)
        .unwrap_or(&empty);
    let mut first = true;
    for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
        write_member(&mut out, &mut first, key, value);
    }
    write(&mut out, b"}");
    let mut first = false;
    for (key, value) in map {
        if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
            write_member(&mut out, &mut first, key, value);
        }
    }
    write(&mut out, b"}");
    out.into_inner().freeze()
}

fn write(out: &mut bytes::buf::Writer<BytesMut>, bytes: &[u8]) {
    out.get_mut().put_slice(bytes);
}

fn write_json(out: &mut bytes::buf::Writer<BytesMut>, value: &Value) {
    serde_json::to_writer(out, value).expect("a JSON value always serializes to memory");
}

fn write_member(
    out: &mut bytes::buf::Writer<BytesMut>,
    first: &mut bool,
    key: &str,
    value: &Value,
) {
    if !std::mem::take(first) {
        write(out, b",");
    }
    serde_json::to_writer(&mut *out, key).expect("text always serializes to memory");
    write(out, b":");
    write_json(out, value);
}

/// The served form: the stored bytes with the resourceVersion in front of the other metadata.
pub(crate) fn splice(stored: &[u8], revision: u64) -> Bytes {
    let Some(at) = stored
        .windows(METADATA.len())
        .position(|window| window == METADATA)
    else {
        return Bytes::copy_from_slice(stored);
    };
    let (head, tail) = stored.split_at(at + METADATA.len());
    let mut out = BytesMut::with_capacity(stored.len() + 48);
    out.put_slice(head);
    out.put_slice(b"\"resourceVersion\":\"");
    out.put_slice(revision.to_string().as_bytes());
    out.put_slice(if tail.first() == Some(&b'}') {
        b"\""
    } else {
        b"\","
    });
    out.put_slice(tail);
    out.freeze()
}

/// What every list and watcher sends for this version.
pub(crate) fn rendered(kv: &KeyValue) -> Bytes {
    kv.rendered(|kv| splice(&kv.value, kv.mod_revision))
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
