//! Events are served in two groups and stored in one form, that of core/v1. Everything else is served as it
//! is stored. Pure.

use serde_json::Value;

use crate::kinds::{self, Kind};

/// The kind under which objects of `kind` are stored.
pub(super) fn stored(kind: &'static Kind) -> &'static Kind {
    if kind.group == "events.k8s.io" && kind.plural == "events" {
        kinds::by_plural("", "v1", "events").unwrap_or(kind)
    } else {
        kind
    }
}

pub(super) fn converts(kind: &'static Kind) -> bool {
    !std::ptr::eq(stored(kind), kind)
}

/// The stored object as the kind shows it.
pub(super) fn to_served(kind: &'static Kind, object: Value) -> Value {
    if converts(kind) {
        kinds::event::to_events(&object)
    } else {
        object
    }
}

/// A body of the kind as it is stored.
pub(super) fn to_stored(kind: &'static Kind, object: Value) -> Value {
    if converts(kind) {
        kinds::event::to_core(&object)
    } else {
        object
    }
}
