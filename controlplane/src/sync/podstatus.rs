//! What a node reports about a pod, joined with what others wrote into its status. Pure.

use k8s_openapi::api::core::v1::{Pod, PodStatus};

fn is_final(status: Option<&PodStatus>) -> bool {
    let phase = status.and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// The pod as it should be stored; `None` when the report changes nothing or must not be taken: a pod that
/// has ended does not run again.
pub(super) fn merged(pod: &Pod, mut reported: PodStatus) -> Option<Pod> {
    let old = pod.status.as_ref();
    if is_final(old) && !is_final(Some(&reported)) {
        return None;
    }
    if let Some(old) = old {
        let kept: Vec<_> = old
            .conditions
            .iter()
            .flatten()
            .filter(|condition| {
                // The node alone says when a resize is over.
                !condition.type_.starts_with("PodResize")
                    && !reported
                        .conditions
                        .iter()
                        .flatten()
                        .any(|other| other.type_ == condition.type_)
            })
            .cloned()
            .collect();
        if !kept.is_empty() {
            reported
                .conditions
                .get_or_insert_default()
                .splice(0..0, kept);
        }
        if reported.qos_class.is_none() {
            reported.qos_class.clone_from(&old.qos_class);
        }
        if reported.start_time.is_none() {
            reported.start_time.clone_from(&old.start_time);
        }
        if reported.nominated_node_name.is_none() {
            reported
                .nominated_node_name
                .clone_from(&old.nominated_node_name);
        }
    }
    if old == Some(&reported) {
        return None;
    }
    let mut changed = pod.clone();
    changed.status = Some(reported);
    Some(changed)
}
