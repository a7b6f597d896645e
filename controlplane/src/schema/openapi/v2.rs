//! OpenAPI v2 (`/openapi/v2`): what kubectl before 1.27 validates, explains and patches with.

use serde_json::{Map, Value, json};

use super::paths::{Path, parameter, paths, status};
use super::{Custom, custom, definitions, reference};

pub(crate) fn document(versions: Custom<'_>) -> Value {
    let mut all = Map::new();
    for path in paths(None, versions) {
        all.insert(path.path.clone(), path_item(&path));
    }
    let mut definitions = definitions(versions);
    for version in versions {
        if let Some(schema) = definitions.get_mut(&version.definition) {
            custom::to_v2(schema);
        }
    }
    json!({
        "swagger": "2.0",
        "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": all,
        "definitions": definitions,
    })
}

fn path_item(path: &Path) -> Value {
    let mut item = Map::new();
    for operation in &path.operations {
        let mut parameters: Vec<Value> = operation
            .query
            .iter()
            .map(|name| {
                let (kind, description) = parameter(name);
                json!({
                    "name": name, "in": "query", "type": kind, "uniqueItems": true,
                    "description": description,
                })
            })
            .collect();
        if let Some(body) = &operation.body {
            parameters.push(json!({
                "name": "body", "in": "body", "required": operation.method != "delete",
                "schema": reference(body),
            }));
        }
        let mut map = operation.common();
        map.insert("parameters".into(), parameters.into());
        map.insert("consumes".into(), json!(operation.consumes));
        map.insert("produces".into(), json!(operation.produces));
        map.insert("schemes".into(), json!(["https"]));
        let schema = match &operation.answer {
            Some(answer) => reference(answer),
            None => json!({"type": "string"}),
        };
        let mut responses = Map::new();
        for code in operation.codes {
            let answer = json!({"description": status(code), "schema": schema});
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
                "name": name, "in": "path", "required": true, "type": kind, "uniqueItems": true,
                "description": description,
            })
        })
        .collect();
    if !shared.is_empty() {
        item.insert("parameters".into(), shared.into());
    }
    Value::Object(item)
}
