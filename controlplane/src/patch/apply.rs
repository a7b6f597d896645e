//! Server-side apply.
use super::{PatchError, managed::Request};
use crate::schema::Schema;
use serde_json::Value;

pub(super) fn apply(
    _schema: &Schema,
    _request: &Request<'_>,
    _live: Option<&Value>,
    _applied: &Value,
    _force: bool,
) -> Result<Value, PatchError> {
    Err(PatchError::Unprocessable(
        "server-side apply is not there yet".into(),
    ))
}
