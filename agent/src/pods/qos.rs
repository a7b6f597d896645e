//! QoS class of a pod, the resources of its containers, and the OOM score that follows.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::quantity;
use super::wanted::is_sidecar;
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
    container
        .resources
        .as_ref()
        .map(required)
        .unwrap_or_default()
}

fn required(required: &ResourceRequirements) -> Resources {
    let empty = BTreeMap::new();
    let requests = required.requests.as_ref().unwrap_or(&empty);
    let limits = required.limits.as_ref().unwrap_or(&empty);
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
    // What the pod asks for as a whole decides alone.
    let all: Vec<Resources> = match spec.resources.as_ref().filter(|it| asks(it)) {
        Some(pod) => vec![required(pod)],
        None => {
            let init = spec.init_containers.iter().flatten();
            init.chain(&spec.containers).map(resources).collect()
        }
    };
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

fn asks(required: &ResourceRequirements) -> bool {
    let any =
        |map: &Option<BTreeMap<String, Quantity>>| map.as_ref().is_some_and(|it| !it.is_empty());
    any(&required.requests) || any(&required.limits)
}

/// What the pod's own cgroup gets: what is asked for as a whole, else sums, and a limit only when every container has
/// one; and what the sandbox itself costs.
pub(crate) fn pod_resources(spec: &PodSpec) -> Resources {
    let pod = spec.resources.as_ref().map(required).unwrap_or_default();
    let overhead = |name: &str, of: fn(&Quantity) -> Option<u64>| {
        let overhead = spec.overhead.as_ref()?.get(name)?;
        of(overhead)
    };
    let (cpu, memory) = (
        overhead("cpu", quantity::millis),
        overhead("memory", quantity::whole),
    );
    let with = |value: Option<u64>, more: Option<u64>| {
        value.map(|value| value.saturating_add(more.unwrap_or(0)))
    };
    let request = |of: fn(&Resources) -> Option<u64>, more: Option<u64>| {
        let sum = of(&pod)
            .unwrap_or_else(|| at_once(spec, of, |value| Some(value.unwrap_or(0))).unwrap_or(0));
        with(Some(sum), more).filter(|value| *value > 0)
    };
    let limit = |of: fn(&Resources) -> Option<u64>, more: Option<u64>| {
        let limit = of(&pod).or_else(|| at_once(spec, of, |value| value));
        with(limit.filter(|value| *value > 0), more)
    };
    Resources {
        cpu_request_millis: request(|resources| resources.cpu_request_millis, cpu),
        memory_request_bytes: request(|resources| resources.memory_request_bytes, memory),
        cpu_limit_millis: limit(|resources| resources.cpu_limit_millis, cpu),
        memory_limit_bytes: limit(|resources| resources.memory_limit_bytes, memory),
        pids_limit: None,
    }
}

/// The most that is needed at one time: sidecars stay beside what comes after them, other init containers run alone.
/// `None` when a container has no value and `count` says that this is no value for all.
fn at_once(
    spec: &PodSpec,
    of: fn(&Resources) -> Option<u64>,
    count: fn(Option<u64>) -> Option<u64>,
) -> Option<u64> {
    let mut stays = 0u64;
    let mut most = 0u64;
    for container in spec.init_containers.iter().flatten() {
        let value = count(of(&resources(container)))?;
        if is_sidecar(container) {
            stays = stays.saturating_add(value);
            most = most.max(stays);
        } else {
            most = most.max(stays.saturating_add(value));
        }
    }
    for container in &spec.containers {
        stays = stays.saturating_add(count(of(&resources(container)))?);
    }
    Some(most.max(stays))
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
    fn a_pod_needs_what_runs_at_one_time_and_its_overhead() {
        let cpu = |name: &str, cpu: &str, policy: Option<&str>| {
            serde_json::json!({"name": name, "restartPolicy": policy,
                "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": cpu}}})
        };
        let pod = serde_json::json!({
            "overhead": {"cpu": "50m"},
            "initContainers": [cpu("i", "300m", None), cpu("s", "200m", Some("Always")),
                cpu("j", "700m", None)],
            "containers": [cpu("a", "400m", None)]});
        let resources = pod_resources(&spec(pod.clone()));
        assert_eq!(resources.cpu_request_millis, Some(950));
        assert_eq!(resources.cpu_limit_millis, Some(950));
        let mut whole = pod;
        whole["resources"] = serde_json::json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}});
        let resources = pod_resources(&spec(whole.clone()));
        assert_eq!(resources.cpu_request_millis, Some(1_050));
        assert_eq!(resources.cpu_limit_millis, Some(2_050));
        assert_eq!(class(&spec(whole)), QosClass::Burstable);
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
