//! Label and field selectors of lists, watches and collection deletes: parsing and matching.
//!
//! Matching works on the served bytes and reads no more of an object than the metadata where that is enough.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::Value;

use super::ApiError;
use crate::kinds::Kind;
use crate::store::KeyValue;

/// Bound on the text of one selector; a URL longer than this is refused by HTTP anyway.
const MAX_TEXT: usize = 64 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Requirement {
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Exists(String),
    NotExists(String),
    Greater(String, i64),
    Less(String, i64),
}

impl Requirement {
    /// The one value that the label must have, where there is one.
    pub(crate) fn only(&self) -> Option<(&String, &String)> {
        match self {
            Self::In(key, values) if values.len() == 1 => Some((key, values.first()?)),
            _ => None,
        }
    }

    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let number = |key: &str| labels.get(key).and_then(|value| value.parse::<i64>().ok());
        match self {
            Self::In(key, values) => labels.get(key).is_some_and(|value| values.contains(value)),
            Self::NotIn(key, values) => {
                !labels.get(key).is_some_and(|value| values.contains(value))
            }
            Self::Exists(key) => labels.contains_key(key),
            Self::NotExists(key) => !labels.contains_key(key),
            Self::Greater(key, bound) => number(key).is_some_and(|value| value > *bound),
            Self::Less(key, bound) => number(key).is_some_and(|value| value < *bound),
        }
    }
}

/// `a=b`, or `a!=b` when `equal` is false.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldRequirement {
    pub(crate) field: String,
    pub(crate) value: String,
    pub(crate) equal: bool,
}

/// Both selectors of a request. The default selects everything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) labels: Vec<Requirement>,
    pub(crate) fields: Vec<FieldRequirement>,
}

#[derive(Deserialize)]
struct LabelsOnly {
    #[serde(default)]
    metadata: LabelsMetadata,
}

#[derive(Deserialize, Default)]
struct LabelsMetadata {
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

impl Selector {
    /// Parses both texts; a field that the kind does not offer for selection is refused. `kind` is the version that
    /// the client speaks; what is made selects among stored objects.
    pub(crate) fn parse(kind: &Kind<'_>, labels: &str, fields: &str) -> Result<Self, ApiError> {
        let labels = parse_labels(labels).map_err(ApiError::bad_request)?;
        let mut fields = parse_fields(fields).map_err(ApiError::bad_request)?;
        let offered = kind
            .strategy
            .stored()
            .unwrap_or(kind)
            .strategy
            .selectable_fields(&Value::Object(serde_json::Map::new()));
        for requirement in &mut fields {
            let name = requirement.field.as_str();
            let generic = matches!(name, "metadata.name" | "metadata.namespace");
            let stored = kind.strategy.stored_field(name);
            match stored.filter(|name| generic || offered.iter().any(|(field, _)| field == name)) {
                Some(stored) => requirement.field = stored,
                None => {
                    let why = if offered.is_empty() {
                        format!(
                            "{name:?} is not a known field selector: only \"metadata.name\", \
                             \"metadata.namespace\""
                        )
                    } else {
                        format!("field label not supported: {name}")
                    };
                    return Err(ApiError::bad_request(why));
                }
            }
        }
        Ok(Self { labels, fields })
    }

    pub(crate) fn selects_everything(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that can match, when the selector says so.
    pub(crate) fn only_name(&self) -> Option<&str> {
        self.fields
            .iter()
            .find(|requirement| requirement.equal && requirement.field == "metadata.name")
            .map(|requirement| requirement.value.as_str())
    }

    pub(crate) fn matches(&self, kind: &Kind<'_>, kv: &KeyValue) -> bool {
        self.names_match(kind, kv) && self.labels_match(kv) && self.fields_match(kind, kv)
    }

    /// What the key alone tells.
    fn names_match(&self, kind: &Kind<'_>, kv: &KeyValue) -> bool {
        if self.fields.is_empty() {
            return true;
        }
        let (namespace, name) = super::key::parse(kind, &kv.key).unwrap_or(("", ""));
        self.fields.iter().all(|requirement| {
            let actual = match requirement.field.as_str() {
                "metadata.name" => name,
                "metadata.namespace" => namespace,
                _ => return true,
            };
            (actual == requirement.value) == requirement.equal
        })
    }

    fn labels_match(&self, kv: &KeyValue) -> bool {
        if self.labels.is_empty() {
            return true;
        }
        let labels = serde_json::from_slice::<LabelsOnly>(&kv.value)
            .map(|object| object.metadata.labels)
            .unwrap_or_default();
        self.labels
            .iter()
            .all(|requirement| requirement.matches(&labels))
    }

    fn fields_match(&self, kind: &Kind<'_>, kv: &KeyValue) -> bool {
        let special = |requirement: &&FieldRequirement| {
            !matches!(
                requirement.field.as_str(),
                "metadata.name" | "metadata.namespace"
            )
        };
        if !self.fields.iter().any(|requirement| special(&requirement)) {
            return true;
        }
        let object: Value = serde_json::from_slice(&kv.value).unwrap_or_default();
        let values = kind.strategy.selectable_fields(&object);
        self.fields.iter().filter(special).all(|requirement| {
            let actual = values
                .iter()
                .find(|(field, _)| *field == requirement.field)
                .map_or("", |(_, value)| value.as_str());
            (actual == requirement.value) == requirement.equal
        })
    }
}

/// Parses `a=b,c in (d,e),!f,g>1`.
pub(crate) fn parse_labels(text: &str) -> Result<Vec<Requirement>, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("selector is longer than {MAX_TEXT} bytes"));
    }
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    split_outside_parentheses(text)?
        .into_iter()
        .map(parse_requirement)
        .collect()
}

fn split_outside_parentheses(text: &str) -> Result<Vec<&str>, String> {
    let mut parts = Vec::new();
    let (mut start, mut inside) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            '(' if !inside => inside = true,
            ')' if inside => inside = false,
            '(' | ')' => return Err(unparsable(&text[at..], "a balanced parenthesis")),
            ',' if !inside => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err(unparsable("", "',' or ')'"));
    }
    parts.push(&text[start..]);
    Ok(parts)
}

fn unparsable(found: &str, expected: &str) -> String {
    format!("unable to parse requirement: found '{found}', expected: {expected}")
}

fn parse_requirement(text: &str) -> Result<Requirement, String> {
    let text = text.trim();
    if let Some(key) = text.strip_prefix('!')
        && !key.starts_with('=')
    {
        return Ok(Requirement::NotExists(checked_key(key.trim())?));
    }
    let key_end = text
        .find(|c: char| c.is_whitespace() || matches!(c, '=' | '!' | '<' | '>' | '('))
        .unwrap_or(text.len());
    let key = checked_key(&text[..key_end])?;
    let rest = text[key_end..].trim_start();
    if rest.is_empty() {
        return Ok(Requirement::Exists(key));
    }
    if let Some(value) = rest.strip_prefix("!=") {
        return Ok(Requirement::NotIn(key, one(checked_value(value)?)));
    }
    if let Some(value) = rest.strip_prefix("==").or_else(|| rest.strip_prefix('=')) {
        return Ok(Requirement::In(key, one(checked_value(value)?)));
    }
    if let Some(bound) = rest.strip_prefix('>') {
        return Ok(Requirement::Greater(key, checked_bound(bound)?));
    }
    if let Some(bound) = rest.strip_prefix('<') {
        return Ok(Requirement::Less(key, checked_bound(bound)?));
    }
    if let Some(set) = rest.strip_prefix("notin") {
        return Ok(Requirement::NotIn(key, checked_set(set)?));
    }
    if let Some(set) = rest.strip_prefix("in") {
        return Ok(Requirement::In(key, checked_set(set)?));
    }
    Err(unparsable(rest, "in, notin, =, ==, !=, gt, lt"))
}

fn one(value: String) -> BTreeSet<String> {
    BTreeSet::from([value])
}

fn checked_key(text: &str) -> Result<String, String> {
    let (prefix, name) = text.rsplit_once('/').unwrap_or(("", text));
    let name_ok = !name.is_empty() && is_label_text(name);
    let prefix_ok = prefix.len() <= 253
        && prefix
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'));
    let has_empty_prefix = text.starts_with('/');
    if name_ok && prefix_ok && !has_empty_prefix {
        Ok(text.to_owned())
    } else {
        Err(unparsable(text, "identifier"))
    }
}

fn checked_value(text: &str) -> Result<String, String> {
    let value = text.trim();
    if value.is_empty() || is_label_text(value) {
        Ok(value.to_owned())
    } else {
        Err(format!(
            "unable to parse requirement: values: Invalid value: \"{value}\": a valid label must be an empty \
             string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
             alphanumeric character"
        ))
    }
}

fn is_label_text(text: &str) -> bool {
    let bytes = text.as_bytes();
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn checked_bound(text: &str) -> Result<i64, String> {
    text.trim()
        .parse()
        .map_err(|_| unparsable(text.trim(), "an integer"))
}

fn checked_set(text: &str) -> Result<BTreeSet<String>, String> {
    text.trim()
        .strip_prefix('(')
        .and_then(|rest| rest.strip_suffix(')'))
        .ok_or_else(|| unparsable(text.trim(), "'('"))?
        .split(',')
        .map(checked_value)
        .collect()
}

/// Parses `a=b,c!=d`; `\` takes the next comma, equals sign or backslash as it is.
pub(crate) fn parse_fields(text: &str) -> Result<Vec<FieldRequirement>, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("selector is longer than {MAX_TEXT} bytes"));
    }
    split_unescaped(text)
        .into_iter()
        .filter(|part| !part.trim().is_empty())
        .map(parse_field)
        .collect()
}

fn split_unescaped(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, character) in text.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                parts.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

fn parse_field(part: &str) -> Result<FieldRequirement, String> {
    let invalid = || format!("invalid field selector: '{part}'; can't understand '{part}'");
    let at = part.find('=').ok_or_else(invalid)?;
    let (left, right) = (&part[..at], &part[at + 1..]);
    let (field, equal) = match left.strip_suffix('!') {
        Some(field) => (field, false),
        None => (left, true),
    };
    let value = if equal {
        right.strip_prefix('=').unwrap_or(right)
    } else {
        right
    };
    let field = field.trim();
    if field.is_empty() {
        return Err(invalid());
    }
    Ok(FieldRequirement {
        field: field.to_owned(),
        value: unescape(value).ok_or_else(invalid)?,
        equal,
    })
}

fn unescape(value: &str) -> Option<String> {
    let mut out = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => match characters.next()? {
                special @ ('\\' | ',' | '=') => out.push(special),
                _ => return None,
            },
            '=' => return None,
            other => out.push(other),
        }
    }
    Some(out)
}

/// Any bytes as a selector; what is understood is understood the same way again.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let labels = serde_json::json!({"a": "b", "c.d/e": "1"});
    let _ = parse_fields(&text);
    let pods = crate::kinds::by_plural("", "v1", "pods").expect("pods are built in");
    let _ = Selector::parse(pods, &text, "");
    let _ = Selector::parse(pods, "", &text);
    let _ = crate::kinds::selector::matches(&serde_json::json!({"matchLabels": {}}), Some(&labels));
}

#[cfg(test)]
mod tests;
