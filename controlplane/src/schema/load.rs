//! Builds the compact schema from the JSON schemas of k8s-openapi. The JSON lives only while this runs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{facts, presence};
use crate::kinds;
use crate::types::{Definition, Field, ListType, Name, Node, PatchStrategy, Schema};

pub(super) const REFERENCE: &str = "#/definitions/";

/// The JSON schemas of every served kind and of everything they refer to, by definition name.
pub(super) fn json_definitions() -> Map<String, Value> {
    let mut generator: SchemaGenerator = SchemaSettings::draft07().into_generator();
    for kind in kinds::all() {
        (kind.register)(&mut generator);
    }
    kinds::register_common(&mut generator);
    generator.take_definitions(false)
}

/// The definition that a `$ref` names.
pub(super) fn referred(schema: &Value) -> Option<&str> {
    schema.get("$ref")?.as_str()?.strip_prefix(REFERENCE)
}

pub(super) fn load() -> Schema {
    let json = json_definitions();
    let mut builder = Builder::default();
    // Positions are given out first, in name order, so that the result does not depend on references.
    for (name, schema) in &json {
        if schema.get("properties").is_some() {
            let name = builder.intern(name);
            let at = u16::try_from(builder.index.len()).expect("fewer than 65536 definitions");
            builder.index.insert(name, at);
        }
    }
    let mut definitions = Vec::with_capacity(builder.index.len());
    for (name, schema) in json {
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            definitions.push(builder.definition(&name, properties));
        }
    }
    Schema {
        definitions,
        index: builder.index,
    }
}

#[derive(Default)]
struct Builder {
    names: HashSet<Name>,
    index: HashMap<Name, u16>,
}

impl Builder {
    fn intern(&mut self, name: &str) -> Name {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        let name: Name = name.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    fn definition(&mut self, name: &str, properties: &Map<String, Value>) -> Definition {
        let name = self.intern(name);
        let mut fields: Vec<Field> = properties
            .iter()
            .map(|(field, schema)| {
                let (list_type, patch) = field_facts(&name, field);
                let node = self.node(schema, list_type);
                let is_structure = matches!(node, Node::Object(_));
                Field {
                    name: self.intern(field),
                    node,
                    patch,
                    presence: presence::of(&name, field, is_structure),
                    atomic: facts::ATOMIC_MAPS.contains(&(&*name, field.as_str())),
                }
            })
            .collect();
        fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Definition {
            atomic: facts::ATOMIC_TYPES.contains(&&*name),
            name,
            fields: fields.into_boxed_slice(),
            open: false,
        }
    }

    fn node(&self, schema: &Value, list_type: ListType) -> Node {
        if let Some(name) = referred(schema) {
            return match name
                .strip_prefix("io.k8s.apimachinery.pkg.")
                .unwrap_or(name)
            {
                "api.resource.Quantity" => Node::Quantity,
                "apis.meta.v1.Time" => Node::Time,
                "apis.meta.v1.MicroTime" => Node::MicroTime,
                "util.intstr.IntOrString" => Node::IntOrString,
                // It has no fields, so it would be anything.
                definition if definition.ends_with("CustomResourceSubresourceStatus") => {
                    Node::Map(Box::new(Node::Any))
                }
                _ => self
                    .index
                    .get(name)
                    .map_or(Node::Any, |&at| Node::Object(at)),
            };
        }
        let text = |key: &str| schema.get(key).and_then(Value::as_str).unwrap_or("");
        match (text("type"), text("format")) {
            ("string", "byte") => Node::Bytes,
            ("string", "date-time") => Node::Time,
            ("string", _) => Node::String,
            ("integer", "int64") => Node::Int64,
            ("integer", _) => Node::Int32,
            ("number", _) => Node::Number,
            ("boolean", _) => Node::Boolean,
            ("array", _) => Node::List {
                items: Box::new(self.node(&schema["items"], ListType::Atomic)),
                list_type,
            },
            ("object", _) => match schema.get("additionalProperties") {
                Some(values) => Node::Map(Box::new(self.node(values, ListType::Atomic))),
                None => Node::Any,
            },
            _ => Node::Any,
        }
    }
}

pub(super) fn field_facts(definition: &str, field: &str) -> (ListType, PatchStrategy) {
    facts::FIELDS
        .iter()
        .find(|fact| fact.0 == definition && fact.1 == field)
        .map_or((ListType::Atomic, PatchStrategy::default()), |fact| {
            (fact.2.shared(), fact.3)
        })
}
