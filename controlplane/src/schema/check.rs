//! Checks a body against the schema, removes what is unknown and brings values into the form that is
//! stored. Which of several values of a duplicate key wins is decided before, by the JSON or YAML parser.

use base64::Engine;
use serde_json::{Number, Value};

use super::path::Path;
use super::{FieldProblem, ProblemKind};
use crate::kinds::quantity::Quantity;
use crate::kinds::time;
use crate::types::{Definition, Node, Schema};

pub(super) fn check_and_prune(
    schema: &Schema,
    definition: &str,
    body: &mut Value,
) -> Vec<FieldProblem> {
    let mut check = Check {
        schema,
        prune: true,
        problems: Vec::new(),
    };
    check.value(&schema.root(definition), body, &Path::At(""), "");
    check.problems
}

/// The same for a part of a body.
pub(super) fn check_at(
    schema: &Schema,
    definition: &str,
    part: &mut Value,
    path: &str,
) -> Vec<FieldProblem> {
    let mut check = Check {
        schema,
        prune: true,
        problems: Vec::new(),
    };
    check.value(&schema.root(definition), part, &Path::At(path), "");
    check.problems
}

/// Brings values into the form that is stored and leaves everything else as it is.
pub(super) fn normalize_values(schema: &Schema, definition: &str, body: &mut Value) {
    let mut check = Check {
        schema,
        prune: false,
        problems: Vec::new(),
    };
    check.value(&schema.root(definition), body, &Path::At(""), "");
}

struct Check<'a> {
    schema: &'a Schema,
    /// Whether unknown fields are removed.
    prune: bool,
    problems: Vec<FieldProblem>,
}

impl Check<'_> {
    fn report(&mut self, path: &Path<'_>, kind: ProblemKind) {
        self.problems.push(FieldProblem {
            path: path.to_string(),
            kind,
        });
    }

    fn wrong_type(&mut self, node: &Node, value: &Value, path: &Path<'_>, holder: &str) {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            // A number that is of the right kind but does not fit is quoted.
            Value::Number(number) if matches!(node, Node::Int32 | Node::Int64) => {
                format!("number {number}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let expected = self.schema.go_type(node);
        self.report(
            path,
            ProblemKind::Type {
                holder: holder.to_owned(),
                expected,
                found,
            },
        );
    }

    fn value(&mut self, node: &Node, value: &mut Value, path: &Path<'_>, holder: &str) {
        let fits = match node {
            Node::Any | Node::Deduced => true,
            Node::Object(_) | Node::Map(_) => value.is_object(),
            Node::List { .. } => value.is_array(),
            Node::String | Node::Bytes | Node::Time | Node::MicroTime => value.is_string(),
            Node::Boolean => value.is_boolean(),
            Node::Number => value.is_number(),
            Node::Quantity | Node::IntOrString => value.is_string() || value.is_number(),
            Node::Int32 => integer(value).is_some_and(|n| i32::try_from(n).is_ok()),
            Node::Int64 => integer(value).is_some(),
        };
        if !fits {
            self.wrong_type(node, value, path, holder);
            return;
        }
        match node {
            Node::Object(id) => self.object(*id, value, path),
            Node::Map(items) => self.map(items, value, path, holder),
            Node::List { items, .. } => {
                let Value::Array(list) = value else { return };
                for (at, item) in list.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = zero(items);
                    }
                    self.value(items, item, &Path::Entry(path, at), holder);
                }
            }
            Node::Int32 | Node::Int64 => {
                // 3.0 is an integer to JSON, and stored as 3.
                if let Some(whole) = integer(value) {
                    *value = Value::Number(Number::from(whole));
                }
            }
            Node::IntOrString => {
                if value.is_number() {
                    match integer(value).filter(|n| i32::try_from(*n).is_ok()) {
                        Some(whole) => *value = Value::Number(Number::from(whole)),
                        None => self.wrong_type(&Node::Int32, value, path, holder),
                    }
                }
            }
            Node::Bytes | Node::Quantity | Node::Time | Node::MicroTime => {
                if let Err(message) = normalize(node, value) {
                    self.report(path, ProblemKind::Value(message));
                }
            }
            Node::String | Node::Boolean | Node::Number | Node::Any | Node::Deduced => {}
        }
    }

    fn object(&mut self, id: u16, value: &mut Value, path: &Path<'_>) {
        let schema = self.schema;
        let definition = schema.at(id);
        let Value::Object(map) = value else { return };
        map.retain(|name, child| {
            let path = Path::Field(path, name);
            self.member(id, definition, name, child, &path)
        });
    }

    /// Whether it stays.
    fn member(
        &mut self,
        id: u16,
        definition: &Definition,
        name: &str,
        child: &mut Value,
        path: &Path<'_>,
    ) -> bool {
        let Some(field) = definition.field(name) else {
            if definition.open {
                return true;
            }
            self.report(path, ProblemKind::Unknown);
            return !self.prune;
        };
        if child.is_null() {
            return false;
        }
        let holder = definition.short_name();
        if holder == "JSONSchemaProps" {
            if child.is_object() && is_schema(name) {
                self.value(&Node::Object(id), child, path, holder);
                return true;
            }
            if name == "additionalProperties" && !child.is_boolean() {
                let problem = "boolean or JSON schema expected".to_owned();
                self.report(path, ProblemKind::Value(problem));
                return true;
            }
        }
        self.value(&field.node, child, path, holder);
        // Once it is read, nobody can tell that it was given.
        !(self.prune && is_scalar(&field.node) && field.is_unset(child))
    }

    fn map(&mut self, items: &Node, value: &mut Value, path: &Path<'_>, holder: &str) {
        let Value::Object(map) = value else { return };
        for (key, item) in map.iter_mut() {
            if item.is_null() {
                *item = zero(items);
            }
            // Map keys are not part of the path in messages about the type of a value.
            match items {
                Node::Object(_) => self.value(items, item, &Path::Field(path, key), holder),
                _ => self.value(items, item, path, holder),
            }
        }
    }
}

fn is_scalar(node: &Node) -> bool {
    !matches!(node, Node::List { .. } | Node::Map(_))
}

/// Removes what is not written because it is zero, at the end of a write: what was given as empty is judged before.
pub(super) fn drop_unset(schema: &Schema, node: &Node, value: &mut Value) {
    match (node, value) {
        (Node::Object(id), Value::Object(map)) => {
            let definition = schema.at(*id);
            map.retain(|name, value| {
                let Some(field) = definition.field(name) else {
                    return true;
                };
                drop_unset(schema, &field.node, value);
                !field.is_unset(value)
            });
        }
        (Node::Map(items), Value::Object(map)) => {
            for value in map.values_mut() {
                drop_unset(schema, items, value);
            }
        }
        (Node::List { items, .. }, Value::Array(list)) => {
            for value in list {
                drop_unset(schema, items, value);
            }
        }
        _ => {}
    }
}

/// Fields of a JSON schema that are a schema or something else: another one, a list, a boolean.
fn is_schema(name: &str) -> bool {
    matches!(name, "items" | "additionalItems" | "additionalProperties")
}

/// The value that `null` stands for where something must be there.
fn zero(node: &Node) -> Value {
    match node {
        Node::Object(_) | Node::Map(_) => Value::Object(serde_json::Map::new()),
        Node::List { .. } => Value::Array(Vec::new()),
        Node::String | Node::Bytes => Value::String(String::new()),
        Node::Quantity => Value::String("0".into()),
        Node::Int32 | Node::Int64 | Node::IntOrString | Node::Number => Value::Number(0.into()),
        Node::Boolean => Value::Bool(false),
        Node::Any | Node::Deduced | Node::Time | Node::MicroTime => Value::Null,
    }
}

fn integer(value: &Value) -> Option<i64> {
    if let Some(whole) = value.as_i64() {
        return Some(whole);
    }
    // Exact up to 2^53, which is as far as JSON's floating point reaches.
    #[allow(clippy::cast_possible_truncation)]
    value
        .as_f64()
        .filter(|n| {
            value.as_u64().is_none() && n.fract() == 0.0 && n.abs() < 9_007_199_254_740_992.0
        })
        .map(|n| n as i64)
}

fn normalize(node: &Node, value: &mut Value) -> Result<(), String> {
    let stored = match node {
        Node::Quantity => {
            let text = match &*value {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            text.parse::<Quantity>()
                .map_err(|error| error.to_string())?
                .to_string()
        }
        Node::Time => {
            let text = value.as_str().unwrap_or("");
            time::seconds(text)
                .map(time::rfc3339)
                .ok_or_else(|| time::error(text, time::LAYOUT))?
        }
        Node::MicroTime => {
            let text = value.as_str().unwrap_or("");
            time::microseconds(text)
                .map(time::rfc3339_micro)
                .ok_or_else(|| time::error(text, time::LAYOUT_MICRO))?
        }
        Node::Bytes => {
            let text = value.as_str().unwrap_or("");
            // Line breaks are allowed inside, as YAML blocks have them.
            let clean: String = text.chars().filter(|c| *c != '\n' && *c != '\r').collect();
            match base64::engine::general_purpose::STANDARD.decode(&clean) {
                Ok(_) => clean,
                Err(error) => {
                    let at = match error {
                        base64::DecodeError::InvalidByte(at, _)
                        | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                        base64::DecodeError::InvalidLength(_)
                        | base64::DecodeError::InvalidPadding => clean.len() / 4 * 4,
                    };
                    return Err(format!("illegal base64 data at input byte {at}"));
                }
            }
        }
        _ => return Ok(()),
    };
    *value = Value::String(stored);
    Ok(())
}
