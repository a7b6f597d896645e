//! What a definition must be, besides its schemas ([`super::schema`]).

use serde_json::Value;

use super::super::access::{at, flag, list, text};
use super::super::custom::path::{JsonPath, simple};
use super::super::errors::Errors;
use super::super::{FieldError, names};
use super::schema;

const APPROVED: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: &[&str] = &[
    "",
    "byte",
    "date",
    "date-time",
    "double",
    "float",
    "int32",
    "int64",
    "password",
];

pub(super) fn definition(object: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let spec = &object["spec"];
    let group = text(spec, &["group"]);
    let wanted = format!("{}.{group}", text(spec, &["names", "plural"]));
    if old.is_none() && text(object, &["metadata", "name"]) != wanted {
        errors.invalid(
            "metadata.name",
            text(object, &["metadata", "name"]),
            "must be spec.names.plural+\".\"+spec.group",
        );
    }
    validate_group(object, group, &mut errors);
    match text(spec, &["scope"]) {
        "" => errors.required("spec.scope", ""),
        "Cluster" | "Namespaced" => {}
        other => errors.not_supported("spec.scope", other, &["Cluster", "Namespaced"]),
    }
    validate_names(&spec["names"], "spec.names", &mut errors);
    validate_versions(spec, old.map(|old| &old["spec"]), &mut errors);
    validate_conversion(&spec["conversion"], &mut errors);
    if flag(spec, &["preserveUnknownFields"]) {
        errors.invalid(
            "spec.preserveUnknownFields",
            true,
            "must be false in order to use defaults in the schema",
        );
    }
    for (at, stored) in list(object, &["status", "storedVersions"])
        .iter()
        .enumerate()
    {
        let known = list(spec, &["versions"])
            .iter()
            .any(|version| version["name"] == *stored);
        if !known && old.is_some() {
            errors.invalid(
                format!("status.storedVersions[{at}]"),
                stored.clone(),
                &format!(
                    "missing from spec.versions; {0} was previously a storage version, and must remain in \
                     spec.versions until a storage migration ensures no data remains persisted in {0} and \
                     removes {0} from status.storedVersions",
                    stored.as_str().unwrap_or("")
                ),
            );
        }
    }
    if let Some(old) = old {
        immutable(object, old, &mut errors);
    }
    errors.into_vec()
}

pub(super) fn status(object: &Value) -> Vec<FieldError> {
    let mut errors = Errors::new();
    let stored = list(object, &["status", "storedVersions"]);
    if stored.is_empty() {
        errors.invalid(
            "status.storedVersions",
            Value::Array(Vec::new()),
            "must have at least one stored version",
        );
    }
    errors.into_vec()
}

fn validate_group(object: &Value, group: &str, errors: &mut Errors) {
    if group.is_empty() {
        errors.required("spec.group", "");
        return;
    }
    let problems = names::dns_subdomain(group);
    if !problems.is_empty() {
        let text = problems.join(",");
        errors.invalid("spec.group", group, &text);
    } else if !group.contains('.') {
        errors.invalid(
            "spec.group",
            group,
            "should be a domain with at least one dot",
        );
    }
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|suffix| group == *suffix || group.ends_with(&format!(".{suffix}")));
    let approval = object["metadata"]["annotations"][APPROVED]
        .as_str()
        .unwrap_or("");
    if !protected {
        return;
    }
    let field = format!("metadata.annotations[{APPROVED}]");
    if approval.is_empty() {
        errors.required(
            field,
            &format!(
                "protected groups must have approval annotation \"{APPROVED}\", see \
                 https://github.com/kubernetes/enhancements/pull/1111"
            ),
        );
    } else if !approval.starts_with("unapproved") && !approval.starts_with("https://") {
        errors.invalid(
            field,
            approval,
            &format!(
                "protected groups must have approval annotation \"{APPROVED}\" with either a URL or a reason \
                 starting with \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
            ),
        );
    }
}

fn validate_names(given: &Value, path: &str, errors: &mut Errors) {
    for field in ["plural", "singular", "kind", "listKind"] {
        let value = text(given, &[field]);
        let path = format!("{path}.{field}");
        if value.is_empty() {
            if field != "singular" {
                errors.required(path, "");
            }
            continue;
        }
        let checked = if field.ends_with("ind") {
            value.to_lowercase()
        } else {
            value.to_owned()
        };
        let problems = names::dns_label_1035(&checked);
        if !problems.is_empty() {
            errors.invalid(path, value, &problems.join(","));
        }
    }
    let (kind, list_kind) = (text(given, &["kind"]), text(given, &["listKind"]));
    if !kind.is_empty() && kind == list_kind {
        errors.invalid(
            format!("{path}.listKind"),
            list_kind,
            "kind and listKind may not be the same",
        );
    }
    for field in ["shortNames", "categories"] {
        for (at, name) in list(given, &[field]).iter().enumerate() {
            let name = name.as_str().unwrap_or("");
            let problems = names::dns_label_1035(name);
            if !problems.is_empty() {
                errors.invalid(format!("{path}.{field}[{at}]"), name, &problems.join(","));
            }
        }
    }
}

fn validate_versions(spec: &Value, old: Option<&Value>, errors: &mut Errors) {
    let versions = list(spec, &["versions"]);
    let storage = versions
        .iter()
        .filter(|version| flag(version, &["storage"]))
        .count();
    if storage != 1 {
        errors.invalid(
            "spec.versions",
            spec["versions"].clone(),
            "must have exactly one version marked as storage version",
        );
    }
    let names_of: Vec<&str> = versions
        .iter()
        .map(|version| text(version, &["name"]))
        .collect();
    if (1..names_of.len()).any(|at| names_of[..at].contains(&names_of[at])) {
        errors.invalid(
            "spec.versions",
            spec["versions"].clone(),
            "must contain unique version names",
        );
    }
    // Where all versions say the same, Kubernetes speaks of the definition as a whole.
    let same = |field: &str| {
        versions
            .iter()
            .all(|version| version.get(field) == versions[0].get(field))
    };
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        let name = text(version, &["name"]);
        let problems = names::dns_label_1035(name);
        if !problems.is_empty() {
            errors.invalid(format!("{path}.name"), name, &problems.join(","));
        }
        if let Some(warning) = super::super::access::at(version, &["deprecationWarning"]) {
            validate_warning(version, warning, &path, errors);
        }
        if at > 0 && same("schema") {
            continue;
        }
        match super::super::access::at(version, &["schema", "openAPIV3Schema"]) {
            None => errors.required(
                format!("{path}.schema.openAPIV3Schema"),
                "schemas are required",
            ),
            Some(found) => {
                let path = if same("schema") {
                    "spec.validation.openAPIV3Schema".to_owned()
                } else {
                    format!("{path}.schema.openAPIV3Schema")
                };
                let before = old.and_then(|old| {
                    let known = list(old, &["versions"]);
                    let same = known.iter().find(|known| known["name"] == name)?;
                    same.pointer("/schema/openAPIV3Schema")
                });
                schema::validate(found, &path, before != Some(found), errors);
            }
        }
    }
    for (at, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{at}]");
        if at == 0 || !same("subresources") {
            let path = if same("subresources") {
                "spec".to_owned()
            } else {
                path.clone()
            };
            validate_subresources(
                &version["subresources"],
                &format!("{path}.subresources"),
                errors,
            );
        }
        if at == 0 || !same("additionalPrinterColumns") {
            let path = if same("additionalPrinterColumns") {
                "spec".to_owned()
            } else {
                path.clone()
            };
            for (number, column) in list(version, &["additionalPrinterColumns"])
                .iter()
                .enumerate()
            {
                validate_column(
                    column,
                    &format!("{path}.additionalPrinterColumns[{number}]"),
                    errors,
                );
            }
        }
        for (number, field) in list(version, &["selectableFields"]).iter().enumerate() {
            validate_selectable(
                version,
                field,
                &format!("{path}.selectableFields[{number}].jsonPath"),
                errors,
            );
        }
    }
}

/// The warning that requests for a version get.
fn validate_warning(version: &Value, warning: &Value, path: &str, errors: &mut Errors) {
    const LONGEST: usize = 256;
    let field = format!("{path}.deprecationWarning");
    let given = warning.as_str().unwrap_or("");
    if !flag(version, &["deprecated"]) {
        errors.invalid(
            field.as_str(),
            given,
            "can only be set for deprecated versions",
        );
    }
    if given.is_empty() {
        errors.invalid(field.as_str(), given, "must not be an empty string");
    }
    if given.len() > LONGEST {
        let message = format!("must be <= {LONGEST} bytes, got {}", given.len());
        errors.invalid(field.as_str(), given, &message);
    }
    if let Some(at) = given.chars().position(char::is_control) {
        let message = format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {at}"
        );
        errors.invalid(field.as_str(), given, &message);
    }
}

fn validate_subresources(given: &Value, path: &str, errors: &mut Errors) {
    let Some(scale) = at(given, &["scale"]) else {
        return;
    };
    for (field, root, needed) in [
        ("specReplicasPath", ".spec.", true),
        ("statusReplicasPath", ".status.", true),
        ("labelSelectorPath", "", false),
    ] {
        let path = format!("{path}.scale.{field}");
        let given = text(scale, &[field]);
        if given.is_empty() {
            if needed {
                errors.required(path, "");
            }
        } else if simple(given).is_none() {
            errors.invalid(path, given, "must be a simple json path starting with .");
        } else if !given.starts_with(root) {
            errors.invalid(
                path,
                given,
                &format!("should be a json path under {}", root.trim_end_matches('.')),
            );
        } else if root.is_empty() && !given.starts_with(".spec.") && !given.starts_with(".status.")
        {
            errors.invalid(
                path,
                given,
                "should be a json path under either .spec or .status",
            );
        }
    }
}

fn validate_column(column: &Value, path: &str, errors: &mut Errors) {
    if text(column, &["name"]).is_empty() {
        errors.required(format!("{path}.name"), "");
    }
    match text(column, &["type"]) {
        "" => errors.required(
            format!("{path}.type"),
            &format!("must be one of {}", COLUMN_TYPES.join(",")),
        ),
        kind if COLUMN_TYPES.contains(&kind) => {}
        other => errors.invalid(
            format!("{path}.type"),
            other,
            &format!("must be one of {}", COLUMN_TYPES.join(",")),
        ),
    }
    let format = text(column, &["format"]);
    if !COLUMN_FORMATS.contains(&format) {
        errors.invalid(
            format!("{path}.format"),
            format,
            &format!("must be one of {}", COLUMN_FORMATS[1..].join(",")),
        );
    }
    let given = text(column, &["jsonPath"]);
    if given.is_empty() {
        errors.required(format!("{path}.JSONPath"), "");
    } else if let Err(problem) = JsonPath::parse(given) {
        errors.invalid(format!("{path}.JSONPath"), given, &problem);
    }
}

/// A selectable field is a string, a boolean or a whole number of the schema.
fn validate_selectable(version: &Value, field: &Value, path: &str, errors: &mut Errors) {
    let given = text(field, &["jsonPath"]);
    let Some(steps) = simple(given) else {
        if given.is_empty() {
            errors.required(path, "");
        } else {
            errors.invalid(
                path,
                given,
                "is an invalid path: must be a simple JSON path to a field",
            );
        }
        return;
    };
    let mut schema = &version["schema"]["openAPIV3Schema"];
    for step in &steps {
        schema = &schema["properties"][step.as_str()];
    }
    if schema.is_null() {
        errors.invalid(
            path,
            given,
            "is an invalid path: does not refer to a valid field",
        );
    } else if !matches!(text(schema, &["type"]), "string" | "boolean" | "integer") {
        let kind = text(schema, &["type"]);
        errors.invalid(
            path,
            given,
            &format!("must point to a field of type string, boolean or integer. Enum string fields and strings with \
                formats are allowed. Found: {kind}"),
        );
    } else if steps.first().is_some_and(|first| first == "metadata") {
        errors.invalid(path, given, "must not point to fields in metadata");
    }
}

fn validate_conversion(given: &Value, errors: &mut Errors) {
    let path = "spec.conversion";
    match text(given, &["strategy"]) {
        "" if given.is_null() => {}
        "" => errors.required(format!("{path}.strategy"), ""),
        "None" => {
            if at(given, &["webhook"]).is_some() {
                errors.forbidden(
                    format!("{path}.webhookClientConfig"),
                    "should not be set when strategy is not set to Webhook",
                );
            }
        }
        "Webhook" => {
            let webhook = &given["webhook"];
            if at(webhook, &["clientConfig"]).is_none() {
                errors.required(
                    format!("{path}.webhookClientConfig"),
                    "required when strategy is set to Webhook",
                );
            } else {
                super::super::webhook_client::validate(
                    &webhook["clientConfig"],
                    &format!("{path}.webhookClientConfig"),
                    errors,
                );
            }
            let versions = list(webhook, &["conversionReviewVersions"]);
            let path = format!("{path}.conversionReviewVersions");
            if versions.is_empty() {
                errors.required(path.as_str(), "");
            } else {
                for (number, version) in versions.iter().filter_map(Value::as_str).enumerate() {
                    let path = format!("{path}[{number}]");
                    if versions[..number].iter().any(|before| before == version) {
                        errors.invalid(path, version, "duplicate version");
                    } else {
                        errors.format(&path, version, names::dns_label_1035(version));
                    }
                }
            }
            let is_known = |version: &Value| version == "v1" || version == "v1beta1";
            if !versions.is_empty() && !versions.iter().any(is_known) {
                errors.invalid(
                    path,
                    webhook["conversionReviewVersions"].clone(),
                    "must include at least one of v1, v1beta1",
                );
            }
        }
        other => errors.not_supported(format!("{path}.strategy"), other, &["None", "Webhook"]),
    }
}

fn immutable(object: &Value, old: &Value, errors: &mut Errors) {
    let established = list(old, &["status", "conditions"])
        .iter()
        .any(|condition| condition["type"] == "Established" && condition["status"] == "True");
    let both = |path: &[&str]| (at(object, path).cloned(), at(old, path).cloned());
    let mut fixed: Vec<&[&str]> = vec![&["spec", "group"], &["spec", "names", "plural"]];
    if established {
        fixed.push(&["spec", "scope"]);
        fixed.push(&["spec", "names", "kind"]);
    }
    for path in fixed {
        let (new, old) = both(path);
        errors.immutable(&path.join("."), new.as_ref(), old.as_ref());
    }
}
