//! A schema of a custom resource in the form that requests are judged by. Reading it fails only where it could not
//! be used at all; what else a schema must and must not have is checked in
//! [`super::super::custom_resource_definition`].

use std::collections::BTreeMap;

use regex::Regex;
use serde_json::Value;

use super::super::access::{at, flag, list, text};
use super::rules::Rule;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Type {
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
}

/// What an object may have besides its properties.
#[derive(Debug, Clone, Default)]
pub(crate) enum Additional {
    #[default]
    None,
    Any,
    Schema(Box<Structural>),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Structural {
    pub(crate) kind: Type,
    pub(crate) nullable: bool,
    pub(crate) default: Option<Value>,
    pub(crate) properties: BTreeMap<String, Structural>,
    pub(crate) additional: Additional,
    pub(crate) items: Option<Box<Structural>>,
    pub(crate) preserve: bool,
    pub(crate) embedded: bool,
    /// `apiVersion`, `kind` and `metadata` are there without being said.
    pub(crate) is_root: bool,
    pub(crate) list_type: String,
    pub(crate) list_keys: Vec<String>,
    pub(crate) atomic_map: bool,
    pub(crate) rules: Vec<Rule>,
    pub(crate) limits: Limits,
    pub(crate) required: Vec<String>,
    pub(crate) format: String,
    pub(crate) all_of: Vec<Structural>,
    pub(crate) any_of: Vec<Structural>,
    pub(crate) one_of: Vec<Structural>,
    pub(crate) not: Option<Box<Structural>>,
}

/// What values may be.
#[derive(Debug, Clone, Default)]
pub(crate) struct Limits {
    pub(crate) allowed: Vec<Value>,
    pub(crate) minimum: Option<f64>,
    pub(crate) maximum: Option<f64>,
    pub(crate) exclusive_minimum: bool,
    pub(crate) exclusive_maximum: bool,
    pub(crate) multiple_of: Option<f64>,
    pub(crate) min_length: Option<u64>,
    pub(crate) max_length: Option<u64>,
    pub(crate) min_items: Option<u64>,
    pub(crate) max_items: Option<u64>,
    pub(crate) unique: bool,
    pub(crate) min_properties: Option<u64>,
    pub(crate) max_properties: Option<u64>,
    pub(crate) pattern: Option<(String, Regex)>,
}

/// Schemas nested deeper than this are refused before they are read.
pub(crate) const DEEPEST: usize = 100;
/// Bound on what one pattern may become.
const REGEX_SIZE: usize = 1 << 20;

pub(crate) fn pattern(text: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(text)
        .size_limit(REGEX_SIZE)
        .build()
        .map_err(|error| error.to_string())
}

impl Structural {
    pub(crate) fn read(schema: &Value) -> Result<Self, String> {
        read(schema, 0, true)
    }

    /// The same without its rules, which are costly to compile.
    pub(crate) fn shape(schema: &Value) -> Result<Self, String> {
        read(schema, 0, false)
    }

    pub(crate) fn has_defaults(&self) -> bool {
        self.default.is_some()
            || self.properties.values().any(Self::has_defaults)
            || self.items.as_deref().is_some_and(Self::has_defaults)
            || matches!(&self.additional, Additional::Schema(values) if values.has_defaults())
    }

    /// The schema of a member; `None` for what the schema does not have.
    pub(crate) fn member(&self, name: &str) -> Option<&Self> {
        self.properties.get(name).or(match &self.additional {
            Additional::Schema(values) => Some(values),
            _ => None,
        })
    }

    /// Whether the object has `apiVersion`, `kind` and `metadata`.
    pub(crate) fn is_resource(&self) -> bool {
        self.is_root || self.embedded
    }
}

fn read(schema: &Value, depth: usize, with_rules: bool) -> Result<Structural, String> {
    if depth > DEEPEST {
        return Err("the schema is nested too deeply".to_owned());
    }
    let below = |schema: &Value| read(schema, depth + 1, with_rules);
    let all = |field: &str| {
        let schemas = list(schema, &[field]).iter();
        schemas.map(below).collect::<Result<Vec<_>, _>>()
    };
    let one = |field: &str| at(schema, &[field]).map(below).transpose();
    let mut properties = BTreeMap::new();
    for (name, property) in at(schema, &["properties"])
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        properties.insert(name.clone(), below(property)?);
    }
    let int_or_string = flag(schema, &["x-kubernetes-int-or-string"]);
    Ok(Structural {
        kind: match text(schema, &["type"]) {
            _ if int_or_string => Type::IntOrString,
            "object" => Type::Object,
            "array" => Type::Array,
            "string" => Type::String,
            "integer" => Type::Integer,
            "number" => Type::Number,
            "boolean" => Type::Boolean,
            _ => Type::Any,
        },
        nullable: flag(schema, &["nullable"]),
        default: at(schema, &["default"]).cloned(),
        properties,
        additional: match at(schema, &["additionalProperties"]) {
            None | Some(Value::Bool(false)) => Additional::None,
            Some(Value::Bool(true)) => Additional::Any,
            Some(values) => Additional::Schema(Box::new(below(values)?)),
        },
        items: one("items")?.map(Box::new),
        preserve: flag(schema, &["x-kubernetes-preserve-unknown-fields"]),
        embedded: flag(schema, &["x-kubernetes-embedded-resource"]),
        is_root: false,
        list_type: text(schema, &["x-kubernetes-list-type"]).to_owned(),
        list_keys: super::names(schema, &["x-kubernetes-list-map-keys"]),
        atomic_map: text(schema, &["x-kubernetes-map-type"]) == "atomic",
        rules: list(schema, &["x-kubernetes-validations"])
            .iter()
            .filter(|_| with_rules)
            .map(Rule::read)
            .collect(),
        limits: limits(schema)?,
        required: super::names(schema, &["required"]),
        format: text(schema, &["format"]).to_owned(),
        all_of: all("allOf")?,
        any_of: all("anyOf")?,
        one_of: all("oneOf")?,
        not: one("not")?.map(Box::new),
    })
}

fn limits(schema: &Value) -> Result<Limits, String> {
    let number = |field: &str| at(schema, &[field]).and_then(Value::as_f64);
    let count = |field: &str| at(schema, &[field]).and_then(Value::as_u64);
    let pattern = match text(schema, &["pattern"]) {
        "" => None,
        given => Some((given.to_owned(), pattern(given)?)),
    };
    Ok(Limits {
        allowed: list(schema, &["enum"]).to_vec(),
        minimum: number("minimum"),
        maximum: number("maximum"),
        exclusive_minimum: flag(schema, &["exclusiveMinimum"]),
        exclusive_maximum: flag(schema, &["exclusiveMaximum"]),
        multiple_of: number("multipleOf"),
        min_length: count("minLength"),
        max_length: count("maxLength"),
        min_items: count("minItems"),
        max_items: count("maxItems"),
        unique: flag(schema, &["uniqueItems"]),
        min_properties: count("minProperties"),
        max_properties: count("maxProperties"),
        pattern,
    })
}
