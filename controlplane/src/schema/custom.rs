//! Schemas of custom resources in the compact form that patches work with.

use std::collections::HashMap;

use serde_json::Value;

use super::{FieldProblem, ProblemKind, check};
use crate::kinds::custom::Version;
use crate::kinds::custom::structural::{Additional, Structural, Type};
use crate::types::{Definition, Field, ListType, Node, PatchStrategy, Presence, Schema};

/// What every object's metadata is made of.
const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const OF_METADATA: &[&str] = &[
    METADATA,
    "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
    "io.k8s.apimachinery.pkg.apis.meta.v1.ManagedFieldsEntry",
];

/// The version's schema, made at its first use.
pub(super) fn compact(version: &Version) -> &Schema {
    version.compact.get_or_init(|| {
        let mut builder = Builder::with_metadata();
        let node = builder.node(&version.schema);
        if let Node::Object(id) = node {
            builder.index.insert(version.definition.as_str().into(), id);
        }
        Schema {
            definitions: builder.definitions,
            index: builder.index,
        }
    })
}

struct Builder {
    definitions: Vec<Definition>,
    index: HashMap<crate::types::Name, u16>,
}

impl Builder {
    fn with_metadata() -> Self {
        let all = super::schema();
        let mut builder = Self {
            definitions: Vec::new(),
            index: HashMap::new(),
        };
        let old: Vec<Option<u16>> = OF_METADATA
            .iter()
            .map(|name| all.index.get(*name).copied())
            .collect();
        for (at, name) in (0u16..).zip(OF_METADATA) {
            if let Some(definition) = all.definition(name) {
                let mut definition = definition.clone();
                for field in &mut definition.fields {
                    renumber(&mut field.node, &old);
                }
                builder.index.insert(definition.name.clone(), at);
                builder.definitions.push(definition);
            }
        }
        builder
    }

    fn metadata(&self) -> Node {
        self.index
            .get(METADATA)
            .map_or(Node::Deduced, |at| Node::Object(*at))
    }

    fn node(&mut self, schema: &Structural) -> Node {
        match schema.kind {
            Type::Array => Node::List {
                items: Box::new(match &schema.items {
                    Some(items) => self.node(items),
                    None => Node::Deduced,
                }),
                list_type: match schema.list_type.as_str() {
                    "set" => ListType::Set,
                    "map" => ListType::Map(
                        schema
                            .list_keys
                            .iter()
                            .map(|key| key.as_str().into())
                            .collect(),
                    ),
                    _ => ListType::Atomic,
                },
            },
            Type::String => Node::String,
            Type::Integer => Node::Int64,
            Type::Number => Node::Number,
            Type::Boolean => Node::Boolean,
            Type::IntOrString => Node::Any,
            Type::Object if !schema.properties.is_empty() || schema.is_resource() => {
                self.object(schema)
            }
            Type::Object => match &schema.additional {
                Additional::Schema(values) => Node::Map(Box::new(self.node(values))),
                Additional::None if !schema.preserve => self.object(schema),
                _ => Node::Deduced,
            },
            Type::Any => Node::Deduced,
        }
    }

    fn object(&mut self, schema: &Structural) -> Node {
        // So many types no definition can have: it would be larger than an object may be.
        let Ok(id) = u16::try_from(self.definitions.len()) else {
            return Node::Deduced;
        };
        self.definitions.push(Definition {
            name: "".into(),
            fields: Box::default(),
            atomic: schema.atomic_map,
            open: schema.preserve,
        });
        let mut fields: Vec<Field> = schema
            .properties
            .iter()
            .filter(|(name, _)| !(schema.is_resource() && is_of_resource(name)))
            .map(|(name, property)| Field {
                name: name.as_str().into(),
                node: self.node(property),
                patch: PatchStrategy::default(),
                atomic: property.atomic_map,
                presence: Presence::WhenSet,
            })
            .collect();
        if schema.is_resource() {
            let field = |name: &str, node| Field {
                name: name.into(),
                node,
                patch: PatchStrategy::default(),
                atomic: false,
                presence: Presence::WhenSet,
            };
            fields.push(field("apiVersion", Node::String));
            fields.push(field("kind", Node::String));
            fields.push(field("metadata", self.metadata()));
        }
        fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        self.definitions[usize::from(id)].fields = fields.into_boxed_slice();
        Node::Object(id)
    }
}

fn is_of_resource(name: &str) -> bool {
    matches!(name, "apiVersion" | "kind" | "metadata")
}

/// Positions in the schema of everything become positions in [`OF_METADATA`].
fn renumber(node: &mut Node, old: &[Option<u16>]) {
    match node {
        Node::Object(id) => match (0u16..).zip(old).find(|(_, old)| **old == Some(*id)) {
            Some((at, _)) => *node = Node::Object(at),
            None => *node = Node::Any,
        },
        Node::Map(items) => renumber(items, old),
        Node::List { items, .. } => renumber(items, old),
        _ => {}
    }
}

/// Checks the metadata, as of every kind, and removes what the version's schema does not have. Types of other values
/// are judged with the rest of the schema, when the object is validated.
pub(super) fn check_and_prune(version: &Version, body: &mut Value) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    if let Some(metadata) = body.get_mut("metadata") {
        problems = check::check_at(super::schema(), METADATA, metadata, "metadata");
    }
    let unknown = version.prune(body).into_iter().map(|path| FieldProblem {
        path,
        kind: ProblemKind::Unknown,
    });
    problems.extend(unknown);
    problems
}

pub(super) fn normalize(body: &mut Value) {
    if let Some(metadata) = body.get_mut("metadata") {
        check::normalize_values(super::schema(), METADATA, metadata);
    }
}
