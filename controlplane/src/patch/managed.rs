//! Managed fields.
use super::ApplyConflict;
use crate::schema::Schema;
use serde_json::Value;

pub(super) struct Request<'a> {
    pub(super) definition: &'a str,
    pub(super) manager: &'a str,
    pub(super) subresource: &'a str,
    pub(super) now: &'a str,
}

pub(super) fn conflict_message(conflicts: &[ApplyConflict]) -> String {
    format!("Apply failed with {} conflicts", conflicts.len())
}

pub(super) fn cause_message(conflict: &ApplyConflict) -> String {
    format!("conflict with {:?}", conflict.manager)
}

pub(super) fn track_update(
    _schema: &Schema,
    _request: &Request<'_>,
    _old: Option<&Value>,
    _new: &mut Value,
) {
}
