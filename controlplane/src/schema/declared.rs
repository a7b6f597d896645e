//! What the fields of kinds are to expressions, for those who check expressions before there are objects.

use std::sync::Arc;

use crate::kinds::Kind;
use crate::kinds::custom::expressions::declared;
use crate::kinds::custom::expressions::types::{Declared, Form, Type};
use crate::types::{Node, Schema};

/// What every object's metadata is made of.
const METADATA: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// The type of a kind's objects; `None` where their fields are not known.
pub(super) fn of(kind: &Kind<'_>) -> Option<Type> {
    let Some(version) = kind.strategy.custom() else {
        let schema = super::schema();
        let mut walk = Walk {
            schema,
            within: Vec::new(),
        };
        let declared = walk.node(&schema.root(kind.definition), kind.kind);
        return Some(declared.kind());
    };
    let own = declared::declared(&version.schema, true)?;
    let Form::Object(object) = &own.form else {
        return None;
    };
    let schema = super::schema();
    let mut walk = Walk {
        schema,
        within: Vec::new(),
    };
    let metadata = walk.node(&schema.root(METADATA), &format!("{}.metadata", kind.kind));
    let mut fields = object.fields.clone();
    fields.insert("metadata".to_owned(), metadata);
    Some(Declared::object(kind.kind, fields, 2).kind())
}

struct Walk<'a> {
    schema: &'a Schema,
    /// Definitions that it is inside of: what they have of themselves is not followed.
    within: Vec<u16>,
}

impl Walk<'_> {
    fn node(&mut self, node: &Node, name: &str) -> Arc<Declared> {
        Declared::plain(match node {
            Node::Object(id) if self.within.contains(id) => Type::Dyn,
            Node::Object(id) => {
                self.within.push(*id);
                let mut fields = Vec::new();
                for field in &self.schema.at(*id).fields {
                    if let Some(escaped) = declared::escapable(&field.name) {
                        let below = self.node(&field.node, &format!("{name}.{escaped}"));
                        fields.push((escaped, below));
                    }
                }
                self.within.pop();
                return Declared::object(name, fields, 2);
            }
            Node::Map(values) => {
                let values = self.node(values, &format!("{name}.@elem"));
                return Declared::map(values, 0);
            }
            Node::List { items, .. } => {
                let entries = self.node(items, &format!("{name}.@idx"));
                return Declared::list(entries, 0);
            }
            Node::String | Node::Quantity => Type::String,
            Node::Bytes => Type::Bytes,
            Node::Int32 | Node::Int64 => Type::Int,
            Node::Number => Type::Double,
            Node::Boolean => Type::Bool,
            Node::Time | Node::MicroTime => Type::Timestamp,
            Node::IntOrString | Node::Any | Node::Deduced => Type::Dyn,
        })
    }
}
