//! Validation of volumes.

use std::collections::HashSet;

use serde_json::Value;

use crate::kinds::access::{at, integer, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;
use crate::kinds::quantity::Quantity;

/// Checks `spec.volumes` and returns their names.
pub(super) fn validate<'a>(spec: &'a Value, field: &str, errors: &mut Errors) -> HashSet<&'a str> {
    let mut seen = HashSet::new();
    for (index, volume) in list(spec, &["volumes"]).iter().enumerate() {
        let field = format!("{field}.volumes[{index}]");
        let name = text(volume, &["name"]);
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else {
            let messages = names::dns_label(name);
            if messages.is_empty() && !seen.insert(name) {
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
            "downwardAPI" => mode(source, "defaultMode", &field, errors),
            "projected" => projected(source, &field, errors),
            "persistentVolumeClaim" if text(source, &["claimName"]).is_empty() => {
                errors.required(format!("{field}.claimName"), "");
            }
            _ => {}
        }
    }
    if count == 0 {
        errors.required(field, "must specify a volume type");
    }
}

fn host_path(source: &Value, field: &str, errors: &mut Errors) {
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
    if path.starts_with('/') {
        errors.invalid(field, path, "must be a relative path");
    }
    if path.split('/').any(|step| step == "..") {
        errors.invalid(field, path, "must not contain '..'");
    } else if path.starts_with("..") {
        errors.invalid(field, path, "must not start with '..'");
    }
}

fn projected(source: &Value, field: &str, errors: &mut Errors) {
    mode(source, "defaultMode", field, errors);
    for (index, one) in list(source, &["sources"]).iter().enumerate() {
        let field = format!("{field}.sources[{index}]");
        for kind in ["configMap", "secret"] {
            if let Some(inner) = at(one, &[kind]) {
                keys(inner, "name", &format!("{field}.{kind}"), errors);
            }
        }
        if let Some(token) = at(one, &["serviceAccountToken"]) {
            let field = format!("{field}.serviceAccountToken");
            relative(text(token, &["path"]), &format!("{field}.path"), errors);
            if let Some(seconds) = integer(token, &["expirationSeconds"])
                && seconds < 600
            {
                errors.invalid(
                    format!("{field}.expirationSeconds"),
                    seconds,
                    "may not specify a duration less than 10 minutes",
                );
            }
        }
    }
}
