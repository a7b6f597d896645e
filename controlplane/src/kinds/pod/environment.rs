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
                let name = text(reference, &["name"]);
                let field = format!("{field}.{kind}.name");
                if name.is_empty() {
                    errors.required(field, "");
                } else {
                    errors.format(&field, name, names::dns_subdomain(name));
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
const IN_VARIABLES: &[&str] = &[
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
/// Those that it may name in a volume.
const IN_VOLUMES: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
/// Others that pods have, and that neither shows.
const ELSEWHERE: &[&str] = &["spec.restartPolicy", "spec.schedulerName", "status.phase"];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

fn source_of(source: &Value, kind: &str, field: &str, errors: &mut Errors) {
    match kind {
        "fieldRef" => field_ref(source, IN_VARIABLES, field, errors),
        "resourceFieldRef" => resource_field_ref(source, false, field, errors),
        _ => {
            if kind != "fileKeyRef" {
                let name = text(source, &["name"]);
                errors.format(&format!("{field}.name"), name, names::dns_subdomain(name));
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

/// An item of a downward API volume, `field` being its path.
pub(super) fn item(item: &Value, field: &str, errors: &mut Errors) {
    match (at(item, &["fieldRef"]), at(item, &["resourceFieldRef"])) {
        (Some(source), also) => {
            field_ref(source, IN_VOLUMES, &format!("{field}.fieldRef"), errors);
            if also.is_some() {
                errors.invalid(
                    field,
                    "resource",
                    "fieldRef and resourceFieldRef can not be specified simultaneously",
                );
            }
        }
        (None, Some(source)) => {
            resource_field_ref(source, true, &format!("{field}.resourceFieldRef"), errors);
        }
        (None, None) => {
            errors.required(field, "one of fieldRef and resourceFieldRef is required");
        }
    }
}

fn field_ref(source: &Value, paths: &[&str], field: &str, errors: &mut Errors) {
    let path = text(source, &["fieldPath"]);
    if text(source, &["apiVersion"]).is_empty() {
        return errors.required(format!("{field}.apiVersion"), "");
    }
    let version = text(source, &["apiVersion"]);
    if !path.is_empty() && version != "v1" {
        let problem = format!("error converting fieldPath: unsupported pod version: {version}");
        return errors.invalid(format!("{field}.fieldPath"), path, &problem);
    }
    let subscripted = path
        .strip_suffix("']")
        .and_then(|path| path.split_once("['"));
    match subscripted {
        _ if path.is_empty() => errors.required(format!("{field}.fieldPath"), ""),
        Some(("metadata.annotations", key)) => {
            let messages = names::qualified_name(&key.to_lowercase());
            errors.format(field, &key.to_lowercase(), messages);
        }
        Some(("metadata.labels", key)) => errors.format(field, key, names::qualified_name(key)),
        Some((path, _)) => errors.invalid(field, path, "does not support subscript"),
        None if paths.contains(&path) => {}
        None if [IN_VARIABLES, IN_VOLUMES, ELSEWHERE]
            .iter()
            .any(|known| known.contains(&path)) =>
        {
            errors.not_supported(format!("{field}.fieldPath"), path, paths);
        }
        None => errors.invalid(
            format!("{field}.fieldPath"),
            path,
            &format!("error converting fieldPath: field label not supported: {path}"),
        ),
    }
}

fn resource_field_ref(source: &Value, in_volume: bool, field: &str, errors: &mut Errors) {
    let resource = text(source, &["resource"]);
    let is_huge_pages = ["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|prefix| resource.starts_with(prefix));
    if in_volume && text(source, &["containerName"]).is_empty() {
        errors.required(format!("{field}.containerName"), "");
    } else if resource.is_empty() {
        errors.required(format!("{field}.resource"), "");
    } else if !RESOURCES.contains(&resource) && !is_huge_pages {
        errors.not_supported(format!("{field}.resource"), resource, RESOURCES);
    }
    let divisor = text(source, &["divisor"]);
    let (units, what) = match resource {
        "limits.cpu" | "requests.cpu" => ("1m and 1", "cpu"),
        "limits.memory" | "requests.memory" => (BYTES, "memory"),
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => {
            (BYTES, "local ephemeral storage")
        }
        _ if is_huge_pages => (BYTES, "hugepages"),
        _ => return,
    };
    let is_unit = units
        .split([',', ' '])
        .any(|unit| unit != "and" && !unit.is_empty() && unit == divisor);
    if !matches!(divisor, "" | "0") && !is_unit {
        let why = format!("only divisor's values {units} are supported with the {what} resource");
        errors.invalid(format!("{field}.divisor"), resource, &why);
    }
}

/// Divisors of amounts of bytes.
const BYTES: &str = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
