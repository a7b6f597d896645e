//! Validation of environment variables and where their values come from.

use serde_json::Value;

use crate::kinds::access::{at, list, text};
use crate::kinds::errors::Errors;
use crate::kinds::names;

const SOURCES: &[&str] = &[
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

pub(super) fn validate(container: &Value, field: &str, errors: &mut Errors) {
    for (index, variable) in list(container, &["env"]).iter().enumerate() {
        let field = format!("{field}.env[{index}]");
        let name = text(variable, &["name"]);
        if name.is_empty() {
            errors.required(format!("{field}.name"), "");
        } else {
            errors.format(&format!("{field}.name"), name, names::env_name(name));
        }
        let Some(source) = at(variable, &["valueFrom"]) else {
            continue;
        };
        let field = format!("{field}.valueFrom");
        let given: Vec<&str> = SOURCES
            .iter()
            .copied()
            .filter(|kind| at(source, &[kind]).is_some())
            .collect();
        if given.is_empty() {
            errors.invalid(
                &*field,
                "",
                "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                 `secretKeyRef` or `fileKeyRef`",
            );
        } else if !text(variable, &["value"]).is_empty() {
            errors.invalid(
                &*field,
                "",
                "may not be specified when `value` is not empty",
            );
        } else if given.len() > 1 {
            errors.invalid(
                &*field,
                "",
                "may not have more than one field specified at a time",
            );
        }
        for kind in given {
            source_of(&source[kind], kind, &format!("{field}.{kind}"), errors);
        }
    }
    for (index, source) in list(container, &["envFrom"]).iter().enumerate() {
        let field = format!("{field}.envFrom[{index}]");
        let prefix = text(source, &["prefix"]);
        if !prefix.is_empty() {
            errors.format(&format!("{field}.prefix"), prefix, names::env_name(prefix));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if let Some(reference) = at(source, &[kind]) {
                count += 1;
                if text(reference, &["name"]).is_empty() {
                    errors.required(format!("{field}.{kind}.name"), "");
                }
            }
        }
        match count {
            0 => errors.invalid(
                &*field,
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            ),
            1 => {}
            _ => errors.invalid(
                &*field,
                "",
                "may not have more than one field specified at a time",
            ),
        }
    }
}

/// Paths that `fieldRef` may name in an environment variable.
const FIELD_PATHS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn source_of(source: &Value, kind: &str, field: &str, errors: &mut Errors) {
    match kind {
        "fieldRef" => {
            let path = text(source, &["fieldPath"]);
            if text(source, &["apiVersion"]).is_empty() {
                errors.required(format!("{field}.apiVersion"), "");
            }
            let subscripted = ["metadata.annotations['", "metadata.labels['"]
                .iter()
                .any(|prefix| path.starts_with(prefix) && path.ends_with("']"));
            if path.is_empty() {
                errors.required(format!("{field}.fieldPath"), "");
            } else if !subscripted && !FIELD_PATHS.contains(&path) {
                errors.not_supported(format!("{field}.fieldPath"), path, FIELD_PATHS);
            }
        }
        "resourceFieldRef" => {
            if text(source, &["resource"]).is_empty() {
                errors.required(format!("{field}.resource"), "");
            }
        }
        _ => {
            if kind != "fileKeyRef" && text(source, &["name"]).is_empty() {
                errors.required(format!("{field}.name"), "");
            }
            let key = text(source, &["key"]);
            if key.is_empty() {
                errors.required(format!("{field}.key"), "");
            } else if kind != "fileKeyRef" {
                errors.format(&format!("{field}.key"), key, names::config_key(key));
            }
        }
    }
}
