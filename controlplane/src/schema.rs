//! What the fields of every Kubernetes type are: made once at start from the JSON schemas that k8s-openapi
//! carries (API level 1.36), plus the list merge keys that Kubernetes documents per field.
//!
//! Used for unknown-field checks, pruning, strategic merge patch, server-side apply and the OpenAPI
//! documents. Pure: no I/O.

use serde_json::Value;

/// How a list is merged (strategic merge patch and server-side apply).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ListType {
    /// Replaced as a whole.
    Atomic,
    /// Entries are a set of scalars.
    Set,
    /// Entries are objects told apart by these fields.
    Map(Vec<&'static str>),
}

/// One node of a type's schema. Field-level documentation is not kept here (see `schema/openapi.rs`).
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// An object with known fields.
    Object(&'static str),
    /// An object with arbitrary keys and one type of value.
    Map(Box<Node>),
    List {
        items: Box<Node>,
        list_type: ListType,
    },
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    /// Anything at all (RawExtension, JSON).
    Any,
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
        expected: &'static str,
        found: &'static str,
    },
}

/// Checks `body` against the type (definition name such as `io.k8s.api.core.v1.Pod`) and removes unknown
/// fields from it. Type problems are always errors; unknown ones depend on the request's fieldValidation.
#[allow(unused_variables)]
pub(crate) fn check_and_prune(definition: &str, body: &mut Value) -> Vec<FieldProblem> {
    todo!()
}

/// OpenAPI v3 document of one group version (`/openapi/v3/apis/apps/v1`), as JSON.
#[allow(unused_variables)]
pub(crate) fn openapi_v3(group: &str, version: &str) -> Option<Value> {
    todo!()
}

/// OpenAPI v2 document of everything, as JSON.
pub(crate) fn openapi_v2() -> Value {
    todo!()
}

/// The same as [`openapi_v2`] in the protobuf form that kubectl up to 1.26 asks for
/// (`application/com.github.proto-openapi.spec.v2@v1.0+protobuf`).
pub(crate) fn openapi_v2_protobuf() -> Vec<u8> {
    todo!()
}
