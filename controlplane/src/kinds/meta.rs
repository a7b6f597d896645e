//! `metadata`, the same for every kind: its validation on create and update, and the parts of
//! `prepare_update` that all kinds share. Names, uids and timestamps are given out by the registry.

use serde_json::Value;

use super::access::{at, integer, list, strings, text};
use super::errors::Errors;
use super::{FieldError, Kind, NameRule, Scope, names, selector};

const ANNOTATIONS_LIMIT: usize = 256 * 1024;

impl NameRule {
    /// What is wrong with a name under this rule.
    pub(crate) fn check(self, name: &str) -> Vec<String> {
        match self {
            Self::DnsSubdomain => names::dns_subdomain(name),
            Self::DnsLabel => names::dns_label(name),
            Self::DnsLabel1035 => names::dns_label_1035(name),
            Self::PathSegment => names::path_segment(name),
        }
    }

    /// The same for `generateName`, which a random suffix follows.
    pub(crate) fn check_prefix(self, prefix: &str) -> Vec<String> {
        match self {
            Self::PathSegment => self.check(prefix),
            _ => self.check(&names::as_prefix(prefix)),
        }
    }
}

/// Checks `metadata` of a new object (`old` is `None`) or of an update.
pub(crate) fn validate(kind: &Kind, object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let empty = Value::Null;
    let meta = object.get("metadata").unwrap_or(&empty);
    match old {
        None => create(kind, meta, &mut errors),
        Some(old) => update(
            kind,
            meta,
            old.get("metadata").unwrap_or(&empty),
            &mut errors,
        ),
    }
    if integer(meta, &["generation"]).is_some_and(|generation| generation < 0) {
        errors.invalid(
            "metadata.generation",
            integer(meta, &["generation"]).unwrap_or(0),
            "must be greater than or equal to 0",
        );
    }
    selector::labels(meta.get("labels"), "metadata.labels", &mut errors);
    annotations(meta, "metadata.annotations", &mut errors);
    owners(meta, &mut errors);
    if old.is_none() {
        finalizers(kind, meta, &mut errors);
    }
    managed_fields(meta, &mut errors);
    errors.into_vec()
}

fn create(kind: &Kind, meta: &Value, errors: &mut Errors) {
    let generate = text(meta, &["generateName"]);
    if !generate.is_empty() {
        errors.format(
            "metadata.generateName",
            generate,
            kind.name_rule.check_prefix(generate),
        );
    }
    let name = text(meta, &["name"]);
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        errors.format("metadata.name", name, kind.name_rule.check(name));
    }
    let namespace = text(meta, &["namespace"]);
    match kind.scope {
        Scope::Namespaced if namespace.is_empty() => errors.required("metadata.namespace", ""),
        Scope::Namespaced => {
            errors.format("metadata.namespace", namespace, names::dns_label(namespace));
        }
        Scope::Cluster if !namespace.is_empty() => {
            errors.forbidden("metadata.namespace", "not allowed on this type");
        }
        Scope::Cluster => {}
    }
}

fn update(kind: &Kind, meta: &Value, old: &Value, errors: &mut Errors) {
    if at(old, &["deletionTimestamp"]).is_some() {
        let before = list(old, &["finalizers"]);
        let mut new: Vec<&str> = list(meta, &["finalizers"])
            .iter()
            .filter(|finalizer| !before.contains(finalizer))
            .filter_map(Value::as_str)
            .collect();
        new.sort_unstable();
        if !new.is_empty() {
            let shown: Vec<String> = new.into_iter().map(super::errors::quote).collect();
            errors.forbidden(
                "metadata.finalizers",
                &format!(
                    "no new finalizers can be added if the object is being deleted, found new \
                     finalizers []string{{{}}}",
                    shown.join(", ")
                ),
            );
        }
    }
    if text(meta, &["resourceVersion"]).is_empty() && !text(old, &["resourceVersion"]).is_empty() {
        errors.invalid(
            "metadata.resourceVersion",
            "",
            "must be specified for an update",
        );
    }
    if integer(meta, &["generation"]).unwrap_or(0) < integer(old, &["generation"]).unwrap_or(0) {
        errors.invalid(
            "metadata.generation",
            integer(meta, &["generation"]).unwrap_or(0),
            "must not be decremented",
        );
    }
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ] {
        errors.immutable(
            &format!("metadata.{field}"),
            at(meta, &[field]),
            at(old, &[field]),
        );
    }
    if list(meta, &["finalizers"]) != list(old, &["finalizers"]) {
        finalizers(kind, meta, errors);
    }
}

/// Checks the keys and the whole size of `meta.annotations`.
pub(crate) fn annotations(meta: &Value, field: &str, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in strings(meta, &["annotations"]) {
        size += key.len() + value.len();
        errors.format(field, key, names::qualified_name(&key.to_lowercase()));
    }
    if size > ANNOTATIONS_LIMIT {
        errors.too_long(field, ANNOTATIONS_LIMIT);
    }
}

fn owners(meta: &Value, errors: &mut Errors) {
    const FIELD: &str = "metadata.ownerReferences";
    let owners = list(meta, &["ownerReferences"]);
    let mut controller: Option<String> = None;
    for owner in owners {
        let api_version = text(owner, &["apiVersion"]);
        let parts = api_version.matches('/').count();
        if api_version.is_empty() || api_version.ends_with('/') || parts > 1 {
            errors.invalid(
                format!("{FIELD}.apiVersion"),
                api_version,
                "version must not be empty",
            );
        }
        for name in ["kind", "name", "uid"] {
            if text(owner, &[name]).is_empty() {
                errors.invalid(format!("{FIELD}.{name}"), "", "must not be empty");
            }
        }
        if api_version == "v1" && text(owner, &["kind"]) == "Event" {
            errors.invalid(
                FIELD,
                owner.clone(),
                "/v1, Kind=Event is disallowed from being an owner",
            );
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            let this = format!("{}/{}", text(owner, &["kind"]), text(owner, &["name"]));
            match &controller {
                Some(first) => errors.invalid(
                    FIELD,
                    Value::Array(owners.to_vec()),
                    &format!(
                        "Only one reference can have Controller set to true. Found \"true\" in \
                         references for {first} and {this}"
                    ),
                ),
                None => controller = Some(this),
            }
        }
    }
}

/// Those that need no domain before their name.
const FINALIZERS: &[&str] = &["foregroundDeletion", "kubernetes", "orphan"];
/// Groups whose servers, in Kubernetes, ask for no domain.
const ANY_FINALIZER: &[&str] = &["apiextensions.k8s.io", "apiregistration.k8s.io"];

fn finalizers(kind: &Kind, meta: &Value, errors: &mut Errors) {
    let all = list(meta, &["finalizers"]);
    let qualified = !kind.is_custom() && !ANY_FINALIZER.contains(&kind.group);
    for (index, finalizer) in all.iter().filter_map(Value::as_str).enumerate() {
        errors.format(
            "metadata.finalizers",
            finalizer,
            names::qualified_name(finalizer),
        );
        if qualified && !finalizer.contains('/') && !FINALIZERS.contains(&finalizer) {
            errors.invalid(
                format!("metadata.finalizers[{index}]"),
                finalizer,
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    let has = |name: &str| all.iter().any(|finalizer| finalizer.as_str() == Some(name));
    if has("orphan") && has("foregroundDeletion") {
        errors.invalid(
            "metadata.finalizers",
            Value::Array(all.to_vec()),
            "finalizer orphan and foregroundDeletion cannot be both set",
        );
    }
}

fn managed_fields(meta: &Value, errors: &mut Errors) {
    for (at, entry) in list(meta, &["managedFields"]).iter().enumerate() {
        // One empty entry is how a client clears the list.
        if entry.as_object().is_some_and(serde_json::Map::is_empty) {
            continue;
        }
        let field = format!("metadata.managedFields[{at}]");
        let operation = text(entry, &["operation"]);
        if !matches!(operation, "Apply" | "Update") {
            errors.invalid(
                format!("{field}.operation"),
                operation,
                "must be `Apply` or `Update`",
            );
        }
        let fields_type = text(entry, &["fieldsType"]);
        if !fields_type.is_empty() && fields_type != "FieldsV1" {
            errors.invalid(
                format!("{field}.fieldsType"),
                fields_type,
                "must be `FieldsV1`",
            );
        }
        if text(entry, &["manager"]).len() > 128 {
            errors.too_long(format!("{field}.manager"), 128);
        }
    }
}

/// Takes the whole status from `old` (an update of the main resource does not change it).
pub(crate) fn keep_status(object: &mut Value, old: &Value) {
    let Some(object) = object.as_object_mut() else {
        return;
    };
    match old.get("status") {
        Some(status) => object.insert("status".into(), status.clone()),
        None => object.remove("status"),
    };
}

/// A status that comes with labels and annotations: everything else is that of `old`.
pub(crate) fn keep_all_but_status_and_labels(object: &mut Value, old: &Value) {
    let given =
        ["labels", "annotations"].map(|field| (field, at(object, &["metadata", field]).cloned()));
    keep_all_but_status(object, old);
    let metadata = super::access::object_mut(object, &["metadata"]);
    for (field, value) in given {
        match value {
            Some(value) => metadata.insert(field.into(), value),
            None => metadata.remove(field),
        };
    }
}

/// Takes everything but the status from `old`. Of the metadata, only what a status update may touch stays:
/// the resource version it was made against and the managed fields.
pub(crate) fn keep_all_but_status(object: &mut Value, old: &Value) {
    let status = object.get("status").cloned();
    let meta = object.get("metadata").cloned().unwrap_or_default();
    *object = old.clone();
    let Some(target) = object.as_object_mut() else {
        return;
    };
    match status {
        Some(status) => target.insert("status".into(), status),
        None => target.remove("status"),
    };
    let Some(old_meta) = target.get_mut("metadata").and_then(Value::as_object_mut) else {
        return;
    };
    for field in ["resourceVersion", "managedFields"] {
        if let Some(value) = meta.get(field) {
            old_meta.insert(field.into(), value.clone());
        }
    }
}

/// An update of a kind with a status of its own: one by `status` changes labels and annotations besides, any other
/// leaves it alone and counts the changes of the spec.
pub(crate) fn keep_status_apart(object: &mut Value, old: &Value, subresource: &str) {
    if subresource == "status" {
        keep_all_but_status_and_labels(object, old);
    } else {
        keep_status(object, old);
        set_generation(object, Some(old));
    }
}

/// `metadata.generation`: 1 on create, one more whenever the spec changes.
pub(crate) fn set_generation(object: &mut Value, old: Option<&Value>) {
    let generation = match old {
        None => 1,
        Some(old) => {
            let before = integer(old, &["metadata", "generation"]).unwrap_or(0);
            if super::access::same(object.get("spec"), old.get("spec")) {
                before
            } else {
                before.saturating_add(1)
            }
        }
    };
    let meta = super::access::object_mut(object, &["metadata"]);
    if generation > 0 {
        meta.insert("generation".into(), generation.into());
    } else {
        meta.remove("generation");
    }
}
