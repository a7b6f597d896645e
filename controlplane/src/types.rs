//! The compact schema: definitions with sorted fields and shared names. No descriptions and no validation
//! rules: those of a kind are in its file in `kinds/`. One schema holds everything that is built in; each
//! version of a custom resource has one of its own, which goes when its definition goes.

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

/// A name that many places of a schema share.
pub(crate) type Name = Arc<str>;

/// How a list is merged by server-side apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// Entries are a set of scalars.
    Set,
    /// Entries are objects told apart by these fields.
    Map(Arc<[Name]>),
}

/// What strategic merge patch does with a field, as the `x-kubernetes-patch-*` extensions say it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PatchStrategy {
    /// Lists are merged, not replaced.
    pub(crate) merge: bool,
    /// `$retainKeys` applies.
    pub(crate) retain_keys: bool,
    /// Objects are replaced, not merged.
    pub(crate) replace: bool,
    /// Entries with this key are the same entry; empty for lists of scalars.
    pub(crate) key: &'static str,
}

/// How a field is there when it is not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It is written whatever it is: its zero value stands for it.
    Always,
    /// It is absent.
    WhenSet,
    /// It is absent, and its zero value is the same as that.
    WhenNotZero,
}

/// One node of a type's schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Node {
    /// An object with known fields: the position of its definition.
    Object(u16),
    /// An object with arbitrary keys and one type of value.
    Map(Box<Node>),
    List {
        items: Box<Node>,
        list_type: ListType,
    },
    String,
    /// base64
    Bytes,
    Int32,
    Int64,
    Number,
    Boolean,
    IntOrString,
    Quantity,
    Time,
    MicroTime,
    /// Anything at all (RawExtension, FieldsV1, JSON).
    Any,
    /// Anything, whose objects have fields of their own for server-side apply (what a custom resource keeps without
    /// knowing it).
    Deduced,
}

#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: Name,
    pub(crate) node: Node,
    pub(crate) patch: PatchStrategy,
    /// Server-side apply takes the value as a whole although it is an object or a map.
    pub(crate) atomic: bool,
    pub(crate) presence: Presence,
}

impl Field {
    /// Whether this value is the same as none.
    pub(crate) fn is_unset(&self, value: &Value) -> bool {
        self.presence == Presence::WhenNotZero
            && match (&self.node, value) {
                (Node::String | Node::Bytes, Value::String(text)) => text.is_empty(),
                (Node::Boolean, Value::Bool(value)) => !value,
                (Node::Int32 | Node::Int64 | Node::Number, Value::Number(number)) => {
                    number.as_f64() == Some(0.0)
                }
                (Node::List { .. }, Value::Array(list)) => list.is_empty(),
                (Node::Map(_), Value::Object(map)) => map.is_empty(),
                _ => false,
            }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Definition {
    /// `io.k8s.api.core.v1.Pod`
    pub(crate) name: Name,
    /// Sorted by name.
    pub(crate) fields: Box<[Field]>,
    /// Server-side apply takes objects of this type as a whole.
    pub(crate) atomic: bool,
    /// Fields that are not listed are allowed, and kept.
    pub(crate) open: bool,
}

impl Definition {
    pub(crate) fn field(&self, name: &str) -> Option<&Field> {
        self.fields
            .binary_search_by(|field| (*field.name).cmp(name))
            .ok()
            .map(|at| &self.fields[at])
    }

    /// `Pod` of `io.k8s.api.core.v1.Pod`.
    pub(crate) fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// `v1.Pod` of `io.k8s.api.core.v1.Pod`.
    fn go_name(&self) -> &str {
        let Some(last) = self.name.rfind('.') else {
            return &self.name;
        };
        match self.name[..last].rfind('.') {
            Some(at) => &self.name[at + 1..],
            None => &self.name,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Schema {
    pub(crate) definitions: Vec<Definition>,
    pub(crate) index: HashMap<Name, u16>,
}

impl Schema {
    pub(crate) fn definition(&self, name: &str) -> Option<&Definition> {
        self.index
            .get(name)
            .map(|&at| &self.definitions[usize::from(at)])
    }

    pub(crate) fn at(&self, id: u16) -> &Definition {
        &self.definitions[usize::from(id)]
    }

    /// The node of a whole object of this definition; `Any` for types that are not known.
    pub(crate) fn root(&self, definition: &str) -> Node {
        self.index
            .get(definition)
            .map_or(Node::Any, |&at| Node::Object(at))
    }

    /// The field of an object node.
    pub(crate) fn field(&self, node: &Node, name: &str) -> Option<&Field> {
        match node {
            Node::Object(id) => self.at(*id).field(name),
            _ => None,
        }
    }

    /// The node below `name`, whether `node` is an object, a map or unknown.
    pub(crate) fn child<'a>(&'a self, node: &'a Node, name: &str) -> &'a Node {
        match node {
            Node::Object(id) => {
                let definition = self.at(*id);
                let unknown = if definition.open {
                    &Node::Deduced
                } else {
                    &Node::Any
                };
                definition.field(name).map_or(unknown, |field| &field.node)
            }
            Node::Map(value) => value,
            Node::Deduced => &Node::Deduced,
            _ => &Node::Any,
        }
    }

    /// How messages name the node's type.
    pub(crate) fn go_type(&self, node: &Node) -> String {
        match node {
            Node::Object(id) => self.at(*id).go_name().to_owned(),
            Node::Map(value) => format!("map[string]{}", self.go_type(value)),
            Node::List { items, .. } => format!("[]{}", self.go_type(items)),
            Node::String => "string".into(),
            Node::Bytes => "[]uint8".into(),
            Node::Int32 => "int32".into(),
            Node::Int64 => "int64".into(),
            Node::Number => "float64".into(),
            Node::Boolean => "bool".into(),
            Node::IntOrString => "intstr.IntOrString".into(),
            Node::Quantity => "resource.Quantity".into(),
            Node::Time => "v1.Time".into(),
            Node::MicroTime => "v1.MicroTime".into(),
            Node::Any | Node::Deduced => "interface {}".into(),
        }
    }
}

#[cfg(test)]
impl Schema {
    /// Every name of a field, once.
    pub(crate) fn field_names(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self
            .definitions
            .iter()
            .flat_map(|definition| definition.fields.iter().map(|field| &*field.name))
            .collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}
