//! The four kinds of patch, each a pure function from (object, patch) to object.

use serde_json::Value;

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
    #[error("apply failed with {} conflict(s)", .0.len())]
    Conflicts(Vec<ApplyConflict>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApplyConflict {
    pub(crate) manager: String,
    pub(crate) operation: String,
    pub(crate) api_version: String,
    pub(crate) field: String,
}

/// RFC 6902.
#[allow(unused_variables)]
pub(crate) fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    todo!()
}

/// RFC 7386.
#[allow(unused_variables)]
pub(crate) fn merge_patch(object: &Value, patch: &Value) -> Value {
    todo!()
}

/// Strategic merge patch with the merge keys of `definition`'s lists, `$patch`, `$retainKeys`,
/// `$deleteFromPrimitiveList` and `$setElementOrder`.
#[allow(unused_variables)]
pub(crate) fn strategic_merge_patch(
    definition: &str,
    object: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    todo!()
}

/// Server-side apply. `live` is `None` when the object does not exist. Returns the merged object with its
/// `metadata.managedFields` brought up to date (`now` is RFC 3339).
#[allow(unused_variables)]
pub(crate) fn server_side_apply(
    definition: &str,
    live: Option<&Value>,
    applied: &Value,
    manager: &str,
    force: bool,
    subresource: &str,
    now: &str,
) -> Result<Value, PatchError> {
    todo!()
}

/// Brings `metadata.managedFields` up to date after a create, update or (non-apply) patch.
#[allow(unused_variables)]
pub(crate) fn track_update(
    definition: &str,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    now: &str,
) {
    todo!()
}
