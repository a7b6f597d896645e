//! ConfigMap (core/v1).

use serde_json::Value;

use super::access::{flag, map, strings};
use super::errors::Errors;
use super::table;
use super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names};

pub(super) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.ConfigMap",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &ConfigMap,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::ConfigMap>();
    },
};

/// Keys and values together.
const LIMIT: usize = 1024 * 1024;

#[derive(Debug)]
struct ConfigMap;

impl Strategy for ConfigMap {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let binary = map(object, &["binaryData"]);
        let mut size = 0;
        for (key, value) in strings(object, &["data"]) {
            errors.format(&format!("data[{key}]"), key, names::config_key(key));
            if binary.is_some_and(|binary| binary.contains_key(key)) {
                errors.invalid(
                    format!("data[{key}]"),
                    key,
                    "duplicate of key present in binaryData",
                );
            }
            size += value.len();
        }
        for (key, value) in strings(object, &["binaryData"]) {
            errors.format(&format!("binaryData[{key}]"), key, names::config_key(key));
            size += value.len() / 4 * 3;
        }
        if size > LIMIT {
            errors.too_long("[]", LIMIT);
        }
        if let Some(old) = old {
            frozen(object, old, &["data", "binaryData"], &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Data", "string", "Number of keys."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let keys = ["data", "binaryData"]
            .iter()
            .filter_map(|field| map(object, &[field]))
            .map(serde_json::Map::len)
            .sum::<usize>();
        vec![table::name(object), keys.into(), table::age(object, now)]
    }
}

/// Once `immutable` is set, it stays set and the fields stay as they are (ConfigMaps and Secrets).
pub(super) fn frozen(object: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    const WHY: &str = "field is immutable when `immutable` is set";
    if !flag(old, &["immutable"]) {
        return;
    }
    if !flag(object, &["immutable"]) {
        errors.forbidden("immutable", WHY);
    }
    for field in fields {
        if !super::access::same(object.get(*field), old.get(*field)) {
            errors.forbidden(*field, WHY);
        }
    }
}
