//! What the fields of every Kubernetes type are: made once, at first use, from the JSON schemas that
//! k8s-openapi carries (API level 1.36), plus the list types and merge keys that the Kubernetes API
//! reference documents per field (`schema/facts.rs`).
//!
//! Used for unknown-field checks, pruning, strategic merge patch, server-side apply and the OpenAPI
//! documents. Pure: no I/O. Descriptions are not kept in memory; the OpenAPI documents, which need them, are
//! generated on demand.

mod check;
mod custom;
mod declared;
mod duplicates;
mod facts;
mod load;
mod openapi;
mod path;
mod presence;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use serde_json::Value;

use crate::kinds::{self, Kind, custom::Version};

pub(crate) use crate::types::{ListType, Node, PatchStrategy, Presence, Schema};
pub(crate) use openapi::Custom;
#[cfg(test)]
pub(crate) use openapi::group_versions;

static SCHEMA: LazyLock<Schema> = LazyLock::new(load::load);

/// The compact schema of everything that is served.
pub(crate) fn schema() -> &'static Schema {
    &SCHEMA
}

/// A problem found in a body: the JSON path as Kubernetes writes it (`spec.containers[0].foo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FieldProblem {
    pub(crate) path: String,
    pub(crate) kind: ProblemKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ProblemKind {
    Unknown,
    Duplicate,
    /// Wrong JSON type: what was expected and what was there.
    Type {
        /// The type that has the field, such as `ServicePort`.
        holder: String,
        expected: String,
        found: String,
    },
    /// The right JSON type with a text that cannot be read (quantities, times, base64): what is wrong.
    Value(String),
}

impl FieldProblem {
    /// Whether the body cannot be decoded at all, whatever `fieldValidation` says.
    pub(crate) fn is_fatal(&self) -> bool {
        matches!(self.kind, ProblemKind::Type { .. } | ProblemKind::Value(_))
    }

    /// What is wrong as strategic merge patches are told: what they leave does not go through JSON on its way into the
    /// object's type (apimachinery, `pkg/runtime/converter.go`).
    pub(crate) fn conversion(&self) -> String {
        let ProblemKind::Type {
            expected, found, ..
        } = &self.kind
        else {
            return self.to_string();
        };
        let found = match found.split_once(' ') {
            Some((_, number)) if number.contains(['.', 'e', 'E']) => "float64",
            Some(_) => "int64",
            None => match found.as_str() {
                "number" => "int64",
                "array" => "slice",
                "object" => "map",
                other => other,
            },
        };
        match expected.as_str() {
            // They read themselves, from JSON.
            "v1.Time" | "v1.MicroTime" | "resource.Quantity" | "intstr.IntOrString" => {
                self.to_string()
            }
            map if map.starts_with("map[") => format!("cannot restore map from {found}"),
            list if list.starts_with("[]") => format!("cannot restore slice from {found}"),
            object if object.contains('.') => format!("cannot restore struct from: {found}"),
            // Numbers become each other, and in Go an integer becomes a text.
            scalar if matches!(found, "int64" | "float64") && scalar != "bool" => {
                format!("cannot convert {found} to {scalar}")
            }
            scalar => format!("unrecognized type: {scalar}"),
        }
    }
}

impl std::fmt::Display for FieldProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            ProblemKind::Unknown => write!(f, "unknown field {:?}", self.path),
            ProblemKind::Duplicate => write!(f, "duplicate field {:?}", self.path),
            ProblemKind::Type {
                holder,
                expected,
                found,
            } if self.path.is_empty() => {
                let _ = holder;
                write!(
                    f,
                    "json: cannot unmarshal {found} into Go value of type {expected}"
                )
            }
            ProblemKind::Type {
                holder,
                expected,
                found,
            } => write!(
                f,
                "json: cannot unmarshal {found} into Go struct field {holder}.{} of type {expected}",
                without_indexes(&self.path)
            ),
            ProblemKind::Value(message) => f.write_str(message),
        }
    }
}

/// `spec.ports[0].port` as `spec.ports.port`, which is how the messages about types write it.
fn without_indexes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    let mut inside = false;
    for c in path.chars() {
        match c {
            '[' => inside = true,
            ']' => inside = false,
            _ if !inside => out.push(c),
            _ => {}
        }
    }
    out
}

#[cfg(test)]
/// The message of the 400 that a body with fatal problems gets, `None` when it has none.
pub(crate) fn decode_error(kind: &str, version: &str, problems: &[FieldProblem]) -> Option<String> {
    let fatal = problems.iter().find(|p| p.is_fatal())?;
    Some(format!(
        "{kind} in version {version:?} cannot be handled as a {kind}: {fatal}"
    ))
}

#[cfg(test)]
/// The message for `fieldValidation=Strict`, `None` when no field is unknown or duplicate.
pub(crate) fn strict_error(problems: &[FieldProblem]) -> Option<String> {
    let all: Vec<String> = problems
        .iter()
        .filter(|p| !p.is_fatal())
        .map(ToString::to_string)
        .collect();
    (!all.is_empty()).then(|| format!("strict decoding error: {}", all.join(", ")))
}

/// A type and the schema that it is in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TypeRef<'a> {
    pub(crate) schema: &'a Schema,
    pub(crate) definition: &'a str,
    /// The kind of this type has a status subresource.
    pub(crate) has_status: bool,
    custom: Option<&'a Version>,
}

impl<'a> From<&'a str> for TypeRef<'a> {
    fn from(definition: &'a str) -> Self {
        let has_status = kinds::all()
            .iter()
            .any(|kind| kind.definition == definition && kind.has_subresource("status"));
        Self {
            schema: schema(),
            definition,
            has_status,
            custom: None,
        }
    }
}

impl<'a> From<&'a Kind<'a>> for TypeRef<'a> {
    fn from(kind: &'a Kind<'a>) -> Self {
        let custom = kind.strategy.custom();
        Self {
            schema: match custom {
                Some(version) => custom::compact(version),
                None => schema(),
            },
            definition: kind.definition,
            has_status: kind.has_subresource("status"),
            custom,
        }
    }
}

/// Checks `body` against its type and removes unknown fields from it. Type problems are always errors; unknown ones
/// depend on the request's fieldValidation. Quantities and times are brought into the form that Kubernetes stores;
/// `null` means absent.
pub(crate) fn check_and_prune<'a>(
    of: impl Into<TypeRef<'a>>,
    body: &mut Value,
) -> Vec<FieldProblem> {
    let of = of.into();
    match of.custom {
        Some(version) => custom::check_and_prune(version, body),
        None => check::check_and_prune(of.schema, of.definition, body),
    }
}

/// The fields that a JSON body has more than once; to be judged with the problems of [`check_and_prune`].
pub(crate) fn duplicate_fields(json: &[u8]) -> Vec<FieldProblem> {
    duplicates::find(json)
}

/// Brings quantities, times and numbers into the form that is stored, and drops nulls. What is unknown or wrong
/// stays as it is, for [`check_and_prune`] to find.
pub(crate) fn normalize_values<'a>(of: impl Into<TypeRef<'a>>, body: &mut Value) {
    let of = of.into();
    match of.custom {
        Some(_) => custom::normalize(body),
        None => check::normalize_values(of.schema, of.definition, body),
    }
}

/// Removes what Kubernetes does not write because it is zero, `paused: false` or an empty list, by the type that has it.
/// Custom resources are kept as they were written, but for their metadata.
pub(crate) fn drop_unset<'a>(of: impl Into<TypeRef<'a>>, object: &mut Value) {
    let of = of.into();
    check::drop_unset(of.schema, &of.schema.root(of.definition), object);
}

/// What the objects of a kind are to expressions; `None` where their fields are not known.
pub(crate) fn expression_type(
    kind: &Kind<'_>,
) -> Option<crate::kinds::custom::expressions::types::Type> {
    declared::of(kind)
}

/// OpenAPI v3 document of one group version (`/openapi/v3/apis/apps/v1`), as JSON.
pub(crate) fn openapi_v3(group: &str, version: &str, custom: Custom<'_>) -> Option<Value> {
    openapi::v3::document(group, version, custom)
}

/// OpenAPI v2 document of everything, as JSON.
pub(crate) fn openapi_v2(custom: Custom<'_>) -> Value {
    openapi::v2::document(custom)
}

/// A document like that of [`openapi_v2`] in the protobuf form that kubectl up to 1.26 asks for
/// (`application/com.github.proto-openapi.spec.v2@v1.0+protobuf`). The answer's `Content-Type` must
/// have a dot for the `@`: clients parse it, and the name that they ask for is no valid media type.
pub(crate) fn openapi_v2_protobuf(document: &Value) -> Vec<u8> {
    openapi::protobuf::encode(document)
}
