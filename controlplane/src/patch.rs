//! The four kinds of patch, each a pure function from (object, patch) to object.

mod apply;
mod client_side;
mod fields;
mod json;
mod managed;
mod strategic;
#[cfg(test)]
mod tests;
mod typed;

use serde_json::Value;

use crate::schema::{self, TypeRef};

/// Why a patch cannot be applied; [`crate::registry::ApiError`] gives each its status.
#[derive(Debug, thiserror::Error, PartialEq)]
pub(crate) enum PatchError {
    /// Malformed: 400.
    #[error("{0}")]
    Malformed(String),
    /// Well formed but impossible on this object: 422.
    #[error("{0}")]
    Unprocessable(String),
    /// Server-side apply: fields owned by others: 409, one entry per (manager, field path).
    #[error("{}", managed::conflict_message(.0))]
    Conflicts(Vec<ApplyConflict>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApplyConflict {
    pub(crate) manager: String,
    pub(crate) operation: String,
    pub(crate) api_version: String,
    /// `.spec.replicas`
    pub(crate) field: String,
    /// Subresource through which the other manager owns the field, mostly empty.
    pub(crate) subresource: String,
}

impl ApplyConflict {
    /// The message of the cause in `Status.details`: `conflict with "kubectl" using apps/v1`.
    pub(crate) fn message(&self) -> String {
        managed::cause_message(self)
    }
}

/// RFC 6902.
pub(crate) fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    json::json_patch(object, patch)
}

/// RFC 7386.
pub(crate) fn merge_patch(object: &Value, patch: &Value) -> Value {
    json::merge_patch(object, patch)
}

/// Strategic merge patch with the merge keys of `definition`'s lists, `$patch`, `$retainKeys`,
/// `$deleteFromPrimitiveList` and `$setElementOrder`.
pub(crate) fn strategic_merge_patch<'a>(
    of: impl Into<TypeRef<'a>>,
    object: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    let of = of.into();
    strategic::patch(of.schema, of.definition, object, patch)
}

/// Server-side apply. `live` is `None` when the object does not exist. Returns the merged object with its
/// `metadata.managedFields` brought up to date (`now` is RFC 3339).
pub(crate) fn server_side_apply<'a>(
    of: impl Into<TypeRef<'a>>,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: &str,
    now: &str,
) -> Result<Value, PatchError> {
    let of = of.into();
    let request = managed::Request {
        of,
        manager,
        subresource,
        now,
    };
    // `1000m` is no other value than `1`.
    let mut applied = applied.clone();
    schema::normalize_values(of, &mut applied);
    apply::apply(of.schema, &request, live, &applied, force)
}

/// A partial object merged over another as server-side apply merges, with nobody owning anything.
pub(crate) fn apply_configuration<'a>(
    of: impl Into<TypeRef<'a>>,
    object: &Value,
    configuration: &Value,
) -> Result<Value, PatchError> {
    let of = of.into();
    apply::merge(of.schema, of, object, configuration)
}

/// Brings `metadata.managedFields` up to date after a create, update or (non-apply) patch. Call it with the
/// object as it is going to be stored (defaulted), before its managed fields are looked at.
pub(crate) fn track_update<'a>(
    of: impl Into<TypeRef<'a>>,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    now: &str,
) {
    let of = of.into();
    let request = managed::Request {
        of,
        manager,
        subresource,
        now,
    };
    managed::track_update(of.schema, &request, old, new);
}
