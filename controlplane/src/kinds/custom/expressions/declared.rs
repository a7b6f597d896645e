//! What schemas of custom resources declare to expressions: types, and how large values may be.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::structural::{Additional, Structural, Type as Kind};
use super::escaped;
use super::types::{Declared, Type};

/// No request is larger, in bytes.
pub(crate) const REQUEST: u64 = 3 << 20;

/// `None` where expressions cannot see the value: its type is not known.
pub(crate) fn declared(schema: &Structural, is_root: bool) -> Option<Arc<Declared>> {
    named(schema, is_root, "selfType")
}

fn named(schema: &Structural, is_resource: bool, name: &str) -> Option<Arc<Declared>> {
    let limits = &schema.limits;
    match schema.kind {
        Kind::IntOrString => {
            let most = match limits.max_length {
                Some(most) => most.saturating_mul(4),
                None => REQUEST - 2,
            };
            Some(Declared::limited(Type::Dyn, most, 1))
        }
        Kind::Array => {
            let items = schema.items.as_deref()?;
            let entries = named(items, items.embedded, &format!("{name}.@idx"))?;
            let most = limits
                .max_items
                .unwrap_or_else(|| (REQUEST - 2) / (entries.shortest + 1));
            Some(Declared::list(entries, most))
        }
        Kind::Object => {
            if let Additional::Schema(values) = &schema.additional {
                let values = named(values, values.embedded, &format!("{name}.@elem"))?;
                let most = limits
                    .max_properties
                    .unwrap_or_else(|| (REQUEST - 2) / (values.shortest + 6));
                return Some(Declared::map(values, most));
            }
            Some(object(schema, is_resource, name))
        }
        Kind::String => Some(text(schema)),
        Kind::Boolean => Some(Declared::limited(Type::Bool, 0, 4)),
        Kind::Number => Some(Declared::plain(Type::Double)),
        Kind::Integer => Some(Declared::plain(Type::Int)),
        Kind::Any => None,
    }
}

fn object(schema: &Structural, is_resource: bool, name: &str) -> Arc<Declared> {
    let mut fields = BTreeMap::new();
    let mut shortest: u64 = 2;
    for (field, property) in &schema.properties {
        // Said below.
        if is_resource && matches!(field.as_str(), "apiVersion" | "kind" | "metadata") {
            continue;
        }
        let Some(escaped) = escapable(field) else {
            continue;
        };
        let below = format!("{name}.{escaped}");
        let Some(declared) = named(property, property.embedded, &below) else {
            continue;
        };
        if schema.required.contains(field) && property.default.is_none() {
            let length = u64::try_from(field.len()).unwrap_or(u64::MAX);
            shortest = shortest.saturating_add(length + declared.shortest + 4);
        }
        fields.insert(escaped, declared);
    }
    if is_resource {
        let unlimited = || Declared::limited(Type::String, REQUEST - 2, 2);
        let metadata = schema.properties.get("metadata");
        let member = |name: &str| {
            let said = metadata.and_then(|metadata| metadata.properties.get(name));
            said.filter(|said| said.kind == Kind::String)
                .map_or_else(unlimited, text)
        };
        for field in ["apiVersion", "kind"] {
            fields.insert(field.to_owned(), unlimited());
        }
        let names = ["name", "generateName"].map(|field| (field.to_owned(), member(field)));
        let metadata = Declared::object(format!("{name}.metadata"), names, 2);
        fields.insert("metadata".to_owned(), metadata);
    }
    Declared::object(name, fields, shortest)
}

fn text(schema: &Structural) -> Arc<Declared> {
    let limits = &schema.limits;
    match schema.format.as_str() {
        "byte" => Declared::limited(Type::Bytes, limits.max_length.unwrap_or(REQUEST - 2), 2),
        "duration" => Declared::limited(Type::Duration, 32, 3),
        "date" => Declared::limited(Type::Timestamp, 12, 12),
        "date-time" => Declared::limited(Type::Timestamp, 32, 21),
        _ => {
            let longest = limits
                .allowed
                .iter()
                .filter_map(|value| value.as_str())
                .map(str::len)
                .max();
            let most = match (limits.max_length, longest) {
                (Some(most), _) => most.saturating_mul(4),
                (None, Some(longest)) => u64::try_from(longest).unwrap_or(u64::MAX),
                (None, None) => REQUEST - 2,
            };
            Declared::limited(Type::String, most, 2)
        }
    }
}

/// The name of a field in expressions, if it can have one.
pub(crate) fn escapable(name: &str) -> Option<String> {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || "_.-/".contains(c));
    let valid = name
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_.-/".contains(c));
    (starts && valid).then(|| escaped(name))
}
