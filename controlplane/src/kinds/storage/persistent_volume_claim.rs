//! PersistentVolumeClaim (core/v1), and the templates of claims in StatefulSets and pods.

use serde_json::{Map, Value, json};

use super::super::access::{at, fill_absent, list, object_mut, same, text};
use super::super::errors::Errors;
use super::super::quantity::Quantity;
use super::super::{
    Column, FieldError, Kind, NameRule, Scope, Strategy, meta, names, selector, table,
};
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
        data_sources(object_mut(object, &["spec"]));
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
    fill_absent(object_mut(claim, &["spec"]), "volumeMode", "Filesystem");
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
    validate_sources(claim, errors);
}

const SOURCE: &str = "dataSource";
const SOURCE_REF: &str = "dataSourceRef";

/// What a volume begins with can be said in two fields, of which the older knows only claims and snapshots and drops all
/// else. Either stands for both, unless it is in another namespace, which takes a feature that is not on by default.
fn data_sources(spec: &mut Map<String, Value>) {
    let known = |source: &Value| {
        matches!(
            (text(source, &["apiGroup"]), text(source, &["kind"])),
            ("", "PersistentVolumeClaim") | ("snapshot.storage.k8s.io", "VolumeSnapshot")
        )
    };
    spec.retain(|name, source| !source.is_null() && (name != SOURCE || known(source)));
    if let Some(Value::Object(source)) = spec.get_mut(SOURCE_REF) {
        source.remove("namespace");
    }
    match (spec.get(SOURCE).cloned(), spec.get(SOURCE_REF).cloned()) {
        (Some(source), None) => drop(spec.insert(SOURCE_REF.into(), source)),
        (None, Some(source)) => drop(spec.insert(SOURCE.into(), source)),
        _ => {}
    }
}

fn validate_sources(claim: &Value, errors: &mut Errors) {
    let given = |name: &str| at(claim, &["spec", name]);
    for name in [SOURCE, SOURCE_REF] {
        if let Some(source) = given(name) {
            validate_source(source, &format!("spec.{name}"), errors);
        }
    }
    let (Some(source), Some(reference)) = (given(SOURCE), given(SOURCE_REF)) else {
        return;
    };
    let equal = |field: &str| text(source, &[field]) == text(reference, &[field]);
    if !text(reference, &["namespace"]).is_empty() {
        let why = "may not be specified when dataSourceRef.namespace is specified";
        errors.invalid("spec", "spec.dataSource", why);
    } else if !["apiGroup", "kind", "name"].into_iter().all(equal) {
        errors.invalid("spec", "spec.dataSource", "must match dataSourceRef");
    }
}

fn validate_source(source: &Value, field: &str, errors: &mut Errors) {
    for name in ["name", "kind"] {
        if text(source, &[name]).is_empty() {
            errors.required(format!("{field}.{name}"), "");
        }
    }
    let (group, kind) = (text(source, &["apiGroup"]), text(source, &["kind"]));
    if group.is_empty() && kind != "PersistentVolumeClaim" {
        let why = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.invalid(field, kind, why);
    }
    if !group.is_empty() {
        errors.format(
            &format!("{field}.apiGroup"),
            group,
            names::dns_subdomain(group),
        );
    }
    let namespace = text(source, &["namespace"]);
    if !namespace.is_empty() {
        errors.format(
            &format!("{field}.namespace"),
            namespace,
            names::dns_label(namespace),
        );
    }
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
