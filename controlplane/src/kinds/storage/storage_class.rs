//! StorageClass (storage.k8s.io/v1).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::super::access::{fill_absent, flag, list, object_mut, text};
use super::super::errors::Errors;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, names, table};
use super::{GROUP, immutable_fields, shown_bool, validate_parameters};

pub(crate) static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    categories: &[],
    scope: Scope::Cluster,
    definition: "io.k8s.api.storage.v1.StorageClass",
    subresources: &[],
    name_rule: NameRule::DnsSubdomain,
    strategy: &StorageClass,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::storage::v1::StorageClass>();
    },
};

#[derive(Debug)]
struct StorageClass;

impl Strategy for StorageClass {
    fn default(&self, object: &mut Value) {
        let fields = object_mut(object, &[]);
        fill_absent(fields, "reclaimPolicy", "Delete");
        fill_absent(fields, "volumeBindingMode", "Immediate");
    }

    fn prepare_update(&self, _object: &mut Value, _old: &Value, _subresource: &str) {}

    fn validate(&self, object: &Value, old: Option<&Value>, _subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        let provisioner = text(object, &["provisioner"]);
        if provisioner.is_empty() {
            errors.required("provisioner", "");
        } else {
            let lower = provisioner.to_lowercase();
            errors.format("provisioner", provisioner, names::qualified_name(&lower));
        }
        validate_parameters(object, false, &mut errors);
        let policy = text(object, &["reclaimPolicy"]);
        // One that is given as empty is left to the volumes' own default.
        if !matches!(policy, "" | "Delete" | "Retain") {
            errors.not_supported("reclaimPolicy", policy, &["Delete", "Retain"]);
        }
        let mode = text(object, &["volumeBindingMode"]);
        if !matches!(mode, "Immediate" | "WaitForFirstConsumer") {
            errors.not_supported(
                "volumeBindingMode",
                mode,
                &["Immediate", "WaitForFirstConsumer"],
            );
        }
        validate_topologies(list(object, &["allowedTopologies"]), &mut errors);
        immutable_fields(
            object,
            old,
            &["parameters", "provisioner", "reclaimPolicy"],
            &mut errors,
        );
        if let Some(old) = old {
            errors.immutable(
                "volumeBindingMode",
                object.get("volumeBindingMode"),
                old.get("volumeBindingMode"),
            );
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Provisioner", "string", "Who makes its volumes."),
            table::column(
                "ReclaimPolicy",
                "string",
                "What happens to released volumes.",
            ),
            table::column("VolumeBindingMode", "string", "When claims are bound."),
            table::column("AllowVolumeExpansion", "string", "Whether claims may grow."),
            table::AGE,
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let mut name = text(object, &["metadata", "name"]).to_owned();
        if is_default(object) {
            name.push_str(" (default)");
        }
        vec![
            name.into(),
            text(object, &["provisioner"]).into(),
            text(object, &["reclaimPolicy"]).into(),
            text(object, &["volumeBindingMode"]).into(),
            shown_bool(object, &["allowVolumeExpansion"]),
            table::age(object, now),
        ]
    }
}

/// No two terms say the same, no two expressions of a term are about one key, no value is there twice.
fn validate_topologies(terms: &[Value], errors: &mut Errors) {
    let mut seen_terms = Vec::new();
    for (t, term) in terms.iter().enumerate() {
        let mut keys: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        let field = format!("allowedTopologies[{t}].matchLabelExpressions");
        for (e, expr) in list(term, &["matchLabelExpressions"]).iter().enumerate() {
            let field = format!("{field}[{e}]");
            let key = text(expr, &["key"]);
            let given = list(expr, &["values"]);
            if given.is_empty() {
                errors.required(format!("{field}.values"), "");
            }
            let mut values = BTreeSet::new();
            for (v, value) in given.iter().filter_map(Value::as_str).enumerate() {
                if !values.insert(value) {
                    errors.duplicate(format!("{field}.values[{v}]"), value);
                }
            }
            errors.format(&format!("{field}.key"), key, names::qualified_name(key));
            if keys.insert(key, values).is_some() {
                errors.duplicate(format!("{field}.key"), key);
            }
        }
        // A term that says nothing counts as one that was there before.
        if keys.is_empty() || seen_terms.contains(&keys) {
            errors.duplicate(field, "");
        }
        seen_terms.push(keys);
    }
}

/// Whether claims without a class get this one.
pub(crate) fn is_default(class: &Value) -> bool {
    [
        "storageclass.kubernetes.io/is-default-class",
        "storageclass.beta.kubernetes.io/is-default-class",
    ]
    .iter()
    .any(|key| text(class, &["metadata", "annotations", key]) == "true")
}

/// Whether claims of the class may grow.
pub(crate) fn may_grow(class: &Value) -> bool {
    flag(class, &["allowVolumeExpansion"])
}
