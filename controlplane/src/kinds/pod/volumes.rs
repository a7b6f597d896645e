//! Validation of volumes.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::environment;
use crate::kinds::access::{at, integer, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;
use crate::kinds::quantity::Quantity;
use crate::kinds::storage::{self, persistent_volume_claim};

/// A pod's volumes by their names.
pub(super) type Volumes<'a> = HashMap<&'a str, &'a Value>;

/// Checks `spec.volumes` and returns them.
pub(super) fn validate<'a>(spec: &'a Value, field: &str, errors: &mut Errors) -> Volumes<'a> {
    let mut seen = Volumes::new();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let field = format!("{field}.volumes[{index}]");
        let name = text(volume, &["name"]);
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else {
            let messages = names::dns_label(name);
            if messages.is_empty() && seen.insert(name, volume).is_some() {
                errors.duplicate(format!("{field}.name"), name);
            }
            errors.format(&format!("{field}.name"), name, messages);
        }
        source(volume, &field, errors);
    }
    seen
}

fn source(volume: &Value, field: &str, errors: &mut Errors) {
    let mut count = 0;
    for (kind, source) in volume.as_object().into_iter().flatten() {
        if kind == "name" || source.is_null() {
            continue;
        }
        count += 1;
        let field = format!("{field}.{kind}");
        if count > 1 {
            errors.forbidden(field, "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "emptyDir" => {
                let limit = text(source, &["sizeLimit"]);
                if limit.parse::<Quantity>().is_ok_and(Quantity::is_negative) {
                    errors.forbidden(
                        format!("{field}.sizeLimit"),
                        "SizeLimit field must be a valid resource quantity",
                    );
                }
            }
            "hostPath" => host_path(source, &field, errors),
            "configMap" => keys(source, "name", &field, errors),
            "secret" => keys(source, "secretName", &field, errors),
            "downwardAPI" => {
                mode(source, "defaultMode", &field, errors);
                for item in list(source, &["items"]) {
                    downward(item, &field, errors);
                }
            }
            "ephemeral" => match at(source, &["volumeClaimTemplate"]) {
                None => errors.required(format!("{field}.volumeClaimTemplate"), ""),
                Some(template) => {
                    let mut inner = Errors::new();
                    persistent_volume_claim::validate_spec(template, &mut inner);
                    let to = format!("{field}.volumeClaimTemplate.spec");
                    errors.extend_below(inner, "spec", &to);
                }
            },
            "image" => {
                let policy = text(source, &["pullPolicy"]);
                if !matches!(policy, "" | "Always" | "IfNotPresent" | "Never") {
                    let all = &["Always", "IfNotPresent", "Never"];
                    errors.not_supported(format!("{field}.pullPolicy"), policy, all);
                }
            }
            "nfs" => {
                required(source, &["server", "path"], &field, errors);
                let path = text(source, &["path"]);
                if !path.is_empty() && !path.starts_with('/') {
                    let why = "must be an absolute path";
                    errors.invalid(format!("{field}.path"), path, why);
                }
            }
            "csi" => csi(source, &field, errors),
            "projected" => projected(source, &field, errors),
            "persistentVolumeClaim" if text(source, &["claimName"]).is_empty() => {
                errors.required(format!("{field}.claimName"), "");
            }
            _ => legacy(kind, source, &field, errors),
        }
    }
    if count == 0 {
        errors.required(field, "must specify a volume type");
    }
}

/// What volumes of kinds that no node serves must say.
const LEGACY: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["registry", "volume"]),
    ("rbd", &["image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

fn legacy(kind: &str, source: &Value, field: &str, errors: &mut Errors) {
    // Kubernetes calls it so in complaints.
    let field = match kind {
        "gcePersistentDisk" => field.replace(kind, "persistentDisk"),
        _ => field.to_owned(),
    };
    if matches!(kind, "rbd" | "cephfs") && list(source, &["monitors"]).is_empty() {
        errors.required(format!("{field}.monitors"), "");
    }
    if let Some((_, fields)) = LEGACY.iter().find(|(known, _)| *known == kind) {
        required(source, fields, &field, errors);
    }
    match kind {
        "gitRepo" => {
            let directory = text(source, &["directory"]);
            descending(directory, &format!("{field}.directory"), errors);
        }
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = integer(source, &["partition"]).unwrap_or(0);
            if !(0..=255).contains(&partition) {
                errors.invalid(
                    format!("{field}.partition"),
                    partition,
                    "must be between 0 and 255, inclusive",
                );
            }
        }
        "iscsi" => {
            let lun = integer(source, &["lun"]).unwrap_or(0);
            if !(0..=255).contains(&lun) {
                let why = "must be between 0 and 255, inclusive";
                errors.invalid(format!("{field}.lun"), lun, why);
            }
            let name = text(source, &["iqn"]);
            let known = ["iqn", "eui", "naa"]
                .iter()
                .any(|form| name.starts_with(form));
            if !name.is_empty() && !known {
                errors.invalid(
                    format!("{field}.iqn"),
                    name,
                    "must be valid format starting with iqn, eui, or naa",
                );
            }
        }
        _ => {}
    }
}

fn csi(source: &Value, field: &str, errors: &mut Errors) {
    let driver = text(source, &["driver"]);
    storage::validate_driver_name(driver, &format!("{field}.driver"), errors);
    if at(source, &["nodePublishSecretRef"]).is_some() {
        let name = text(source, &["nodePublishSecretRef", "name"]);
        if name.is_empty() {
            // With the blank: so Kubernetes calls it.
            errors.required(format!("{field}.nodePublishSecretRef .name"), "");
        } else {
            errors.format(&format!("{field}.name"), name, names::dns_subdomain(name));
        }
    }
}

fn required(source: &Value, fields: &[&str], field: &str, errors: &mut Errors) {
    for name in fields
        .iter()
        .filter(|name| text(source, &[**name]).is_empty())
    {
        errors.required(format!("{field}.{name}"), "");
    }
}

/// An item of a downward API volume. Its path is not part of `field`, in Kubernetes neither.
fn downward(item: &Value, field: &str, errors: &mut Errors) {
    relative(text(item, &["path"]), &format!("{field}.path"), errors);
    environment::item(item, field, errors);
    mode(item, "mode", field, errors);
}

pub(super) fn host_path(source: &Value, field: &str, errors: &mut Errors) {
    let path = text(source, &["path"]);
    if path.is_empty() {
        errors.required(format!("{field}.path"), "");
    } else if path.split('/').any(|step| step == "..") {
        errors.invalid(format!("{field}.path"), path, "must not contain '..'");
    }
    const KINDS: &[&str] = &[
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    let kind = text(source, &["type"]);
    if !KINDS.contains(&kind) {
        errors.not_supported(format!("{field}.type"), kind, KINDS);
    }
}

fn mode(source: &Value, name: &str, field: &str, errors: &mut Errors) {
    if let Some(mode) = integer(source, &[name])
        && !(0..=0o777).contains(&mode)
    {
        errors.invalid(
            format!("{field}.{name}"),
            mode,
            "must be a number between 0 and 0777 (octal), both inclusive",
        );
    }
}

fn keys(source: &Value, name: &str, field: &str, errors: &mut Errors) {
    if text(source, &[name]).is_empty() {
        errors.required(format!("{field}.{name}"), "");
    }
    mode(source, "defaultMode", field, errors);
    for (index, item) in list(source, &["items"]).iter().enumerate() {
        let field = format!("{field}.items[{index}]");
        if text(item, &["key"]).is_empty() {
            errors.required(format!("{field}.key"), "");
        }
        relative(text(item, &["path"]), &format!("{field}.path"), errors);
        mode(item, "mode", &field, errors);
    }
}

/// A path inside a volume.
fn relative(path: &str, field: &str, errors: &mut Errors) {
    if path.is_empty() {
        errors.required(field, "");
        return;
    }
    descending(path, field, errors);
    if path.starts_with("..") && !path.split('/').any(|step| step == "..") {
        errors.invalid(field, path, "must not start with '..'");
    }
}

/// A path that leads from a folder to what is below it.
pub(super) fn descending(path: &str, field: &str, errors: &mut Errors) {
    if path.starts_with('/') {
        errors.invalid(field, path, "must be a relative path");
    }
    if path.split('/').any(|step| step == "..") {
        errors.invalid(field, path, "must not contain '..'");
    }
}

fn projected(source: &Value, field: &str, errors: &mut Errors) {
    mode(source, "defaultMode", field, errors);
    let mut paths = HashSet::new();
    for (index, one) in list(source, &["sources"]).iter().enumerate() {
        let at_source = format!("{field}.sources[{index}]");
        for kind in ["configMap", "secret", "downwardAPI"] {
            let Some(inner) = at(one, &[kind]) else {
                continue;
            };
            let at_kind = format!("{at_source}.{kind}");
            if kind != "downwardAPI" {
                keys(inner, "name", &at_kind, errors);
            }
            for item in list(inner, &["items"]) {
                let path = text(item, &["path"]);
                let mut named = text(inner, &["name"]);
                if kind == "downwardAPI" {
                    downward(item, &at_kind, errors);
                    named = path;
                }
                if !path.is_empty() && !paths.insert(path) {
                    errors.invalid(field, named, "conflicting duplicate paths");
                }
            }
        }
        if let Some(token) = at(one, &["serviceAccountToken"]) {
            let field = format!("{at_source}.serviceAccountToken");
            relative(text(token, &["path"]), &format!("{field}.path"), errors);
            let seconds = integer(token, &["expirationSeconds"]).unwrap_or(3600);
            let why = if seconds < 600 {
                "may not specify a duration less than 10 minutes"
            } else if seconds > 1 << 32 {
                "may not specify a duration larger than 2^32 seconds"
            } else {
                ""
            };
            if !why.is_empty() {
                errors.invalid(format!("{field}.expirationSeconds"), seconds, why);
            }
        }
        let kinds = one.as_object().into_iter().flatten();
        if kinds.filter(|(_, source)| !source.is_null()).count() > 1 {
            errors.forbidden(at_source, "may not specify more than 1 volume type");
        }
    }
}
