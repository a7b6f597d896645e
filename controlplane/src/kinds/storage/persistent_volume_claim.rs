//! PersistentVolumeClaim (core/v1), and the templates of claims in StatefulSets and pods.

use serde_json::{Value, json};

use super::super::access::{at, fill, list, object_mut, same, text};
use super::super::errors::Errors;
use super::super::quantity::Quantity;
use super::super::{Column, FieldError, Kind, NameRule, Scope, Strategy, meta, selector, table};
use super::{class, modes, unset, validate_class_name, validate_mode, validate_modes};

pub(crate) static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    categories: &[],
    scope: Scope::Namespaced,
    definition: "io.k8s.api.core.v1.PersistentVolumeClaim",
    subresources: &["status"],
    name_rule: NameRule::DnsSubdomain,
    strategy: &PersistentVolumeClaim,
    register: |generator| {
        generator.subschema_for::<k8s_openapi::api::core::v1::PersistentVolumeClaim>();
    },
};

#[derive(Debug)]
struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    fn default(&self, object: &mut Value) {
        default_spec(object);
    }

    fn prepare_create(&self, object: &mut Value) {
        object_mut(object, &[]).insert("status".into(), json!({"phase": "Pending"}));
    }

    fn prepare_update(&self, object: &mut Value, old: &Value, subresource: &str) {
        if subresource == "status" {
            meta::keep_all_but_status_and_labels(object, old);
        } else {
            meta::keep_status(object, old);
        }
    }

    fn validate(&self, object: &Value, old: Option<&Value>, subresource: &str) -> Vec<FieldError> {
        let mut errors = Errors::new();
        if subresource == "status" {
            return errors.into_vec();
        }
        validate_spec(object, &mut errors);
        if let Some(old) = old {
            update(object, old, &mut errors);
        }
        errors.into_vec()
    }

    fn columns(&self) -> &'static [Column] {
        const COLUMNS: &[Column] = &[
            table::NAME,
            table::column("Status", "string", "Whether it is bound."),
            table::column("Volume", "string", "The volume that it has."),
            table::column("Capacity", "string", "Size of that volume."),
            table::column("Access Modes", "string", "Ways in which it can be mounted."),
            table::column("StorageClass", "string", "Its class."),
            table::column(
                "VolumeAttributesClass",
                "string",
                "Class of its attributes.",
            ),
            table::AGE,
            table::wide("VolumeMode", "string", "Filesystem or Block."),
        ];
        COLUMNS
    }

    fn row(&self, object: &Value, now: i64) -> Vec<Value> {
        let phase = match text(object, &["metadata", "deletionTimestamp"]) {
            "" => text(object, &["status", "phase"]),
            _ => "Terminating",
        };
        let volume = text(object, &["spec", "volumeName"]);
        let (capacity, access) = if volume.is_empty() {
            ("", "".into())
        } else {
            (
                text(object, &["status", "capacity", "storage"]),
                modes(list(object, &["status", "accessModes"])),
            )
        };
        vec![
            table::name(object),
            phase.into(),
            volume.into(),
            capacity.into(),
            access,
            class(object).into(),
            unset(text(object, &["spec", "volumeAttributesClassName"])),
            table::age(object, now),
            unset(text(object, &["spec", "volumeMode"])),
        ]
    }
}

/// Defaults of the spec of a claim or of a template of claims.
pub(crate) fn default_spec(claim: &mut Value) {
    fill(object_mut(claim, &["spec"]), "volumeMode", "Filesystem");
}

/// Checks the spec of a claim or of a template of claims.
pub(crate) fn validate_spec(claim: &Value, errors: &mut Errors) {
    if let Some(chosen) = at(claim, &["spec", "selector"]) {
        selector::validate(chosen, "spec.selector", errors);
    }
    validate_modes(claim, errors);
    let size = text(claim, &["spec", "resources", "requests", "storage"]);
    if size.is_empty() {
        errors.required("spec.resources[storage]", "");
    } else if size
        .parse::<Quantity>()
        .is_ok_and(|size| size.is_negative() || size.is_zero())
    {
        errors.invalid("spec.resources[storage]", size, "must be greater than zero");
    }
    validate_class_name(claim, errors);
    validate_mode(claim, errors);
}

/// Bytes that a claim asks for.
fn requested(claim: &Value) -> Option<Quantity> {
    text(claim, &["spec", "resources", "requests", "storage"])
        .parse()
        .ok()
}

fn update(object: &Value, old: &Value, errors: &mut Errors) {
    let mut expected = old.clone();
    // The binder writes the volume once; a class may be given to a claim that had none.
    if text(old, &["spec", "volumeName"]).is_empty() {
        copy(object, &mut expected, "volumeName");
    }
    if at(old, &["spec", "storageClassName"]).is_none() {
        copy(object, &mut expected, "storageClassName");
    }
    let bound = text(old, &["status", "phase"]) == "Bound";
    if bound {
        let size = at(object, &["spec", "resources", "requests", "storage"]).cloned();
        if let Some(size) = size {
            object_mut(&mut expected, &["spec", "resources", "requests"])
                .insert("storage".into(), size);
        }
        copy(object, &mut expected, "volumeAttributesClassName");
    }
    if !same(object.get("spec"), expected.get("spec")) {
        errors.forbidden(
            "spec",
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        );
        return;
    }
    let (Some(wanted), Some(before)) = (requested(object), requested(old)) else {
        return;
    };
    if wanted < before {
        let had = text(old, &["status", "capacity", "storage"]).parse::<Quantity>();
        if had.map_or(true, |had| wanted <= had) {
            errors.forbidden(
                "spec.resources.requests.storage",
                "field can not be less than status.capacity",
            );
        }
    }
    if !text(old, &["spec", "volumeAttributesClassName"]).is_empty()
        && text(object, &["spec", "volumeAttributesClassName"]).is_empty()
    {
        errors.forbidden(
            "spec.volumeAttributesClassName",
            "update from non-nil value to nil is forbidden",
        );
    }
}

fn copy(from: &Value, to: &mut Value, field: &str) {
    let spec = object_mut(to, &["spec"]);
    match at(from, &["spec", field]) {
        Some(value) => spec.insert(field.into(), value.clone()),
        None => spec.remove(field),
    };
}
