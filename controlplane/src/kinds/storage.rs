//! Kinds around persistent volumes, one file each: PersistentVolume and its claim (core/v1) and those of
//! storage.k8s.io/v1. Here is what they share.

pub(super) mod csi_driver;
pub(super) mod csi_node;
pub(super) mod csi_storage_capacity;
pub(crate) mod persistent_volume;
pub(crate) mod persistent_volume_claim;
pub(crate) mod storage_class;
pub(super) mod volume_attachment;
pub(super) mod volume_attributes_class;

use serde_json::{Map, Value};

use super::access::{at, fill, list, strings, text};
use super::errors::Errors;
use super::{names, table};

pub(super) const GROUP: &str = "storage.k8s.io";
/// How classes were named before they had a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

const ACCESS_MODES: &[&str] = &[
    "ReadOnlyMany",
    "ReadWriteMany",
    "ReadWriteOnce",
    "ReadWriteOncePod",
];

/// The class of a volume or claim, by the old annotation or the field.
fn class(object: &Value) -> &str {
    match text(object, &["metadata", "annotations", CLASS_ANNOTATION]) {
        "" => text(object, &["spec", "storageClassName"]),
        class => class,
    }
}

/// `RWO,ROX`, in the order in which Kubernetes prints them.
fn modes(modes: &[Value]) -> Value {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let shown: Vec<&str> = short
        .iter()
        .filter(|(mode, _)| modes.iter().any(|known| known == mode))
        .map(|(_, short)| *short)
        .collect();
    shown.join(",").into()
}

fn unset(value: &str) -> Value {
    if value.is_empty() { "<unset>" } else { value }.into()
}

fn validate_modes(object: &Value, errors: &mut Errors) {
    let modes = list(object, &["spec", "accessModes"]);
    if modes.is_empty() {
        errors.required("spec.accessModes", "at least 1 access mode is required");
    }
    let mut alone = false;
    for mode in modes {
        let mode = mode.as_str().unwrap_or("");
        if !ACCESS_MODES.contains(&mode) {
            errors.not_supported("spec.accessModes", mode, ACCESS_MODES);
        }
        alone |= mode == "ReadWriteOncePod";
    }
    if alone && modes.len() > 1 {
        errors.forbidden(
            "spec.accessModes",
            "may not use ReadWriteOncePod with other access modes",
        );
    }
}

fn validate_mode(object: &Value, errors: &mut Errors) {
    let mode = text(object, &["spec", "volumeMode"]);
    let given = at(object, &["spec", "volumeMode"]).is_some();
    if given && !matches!(mode, "Filesystem" | "Block") {
        errors.not_supported("spec.volumeMode", mode, &["Block", "Filesystem"]);
    }
}

fn validate_class_name(object: &Value, errors: &mut Errors) {
    let name = text(object, &["spec", "storageClassName"]);
    if !name.is_empty() {
        errors.format("spec.storageClassName", name, names::dns_subdomain(name));
    }
}

/// Driver parameters: bounded in number and size.
fn validate_parameters(object: &Value, required: bool, errors: &mut Errors) {
    const MOST: usize = 512;
    const BYTES: usize = 256 * 1024;
    let (mut count, mut size) = (0, 0);
    for (key, value) in strings(object, &["parameters"]) {
        count += 1;
        size += key.len() + value.len();
        if key.is_empty() {
            errors.invalid("parameters", key, "field can not be empty.");
        }
    }
    if count > MOST {
        errors.too_long("parameters", MOST);
    }
    if size > BYTES {
        errors.too_long("parameters", BYTES);
    }
    if required && count == 0 {
        errors.required("parameters", "must contain at least one key/value pair");
    }
}

pub(super) fn validate_driver_name(name: &str, field: &str, errors: &mut Errors) {
    if name.is_empty() {
        errors.required(field, "");
        return;
    }
    if name.len() > 63 {
        errors.too_long(field, 63);
    }
    for message in names::dns_subdomain(&name.to_lowercase()) {
        errors.invalid(field, name, &message);
    }
}

/// What an object keeps from `old`: fields outside spec that may not change.
fn immutable_fields(object: &Value, old: Option<&Value>, fields: &[&str], errors: &mut Errors) {
    let Some(old) = old else { return };
    for field in fields {
        if !super::access::same(at(object, &[field]), at(old, &[field])) {
            errors.forbidden(*field, &format!("updates to {field} are forbidden."));
        }
    }
}

fn shown_bool(object: &Value, path: &[&str]) -> Value {
    super::access::flag(object, path).to_string().into()
}

const NAME: super::Column = table::NAME;

/// Sets what is left out of a volume's source, in pods and in PersistentVolumes.
pub(super) fn default_source(volume: &mut Map<String, Value>) {
    let mut fields = |source: &str, given: &[(&str, Value)]| {
        if let Some(source) = volume.get_mut(source).and_then(Value::as_object_mut) {
            for (field, value) in given {
                fill(source, field, value.clone());
            }
        }
    };
    fields("iscsi", &[("iscsiInterface", "default".into())]);
    fields(
        "rbd",
        &[
            ("pool", "rbd".into()),
            ("user", "admin".into()),
            ("keyring", "/etc/ceph/keyring".into()),
        ],
    );
    fields(
        "scaleIO",
        &[
            ("storageMode", "ThinProvisioned".into()),
            ("fsType", "xfs".into()),
        ],
    );
    fields(
        "azureDisk",
        &[
            ("cachingMode", "ReadWrite".into()),
            ("kind", "Shared".into()),
            ("fsType", "ext4".into()),
            ("readOnly", false.into()),
        ],
    );
}
