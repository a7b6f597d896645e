//! Reads the present state of what changed, in the form that batches have. Only reads the cache.

use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use proto::node::v1::{EndpointSliceChange, NodeChange, ObjectChange, PodChange, ServiceChange};
use serde::Serialize;

use super::super::batch::Shared;
use super::super::convert;
use super::super::references::{self, Kind, Reference};
use super::dirty::Dirty;
use crate::cache::{Cache, ObjectKey};
use crate::scheduler::{is_asked_for, tolerates};

fn service(cache: &Cache, key: &ObjectKey) -> ServiceChange {
    ServiceChange {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        service: cache
            .services
            .get_key(key)
            .map(|service| convert::service(&service)),
    }
}

fn slice(cache: &Cache, key: &ObjectKey) -> EndpointSliceChange {
    let found = cache.endpoint_slices.get_key(key);
    EndpointSliceChange {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        slice: found.map(|slice| convert::endpoint_slice(&slice)),
    }
}

fn node(cache: &Cache, key: &ObjectKey) -> NodeChange {
    NodeChange {
        name: key.name.to_string(),
        node: cache.nodes.get_key(key).map(|node| convert::node(&node)),
    }
}

pub(super) fn shared(cache: &Cache, dirty: &Dirty) -> Shared {
    let services = dirty.services.iter().map(|key| service(cache, key));
    let slices = dirty.slices.iter().map(|key| slice(cache, key));
    let nodes = dirty.nodes.iter().map(|key| node(cache, key));
    Shared::join([
        &Shared::services(services),
        &Shared::endpoint_slices(slices),
        &Shared::nodes(nodes),
    ])
}

/// The cluster-wide full state, each kind kept until one of it changes: while thousands of nodes come, what they get of Services
/// and endpoints is made once.
#[derive(Debug, Default)]
pub(super) struct Full {
    services: Option<Shared>,
    slices: Option<Shared>,
    nodes: Option<Shared>,
    joined: Option<Arc<Shared>>,
}

impl Full {
    /// What is dirty has been sent.
    pub(super) fn changed(&mut self, dirty: &Dirty) {
        let kinds = [
            (&mut self.services, dirty.services.is_empty()),
            (&mut self.slices, dirty.slices.is_empty()),
            (&mut self.nodes, dirty.nodes.is_empty()),
        ];
        for (kept, unchanged) in kinds {
            if !unchanged {
                *kept = None;
                self.joined = None;
            }
        }
    }

    pub(super) fn get(&mut self, cache: &Cache) -> Arc<Shared> {
        if let Some(joined) = &self.joined {
            return Arc::clone(joined);
        }
        let services = self.services.get_or_insert_with(|| {
            let services = cache.services.keys();
            Shared::services(services.iter().map(|key| service(cache, key)))
        });
        let slices = self.slices.get_or_insert_with(|| {
            let slices = cache.endpoint_slices.keys();
            Shared::endpoint_slices(slices.iter().map(|key| slice(cache, key)))
        });
        let nodes = self.nodes.get_or_insert_with(|| {
            let nodes = cache.nodes.keys();
            Shared::nodes(nodes.iter().map(|key| node(cache, key)))
        });
        let joined = Arc::new(Shared::join([&*services, &*slices, &*nodes]));
        self.joined = Some(Arc::clone(&joined));
        joined
    }
}

fn json<T: Serialize>(object: &T) -> Bytes {
    serde_json::to_vec(object)
        .expect("Kubernetes objects serialize")
        .into()
}

/// Whether a pod names its node itself, and was not begun.
fn chose_itself(pod: &Pod) -> bool {
    let Some(status) = &pod.status else {
        return true;
    };
    let mut conditions = status.conditions.iter().flatten();
    let placed = conditions.any(|it| it.type_ == "PodScheduled" && it.status == "True");
    !placed && status.start_time.is_none()
}

/// Why a pod that the scheduler did not look at is not for its node. Pure.
fn misplaced(node: &Node, pod: &Pod) -> &'static str {
    let Some(spec) = pod.spec.as_ref().filter(|_| chose_itself(pod)) else {
        return "";
    };
    if !is_asked_for(spec, node) {
        return "NodeAffinity";
    }
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    let mut drives_away = taints.filter(|taint| taint.effect == "NoExecute");
    let stands = |taint: &Taint| {
        let mut tolerations = spec.tolerations.iter().flatten();
        tolerations.any(|it| tolerates(it, taint))
    };
    if drives_away.any(|taint| !stands(taint)) {
        return "TaintToleration";
    }
    ""
}

pub(super) fn pod(cache: &Cache, pod: &Pod, held: bool) -> PodChange {
    let name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    let node = cache.nodes.get("", name.unwrap_or_default());
    PodChange {
        held,
        misplaced: node.map_or("", |node| misplaced(&node, pod)).to_owned(),
        namespace: pod.metadata.namespace.clone().unwrap_or_default(),
        name: pod.metadata.name.clone().unwrap_or_default(),
        uid: pod.metadata.uid.clone().unwrap_or_default(),
        pod_json: json(pod),
    }
}

pub(super) fn pod_gone(key: &ObjectKey, uid: &str) -> PodChange {
    PodChange {
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
        uid: uid.to_owned(),
        pod_json: Bytes::new(),
        ..PodChange::default()
    }
}

pub(super) fn object(cache: &Cache, reference: &Reference) -> ObjectChange {
    let (namespace, name) = (&reference.namespace, &reference.name);
    let object_json = match reference.kind {
        Kind::ConfigMap => cache
            .config_maps
            .get(namespace, name)
            .map(|found| json(&found)),
        Kind::Secret => cache.secrets.get(namespace, name).map(|found| json(&found)),
        Kind::ServiceAccount => cache
            .service_accounts
            .get(namespace, name)
            .map(|found| json(&found)),
        Kind::Claim => cache.claims.get(namespace, name).map(|found| json(&found)),
        Kind::Volume => cache.volumes.get("", name).map(|found| json(&found)),
        Kind::RuntimeClass => cache
            .runtime_classes
            .get("", name)
            .map(|found| json(&found)),
    };
    ObjectChange {
        object_json: object_json.unwrap_or_default(),
        ..object_gone(reference)
    }
}

pub(super) fn object_gone(reference: &Reference) -> ObjectChange {
    ObjectChange {
        kind: reference.kind.name().to_owned(),
        namespace: reference.namespace.to_string(),
        name: reference.name.to_string(),
        object_json: Bytes::new(),
    }
}

pub(super) fn references(cache: &Cache, pod: &Pod) -> std::collections::BTreeSet<Reference> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let pull_secrets = |account: &str| {
        let account = cache.service_accounts.get(namespace, account);
        let secrets = account
            .as_ref()
            .and_then(|account| account.image_pull_secrets.as_ref());
        secrets
            .into_iter()
            .flatten()
            .map(|secret| secret.name.clone())
            .collect()
    };
    let volume_of = |claim: &str| {
        let claim = cache.claims.get(namespace, claim)?;
        claim.spec.as_ref()?.volume_name.clone()
    };
    references::references(pod, &pull_secrets, &volume_of)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    #[test]
    fn who_names_a_node_itself_has_to_fit_it() {
        let node: Node = serde_json::from_value(json!({
            "metadata": {"name": "n", "labels": {"disk": "ssd"}},
            "spec": {"taints": [{"key": "a", "effect": "NoExecute"}, {"key": "b", "effect": "NoSchedule"}]}}))
        .unwrap();
        let toleration = json!([{"key": "a", "operator": "Exists"}]);
        let judged = |spec: serde_json::Value, status: serde_json::Value| {
            let pod = json!({"metadata": {"name": "p"}, "spec": spec, "status": status});
            misplaced(&node, &serde_json::from_value(pod).unwrap())
        };
        let spec = |disk: &str, tolerations: &serde_json::Value| {
            json!({"nodeName": "n", "containers": [], "nodeSelector": {"disk": disk},
                "tolerations": tolerations})
        };
        let new = json!({"phase": "Pending"});
        assert_eq!(judged(spec("ssd", &toleration), new.clone()), "");
        let wrong = spec("tape", &toleration);
        assert_eq!(judged(wrong.clone(), new.clone()), "NodeAffinity");
        let none = spec("ssd", &json!([]));
        assert_eq!(judged(none.clone(), new), "TaintToleration");
        // The scheduler put it there, or it runs.
        let bound = json!({"conditions": [{"type": "PodScheduled", "status": "True"}]});
        assert_eq!(judged(wrong.clone(), bound), "");
        let runs = json!({"startTime": "2026-01-02T03:04:05Z"});
        assert_eq!(judged(wrong, runs.clone()), "");
        assert_eq!(judged(none, runs), "");
    }

    #[test]
    fn a_node_that_comes_has_no_service_encoded_again() {
        let kept = || Some(Shared::default());
        let mut full = Full {
            services: kept(),
            slices: kept(),
            nodes: kept(),
            joined: Some(Arc::default()),
        };
        full.changed(&Dirty::default());
        assert!(full.joined.is_some());

        let mut dirty = Dirty::default();
        dirty.nodes.insert(ObjectKey::new("", "n"));
        full.changed(&dirty);
        assert!(full.services.is_some() && full.slices.is_some());
        assert!(full.nodes.is_none() && full.joined.is_none());
    }
}
