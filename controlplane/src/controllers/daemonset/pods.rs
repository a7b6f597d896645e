//! Which nodes run a DaemonSet's pod, and what that pod is. Pure.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, Taint, Toleration,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::controllers::owner::controller_reference;
use crate::controllers::revisions::HASH_LABEL;
use crate::scheduler::{is_asked_for, tolerates};

const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
const NODE_NAME: &str = "metadata.name";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// What every daemon stands: a node in trouble is where it is needed.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    (UNSCHEDULABLE, "NoSchedule"),
];
/// One on the node's network stands this, too.
const NETWORK_UNAVAILABLE: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

pub(super) fn spec(set: &DaemonSet) -> DaemonSetSpec {
    set.spec.clone().unwrap_or_default()
}

/// The template's pod with the tolerations of daemons, on no node yet.
pub(super) fn pod_spec(set: &DaemonSet) -> PodSpec {
    let mut pod = spec(set).template.spec.unwrap_or_default();
    let mut wanted = TOLERATED.to_vec();
    if pod.host_network == Some(true) {
        wanted.push(NETWORK_UNAVAILABLE);
    }
    let tolerations = pod.tolerations.get_or_insert_default();
    for (key, effect) in wanted {
        let toleration = Toleration {
            key: Some(key.to_owned()),
            operator: Some("Exists".to_owned()),
            effect: Some(effect.to_owned()),
            ..Toleration::default()
        };
        if !tolerations.contains(&toleration) {
            tolerations.push(toleration);
        }
    }
    pod
}

/// Whether a node is to run the pod, and whether one that runs there may stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fit {
    pub(super) runs: bool,
    pub(super) stays: bool,
}

/// `pod` as [`pod_spec`] gives it.
pub(super) fn fit(pod: &PodSpec, node: &Node) -> Fit {
    let name = node.metadata.name.as_deref().unwrap_or_default();
    let named = pod.node_name.as_deref().unwrap_or_default();
    if !(named.is_empty() || named == name) || !is_asked_for(pod, node) {
        return Fit {
            runs: false,
            stays: false,
        };
    }
    let spec = node.spec.clone().unwrap_or_default();
    let mut taints = spec.taints.unwrap_or_default();
    if spec.unschedulable == Some(true) {
        taints.push(Taint {
            key: UNSCHEDULABLE.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
    let tolerations = pod.tolerations.as_deref().unwrap_or_default();
    let stands = |effects: &[&str]| {
        taints
            .iter()
            .filter(|taint| effects.contains(&taint.effect.as_str()))
            .all(|taint| tolerations.iter().any(|one| tolerates(one, taint)))
    };
    Fit {
        runs: stands(&["NoSchedule", "NoExecute"]),
        stays: stands(&["NoExecute"]),
    }
}

/// The pod for one node: the scheduler binds it there and nowhere else.
pub(super) fn pod_for(set: &DaemonSet, pod: &PodSpec, hash: &str, node: &str) -> Pod {
    let metadata = spec(set).template.metadata.unwrap_or_default();
    let mut labels = metadata.labels.unwrap_or_default();
    labels.insert(HASH_LABEL.to_owned(), hash.to_owned());
    let generation = set
        .metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(TEMPLATE_GENERATION));
    if let Some(generation) = generation {
        labels.insert(GENERATION_LABEL.to_owned(), generation.clone());
    }
    let mut pod = pod.clone();
    let affinity = pod.affinity.get_or_insert_default();
    let nodes = affinity.node_affinity.get_or_insert_default();
    // The other terms have been looked at: this node satisfies them.
    nodes.required_during_scheduling_ignored_during_execution = Some(NodeSelector {
        node_selector_terms: vec![NodeSelectorTerm {
            match_fields: Some(vec![NodeSelectorRequirement {
                key: NODE_NAME.to_owned(),
                operator: "In".to_owned(),
                values: Some(vec![node.to_owned()]),
            }]),
            match_expressions: None,
        }],
    });
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!(
                "{}-",
                set.metadata.name.as_deref().unwrap_or_default()
            )),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: metadata.annotations,
            finalizers: metadata.finalizers,
            owner_references: Some(vec![controller_reference(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(pod),
        status: None,
    }
}

/// The node on which the pod is, or for which it was made.
pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|name| !name.is_empty()) {
        return Some(node);
    }
    let terms = &spec
        .affinity
        .as_ref()?
        .node_affinity
        .as_ref()?
        .required_during_scheduling_ignored_during_execution
        .as_ref()?
        .node_selector_terms;
    let fields = terms
        .iter()
        .flat_map(|term| term.match_fields.iter().flatten());
    fields
        .filter(|field| field.key == NODE_NAME && field.operator == "In")
        .find_map(|field| match field.values.as_deref() {
            Some([node]) => Some(node.as_str()),
            _ => None,
        })
}
