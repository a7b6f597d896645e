//! Events are served in two groups and stored in one form, that of core/v1; HorizontalPodAutoscalers in two
//! versions, stored as autoscaling/v2. Everything else is served as it is stored. Pure.

use serde_json::Value;

use crate::kinds::{self, Kind};

/// The kind under which objects of `kind` are stored.
pub(super) fn stored(kind: &'static Kind) -> &'static Kind {
    if kind.group == "events.k8s.io" && kind.plural == "events" {
        kinds::by_plural("", "v1", "events").unwrap_or(kind)
    } else if is_old_autoscaler(kind) {
        kinds::by_plural("autoscaling", "v2", kind.plural).unwrap_or(kind)
    } else {
        kind
    }
}

fn is_old_autoscaler(kind: &Kind) -> bool {
    (kind.group, kind.version, kind.plural) == ("autoscaling", "v1", "horizontalpodautoscalers")
}

pub(super) fn converts(kind: &'static Kind) -> bool {
    !std::ptr::eq(stored(kind), kind)
}

/// The stored object as the kind shows it.
pub(super) fn to_served(kind: &'static Kind, object: Value) -> Value {
    if is_old_autoscaler(kind) {
        kinds::horizontal_pod_autoscaler::to_v1(&object)
    } else if converts(kind) {
        kinds::event::to_events(&object)
    } else {
        object
    }
}

/// A body of the kind as it is stored.
pub(super) fn to_stored(kind: &'static Kind, object: Value) -> Value {
    if is_old_autoscaler(kind) {
        kinds::horizontal_pod_autoscaler::to_v2(&object)
    } else if converts(kind) {
        kinds::event::to_core(&object)
    } else {
        object
    }
}
