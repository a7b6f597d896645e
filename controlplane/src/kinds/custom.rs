//! Custom resources: what a CustomResourceDefinition says, read once into the versions that it serves. Each
//! [`Version`] is a strategy of its own; the definition itself is the kind in
//! [`super::custom_resource_definition`].
//!
//! Not here: which definitions there are (`registry::definitions`), conversion by webhooks.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::access::{at, flag, list, text};
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta};
use crate::types::Schema;

pub(crate) mod columns;
pub(crate) mod expressions;
pub(crate) mod field_path;
pub(crate) mod formats;
pub(crate) mod path;
pub(crate) mod rules;
pub(crate) mod structural;
mod validate;
mod values;

#[cfg(test)]
mod tests;

pub(crate) use structural::Structural;
#[cfg(test)]
pub(super) use validate::validate as judge;
pub(crate) use values::Pruned;

/// What all versions of a custom resource share.
#[derive(Debug)]
pub(crate) struct Common {
    pub(crate) group: String,
    pub(crate) kind: String,
    pub(crate) list_kind: String,
    pub(crate) plural: String,
    pub(crate) singular: String,
    pub(crate) short_names: Vec<String>,
    pub(crate) categories: Vec<String>,
    pub(crate) scope: Scope,
    pub(crate) storage_version: String,
    /// Objects may be stored in other versions than that.
    pub(crate) stored_versions: Vec<String>,
    pub(crate) conversion: Conversion,
    pub(crate) preserve_unknown_fields: bool,
    /// The definition is being deleted: nothing new is created.
    pub(crate) terminating: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Conversion {
    None,
    /// `spec.conversion.webhook`
    Webhook(Value),
}

/// Where the scale subresource finds its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScalePaths {
    pub(crate) spec_replicas: Vec<String>,
    pub(crate) status_replicas: Vec<String>,
    pub(crate) selector: Option<Vec<String>>,
}

/// One version of a custom resource.
#[derive(Debug)]
pub(crate) struct Version {
    pub(crate) common: Arc<Common>,
    pub(crate) name: String,
    pub(crate) served: bool,
    /// Said to everybody who uses the version, where it is deprecated.
    pub(crate) deprecation: Option<String>,
    /// `io.example.v1.Widget`
    pub(crate) definition: String,
    pub(crate) schema: Structural,
    /// As the definition has it, for the OpenAPI documents.
    pub(crate) open_api: Value,
    pub(crate) columns: Vec<columns::CustomColumn>,
    pub(crate) selectable: Vec<path::JsonPath>,
    pub(crate) scale: Option<ScalePaths>,
    has_status: bool,
    /// Some field has a default, so that what is stored may lack it.
    pub(crate) has_defaults: bool,
    /// For patches; made by the layer that knows what metadata is.
    pub(crate) compact: OnceLock<Schema>,
}

impl Version {
    pub(crate) fn kind(&self) -> Kind<'_> {
        let common = &*self.common;
        let subresources: &[&'static str] = match (self.has_status, self.scale.is_some()) {
            (false, false) => &[],
            (true, false) => &["status"],
            (false, true) => &["scale"],
            (true, true) => &["scale", "status"],
        };
        Kind {
            group: &common.group,
            version: &self.name,
            kind: &common.kind,
            plural: &common.plural,
            singular: &common.singular,
            short_names: &[],
            categories: &[],
            scope: common.scope,
            definition: &self.definition,
            subresources,
            name_rule: NameRule::DnsSubdomain,
            strategy: self,
            register: |_| {},
        }
    }

    pub(crate) fn api_version(&self) -> String {
        format!("{}/{}", self.common.group, self.name)
    }

    /// Whether stored objects are what this version shows, byte by byte.
    pub(crate) fn shows_what_is_stored(&self) -> bool {
        self.name == self.common.storage_version
            && self
                .common
                .stored_versions
                .iter()
                .all(|stored| *stored == self.name)
            && !self.has_defaults
    }

    /// Removes what the schema does not have; the paths of it are returned where they are asked for.
    pub(crate) fn prune(&self, object: &mut Value) -> Pruned {
        values::prune(&self.schema, object, self.common.preserve_unknown_fields)
    }

    pub(crate) fn fill_defaults(&self, object: &mut Value) {
        values::fill(&self.schema, object);
    }
}

/// Removes from a value what a part of a schema does not have.
pub(super) fn prune(schema: &Structural, value: &mut Value) -> Pruned {
    values::prune(schema, value, false)
}

/// What a part of a schema has against a value.
pub(super) fn check(schema: &Structural, value: &Value, path: &str) -> Vec<FieldError> {
    validate::validate_at(schema, value, path)
}

fn names(value: &Value, path: &[&str]) -> Vec<String> {
    let texts = list(value, path).iter().filter_map(Value::as_str);
    texts.map(str::to_owned).collect()
}

/// The versions that a definition describes, served or not. `None` for what cannot be served: a definition that was
/// not validated, or whose names are not accepted.
pub(crate) fn versions(definition: &Value) -> Vec<Arc<Version>> {
    let spec = &definition["spec"];
    let accepted = at(definition, &["status", "acceptedNames"])
        .filter(|accepted| !text(accepted, &["plural"]).is_empty())
        .unwrap_or(&spec["names"]);
    let versions = list(spec, &["versions"]);
    let storage = versions.iter().find(|version| flag(version, &["storage"]));
    let common = Arc::new(Common {
        group: text(spec, &["group"]).to_owned(),
        kind: text(accepted, &["kind"]).to_owned(),
        list_kind: match text(accepted, &["listKind"]) {
            "" => format!("{}List", text(accepted, &["kind"])),
            given => given.to_owned(),
        },
        plural: text(accepted, &["plural"]).to_owned(),
        singular: text(accepted, &["singular"]).to_owned(),
        short_names: names(accepted, &["shortNames"]),
        categories: names(accepted, &["categories"]),
        scope: match text(spec, &["scope"]) {
            "Cluster" => Scope::Cluster,
            _ => Scope::Namespaced,
        },
        storage_version: storage
            .map_or("", |version| text(version, &["name"]))
            .to_owned(),
        stored_versions: names(definition, &["status", "storedVersions"]),
        conversion: match text(spec, &["conversion", "strategy"]) {
            "Webhook" => Conversion::Webhook(spec["conversion"]["webhook"].clone()),
            _ => Conversion::None,
        },
        preserve_unknown_fields: flag(spec, &["preserveUnknownFields"]),
        terminating: !text(definition, &["metadata", "deletionTimestamp"]).is_empty(),
    });
    let version = |said: &Value| version(&common, said).map(Arc::new);
    versions.iter().filter_map(version).collect()
}

fn version(common: &Arc<Common>, said: &Value) -> Option<Version> {
    let open_api = at(said, &["schema", "openAPIV3Schema"])
        .cloned()
        .unwrap_or_default();
    let mut schema = Structural::read(&open_api).ok()?;
    schema.is_root = true;
    let name = text(said, &["name"]).to_owned();
    let reversed: Vec<&str> = common.group.rsplit('.').collect();
    let scale = at(said, &["subresources", "scale"]).and_then(|scale| {
        let path = |field: &str| path::simple(text(scale, &[field]));
        Some(ScalePaths {
            spec_replicas: path("specReplicasPath")?,
            status_replicas: path("statusReplicasPath")?,
            selector: path("labelSelectorPath"),
        })
    });
    let deprecation =
        flag(said, &["deprecated"]).then(|| match text(said, &["deprecationWarning"]) {
            "" => format!("{}/{name} {} is deprecated", common.group, common.kind),
            given => given.to_owned(),
        });
    let selectable = list(said, &["selectableFields"]).iter();
    Some(Version {
        definition: format!("{}.{name}.{}", reversed.join("."), common.kind),
        has_defaults: schema.has_defaults(),
        served: flag(said, &["served"]),
        deprecation,
        columns: columns::read(list(said, &["additionalPrinterColumns"])),
        selectable: selectable
            .filter_map(|field| path::JsonPath::parse(text(field, &["jsonPath"])).ok())
            .collect(),
        scale,
        has_status: at(said, &["subresources"]).is_some_and(|sub| sub.get("status").is_some()),
        compact: OnceLock::new(),
        common: Arc::clone(common),
        name,
        schema,
        open_api,
    })
}

impl Strategy for Version {
    fn default(&self, object: &mut Value) {
        values::drop_nulls_with_defaults(&self.schema, object);
        values::fill(&self.schema, object);
    }

    fn prepare_create(&self, object: &mut Value) {
        if self.has_status
            && let Some(map) = object.as_object_mut()
        {
            map.remove("status");
        }
        super::access::object_mut(object, &["metadata"]).insert("generation".into(), 1.into());
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status(object, old);
            return;
        }
        if self.has_status {
            meta::keep_status(object, old);
        }
        // Without the status subresource, any change outside the metadata counts.
        let changed = values::differ(object, old, self.has_status);
        let before = super::access::integer(old, &["metadata", "generation"]).unwrap_or(1);
        super::access::object_mut(object, &["metadata"]).insert(
            "generation".into(),
            before.saturating_add(i64::from(changed)).into(),
        );
    }

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = validate::validate(&self.schema, object, old);
        errors.extend(self.validate_scale(object));
        errors
    }

    fn warnings(&self, _object: &Value) -> Vec<String> {
        self.deprecation.iter().cloned().collect()
    }

    fn columns(&self) -> &'static [Column] {
        &[]
    }

    fn column_definitions(&self) -> Vec<Value> {
        columns::definitions(&self.columns)
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        columns::row(&self.columns, object, now)
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(std::borrow::Cow<'static, str>, String)> {
        self.selectable
            .iter()
            .map(|path| {
                let value = match path.find(object).first() {
                    Some(Value::String(text)) => text.clone(),
                    None | Some(Value::Null) => String::new(),
                    Some(other) => other.to_string(),
                };
                (path.text().trim_start_matches('.').to_owned().into(), value)
            })
            .collect()
    }

    fn custom(&self) -> Option<&Version> {
        Some(self)
    }
}

impl Version {
    /// Numbers that the scale subresource could not show.
    fn validate_scale(&self, object: &Value) -> Vec<FieldError> {
        let Some(scale) = &self.scale else {
            return Vec::new();
        };
        let mut errors = super::errors::Errors::new();
        for path in [&scale.spec_replicas, &scale.status_replicas] {
            let steps: Vec<&str> = path.iter().map(String::as_str).collect();
            let Some(value) = at(object, &steps) else {
                continue;
            };
            match value.as_i64() {
                Some(count) if count < 0 => {
                    errors.invalid(path.join("."), count, "should be a non-negative integer");
                }
                Some(count) if count > i64::from(i32::MAX) => errors.invalid(
                    path.join("."),
                    count,
                    &format!("should be less than or equal to {}", i32::MAX),
                ),
                _ => {}
            }
        }
        errors.into_vec()
    }
}
