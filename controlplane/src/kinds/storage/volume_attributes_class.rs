//! VolumeAttributesClass (storage.k8s.io/v1).

use serde_json::Value;

use super::super::access::text;
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, table};
use super::{GROUP, immutable_fields, validate_driver_name, validate_parameters};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "VolumeAttributesClass",
    plural: "volumeattributesclasses",
    singular: "volumeattributesclass",
    short_names: &["vac"],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.VolumeAttributesClass",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &VolumeAttributesClass,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::storage::v1::VolumeAttributesClass>();
    },
};

#[derive(Debug)]
struct VolumeAttributesClass;

impl Strategy for VolumeAttributesClass {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        validate_driver_name(text(object, &["driverName"]), "driverName", &mut errors);
        validate_parameters(object, true, &mut errors);
        immutable_fields(object, old, &["driverName", "parameters"], &mut errors);
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            super::NAME,
            table::column("DriverName", "string", "The driver."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["driverName"]).into(),
            table::age(object, now),
        ]
    }
}
