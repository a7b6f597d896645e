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

/// The same as version 2 can say it, and as kubectl before 1.27 understands it.
pub(super) fn to_v2(definition: &mut Value) {
    let Value::Object(map) = definition else {
        return;
    };
    if map.get(PRESERVE) == Some(&Value::Bool(true)) {
        // With properties there, kubectl takes all others for unknown.
        map.retain(|name, _| name == "x-kubernetes-group-version-kind");
        map.insert("type".into(), "object".into());
        return;
    }
    below_to_v2(definition);
}

const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

fn below_to_v2(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    for unknown in ["oneOf", "anyOf", "allOf", "not"] {
        map.remove(unknown);
    }
    let is = |map: &Map<String, Value>, name: &str| map.get(name) == Some(&Value::Bool(true));
    if is(map, "x-kubernetes-int-or-string") {
        map.remove("type");
    }
    if map.remove("nullable") == Some(Value::Bool(true)) {
        // A value without type has neither items nor properties.
        for field in ["type", "items", "properties"] {
            map.remove(field);
        }
    }
    if is(map, PRESERVE) {
        map.remove("items");
        map.remove("properties");
        if map.get("type").is_some_and(|kind| kind == "object") {
            map.remove("type");
        }
    }
    if !map.contains_key("items") && map.get("type").is_some_and(|kind| kind == "array") {
        map.remove("type");
    }
    // What may be null may not be required of a client.
    let optional: Vec<String> = map
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, property)| property["nullable"] == true)
        .map(|(name, _)| name.clone())
        .collect();
    if let Some(required) = map.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !optional.iter().any(|optional| name == optional));
        if required.is_empty() {
            map.remove("required");
        }
    }
    for property in map
        .get_mut("properties")
        .and_then(Value::as_object_mut)
        .into_iter()
        .flatten()
    {
        below_to_v2(property.1);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(below) = map.get_mut(below) {
            below_to_v2(below);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_anything_has_no_type_in_version_2() {
        let mut root = json!({"type": "object", "description": "d", (PRESERVE): true, "properties": {"a": {}},
            "x-kubernetes-group-version-kind": [1]});
        to_v2(&mut root);
        assert_eq!(
            root,
            json!({"type": "object", "x-kubernetes-group-version-kind": [1]})
        );
        let mut nested = json!({"type": "object", "required": ["null", "kept"], "properties": {
            "free": {"type": "object", (PRESERVE): true, "properties": {"a": {"type": "string"}}},
            "list": {"type": "array", (PRESERVE): true, "items": {"type": "string"}},
            "null": {"type": "string", "nullable": true},
            "kept": {"type": "string", "anyOf": []}}});
        to_v2(&mut nested);
        assert_eq!(
            nested,
            json!({"type": "object", "required": ["kept"], "properties": {
                "free": {(PRESERVE): true}, "list": {(PRESERVE): true}, "null": {}, "kept": {"type": "string"}}})
        );
    }
}
