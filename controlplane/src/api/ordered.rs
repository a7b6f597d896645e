//! The order of the fields in answers that are made as values: that of the Go types, which programs that look at the
//! text rely on (the tests of Kubernetes' Python client compare a Status word for word).

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::{Map, Value};

const STATUS: &[&str] = &[
    "kind",
    "apiVersion",
    "metadata",
    "status",
    "message",
    "reason",
    "details",
    "code",
];
const STATUS_DETAILS: &[&str] = &[
    "name",
    "group",
    "kind",
    "uid",
    "causes",
    "retryAfterSeconds",
];
const STATUS_CAUSE: &[&str] = &["reason", "message", "field"];
const API_RESOURCE: &[&str] = &[
    "name",
    "singularName",
    "namespaced",
    "group",
    "version",
    "kind",
    "verbs",
    "shortNames",
    "categories",
    "storageVersionHash",
];
/// Of anything else; the rest follows by name.
const OTHERS: &[&str] = &[
    "kind",
    "apiVersion",
    "groupVersion",
    "metadata",
    "spec",
    "status",
];

/// JSON with a line feed at its end, as Kubernetes' serializer writes it.
pub(super) fn line(value: &Value) -> Vec<u8> {
    let mut out = text(value);
    out.push(b'\n');
    out
}

pub(super) fn text(value: &Value) -> Vec<u8> {
    serde_json::to_vec(&Ordered(value, OTHERS)).expect("a value always serializes")
}

/// The value, and in which order the fields of it are if it is not known by its own.
struct Ordered<'a>(&'a Value, &'static [&'static str]);

fn order(map: &Map<String, Value>, otherwise: &'static [&'static str]) -> &'static [&'static str] {
    let is_status = map.get("kind").is_some_and(|kind| kind == "Status");
    if is_status && map.contains_key("apiVersion") {
        STATUS
    } else if map.contains_key("singularName") {
        API_RESOURCE
    } else {
        otherwise
    }
}

fn within(parent: &'static [&'static str], key: &str) -> &'static [&'static str] {
    match key {
        "details" if parent == STATUS => STATUS_DETAILS,
        "causes" if parent == STATUS_DETAILS => STATUS_CAUSE,
        _ => OTHERS,
    }
}

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Object(map) => {
                let order = order(map, self.1);
                let mut out = serializer.serialize_map(Some(map.len()))?;
                let first = order.iter().filter_map(|key| map.get_key_value(*key));
                let rest = map.iter().filter(|(key, _)| !order.contains(&key.as_str()));
                for (key, value) in first.chain(rest) {
                    out.serialize_entry(key, &Ordered(value, within(order, key)))?;
                }
                out.end()
            }
            Value::Array(items) => {
                let mut out = serializer.serialize_seq(Some(items.len()))?;
                for item in items {
                    out.serialize_element(&Ordered(item, self.1))?;
                }
                out.end()
            }
            scalar => scalar.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_as_kubernetes_writes_it() {
        let status = json!({
            "apiVersion": "v1", "code": 409, "kind": "Status", "metadata": {}, "reason": "AlreadyExists",
            "details": {"kind": "services", "name": "mock-2",
                "causes": [{"field": "f", "message": "m", "reason": "r"}]},
            "message": "services \"mock-2\" already exists", "status": "Failure",
        });
        let expected = concat!(
            r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
            r#""message":"services \"mock-2\" already exists","reason":"AlreadyExists","#,
            r#""details":{"name":"mock-2","kind":"services","#,
            r#""causes":[{"reason":"r","message":"m","field":"f"}]},"code":409}"#,
            "\n"
        );
        assert_eq!(String::from_utf8(line(&status)).unwrap(), expected);
    }

    #[test]
    fn resources_begin_with_their_names() {
        let list = json!({"apiVersion": "v1", "groupVersion": "v1", "kind": "APIResourceList", "resources": [
            {"kind": "Pod", "name": "pods", "namespaced": true, "singularName": "pod", "verbs": ["get"]},
        ]});
        let expected = concat!(
            r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":["#,
            r#"{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get"]}]}"#
        );
        assert_eq!(String::from_utf8(text(&list)).unwrap(), expected);
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let key = prop_oneof![
            Just("kind".to_owned()),
            Just("singularName".to_owned()),
            Just("details".to_owned()),
            "[a-c]"
        ];
        let leaf = prop_oneof![Just(json!("Status")), Just(json!(1)), Just(Value::Null)];
        leaf.prop_recursive(3, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(key.clone(), inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn nothing_is_lost_or_made_up(value in any_value()) {
            let read: Value = serde_json::from_slice(&text(&value)).unwrap();
            prop_assert_eq!(read, value);
        }
    }
}
