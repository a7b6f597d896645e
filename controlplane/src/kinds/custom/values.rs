//! Values under a structural schema: what is unknown goes, what is missing gets its default.

use serde_json::{Map, Value};

use super::structural::{Additional, Structural};

/// Bound on the paths of unknown fields that are told; more of them would be refused or warned about anyway.
const MOST_PATHS: usize = 100;
const DEEPEST: usize = 200;

/// Paths of the fields that were unknown.
pub(crate) type Pruned = Vec<String>;

/// What every resource has at its root.
const RESOURCE: &[&str] = &["apiVersion", "kind", "metadata"];

/// Removes what the schema does not have.
pub(super) fn prune(schema: &Structural, object: &mut Value, keep_all: bool) -> Pruned {
    let mut unknown = Vec::new();
    if !keep_all {
        prune_value(schema, object, "", &mut unknown, 0);
    }
    unknown
}

fn joined(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn prune_value(
    schema: &Structural,
    value: &mut Value,
    path: &str,
    unknown: &mut Pruned,
    depth: usize,
) {
    if depth > DEEPEST {
        return;
    }
    match value {
        Value::Object(map) => prune_object(schema, map, path, unknown, depth),
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for (at, entry) in list.iter_mut().enumerate() {
                    prune_value(items, entry, &format!("{path}[{at}]"), unknown, depth + 1);
                }
            }
        }
        _ => {}
    }
}

fn prune_object(
    schema: &Structural,
    map: &mut Map<String, Value>,
    path: &str,
    unknown: &mut Pruned,
    depth: usize,
) {
    let keeps_all = schema.preserve || matches!(schema.additional, Additional::Any);
    let names: Vec<String> = map.keys().cloned().collect();
    for name in names {
        if schema.is_resource() && RESOURCE.contains(&name.as_str()) {
            continue;
        }
        match schema.member(&name) {
            Some(member) => {
                if let Some(value) = map.get_mut(&name) {
                    prune_value(member, value, &joined(path, &name), unknown, depth + 1);
                }
            }
            None if keeps_all => {}
            None => {
                map.remove(&name);
                if unknown.len() < MOST_PATHS {
                    unknown.push(joined(path, &name));
                }
            }
        }
    }
}

/// A null where null is not allowed and there is a default means "the default".
pub(super) fn drop_nulls_with_defaults(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|name, value| {
                let member = schema.member(name);
                !(value.is_null()
                    && member.is_some_and(|member| !member.nullable && member.default.is_some()))
            });
            for (name, value) in map {
                if let Some(member) = schema.member(name) {
                    drop_nulls_with_defaults(member, value);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for entry in list {
                    drop_nulls_with_defaults(items, entry);
                }
            }
        }
        _ => {}
    }
}

/// Sets the defaults of what is missing.
pub(super) fn fill(schema: &Structural, value: &mut Value) {
    match value {
        Value::Object(map) => {
            for (name, member) in &schema.properties {
                if let (None, Some(default)) = (map.get(name), &member.default) {
                    map.insert(name.clone(), default.clone());
                }
            }
            for (name, value) in map {
                if let Some(member) = schema.member(name) {
                    fill(member, value);
                }
            }
        }
        Value::Array(list) => {
            if let Some(items) = &schema.items {
                for entry in list {
                    fill(items, entry);
                }
            }
        }
        _ => {}
    }
}

/// Whether anything outside the metadata (and the status) differs.
pub(super) fn differ(new: &Value, old: &Value, without_status: bool) -> bool {
    let parts = |object: &Value| {
        let map = object.as_object().into_iter().flatten();
        map.filter(|(name, _)| *name != "metadata" && !(without_status && *name == "status"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect::<Map<String, Value>>()
    };
    parts(new) != parts(old)
}
