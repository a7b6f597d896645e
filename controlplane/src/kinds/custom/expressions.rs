//! The Common Expression Language, as rules of custom resources, admission policies and match conditions use it.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

use cel::{Context, Env};
use serde_json::Value;

use super::structural::{Structural, Type};

/// The functions that Kubernetes offers and the library has: standard, strings, lists, math, encoders, optionals.
static ENVIRONMENT: LazyLock<Arc<Env>> = LazyLock::new(|| {
    let mut env = Env::stdlib();
    for extension in [
        cel::extensions::strings,
        cel::extensions::lists,
        cel::extensions::math,
        cel::extensions::encoders,
    ] {
        // A function that is there twice is the same function.
        let _ = env.add_extension(extension);
    }
    Arc::new(env)
});

/// Longer expressions are refused.
const MAX_SOURCE: usize = 10 * 1024;

#[derive(Debug)]
pub(crate) struct Program {
    compiled: cel::Program,
    source: String,
}

pub(crate) fn compile(source: &str) -> Result<Program, String> {
    if source.len() > MAX_SOURCE {
        return Err(format!("the expression is longer than {MAX_SOURCE} bytes"));
    }
    let compiled = ENVIRONMENT.compile(source).map_err(|errors| {
        let text = errors.to_string();
        format!("compilation failed: {}", text.trim())
    })?;
    Ok(Program {
        compiled,
        source: source.to_owned(),
    })
}

impl Program {
    /// Whether the expression uses a variable of this name.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        let is_part = |c: char| c.is_alphanumeric() || c == '_';
        self.source.match_indices(name).any(|(at, _)| {
            let before = self.source[..at].chars().next_back();
            let after = self.source[at + name.len()..].chars().next();
            !before.is_some_and(|c| is_part(c) || c == '.') && !after.is_some_and(is_part)
        })
    }

    pub(crate) fn evaluate(&self, variables: &[(&str, cel::Value)]) -> Result<cel::Value, String> {
        let mut context = Context::with_env(Arc::clone(&ENVIRONMENT));
        for (name, value) in variables {
            context.add_variable_from_value(*name, value.clone());
        }
        self.compiled
            .execute(&context)
            .map_err(|error| match error {
                cel::ExecutionError::NoSuchKey(key) => format!("no such key: {key}"),
                other => other.to_string(),
            })
    }

    pub(crate) fn holds(&self, variables: &[(&str, cel::Value)]) -> Result<bool, String> {
        match self.evaluate(variables)? {
            cel::Value::Bool(holds) => Ok(holds),
            other => Err(format!("expected a bool, got {:?}", other.type_of())),
        }
    }

    pub(crate) fn text(&self, variables: &[(&str, cel::Value)]) -> Result<String, String> {
        match self.evaluate(variables)? {
            cel::Value::String(text) => Ok(text.to_string()),
            other => Err(format!("expected a string, got {:?}", other.type_of())),
        }
    }
}

/// JSON of unknown type.
pub(crate) fn plain(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(value) => cel::Value::Bool(*value),
        Value::Number(number) => match number.as_i64() {
            Some(whole) => cel::Value::Int(whole),
            None => cel::Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(text) => cel::Value::String(Arc::new(text.clone())),
        Value::Array(list) => cel::Value::List(Arc::new(list.iter().map(plain).collect())),
        Value::Object(map) => object(map.iter().map(|(name, value)| (name.clone(), plain(value)))),
    }
}

fn object(members: impl Iterator<Item = (String, cel::Value)>) -> cel::Value {
    let map: HashMap<String, cel::Value> = members.collect();
    map.into()
}

/// A value under its schema: whole numbers of a `number` are doubles, times are times, and properties whose names are
/// no identifiers have their escaped names.
pub(crate) fn from_schema(value: &Value, schema: &Structural) -> cel::Value {
    match (value, schema.kind) {
        (Value::Number(number), Type::Number) => {
            cel::Value::Float(number.as_f64().unwrap_or(f64::NAN))
        }
        (Value::String(text), Type::String) if schema.format == "date-time" => {
            match chrono::DateTime::parse_from_rfc3339(text) {
                Ok(time) => cel::Value::Timestamp(time),
                Err(_) => plain(value),
            }
        }
        (Value::Array(list), _) => match &schema.items {
            Some(items) => {
                let entries = list.iter().map(|entry| from_schema(entry, items));
                cel::Value::List(Arc::new(entries.collect()))
            }
            None => plain(value),
        },
        (Value::Object(map), _) => object(map.iter().map(|(name, value)| {
            let is_property = schema.properties.contains_key(name);
            let below = schema.member(name);
            (
                if is_property {
                    escaped(name)
                } else {
                    name.clone()
                },
                below.map_or_else(|| plain(value), |below| from_schema(value, below)),
            )
        })),
        _ => plain(value),
    }
}

/// `oldSelf`: the value, or an optional of it where the rule asked for one.
pub(super) fn old_value(old: Option<cel::Value>, optional: bool) -> cel::Value {
    match (old, optional) {
        (Some(old), false) => old,
        (None, false) => cel::Value::Null,
        (Some(old), true) => cel::Value::Opaque(Arc::new(cel::objects::OptionalValue::of(old))),
        (None, true) => cel::Value::Opaque(Arc::new(cel::objects::OptionalValue::none())),
    }
}

const RESERVED: &[&str] = &[
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
];

/// The name of a property in expressions.
fn escaped(name: &str) -> String {
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
