//! Metadata rules that hold for every kind: names, generated names, labels, annotations, owner references,
//! finalizers. Pure; what differs between kinds is in `kinds`.

use rand::Rng;
use serde_json::Value;

use super::error::field_error;
use super::object;
use crate::kinds::{Cause, FieldError, Kind, NameRule, Scope};

const DNS1123_LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
    or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used \
    for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";
const DNS1123_SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex \
    used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const DNS1035_LABEL: &str = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', \
    start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or \
    'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')";
const QUALIFIED_NAME: &str = "name part must consist of alphanumeric characters, '-', '_' or '.', and must \
    start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for \
    validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')";
const LABEL_VALUE: &str = "a valid label must be an empty string or consist of alphanumeric characters, '-', \
    '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or \
    '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')";
/// Sum of the lengths of all annotation keys and values.
const MAX_ANNOTATIONS: usize = 256 * 1024;
/// Letters and digits that make no words and are not mistaken for each other.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LENGTH: usize = 5;
const MAX_GENERATED: usize = 63;

/// A name from `generateName`.
pub(crate) fn generate_name(base: &str) -> String {
    let mut rng = rand::rng();
    let mut name: String = base.chars().take(MAX_GENERATED - SUFFIX_LENGTH).collect();
    for _ in 0..SUFFIX_LENGTH {
        name.push(char::from(
            SUFFIX_ALPHABET[rng.random_range(0..SUFFIX_ALPHABET.len())],
        ));
    }
    name
}

/// Everything that is wrong with the metadata of a new object or of an update.
pub(crate) fn validate(kind: &Kind, new: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_none() {
        validate_name(kind, new, &mut errors);
    }
    validate_labels(&new["metadata"]["labels"], &mut errors);
    validate_annotations(&new["metadata"]["annotations"], &mut errors);
    validate_owners(&new["metadata"]["ownerReferences"], &mut errors);
    validate_finalizers(new, old, &mut errors);
    errors
}

fn quoted(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

fn invalid(field: &str, value: &str, why: &str) -> FieldError {
    field_error(
        field,
        Cause::Invalid,
        format!("Invalid value: {}: {why}", quoted(value)),
    )
}

fn validate_name(kind: &Kind, new: &Value, errors: &mut Vec<FieldError>) {
    let name = object::name(new);
    if name.is_empty() {
        errors.push(field_error(
            "metadata.name",
            Cause::Required,
            "Required value: name or generateName is required",
        ));
        return;
    }
    for why in name_problems(kind.name_rule, name) {
        errors.push(invalid("metadata.name", name, &why));
    }
    let namespace = object::namespace(new);
    if kind.scope == Scope::Namespaced && namespace.is_empty() {
        errors.push(field_error(
            "metadata.namespace",
            Cause::Required,
            "Required value",
        ));
    }
}

fn too_long(limit: usize) -> String {
    format!("must be no more than {limit} bytes")
}

fn name_problems(rule: NameRule, name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut check = |limit: usize, ok: bool, why: &str| {
        if name.len() > limit {
            problems.push(too_long(limit));
        }
        if !ok {
            problems.push(why.to_owned());
        }
    };
    match rule {
        NameRule::DnsSubdomain => check(253, name.split('.').all(is_label), DNS1123_SUBDOMAIN),
        NameRule::DnsLabel => check(63, is_label(name), DNS1123_LABEL),
        NameRule::DnsLabel1035 => check(
            63,
            is_label(name) && !name.starts_with(|c: char| c.is_ascii_digit()),
            DNS1035_LABEL,
        ),
        NameRule::PathSegment => {
            if matches!(name, "." | "..") {
                problems.push(format!("may not be '{name}'"));
            }
            for character in ["/", "%"] {
                if name.contains(character) {
                    problems.push(format!("may not contain '{character}'"));
                }
            }
        }
    }
    problems
}

fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| {
        byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-')
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

/// What is wrong with a label key, annotation key or finalizer.
fn qualified_name_problems(key: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let name = match key.split_once('/') {
        None => key,
        Some((prefix, name)) => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else if prefix.len() > 253 || !prefix.split('.').all(is_label) {
                problems.push(format!("prefix part {DNS1123_SUBDOMAIN}"));
            }
            name
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push(format!("name part {}", too_long(63)));
    }
    if !is_label_text(name) {
        problems.push(QUALIFIED_NAME.to_owned());
    }
    problems
}

fn validate_labels(labels: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        for why in qualified_name_problems(key) {
            errors.push(invalid("metadata.labels", key, &why));
        }
        let text = value.as_str().unwrap_or("");
        if text.len() > 63 {
            errors.push(invalid("metadata.labels", text, &too_long(63)));
        }
        if !text.is_empty() && !is_label_text(text) {
            errors.push(invalid("metadata.labels", text, LABEL_VALUE));
        }
    }
}

fn validate_annotations(annotations: &Value, errors: &mut Vec<FieldError>) {
    let mut total = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        for why in qualified_name_problems(&key.to_lowercase()) {
            errors.push(invalid("metadata.annotations", key, &why));
        }
        total += key.len() + value.as_str().map_or(0, str::len);
    }
    if total > MAX_ANNOTATIONS {
        errors.push(field_error(
            "metadata.annotations",
            Cause::TooLong,
            format!("Too long: may not be more than {MAX_ANNOTATIONS} bytes"),
        ));
    }
}

fn validate_owners(owners: &Value, errors: &mut Vec<FieldError>) {
    let mut controllers = 0;
    for (at, owner) in owners.as_array().into_iter().flatten().enumerate() {
        for (field, word) in [
            ("apiVersion", "version must not be empty"),
            ("kind", "must not be empty"),
            ("name", "must not be empty"),
            ("uid", "must not be empty"),
        ] {
            let value = owner[field].as_str().unwrap_or("");
            if value.is_empty() {
                errors.push(invalid(
                    &format!("metadata.ownerReferences[{at}].{field}"),
                    value,
                    word,
                ));
            }
        }
        controllers += usize::from(owner["controller"].as_bool() == Some(true));
    }
    if controllers > 1 {
        errors.push(field_error(
            "metadata.ownerReferences",
            Cause::Invalid,
            format!(
                "Invalid value: {owners}: Only one reference can have Controller set to true. Found \
                 {controllers} references with Controller set to true"
            ),
        ));
    }
}

fn validate_finalizers(new: &Value, old: Option<&Value>, errors: &mut Vec<FieldError>) {
    let finalizers = object::finalizers(new);
    for finalizer in &finalizers {
        for why in qualified_name_problems(finalizer) {
            errors.push(invalid("metadata.finalizers", finalizer, &why));
        }
    }
    if finalizers.contains(&"orphan") && finalizers.contains(&"foregroundDeletion") {
        errors.push(field_error(
            "metadata.finalizers",
            Cause::Invalid,
            format!(
                "Invalid value: {}: finalizer orphan and foregroundDeletion cannot be both set",
                new["metadata"]["finalizers"]
            ),
        ));
    }
    let Some(old) = old.filter(|old| object::is_terminating(old)) else {
        return;
    };
    let known = object::finalizers(old);
    let added: Vec<&&str> = finalizers.iter().filter(|f| !known.contains(f)).collect();
    if !added.is_empty() {
        let list = added
            .iter()
            .map(|f| quoted(f))
            .collect::<Vec<_>>()
            .join(", ");
        errors.push(field_error(
            "metadata.finalizers",
            Cause::Forbidden,
            format!(
                "Forbidden: no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{list}}}"
            ),
        ));
    }
}

#[cfg(test)]
mod tests;
