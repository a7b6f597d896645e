//! QoS class of a pod, the resources of its containers, and the OOM score that follows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;
use crate::runtime::Resources;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl QosClass {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// Requests default to limits, as the API server defaults them.
pub(crate) fn resources(container: &Container) -> Resources {
    let empty = BTreeMap::new();
    let required = container.resources.as_ref();
    let requests = required
        .and_then(|required| required.requests.as_ref())
        .unwrap_or(&empty);
    let limits = required
        .and_then(|required| required.limits.as_ref())
        .unwrap_or(&empty);
    let cpu = |map: &BTreeMap<String, Quantity>| map.get("cpu").and_then(quantity::millis);
    let memory = |map: &BTreeMap<String, Quantity>| map.get("memory").and_then(quantity::whole);
    Resources {
        cpu_request_millis: cpu(requests).or_else(|| cpu(limits)),
        cpu_limit_millis: cpu(limits),
        memory_request_bytes: memory(requests).or_else(|| memory(limits)),
        memory_limit_bytes: memory(limits),
        pids_limit: None,
    }
}

pub(crate) fn class(spec: &PodSpec) -> QosClass {
    let all: Vec<Resources> = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .map(resources)
        .collect();
    let positive = |value: Option<u64>| value.filter(|value| *value > 0);
    let asks_nothing = all.iter().all(|resources| {
        positive(resources.cpu_request_millis).is_none()
            && positive(resources.memory_request_bytes).is_none()
            && positive(resources.cpu_limit_millis).is_none()
            && positive(resources.memory_limit_bytes).is_none()
    });
    if asks_nothing {
        return QosClass::BestEffort;
    }
    let guaranteed = all.iter().all(|resources| {
        positive(resources.cpu_limit_millis).is_some()
            && positive(resources.memory_limit_bytes).is_some()
            && resources.cpu_request_millis == resources.cpu_limit_millis
            && resources.memory_request_bytes == resources.memory_limit_bytes
    });
    if guaranteed {
        QosClass::Guaranteed
    } else {
        QosClass::Burstable
    }
}

/// What the pod's own cgroup gets: sums, and a limit only when every container has one.
pub(crate) fn pod_resources(spec: &PodSpec) -> Resources {
    let main: Vec<Resources> = spec.containers.iter().map(resources).collect();
    let init: Vec<Resources> = spec
        .init_containers
        .iter()
        .flatten()
        .map(resources)
        .collect();
    let request = |of: fn(&Resources) -> Option<u64>| {
        let sum: u64 = main.iter().filter_map(of).fold(0, u64::saturating_add);
        let most = init.iter().filter_map(of).max().unwrap_or(0);
        Some(sum.max(most)).filter(|value| *value > 0)
    };
    let limit = |of: fn(&Resources) -> Option<u64>| {
        let sum: u64 = main.iter().map(of).try_fold(0u64, |sum, value| {
            value.map(|value| sum.saturating_add(value))
        })?;
        let most: u64 = init
            .iter()
            .map(of)
            .try_fold(0u64, |most, value| value.map(|value| most.max(value)))?;
        Some(sum.max(most)).filter(|value| *value > 0)
    };
    Resources {
        cpu_request_millis: request(|resources| resources.cpu_request_millis),
        memory_request_bytes: request(|resources| resources.memory_request_bytes),
        cpu_limit_millis: limit(|resources| resources.cpu_limit_millis),
        memory_limit_bytes: limit(|resources| resources.memory_limit_bytes),
        pids_limit: None,
    }
}

/// Guaranteed pods are killed last, best-effort ones first, others by how much of the node they asked for.
pub(crate) fn oom_score_adj(class: QosClass, resources: &Resources, node_memory: u64) -> i32 {
    match class {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let asked = u128::from(resources.memory_request_bytes.unwrap_or(0));
            let share = 1000 * asked / u128::from(node_memory.max(1));
            let score = 1000 - i32::try_from(share.min(1000)).unwrap_or(1000);
            score.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn spec(json: serde_json::Value) -> PodSpec {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn classes() {
        let none = serde_json::json!({"containers": [{"name": "a"}]});
        assert_eq!(class(&spec(none)), QosClass::BestEffort);
        let full = serde_json::json!({"containers": [{"name": "a", "resources":
            {"limits": {"cpu": "1", "memory": "1Gi"}}}]});
        assert_eq!(class(&spec(full)), QosClass::Guaranteed);
        let some = serde_json::json!({"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}},
            {"name": "b"}]});
        assert_eq!(class(&spec(some.clone())), QosClass::Burstable);
        let pod = pod_resources(&spec(some));
        assert_eq!(pod.cpu_request_millis, Some(1_000));
        assert_eq!(pod.cpu_limit_millis, None);
    }

    #[test]
    fn oom_scores_stay_in_their_bands() {
        let mut resources = Resources::default();
        assert_eq!(oom_score_adj(QosClass::Burstable, &resources, 1 << 30), 999);
        resources.memory_request_bytes = Some(1 << 40);
        assert_eq!(oom_score_adj(QosClass::Burstable, &resources, 1 << 30), 3);
        assert_eq!(oom_score_adj(QosClass::Guaranteed, &resources, 1), -997);
    }
}
