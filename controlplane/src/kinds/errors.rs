//! Collects the problems of an object in the sentences that Kubernetes uses; clients match on them.

use serde_json::Value;

use super::{Cause, FieldError};

#[derive(Debug, Default)]
pub(crate) struct Errors(Vec<FieldError>);

impl Errors {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One that was found elsewhere.
    pub(crate) fn add(&mut self, error: FieldError) {
        self.0.push(error);
    }

    /// Takes over problems of an object that stands at `to` where its own paths begin with `from`.
    pub(crate) fn extend_below(&mut self, other: Self, from: &str, to: &str) {
        self.0.extend(other.0.into_iter().map(|error| FieldError {
            field: match error.field.strip_prefix(from) {
                Some(rest) => format!("{to}{rest}"),
                None => error.field,
            },
            ..error
        }));
    }

    fn push(&mut self, field: impl Into<String>, cause: Cause, head: String, detail: &str) {
        let message = if detail.is_empty() {
            head
        } else {
            format!("{head}: {detail}")
        };
        self.0.push(FieldError {
            field: field.into(),
            cause,
            message,
        });
    }

    pub(crate) fn required(&mut self, field: impl Into<String>, detail: &str) {
        self.push(field, Cause::Required, "Required value".into(), detail);
    }

    pub(crate) fn forbidden(&mut self, field: impl Into<String>, detail: &str) {
        self.push(field, Cause::Forbidden, "Forbidden".into(), detail);
    }

    pub(crate) fn invalid(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: &str,
    ) {
        let head = format!("Invalid value: {}", shown(&value.into()));
        self.push(field, Cause::Invalid, head, detail);
    }

    pub(crate) fn duplicate(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        let head = format!("Duplicate value: {}", shown(&value.into()));
        self.push(field, Cause::Duplicate, head, "");
    }

    pub(crate) fn not_found(&mut self, field: impl Into<String>, value: impl Into<Value>) {
        let head = format!("Not found: {}", shown(&value.into()));
        self.push(field, Cause::NotFound, head, "");
    }

    pub(crate) fn not_supported(
        &mut self,
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) {
        let head = format!("Unsupported value: {}", shown(&value.into()));
        let quoted: Vec<String> = supported.iter().map(|value| quote(value)).collect();
        let detail = if quoted.is_empty() {
            String::new()
        } else {
            format!("supported values: {}", quoted.join(", "))
        };
        self.push(field, Cause::NotSupported, head, &detail);
    }

    pub(crate) fn too_long(&mut self, field: impl Into<String>, most: usize) {
        let detail = format!("may not be more than {most} bytes");
        self.push(field, Cause::TooLong, "Too long".into(), &detail);
    }

    pub(crate) fn too_many(&mut self, field: impl Into<String>, actual: usize, most: usize) {
        let items = if most == 1 { "item" } else { "items" };
        let detail = format!("must have at most {most} {items}");
        self.push(
            field,
            Cause::TooMany,
            format!("Too many: {actual}"),
            &detail,
        );
    }

    /// One `Invalid` per message of a format check.
    pub(crate) fn format(&mut self, field: &str, value: &str, messages: Vec<String>) {
        for message in messages {
            self.invalid(field, value, &message);
        }
    }

    /// `Invalid` when the two differ.
    pub(crate) fn immutable(&mut self, field: &str, new: Option<&Value>, old: Option<&Value>) {
        if !super::access::same(new, old) {
            self.invalid(
                field,
                new.cloned().unwrap_or(Value::Null),
                "field is immutable",
            );
        }
    }
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        other => other.to_string(),
    }
}

/// A string in double quotes with escapes as messages have them.
pub(crate) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02x}", u32::from(c))),
            c if c.is_control() => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
