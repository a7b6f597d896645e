//! CSIStorageCapacity (storage.k8s.io/v1).

use serde_json::Value;

use super::super::access::{at, text};
use super::super::errors::Errors;
use super::super::quantity::Quantity;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names, selector, table};
use super::GROUP;

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "CSIStorageCapacity",
    plural: "csistoragecapacities",
    singular: "csistoragecapacity",
    short_names: &[],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.storage.v1.CSIStorageCapacity",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &CsiStorageCapacity,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::storage::v1::CSIStorageCapacity>();
    },
};

#[derive(Debug)]
struct CsiStorageCapacity;

impl Strategy for CsiStorageCapacity {
    fn default(&self, _object: &mut Value) {}

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let class = text(object, &["storageClassName"]);
        errors.format("storageClassName", class, names::dns_subdomain(class));
        if let Some(topology) = at(object, &["nodeTopology"]) {
            selector::validate(topology, "nodeTopology", &mut errors);
        }
        for field in ["capacity", "maximumVolumeSize"] {
            let size = text(object, &[field]);
            if size.parse::<Quantity>().is_ok_and(Quantity::is_negative) {
                errors.invalid(field, size, "must be greater than or equal to 0");
            }
        }
        if let Some(old) = old {
            for field in ["nodeTopology", "storageClassName"] {
                errors.immutable(field, at(object, &[field]), at(old, &[field]));
            }
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            super::NAME,
            table::column("StorageClassName", "string", "The class."),
            table::column("Capacity", "string", "What is left."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, _now: i64) -> Vec<Value> {
        vec![
            table::name(object),
            text(object, &["storageClassName"]).into(),
            text(object, &["capacity"]).into(),
        ]
    }
}
