//! JSON patch (RFC 6902) and JSON merge patch (RFC 7386), which know nothing of types.

use json_patch::{PatchErrorKind, PatchOperation};
use serde_json::Value;

use super::PatchError;

/// Operations in one patch.
const MOST_OPERATIONS: usize = 10_000;
/// What all `copy` operations of one patch may copy together: without a limit, a few copies of copies fill
/// the memory.
const MOST_COPIED: usize = 3 * 1024 * 1024;

pub(super) fn json_patch(object: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: Vec<PatchOperation> =
        serde_json::from_value(patch.clone()).map_err(|error| {
            let message = format!("error decoding patch: {error}");
            // A list of something is a patch, whose operations fail.
            match patch.as_array() {
                Some(list) if list.iter().all(Value::is_object) => {
                    PatchError::Unprocessable(message)
                }
                _ => PatchError::Malformed(message),
            }
        })?;
    if operations.len() > MOST_OPERATIONS {
        return Err(PatchError::Unprocessable(format!(
            "The allowed maximum operations in a JSON patch is {MOST_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut patched = object.clone();
    let mut copied = 0;
    for operation in operations {
        if let PatchOperation::Copy(copy) = &operation {
            copied += patched
                .pointer(copy.from.as_str())
                .map_or(0, |value| value.to_string().len());
            if copied > MOST_COPIED {
                return Err(PatchError::Unprocessable(format!(
                    "the copy operations of the patch copy more than {MOST_COPIED} bytes"
                )));
            }
        }
        let (name, path) = (name(&operation), operation.path().to_string());
        json_patch::patch(&mut patched, &[operation]).map_err(|error| {
            PatchError::Unprocessable(match error.kind {
                PatchErrorKind::TestFailed => format!("testing value {path} failed: test failed"),
                kind => {
                    format!(
                        "{name} operation does not apply: doc is missing path: {path:?}: {kind}"
                    )
                }
            })
        })?;
    }
    Ok(patched)
}

fn name(operation: &PatchOperation) -> &'static str {
    match operation {
        PatchOperation::Add(_) => "add",
        PatchOperation::Remove(_) => "remove",
        PatchOperation::Replace(_) => "replace",
        PatchOperation::Move(_) => "move",
        PatchOperation::Copy(_) => "copy",
        PatchOperation::Test(_) => "test",
    }
}

pub(super) fn merge_patch(object: &Value, patch: &Value) -> Value {
    let mut merged = object.clone();
    json_patch::merge(&mut merged, patch);
    merged
}
