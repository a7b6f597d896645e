//! QoS class of a pod, the resources of its containers, and the OOM score that follows.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
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

/// Huge pages that a container may have at most, in bytes by the size of the page in bytes.
pub(crate) fn huge_pages(container: &Container) -> BTreeMap<u64, u64> {
    let required = container.resources.as_ref();
    let limits = required.and_then(|it| it.limits.as_ref());
    let limits = limits.into_iter().flatten();
    limits
        .filter_map(|(name, limit)| {
            let size = name.strip_prefix("hugepages-").and_then(quantity::bytes)?;
            Some((size, quantity::whole(limit)?))
        })
        .collect()
}

/// The sizes of all huge pages that a pod's containers ask for.
pub(crate) fn huge_page_sizes(pod: &Pod) -> BTreeSet<u64> {
    let spec = pod.spec.iter();
    let containers = spec.flat_map(|spec| {
        let init = spec.init_containers.iter().flatten();
        init.chain(&spec.containers)
    });
    containers
        .flat_map(|it| huge_pages(it).into_keys())
        .collect()
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

/// Bytes of the node's disk that a pod asks for.
pub(crate) fn storage_request(spec: &PodSpec) -> u64 {
    const NAME: &str = "ephemeral-storage";
    let of = |container: &Container| {
        let requests = container.resources.as_ref()?.requests.as_ref()?;
        quantity::whole(requests.get(NAME)?)
    };
    let (mut stays, mut most) = (0u64, 0u64);
    for container in spec.init_containers.iter().flatten() {
        let here = stays.saturating_add(of(container).unwrap_or(0));
        if is_sidecar(container) {
            stays = here;
        }
        most = most.max(here);
    }
    for container in &spec.containers {
        stays = stays.saturating_add(of(container).unwrap_or(0));
    }
    let overhead = spec.overhead.as_ref().and_then(|all| all.get(NAME));
    let overhead = overhead.and_then(quantity::whole).unwrap_or(0);
    most.max(stays).saturating_add(overhead)
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

/// The priority class of pods that a node cannot do without.
const NODE_CRITICAL: &str = "system-node-critical";

/// Guaranteed pods are killed last, best-effort ones first, others by how much of the node they asked for. A sidecar is not
/// killed before the containers that it is there for.
pub(crate) fn oom_score_adj(spec: &PodSpec, container: &Container, node_memory: u64) -> i32 {
    if spec.priority_class_name.as_deref() == Some(NODE_CRITICAL) {
        return -997;
    }
    match class(spec) {
        QosClass::Guaranteed => -997,
        QosClass::BestEffort => 1000,
        QosClass::Burstable => {
            let shared = shared_memory(spec);
            let asked = |container: &Container| memory_request(container).saturating_add(shared);
            let score = |asked: u64| {
                let share = 1000 * u128::from(asked) / u128::from(node_memory.max(1));
                1000 - i32::try_from(share.min(1000)).unwrap_or(1000)
            };
            let mut lowest = score(asked(container));
            let mut init = spec.init_containers.iter().flatten();
            if init.any(|it| it.name == container.name && is_sidecar(it))
                && let Some(least) = spec.containers.iter().map(asked).min()
            {
                lowest = lowest.min(score(least));
            }
            lowest.clamp(3, 999)
        }
    }
}

fn memory_request(container: &Container) -> u64 {
    resources(container).memory_request_bytes.unwrap_or(0)
}

/// What the pod asks for as a whole and its containers do not: an equal part for each.
fn shared_memory(spec: &PodSpec) -> u64 {
    let whole = spec.resources.as_ref().map(required).unwrap_or_default();
    let Some(whole) = whole.memory_request_bytes else {
        return 0;
    };
    let init = spec.init_containers.iter().flatten();
    let lasting: Vec<&Container> = init
        .filter(|it| is_sidecar(it))
        .chain(&spec.containers)
        .collect();
    let asked = lasting.iter().map(|it| memory_request(it)).sum();
    let count = u64::try_from(lasting.len()).unwrap_or(1).max(1);
    whole.saturating_sub(asked) / count
}

/// The most that an `emptyDir` in memory may hold: what it says, what the pod may have, what the node has.
pub(crate) fn memory_volume_bytes(
    spec: &PodSpec,
    size_limit: Option<u64>,
    node_memory: u64,
) -> u64 {
    let pod = spec.resources.as_ref().map(required).unwrap_or_default();
    let pod = pod.memory_limit_bytes;
    let pod = pod.or_else(|| at_once(spec, |it| it.memory_limit_bytes, |value| value));
    let given = [pod, size_limit].into_iter().flatten();
    given.filter(|value| *value > 0).fold(node_memory, u64::min)
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
    fn oom_scores_are_those_of_the_kubelet() {
        let asks = |memory: &str| serde_json::json!({"requests": {"memory": memory}});
        let pod = spec(serde_json::json!({
            "initContainers": [
                {"name": "side", "restartPolicy": "Always", "resources": asks("16Mi")},
                {"name": "once", "resources": asks("16Mi")}],
            "containers": [{"name": "small"}, {"name": "half", "resources": asks("512Mi")},
                {"name": "huge", "resources": asks("2Gi")}]}));
        let init = pod.init_containers.clone().unwrap();
        let score = |pod: &PodSpec, it: &Container| oom_score_adj(pod, it, 1 << 30);
        let all = init.iter().chain(&pod.containers);
        let scores: Vec<i32> = all.map(|container| score(&pod, container)).collect();
        assert_eq!(scores, [985, 985, 999, 500, 3]);
        // No main container is without: the sidecar is as safe as the one that asks for least.
        let mut pod = pod;
        pod.containers.remove(0);
        assert_eq!(score(&pod, &init[0]), 500);
        assert_eq!(score(&pod, &init[1]), 985);
        pod.priority_class_name = Some("system-node-critical".to_owned());
        assert_eq!(score(&pod, &init[1]), -997);
        let whole = spec(serde_json::json!({"resources": asks("512Mi"),
            "containers": [{"name": "a"}, {"name": "b", "resources": asks("256Mi")}]}));
        assert_eq!(score(&whole, &whole.containers[0]), 875);
        assert_eq!(score(&whole, &whole.containers[1]), 625);
        let full = serde_json::json!({"containers": [{"name": "a", "resources":
            {"limits": {"cpu": "1", "memory": "1Gi"}}}]});
        let full = spec(full);
        assert_eq!(score(&full, &full.containers[0]), -997);
        let none = spec(serde_json::json!({"containers": [{"name": "a"}]}));
        assert_eq!(score(&none, &none.containers[0]), 1000);
    }

    #[test]
    fn a_volume_in_memory_is_bounded_by_its_pod_and_the_node() {
        let limited = |limit: Option<&str>| {
            let limits = limit.map(|limit| serde_json::json!({"memory": limit}));
            spec(
                serde_json::json!({"containers": [{"name": "a", "resources": {"limits": limits}}]}),
            )
        };
        for (limit, size, bytes) in [
            (None, None, 1 << 30),
            (Some("64Mi"), None, 64 << 20),
            (Some("64Mi"), Some(8 << 20), 8 << 20),
            (Some("4Mi"), Some(8 << 20), 4 << 20),
            (None, Some(0), 1 << 30),
        ] {
            assert_eq!(
                memory_volume_bytes(&limited(limit), size, 1 << 30),
                bytes,
                "{limit:?} {size:?}"
            );
        }
    }
}
