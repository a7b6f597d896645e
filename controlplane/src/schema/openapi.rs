//! The OpenAPI documents. They are generated on demand and not kept: with their descriptions they are by far
//! the largest thing about the schema.

pub(super) mod custom;
pub(super) mod paths;
pub(super) mod protobuf;
pub(super) mod v2;
pub(super) mod v3;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::load::{field_facts, json_definitions, referred};
use super::{facts, load};
use crate::kinds::custom::Version;
use crate::kinds::{self, Kind};
use crate::types::ListType;

/// The versions of custom resources that a document is about, besides what is built in.
pub(crate) type Custom<'a> = &'a [Arc<Version>];

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";

#[cfg(test)]
/// Group versions that have an OpenAPI v3 document, as paths: `api/v1`, `apis/apps/v1`.
pub(crate) fn group_versions() -> Vec<String> {
    let mut all: BTreeSet<String> = kinds::all()
        .iter()
        .map(|kind| group_version_path(kind.group, kind.version))
        .collect();
    all.extend(
        EXTRA
            .iter()
            .filter(|extra| !extra.plural.is_empty())
            .map(|extra| group_version_path(extra.group, extra.version)),
    );
    all.into_iter().collect()
}

fn group_version_path(group: &str, version: &str) -> String {
    if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    }
}

/// Kinds that are asked for but not stored: (group, version, kind, definition) and, where they have a
/// resource of their own, its plural.
pub(super) struct Extra {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) definition: &'static str,
    pub(super) plural: &'static str,
    pub(super) namespaced: bool,
}

const fn extra(
    group: &'static str,
    kind: &'static str,
    definition: &'static str,
    plural: &'static str,
    namespaced: bool,
) -> Extra {
    Extra {
        group,
        version: "v1",
        kind,
        definition,
        plural,
        namespaced,
    }
}

/// The one among them that is read.
pub(super) const COMPONENT_STATUS: &str = "ComponentStatus";

#[rustfmt::skip]
pub(super) const EXTRA: &[Extra] = &[
    extra("authentication.k8s.io", "SelfSubjectReview", "io.k8s.api.authentication.v1.SelfSubjectReview", "selfsubjectreviews", false),
    extra("authentication.k8s.io", "TokenReview", "io.k8s.api.authentication.v1.TokenReview", "tokenreviews", false),
    extra("authentication.k8s.io", "TokenRequest", "io.k8s.api.authentication.v1.TokenRequest", "", true),
    extra("authorization.k8s.io", "LocalSubjectAccessReview", "io.k8s.api.authorization.v1.LocalSubjectAccessReview", "localsubjectaccessreviews", true),
    extra("authorization.k8s.io", "SelfSubjectAccessReview", "io.k8s.api.authorization.v1.SelfSubjectAccessReview", "selfsubjectaccessreviews", false),
    extra("authorization.k8s.io", "SelfSubjectRulesReview", "io.k8s.api.authorization.v1.SelfSubjectRulesReview", "selfsubjectrulesreviews", false),
    extra("authorization.k8s.io", "SubjectAccessReview", "io.k8s.api.authorization.v1.SubjectAccessReview", "subjectaccessreviews", false),
    extra("autoscaling", "Scale", "io.k8s.api.autoscaling.v1.Scale", "", true),
    extra("policy", "Eviction", "io.k8s.api.policy.v1.Eviction", "", true),
    extra("", "Binding", "io.k8s.api.core.v1.Binding", "bindings", true),
    extra("", COMPONENT_STATUS, "io.k8s.api.core.v1.ComponentStatus", "componentstatuses", false),
    extra("", "Status", "io.k8s.apimachinery.pkg.apis.meta.v1.Status", "", false),
];

pub(super) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!([{"group": group, "version": version, "kind": kind}])
}

/// `io.k8s.api.core.v1.PodList`
pub(super) fn list_definition(kind: &Kind<'_>) -> String {
    match kind.strategy.custom() {
        Some(version) => {
            let until = kind.definition.len() - kind.kind.len();
            format!("{}{}", &kind.definition[..until], version.common.list_kind)
        }
        None => format!("{}List", kind.definition),
    }
}

/// All definitions with descriptions and with the extensions that clients read; `$ref`s still point to
/// `#/definitions/`.
pub(super) fn definitions(custom: Custom<'_>) -> Map<String, Value> {
    let mut all = json_definitions();
    for (name, schema) in &mut all {
        let Value::Object(schema) = schema else {
            continue;
        };
        if let Some(Value::Object(properties)) = schema.get_mut("properties") {
            for (field, property) in properties {
                if let Value::Object(property) = property {
                    annotate(name, field, property);
                }
            }
        }
        if facts::ATOMIC_TYPES.contains(&name.as_str()) {
            schema.insert("x-kubernetes-map-type".into(), "atomic".into());
        }
        of_several_shapes(name, schema);
        require_less(name, schema);
    }
    for kind in kinds::all() {
        let group_kind = gvk(kind.group, kind.version, kind.kind);
        set(&mut all, kind.definition, group_kind);
        all.insert(list_definition(kind), list_of(kind));
    }
    for version in custom {
        let kind = version.kind();
        all.insert(kind.definition.to_owned(), custom::definition(version));
        set(
            &mut all,
            kind.definition,
            gvk(kind.group, kind.version, kind.kind),
        );
        all.insert(list_definition(&kind), list_of(&kind));
    }
    for extra in EXTRA {
        set(
            &mut all,
            extra.definition,
            gvk(extra.group, extra.version, extra.kind),
        );
        if extra.kind == COMPONENT_STATUS {
            let name = format!("{}List", extra.definition);
            let own = gvk(extra.group, extra.version, &format!("{}List", extra.kind));
            all.insert(name, list(extra.kind, extra.definition, &own));
        }
    }
    let custom_groups = custom
        .iter()
        .map(|version| (version.common.group.as_str(), version.name.as_str()));
    let options: Vec<Value> = BTreeSet::from_iter(
        kinds::all()
            .iter()
            .map(|k| (k.group, k.version))
            .chain(custom_groups),
    )
    .into_iter()
    .map(|(group, version)| json!({"group": group, "version": version, "kind": "DeleteOptions"}))
    .collect();
    set(
        &mut all,
        &format!("{META}DeleteOptions"),
        Value::Array(options),
    );
    all
}

fn set(all: &mut Map<String, Value>, definition: &str, group_kind: Value) {
    if let Some(Value::Object(schema)) = all.get_mut(definition) {
        // A type may be that of several versions.
        let mut all = match schema.remove("x-kubernetes-group-version-kind") {
            Some(Value::Array(all)) => all,
            _ => Vec::new(),
        };
        for entry in group_kind.as_array().into_iter().flatten() {
            if !all.contains(entry) {
                all.push(entry.clone());
            }
        }
        schema.insert("x-kubernetes-group-version-kind".into(), all.into());
    }
}

/// The extensions of one field.
fn annotate(definition: &str, field: &str, property: &mut Map<String, Value>) {
    let (list_type, patch) = field_facts(definition, field);
    let is_list = property.get("type").and_then(Value::as_str) == Some("array");
    if is_list {
        let shown = match list_type {
            ListType::Atomic => "atomic",
            ListType::Set => "set",
            ListType::Map(keys) => {
                let keys: Vec<&str> = keys.iter().map(|key| &**key).collect();
                property.insert("x-kubernetes-list-map-keys".into(), json!(keys));
                "map"
            }
        };
        property.insert("x-kubernetes-list-type".into(), shown.into());
    }
    if facts::ATOMIC_MAPS.contains(&(definition, field)) {
        property.insert("x-kubernetes-map-type".into(), "atomic".into());
    }
    let strategy = match (patch.merge, patch.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) if patch.replace => "replace",
        (false, false) => return,
    };
    property.insert("x-kubernetes-patch-strategy".into(), strategy.into());
    if !patch.key.is_empty() {
        property.insert("x-kubernetes-patch-merge-key".into(), patch.key.into());
    }
}

/// Quantities and the like are strings on the wire, as clients' validation sees them.
fn of_several_shapes(name: &str, schema: &mut Map<String, Value>) {
    let short = name.rsplit('.').next().unwrap_or("");
    match short {
        "Quantity" => {
            schema.remove("x-kubernetes-int-or-string");
            schema.insert("type".into(), "string".into());
        }
        "IntOrString" => {
            schema.remove("x-kubernetes-int-or-string");
            schema.insert("type".into(), "string".into());
            schema.insert("format".into(), "int-or-string".into());
        }
        // Any value, or one of several shapes: as in Kubernetes' document, there is no type, and so nothing
        // that a client could find wrong.
        "JSON"
        | "JSONSchemaPropsOrArray"
        | "JSONSchemaPropsOrBool"
        | "JSONSchemaPropsOrStringArray" => {
            schema.remove("type");
            schema.remove("oneOf");
        }
        _ => {}
    }
}

/// k8s-openapi requires what its types always have. Clients that validate against the document would refuse
/// reviews, which have no metadata.
fn require_less(name: &str, schema: &mut Map<String, Value>) {
    let Some(Value::Array(required)) = schema.get_mut("required") else {
        return;
    };
    required.retain(|field| match field.as_str() {
        Some("metadata") => name == facts::METADATA_REQUIRED,
        Some("name") => !facts::NAME_NOT_REQUIRED.contains(&name),
        _ => true,
    });
    if required.is_empty() {
        schema.remove("required");
    }
}

fn list_of(kind: &Kind) -> Value {
    let own = gvk(kind.group, kind.version, &kind.list_kind());
    list(kind.kind, kind.definition, &own)
}

fn list(kind: &str, definition: &str, own: &Value) -> Value {
    json!({
        "description": format!("{kind}List is a list of {kind} objects."),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"description": "Version of the API that this object is of.", "type": "string"},
            "kind": {"description": "Kind of the object.", "type": "string"},
            "metadata": {
                "description": "Metadata of the list.",
                "$ref": format!("#/definitions/{META}ListMeta"),
            },
            "items": {
                "description": "The objects.",
                "type": "array",
                "items": {"$ref": format!("#/definitions/{definition}")},
            },
        },
        "x-kubernetes-group-version-kind": own,
    })
}

/// The definitions that `roots` need, themselves included.
pub(super) fn closure(all: &Map<String, Value>, roots: &[String]) -> BTreeSet<String> {
    let mut found: BTreeSet<String> = BTreeSet::new();
    let mut open: Vec<String> = roots.to_vec();
    while let Some(name) = open.pop() {
        let Some(schema) = all.get(&name) else {
            continue;
        };
        if found.insert(name) {
            references(schema, &mut open);
        }
    }
    found
}

fn references(schema: &Value, out: &mut Vec<String>) {
    out.extend(referred(schema).map(str::to_owned));
    match schema {
        Value::Object(map) => map.values().for_each(|value| references(value, out)),
        Value::Array(list) => list.iter().for_each(|value| references(value, out)),
        _ => {}
    }
}

/// How a schema refers to a definition in the v2 document.
pub(super) fn reference(definition: &str) -> Value {
    json!({"$ref": format!("{}{definition}", load::REFERENCE)})
}
