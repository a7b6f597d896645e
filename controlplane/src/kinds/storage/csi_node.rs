//! CSINode (storage.k8s.io/v1): the drivers of a node.

use std::collections::HashSet;

use serde_json::Value;

use super::super::access::{at, integer, list, same, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names, table};
use super::{GROUP, validate_driver_name};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "CSINode",
    plural: "csinodes",
    singular: "csinode",
    short_names: &[],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.CSINode",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &CsiNode,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::storage::v1::CSINode>();
    },
};

#[derive(Debug)]
struct CsiNode;

impl Strategy for CsiNode {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let mut seen = HashSet::new();
        for (index, driver) in list(object, &["spec", "drivers"]).iter().enumerate() {
            let field = format!("spec.drivers[{index}]");
            let name = text(driver, &["name"]);
            validate_driver_name(name, &format!("{field}.name"), &mut errors);
            if !seen.insert(name) {
                errors.duplicate(format!("{field}.name"), name);
            }
            let id = text(driver, &["nodeID"]);
            if id.is_empty() {
                errors.required(format!("{field}.nodeID"), "");
            } else if id.len() > 192 {
                errors.invalid(
                    format!("{field}.nodeID"),
                    id,
                    "must be 192 characters or less",
                );
            }
            if let Some(count) = integer(driver, &["allocatable", "count"])
                && count < 0
            {
                errors.invalid(
                    format!("{field}.allocatable.count"),
                    count,
                    "must be greater than or equal to 0",
                );
            }
            let mut keys = HashSet::new();
            for key in list(driver, &["topologyKeys"])
                .iter()
                .filter_map(Value::as_str)
            {
                if !keys.insert(key) {
                    errors.duplicate(&*field, key);
                }
                errors.format(
                    &format!("{field}.topologyKeys"),
                    key,
                    names::qualified_name(key),
                );
            }
        }
        for before in old.map_or(&[][..], |old| list(old, &["spec", "drivers"])) {
            let same_name = list(object, &["spec", "drivers"])
                .iter()
                .find(|driver| text(driver, &["name"]) == text(before, &["name"]));
            if let Some(now) = same_name
                && !["nodeID", "topologyKeys"]
                    .iter()
                    .all(|field| same(at(now, &[field]), at(before, &[field])))
            {
                errors.invalid("spec.drivers", now.clone(), "field is immutable");
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            super::NAME,
            table::column("Drivers", "integer", "How many drivers it has."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            list(object, &["spec", "drivers"]).len().into(),
            table::age(object, now),
        ]
    }
}
