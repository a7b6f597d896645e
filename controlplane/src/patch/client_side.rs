//! The way from client-side to server-side apply and back. `kubectl` keeps what it applied last in an
//! annotation; when the same `kubectl` applies on the server, what it set before is still its own, and the
//! annotation follows, so that a later client-side apply computes the right difference.

use serde_json::Value;

use super::fields::Fields;
use super::typed::{Place, Typed};
use crate::kinds::access::{object_mut, text};

/// The field manager of `kubectl apply --server-side`.
pub(super) const MANAGER: &str = "kubectl";
const ANNOTATION: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// An annotation that would make the object too large is not kept up.
const MOST: usize = 256 * 1024;

fn last_applied(object: &Value) -> &str {
    text(object, &["metadata", "annotations", ANNOTATION])
}

/// The fields that were applied on the client and are still as they were applied.
pub(super) fn applied_before(typed: Typed<'_>, root: Place<'_>, live: &Value) -> Fields {
    let Ok(applied) = serde_json::from_str::<Value>(last_applied(live)) else {
        return Fields::default();
    };
    let mut fields = typed.fields(root, &applied);
    let since = typed.changes(root, Some(&applied), Some(live));
    fields.subtract(&since.changed);
    fields.subtract(&since.removed);
    fields
}

/// Where the live object has the annotation, the merged one says what is applied now.
pub(super) fn keep_annotation(live: &Value, applied: &Value, merged: &mut Value) {
    if last_applied(live).is_empty() {
        return;
    }
    let mut configuration = applied.clone();
    if let Some(annotations) = configuration
        .get_mut("metadata")
        .and_then(|meta| meta.get_mut("annotations"))
        .and_then(Value::as_object_mut)
    {
        annotations.remove(ANNOTATION);
    }
    let configuration = format!("{configuration}\n");
    let annotations = object_mut(merged, &["metadata", "annotations"]);
    if configuration.len() > MOST {
        annotations.remove(ANNOTATION);
    } else {
        annotations.insert(ANNOTATION.into(), configuration.into());
    }
}
