//! Whether a pod can run on a node, and why not in the words that Kubernetes uses. Pure.

use std::fmt;

use k8s_openapi::api::core::v1::Taint;

use super::affinity;
use super::request::Request;
use super::snapshot::NodeInfo;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reason {
    Unschedulable,
    Taint { key: String, value: String },
    Affinity,
    Ports,
    TooManyPods,
    Insufficient(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable => f.write_str("node(s) were unschedulable"),
            Self::Taint { key, value } => {
                write!(f, "node(s) had untolerated taint {{{key}: {value}}}")
            }
            Self::Affinity => f.write_str("node(s) didn't match Pod's node affinity/selector"),
            Self::Ports => {
                f.write_str("node(s) didn't have free ports for the requested pod ports")
            }
            Self::TooManyPods => f.write_str("Too many pods"),
            Self::Insufficient(resource) => write!(f, "Insufficient {resource}"),
        }
    }
}

/// Empty when the pod fits. Of the checks only the first that fails speaks, as in Kubernetes.
pub(super) fn filter(request: &Request, node: &NodeInfo) -> Vec<Reason> {
    let checks = [unschedulable, taints, selector, ports, fit];
    for check in checks {
        let reasons = check(request, node);
        if !reasons.is_empty() {
            return reasons;
        }
    }
    Vec::new()
}

fn unschedulable(request: &Request, node: &NodeInfo) -> Vec<Reason> {
    let spec = node.node.spec.as_ref();
    if spec.is_none_or(|spec| spec.unschedulable != Some(true)) {
        return Vec::new();
    }
    let taint = Taint {
        key: "node.kubernetes.io/unschedulable".to_owned(),
        effect: "NoSchedule".to_owned(),
        ..Taint::default()
    };
    let tolerated = request
        .tolerations()
        .iter()
        .any(|toleration| affinity::tolerates(toleration, &taint));
    if tolerated {
        Vec::new()
    } else {
        vec![Reason::Unschedulable]
    }
}

fn taints(request: &Request, node: &NodeInfo) -> Vec<Reason> {
    affinity::untolerated(
        node.taints(),
        request.tolerations(),
        &["NoSchedule", "NoExecute"],
    )
    .take(1)
    .map(|taint| Reason::Taint {
        key: taint.key.clone(),
        value: taint.value.clone().unwrap_or_default(),
    })
    .collect()
}

fn selector(request: &Request, node: &NodeInfo) -> Vec<Reason> {
    let labels = node.node.metadata.labels.as_ref();
    let wanted = request
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.node_selector.as_ref());
    let selected = wanted.is_none_or(|wanted| {
        wanted
            .iter()
            .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
    });
    let required = request.node_affinity().and_then(|affinity| {
        affinity
            .required_during_scheduling_ignored_during_execution
            .as_ref()
    });
    let matches = required.is_none_or(|selector| {
        selector
            .node_selector_terms
            .iter()
            .any(|term| affinity::term_matches(term, &node.node))
    });
    if selected && matches {
        Vec::new()
    } else {
        vec![Reason::Affinity]
    }
}

fn ports(request: &Request, node: &NodeInfo) -> Vec<Reason> {
    let taken = request
        .ports
        .iter()
        .any(|port| node.ports.iter().any(|used| used.collides(port)));
    if taken {
        vec![Reason::Ports]
    } else {
        Vec::new()
    }
}

fn fit(request: &Request, node: &NodeInfo) -> Vec<Reason> {
    let mut reasons = Vec::new();
    if node.pods + 1 > node.pod_limit {
        reasons.push(Reason::TooManyPods);
    }
    let (want, have, used) = (&request.resources, &node.allocatable, &node.requested);
    let mut check = |name: &str, want: i64, have: i64, used: i64| {
        if want > 0 && want > have.saturating_sub(used) {
            reasons.push(Reason::Insufficient(name.to_owned()));
        }
    };
    check("cpu", want.milli_cpu, have.milli_cpu, used.milli_cpu);
    check("memory", want.memory, have.memory, used.memory);
    check(
        "ephemeral-storage",
        want.ephemeral,
        have.ephemeral,
        used.ephemeral,
    );
    for (name, amount) in &want.other {
        let have = have.other.get(name).copied().unwrap_or(0);
        let used = used.other.get(name).copied().unwrap_or(0);
        check(name, *amount, have, used);
    }
    reasons
}
