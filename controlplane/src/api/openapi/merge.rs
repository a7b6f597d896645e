//! One OpenAPI v2 document of several servers' (pure): what another server describes of the group versions that are
//! its own comes to this server's description.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Map, Value};

const REFERENCE: &str = "#/definitions/";
/// Types of Kubernetes itself are as this server has them.
const KUBERNETES: &str = "io.k8s.";

/// What a server says of one group version.
#[derive(Debug, Clone)]
pub(in crate::api) struct Described {
    pub(in crate::api) group: String,
    pub(in crate::api) version: String,
    pub(in crate::api) document: Arc<Value>,
    /// Of the document.
    pub(in crate::api) hash: String,
}

/// Adds the paths below the group versions that are described, and the definitions that these need. A definition that
/// is another one under the same name gets a name of its own.
pub(super) fn merge(own: &mut Value, others: &[Described]) {
    for other in others {
        add(own, other);
    }
}

fn add(own: &mut Value, other: &Described) {
    let group = format!("/apis/{}/", other.group);
    let version = format!("{group}{}/", other.version);
    let Some(paths) = other.document["paths"].as_object() else {
        return;
    };
    let mut paths: Map<String, Value> = paths
        .iter()
        .filter(|(path, _)| **path == group || path.starts_with(&version))
        .map(|(path, item)| (path.clone(), item.clone()))
        .collect();
    let empty = Map::new();
    let theirs = other.document["definitions"].as_object().unwrap_or(&empty);
    let mut needed: BTreeSet<String> = BTreeSet::new();
    let mut open = Vec::new();
    paths.values().for_each(|item| referred(item, &mut open));
    while let Some(name) = open.pop() {
        if let Some(definition) = theirs.get(&name)
            && needed.insert(name)
        {
            referred(definition, &mut open);
        }
    }
    let Some(known) = own["definitions"].as_object() else {
        return;
    };
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut new = Vec::new();
    for name in needed {
        let mut definition = theirs[&name].clone();
        only_own_kinds(&mut definition, other);
        match known.get(&name) {
            None => new.push((name, definition)),
            Some(_) if name.starts_with(KUBERNETES) => {}
            Some(same) if *same == definition => {}
            Some(_) => {
                let free = (2..)
                    .map(|number| format!("{name}_v{number}"))
                    .find(|free| !known.contains_key(free) && !theirs.contains_key(free));
                if let Some(free) = free {
                    names.insert(name, free.clone());
                    new.push((free, definition));
                }
            }
        }
    }
    paths.values_mut().for_each(|item| rename(item, &names));
    for (_, definition) in &mut new {
        rename(definition, &names);
    }
    if let Some(all) = own["definitions"].as_object_mut() {
        all.extend(new);
    }
    if let Some(all) = own["paths"].as_object_mut() {
        for (path, item) in paths {
            all.entry(path).or_insert(item);
        }
    }
}

/// Nobody says what a kind of somebody else's is.
fn only_own_kinds(definition: &mut Value, other: &Described) {
    if let Some(Value::Array(kinds)) = definition.get_mut("x-kubernetes-group-version-kind") {
        kinds.retain(|kind| kind["group"] == *other.group && kind["version"] == *other.version);
    }
}

fn name_in(reference: &Value) -> Option<String> {
    let name = reference.as_str()?.strip_prefix(REFERENCE)?;
    Some(name.replace("~1", "/").replace("~0", "~"))
}

fn referred(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            out.extend(map.get("$ref").and_then(name_in));
            map.values().for_each(|value| referred(value, out));
        }
        Value::Array(list) => list.iter().for_each(|value| referred(value, out)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            if let Some(name) = map.get("$ref").and_then(name_in)
                && let Some(name) = names.get(&name)
            {
                let escaped = name.replace('~', "~0").replace('/', "~1");
                map.insert("$ref".into(), format!("{REFERENCE}{escaped}").into());
            }
            map.values_mut().for_each(|value| rename(value, names));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| rename(value, names)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn to(name: &str) -> Value {
        json!({"$ref": format!("#/definitions/{name}")})
    }

    #[test]
    fn what_others_describe_is_added_under_names_of_its_own() {
        let mut own = json!({
            "paths": {"/api/v1/pods": {"get": {}}},
            "definitions": {"io.k8s.Meta": {"description": "ours"}, "a.Flunder": {"type": "string"}, "a.Same": {}},
        });
        let kind = |group: &str| json!({"group": group, "version": "v1", "kind": "Flunder"});
        let document = json!({
            "paths": {
                "/apis/w.example.com/": {"get": {}},
                "/apis/w.example.com/v1/flunders": {"get": {"responses": {"200": {"schema": to("a.List")}}}},
                "/apis/w.example.com/v2/flunders": {"get": {"schema": to("a.Two")}},
                "/api/v1/pods": {"get": {"description": "theirs"}},
            },
            "definitions": {
                "a.List": {"properties": {"items": {"items": to("a.Flunder")}, "metadata": to("io.k8s.Meta")}},
                "a.Flunder": {"properties": {"same": to("a.Same"), "self": to("a.Flunder")},
                    "x-kubernetes-group-version-kind": [kind("w.example.com"), kind("apps")]},
                "a.Same": {}, "io.k8s.Meta": {"description": "theirs"}, "a.Two": {}, "a.Unused": {},
            },
        });
        let described = Described {
            group: "w.example.com".to_owned(),
            version: "v1".to_owned(),
            document: Arc::new(document),
            hash: String::new(),
        };
        merge(&mut own, &[described]);
        let expected = json!({
            "paths": {
                "/api/v1/pods": {"get": {}},
                "/apis/w.example.com/": {"get": {}},
                "/apis/w.example.com/v1/flunders": {"get": {"responses": {"200": {"schema": to("a.List")}}}},
            },
            "definitions": {
                "io.k8s.Meta": {"description": "ours"}, "a.Flunder": {"type": "string"}, "a.Same": {},
                "a.List": {"properties": {"items": {"items": to("a.Flunder_v2")}, "metadata": to("io.k8s.Meta")}},
                "a.Flunder_v2": {"properties": {"same": to("a.Same"), "self": to("a.Flunder_v2")},
                    "x-kubernetes-group-version-kind": [kind("w.example.com")]},
            },
        });
        assert_eq!(own, expected);
    }
}
