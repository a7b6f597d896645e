//! OpenAPI v3 (`/openapi/v3/apis/apps/v1`): one document per group version, each complete in itself.

use serde_json::{Map, Value, json};

use super::paths::{Path, parameter, paths, status};
use super::{Custom, closure, definitions};
use crate::schema::load::REFERENCE;

const COMPONENT: &str = "#/components/schemas/";
/// Version 2 cannot say that it may be a number as well.
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";

pub(crate) fn document(group: &str, version: &str, custom: Custom<'_>) -> Option<Value> {
    let paths = paths(Some((group, version)), custom);
    if paths.is_empty() {
        return None;
    }
    let mut roots: Vec<String> = paths
        .iter()
        .flat_map(|path| &path.operations)
        .flat_map(|operation| operation.body.iter().chain(&operation.answer))
        .cloned()
        .collect();
    roots.sort_unstable();
    roots.dedup();
    let mut all = definitions(custom);
    let needed = closure(&all, &roots);
    all.retain(|name, _| needed.contains(name));
    for schema in all.values_mut() {
        convert(schema);
    }
    if let Some(Value::Object(quantity)) = all.get_mut(QUANTITY) {
        quantity.remove("type");
        quantity.insert(
            "oneOf".into(),
            json!([{"type": "string"}, {"type": "number"}]),
        );
    }
    let items: Map<String, Value> = paths
        .iter()
        .map(|path| (path.path.clone(), path_item(path)))
        .collect();
    Some(json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": items,
        "components": {"schemas": all},
    }))
}

/// References point to the components; one with a description beside it is wrapped, because nothing may
/// stand beside a `$ref` in version 3.0.
fn convert(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            let target = map
                .get("$ref")
                .and_then(Value::as_str)
                .and_then(|target| target.strip_prefix(REFERENCE))
                .map(|name| json!({"$ref": format!("{COMPONENT}{name}")}));
            if let Some(target) = target {
                map.remove("$ref");
                if map.is_empty() {
                    *schema = target;
                } else {
                    map.insert("allOf".into(), json!([target]));
                }
                return;
            }
            if map.get("format").and_then(Value::as_str) == Some("int-or-string") {
                map.remove("type");
                map.insert(
                    "oneOf".into(),
                    json!([{"type": "integer"}, {"type": "string"}]),
                );
            }
            map.values_mut().for_each(convert);
        }
        Value::Array(list) => list.iter_mut().for_each(convert),
        _ => {}
    }
}

/// By media type; text where there is no definition.
fn content(types: &[&str], definition: Option<&str>) -> Value {
    let schema = match definition {
        Some(definition) => json!({"$ref": format!("{COMPONENT}{definition}")}),
        None => json!({"type": "string"}),
    };
    let all: Map<String, Value> = types
        .iter()
        .map(|media| ((*media).to_owned(), json!({ "schema": schema })))
        .collect();
    Value::Object(all)
}

fn path_item(path: &Path) -> Value {
    let mut item = Map::new();
    for operation in &path.operations {
        let mut map = operation.common();
        let query: Vec<Value> = operation
            .query
            .iter()
            .map(|name| {
                let (kind, description) = parameter(name);
                json!({
                    "name": name, "in": "query", "description": description,
                    "schema": {"type": kind, "uniqueItems": true},
                })
            })
            .collect();
        map.insert("parameters".into(), query.into());
        if let Some(body) = &operation.body {
            let content = content(operation.consumes, Some(body));
            map.insert(
                "requestBody".into(),
                json!({"content": content, "required": operation.method != "delete"}),
            );
        }
        let mut responses = Map::new();
        for code in operation.codes {
            let content = content(operation.produces, operation.answer.as_deref());
            let answer = json!({"description": status(code), "content": content});
            responses.insert((*code).to_owned(), answer);
        }
        responses.insert("401".to_owned(), json!({"description": "Unauthorized"}));
        map.insert("responses".into(), responses.into());
        item.insert(operation.method.into(), Value::Object(map));
    }
    let shared: Vec<Value> = path
        .parameters
        .iter()
        .map(|name| {
            let (kind, description) = parameter(name);
            json!({
                "name": name, "in": "path", "required": true, "description": description,
                "schema": {"type": kind, "uniqueItems": true},
            })
        })
        .collect();
    if !shared.is_empty() {
        item.insert("parameters".into(), shared.into());
    }
    Value::Object(item)
}
