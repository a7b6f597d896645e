//! Custom resources in the OpenAPI documents: their schemas as the definition has them, with what every resource has.

use serde_json::{Map, Value, json};

use super::META;
use crate::kinds::custom::Version;

const API_VERSION: &str =
    "APIVersion defines the versioned schema of this representation of an object.";
const KIND: &str = "Kind is a string value representing the REST resource this object represents.";

/// The definition of a version, whole.
pub(super) fn definition(version: &Version) -> Value {
    let mut schema = match &version.open_api {
        Value::Object(map) => map.clone(),
        _ => Map::new(),
    };
    if version.common.preserve_unknown_fields {
        schema.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
    }
    schema.insert("type".into(), "object".into());
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    properties["apiVersion"] = json!({"type": "string", "description": API_VERSION});
    properties["kind"] = json!({"type": "string", "description": KIND});
    properties["metadata"] = json!({
        "description": "Standard object's metadata.",
        "$ref": format!("#/definitions/{META}ObjectMeta"),
    });
    let mut schema = Value::Object(schema);
    resources(&mut schema, true);
    schema
}

/// Embedded resources have what every resource has.
fn resources(schema: &mut Value, is_root: bool) {
    if !is_root && schema["x-kubernetes-embedded-resource"] == true {
        for (name, value) in [
            (
                "apiVersion",
                json!({"type": "string", "description": API_VERSION}),
            ),
            ("kind", json!({"type": "string", "description": KIND})),
            (
                "metadata",
                json!({"$ref": format!("#/definitions/{META}ObjectMeta")}),
            ),
        ] {
            schema["properties"][name] = value;
        }
    }
    for (name, property) in schema
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        if !(is_root && name == "metadata") {
            resources(property, false);
        }
    }
    for below in ["items", "additionalProperties"] {
        if let Some(below) = schema.get_mut(below).filter(|below| below.is_object()) {
            resources(below, false);
        }
    }
}

/// The same as version 2 can say it.
pub(super) fn to_v2(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for unknown in ["oneOf", "anyOf", "allOf", "not", "nullable"] {
        map.remove(unknown);
    }
    if map.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true)) {
        map.remove("type");
    }
    if map.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true)) {
        map.remove("items");
        map.remove("properties");
    }
    for property in map
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        to_v2(property.1);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(below) {
            to_v2(below);
        }
    }
}
