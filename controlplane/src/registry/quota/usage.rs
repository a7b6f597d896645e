//! What one object takes from a quota. Pure.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use crate::kinds::Kind;
use crate::kinds::access::{at, integer, list, map, text};
use crate::kinds::quantity::Quantity;

/// Amounts by the names that quotas use.
pub(crate) type Usage = BTreeMap<String, Quantity>;

/// Kinds that are counted under their plural name as well.
const COUNTED: &[&str] = &[
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
const COMPUTE: &[&str] = &["cpu", "memory", "ephemeral-storage"];

pub(super) fn whole(count: usize) -> Quantity {
    Quantity::from_whole(i64::try_from(count).unwrap_or(i64::MAX))
}

pub(crate) fn add(usage: &mut Usage, name: impl Into<String>, amount: Quantity) {
    let slot = usage.entry(name.into()).or_insert_with(|| whole(0));
    *slot = *slot + amount;
}

/// The name of an object count: `count/pods`, `count/deployments.apps`.
fn count_name(kind: &Kind<'_>) -> String {
    match kind.group {
        "" => format!("count/{}", kind.plural),
        group => format!("count/{}.{group}", kind.plural),
    }
}

pub(crate) fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, &["status", "phase"]), "Succeeded" | "Failed")
}

/// Its node should have ended it long ago and says nothing: who waits for its successor is not to be kept from it.
fn is_overdue(pod: &Value, now: Timestamp) -> bool {
    let deleted = text(pod, &["metadata", "deletionTimestamp"]).parse::<Timestamp>();
    let grace = integer(pod, &["metadata", "deletionGracePeriodSeconds"]);
    let (Ok(deleted), Some(grace)) = (deleted, grace) else {
        return false;
    };
    now.duration_since(deleted) > SignedDuration::from_secs(grace)
}

/// Whether a pod takes nothing but its place in the count of objects.
fn takes_nothing(pod: &Value) -> bool {
    has_ended(pod) || is_overdue(pod, Timestamp::now())
}

pub(crate) fn of(kind: &Kind<'_>, object: &Value) -> Usage {
    let mut usage = Usage::new();
    add(&mut usage, count_name(kind), whole(1));
    if !kind.group.is_empty() {
        return usage;
    }
    if kind.plural == "pods" {
        if !takes_nothing(object) {
            add(&mut usage, "pods", whole(1));
            pod(object, &mut usage);
        }
        return usage;
    }
    if COUNTED.contains(&kind.plural) {
        add(&mut usage, kind.plural, whole(1));
    }
    match kind.plural {
        "services" => service(object, &mut usage),
        "persistentvolumeclaims" => claim(object, &mut usage),
        _ => {}
    }
    usage
}

/// Whether objects of the kind take from any of these.
pub(crate) fn is_counted(kind: &Kind<'_>, hard: &[&str]) -> bool {
    let named = |name: &&str| match (kind.group, kind.plural) {
        ("", "pods") => {
            matches!(*name, "pods" | "cpu" | "memory" | "ephemeral-storage")
                || name.starts_with("limits.")
                || name.starts_with("hugepages-")
                || (name.starts_with("requests.") && *name != "requests.storage")
        }
        ("", "services") => name.starts_with("services"),
        ("", "persistentvolumeclaims") => {
            matches!(*name, "persistentvolumeclaims" | "requests.storage")
                || name.contains(".storageclass.storage.k8s.io/")
        }
        ("", plural) => *name == plural,
        _ => false,
    };
    let count = count_name(kind);
    hard.iter().any(|name| *name == count || named(name))
}

fn service(service: &Value, usage: &mut Usage) {
    let kind = text(service, &["spec", "type"]);
    let ports = list(service, &["spec", "ports"]);
    let opened = match kind {
        "NodePort" => ports.len(),
        "LoadBalancer" => {
            add(usage, "services.loadbalancers", whole(1));
            let skipped = at(service, &["spec", "allocateLoadBalancerNodePorts"])
                == Some(&Value::Bool(false));
            let given = ports
                .iter()
                .filter(|port| !port["nodePort"].is_null())
                .count();
            if skipped { given } else { ports.len() }
        }
        _ => return,
    };
    add(usage, "services.nodeports", whole(opened));
}

fn claim(claim: &Value, usage: &mut Usage) {
    let class = text(claim, &["spec", "storageClassName"]);
    let of_class = |name: &str| format!("{class}.storageclass.storage.k8s.io/{name}");
    if !class.is_empty() {
        add(usage, of_class("persistentvolumeclaims"), whole(1));
    }
    let asked = text(claim, &["spec", "resources", "requests", "storage"]).parse::<Quantity>();
    if let Ok(asked) = asked {
        add(usage, "requests.storage", asked);
        if !class.is_empty() {
            add(usage, of_class("requests.storage"), asked);
        }
    }
}

/// `requests` or `limits` of a whole pod: all containers that run at the same time, or the largest one that runs
/// before them, or what is asked for the pod as a whole; and the overhead of the runtime.
pub(crate) fn of_pod(pod: &Value, part: &str) -> Usage {
    let amounts = |container: &Value| -> Usage {
        map(container, &["resources", part])
            .into_iter()
            .flatten()
            .filter_map(|(name, amount)| Some((name.clone(), amount.as_str()?.parse().ok()?)))
            .collect()
    };
    let mut total = Usage::new();
    for container in list(pod, &["spec", "containers"]) {
        for (name, amount) in amounts(container) {
            add(&mut total, name, amount);
        }
    }
    let (mut sidecars, mut most) = (Usage::new(), Usage::new());
    for container in list(pod, &["spec", "initContainers"]) {
        let is_sidecar = text(container, &["restartPolicy"]) == "Always";
        for (name, amount) in amounts(container) {
            if is_sidecar {
                add(&mut total, name.clone(), amount);
                add(&mut sidecars, name, amount);
            } else {
                let beside = sidecars.get(&name).copied().unwrap_or_else(|| whole(0));
                let slot = most.entry(name).or_insert_with(|| whole(0));
                *slot = (*slot).max(amount + beside);
            }
        }
    }
    for (name, amount) in most {
        let slot = total.entry(name).or_insert_with(|| whole(0));
        *slot = (*slot).max(amount);
    }
    for (name, amount) in amounts(&pod["spec"]) {
        if is_for_whole(&name) {
            total.insert(name, amount);
        }
    }
    for (name, amount) in map(pod, &["spec", "overhead"]).into_iter().flatten() {
        if let Some(amount) = amount.as_str().and_then(|text| text.parse().ok())
            && (part == "requests" || total.contains_key(name))
        {
            add(&mut total, name.clone(), amount);
        }
    }
    total
}

/// Resources that can be asked for a pod as a whole.
fn is_for_whole(name: &str) -> bool {
    matches!(name, "cpu" | "memory") || name.starts_with("hugepages-")
}

/// Whether anything is asked for the pod as a whole.
fn has_whole(pod: &Value) -> bool {
    ["requests", "limits"].iter().any(|part| {
        let all = map(pod, &["spec", "resources", part]);
        all.is_some_and(|all| all.keys().any(|name| is_for_whole(name)))
    })
}

fn pod(pod: &Value, usage: &mut Usage) {
    for (name, amount) in of_pod(pod, "requests") {
        if COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-") {
            add(usage, name.clone(), amount);
        }
        add(usage, format!("requests.{name}"), amount);
    }
    for (name, amount) in of_pod(pod, "limits") {
        if COMPUTE.contains(&name.as_str()) {
            add(usage, format!("limits.{name}"), amount);
        }
    }
}

/// Whether a quota is about the object, by its scopes.
pub(crate) fn is_in_scope(quota: &Value, kind: &Kind<'_>, object: &Value) -> bool {
    let scopes = list(quota, &["spec", "scopes"])
        .iter()
        .filter_map(Value::as_str);
    let expressions = list(quota, &["spec", "scopeSelector", "matchExpressions"]);
    // Each scope is about objects of one kind.
    let is_for = |scope: &str| match scope {
        OF_CLAIMS => (kind.group, kind.plural) == ("", "persistentvolumeclaims"),
        _ => (kind.group, kind.plural) == ("", "pods"),
    };
    let mut scopes = scopes;
    let mut expressions = expressions.iter();
    scopes.all(|scope| is_for(scope) && has_scope(scope, object))
        && expressions.all(|expression| {
            is_for(text(expression, &["scopeName"])) && matches_scope(expression, object)
        })
}

const OF_CLAIMS: &str = "VolumeAttributesClass";

/// The classes of a pod or claim that a scope is about.
fn classes<'a>(scope: &str, object: &'a Value) -> Vec<&'a str> {
    let paths: &[&[&str]] = match scope {
        "PriorityClass" => &[&["spec", "priorityClassName"]],
        // What it has, what it is to have, and what it is being given.
        OF_CLAIMS => &[
            &["spec", "volumeAttributesClassName"],
            &["status", "currentVolumeAttributesClassName"],
            &[
                "status",
                "modifyVolumeStatus",
                "targetVolumeAttributesClassName",
            ],
        ],
        _ => &[],
    };
    let named = paths.iter().map(|path| text(object, path));
    named.filter(|name| !name.is_empty()).collect()
}

fn has_scope(scope: &str, pod: &Value) -> bool {
    let best_effort = || {
        text(pod, &["status", "qosClass"]) == "BestEffort" || crate::kinds::pod::is_best_effort(pod)
    };
    match scope {
        "Terminating" => at(pod, &["spec", "activeDeadlineSeconds"]).is_some(),
        "NotTerminating" => at(pod, &["spec", "activeDeadlineSeconds"]).is_none(),
        "BestEffort" => best_effort(),
        "NotBestEffort" => !best_effort(),
        "PriorityClass" | OF_CLAIMS => !classes(scope, pod).is_empty(),
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn crosses_namespaces(pod: &Value) -> bool {
    ["podAffinity", "podAntiAffinity"].iter().any(|kind| {
        let affinity = &pod["spec"]["affinity"][*kind];
        let required = list(
            affinity,
            &["requiredDuringSchedulingIgnoredDuringExecution"],
        )
        .iter();
        let preferred = list(
            affinity,
            &["preferredDuringSchedulingIgnoredDuringExecution"],
        )
        .iter();
        required
            .chain(preferred.map(|term| &term["podAffinityTerm"]))
            .any(|term| {
                !list(term, &["namespaces"]).is_empty()
                    || at(term, &["namespaceSelector"]).is_some()
            })
    })
}

fn matches_scope(expression: &Value, pod: &Value) -> bool {
    let scope = text(expression, &["scopeName"]);
    let classes = classes(scope, pod);
    let values = list(expression, &["values"]);
    let named = |class: &&str| values.iter().any(|value| value == class);
    match (scope, text(expression, &["operator"])) {
        ("PriorityClass" | OF_CLAIMS, "In") => classes.iter().any(named),
        ("PriorityClass" | OF_CLAIMS, "NotIn") => classes.is_empty() || !classes.iter().all(named),
        (scope, "DoesNotExist") => !has_scope(scope, pod),
        (scope, _) => has_scope(scope, pod),
    }
}

/// What the containers must say because a quota limits it, by resource: `limits.cpu for: a,b`.
pub(super) fn unsaid(quota_names: &[&str], pod: &Value) -> Vec<String> {
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    // Then no container has to say anything.
    if has_whole(pod) {
        return Vec::new();
    }
    let containers = list(pod, &["spec", "containers"]).iter();
    for container in containers.chain(list(pod, &["spec", "initContainers"])) {
        for name in quota_names {
            let (part, resource) = match name.split_once('.') {
                Some((part @ ("requests" | "limits"), resource)) => (part, resource),
                _ => ("requests", *name),
            };
            if !matches!(resource, "cpu" | "memory") {
                continue;
            }
            if text(container, &["resources", part, resource]).is_empty() {
                missing
                    .entry(name)
                    .or_default()
                    .push(text(container, &["name"]));
            }
        }
    }
    let shown = missing
        .into_iter()
        .map(|(name, containers)| format!("{name} for: {}", containers.join(",")));
    shown.collect()
}
