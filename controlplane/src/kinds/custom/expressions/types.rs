//! Types of expressions, and what schemas declare.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type as the checker knows it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Type {
    /// Whatever it is, is known when it is evaluated.
    Dyn,
    /// Of what could not be checked, which has been said.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    List(Arc<Type>),
    Map(Arc<Type>, Arc<Type>),
    Optional(Arc<Type>),
    /// One of Kubernetes' own: `net.IP`.
    Opaque(&'static str),
    Object(Arc<Object>),
    /// The type of types.
    Kind(Option<Arc<Type>>),
    /// Not known yet.
    Variable(usize),
    /// In signatures: the same letter is the same type.
    Parameter(char),
}

/// An object with fields that are known. Two are the same if their names are.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) name: String,
    pub(crate) fields: BTreeMap<String, Arc<Declared>>,
}

impl PartialEq for Object {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// What a schema says of a value: its type, and how large it may be.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) form: Form,
    /// Entries, or characters.
    pub(crate) most: u64,
    /// Bytes of the shortest JSON.
    pub(crate) shortest: u64,
}

#[derive(Debug)]
pub(crate) enum Form {
    Plain(Type),
    List(Arc<Declared>),
    /// The values of a map of strings.
    Map(Arc<Declared>),
    Object(Arc<Object>),
}

impl Declared {
    pub(crate) fn plain(kind: Type) -> Arc<Self> {
        Self::limited(kind, 0, 1)
    }

    pub(crate) fn limited(kind: Type, most: u64, shortest: u64) -> Arc<Self> {
        Arc::new(Self {
            form: Form::Plain(kind),
            most,
            shortest,
        })
    }

    pub(crate) fn list(entries: Arc<Self>, most: u64) -> Arc<Self> {
        Arc::new(Self {
            form: Form::List(entries),
            most,
            shortest: 2,
        })
    }

    pub(crate) fn map(values: Arc<Self>, most: u64) -> Arc<Self> {
        Arc::new(Self {
            form: Form::Map(values),
            most,
            shortest: 2,
        })
    }

    pub(crate) fn object(
        name: impl Into<String>,
        fields: impl IntoIterator<Item = (String, Arc<Self>)>,
        shortest: u64,
    ) -> Arc<Self> {
        Arc::new(Self {
            form: Form::Object(Arc::new(Object {
                name: name.into(),
                fields: fields.into_iter().collect(),
            })),
            most: 0,
            shortest,
        })
    }

    pub(crate) fn kind(&self) -> Type {
        match &self.form {
            Form::Plain(kind) => kind.clone(),
            Form::List(entries) => Type::List(Arc::new(entries.kind())),
            Form::Map(values) => Type::Map(Arc::new(Type::String), Arc::new(values.kind())),
            Form::Object(object) => Type::Object(Arc::clone(object)),
        }
    }
}

impl Type {
    /// Whether nothing is known of it that could be wrong.
    pub(super) fn is_open(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// The type inside of an optional, and whether it was one.
    pub(super) fn unwrapped(&self) -> (&Self, bool) {
        match self {
            Self::Optional(inner) => (inner, true),
            other => (other, false),
        }
    }

    pub(super) fn parameters(&self) -> Vec<&Self> {
        match self {
            Self::List(of) | Self::Optional(of) | Self::Kind(Some(of)) => vec![of],
            Self::Map(key, value) => vec![key, value],
            _ => Vec::new(),
        }
    }

    /// The same type with others inside.
    pub(super) fn with(&self, mut change: impl FnMut(&Self) -> Self) -> Self {
        let mut changed = |of: &Self| Arc::new(change(of));
        match self {
            Self::List(of) => Self::List(changed(of)),
            Self::Optional(of) => Self::Optional(changed(of)),
            Self::Kind(Some(of)) => Self::Kind(Some(changed(of))),
            Self::Map(key, value) => Self::Map(changed(key), changed(value)),
            other => other.clone(),
        }
    }

    /// Whether it has more parts than `most`; types that are made of one another grow fast.
    pub(super) fn is_larger_than(&self, most: usize) -> bool {
        let (mut seen, mut open) = (0, vec![self]);
        while let Some(next) = open.pop() {
            seen += 1;
            if seen > most {
                return true;
            }
            open.extend(next.parameters());
        }
        false
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dyn => f.write_str("dyn"),
            Self::Error => f.write_str("!error!"),
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Uint => f.write_str("uint"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Bytes => f.write_str("bytes"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(of) => write!(f, "list({of})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Optional(of) => write!(f, "optional_type({of})"),
            Self::Opaque(name) => f.write_str(name),
            Self::Object(object) => f.write_str(&object.name),
            Self::Kind(None) => f.write_str("type"),
            Self::Kind(Some(of)) => write!(f, "type({of})"),
            Self::Variable(number) => write!(f, "_var{number}"),
            Self::Parameter(letter) => write!(f, "{letter}"),
        }
    }
}
