//! What a pod's worker tells the outside: statuses, its end, events. Node sync implements it.

use k8s_openapi::api::core::v1::{ObjectReference, Pod, PodStatus};

/// Identity of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodKey {
    pub(crate) namespace: String,
    pub(crate) name: String,
    pub(crate) uid: String,
}

impl PodKey {
    /// `None` for an object without name or uid.
    pub(crate) fn of(pod: &Pod) -> Option<Self> {
        Some(Self {
            namespace: pod
                .metadata
                .namespace
                .clone()
                .unwrap_or_else(|| "default".to_owned()),
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
        })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventType {
    Normal,
    Warning,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PodEvent {
    pub(crate) involved: ObjectReference,
    pub(crate) event_type: EventType,
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// None of these wait: what cannot be sent now is kept or dropped by the implementation.
pub(crate) trait Reporter: Send + Sync + 'static {
    /// The latest status of a pod replaces the one before.
    fn status(&self, pod: &PodKey, status: &PodStatus);
    /// The control plane's copy of a static pod, to be made if it is not there; comes before its first status.
    fn mirror(&self, _pod: &PodKey, _copy: &Pod) {}
    /// The pod has ended and was asked to.
    fn terminated(&self, pod: &PodKey);
    fn event(&self, event: PodEvent);
}

/// The pod, or one of its containers, as events refer to it.
pub(crate) fn reference(pod: &Pod, field_path: Option<String>) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("Pod".to_owned()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

#[cfg(test)]
pub(crate) mod recorder;
