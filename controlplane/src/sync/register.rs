//! A node introduces itself: its Node object and its Lease.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{Node, NodeStatus, Taint};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use proto::node::v1::Hello;
use serde_json::json;

use crate::kinds::node::is_extended;
use crate::registry::{ApiError, Client};

use super::node_events;

pub(super) const LEASES: &str = "kube-node-lease";
const DURATION: u32 = 40;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// How often a conflict with another writer is tried again.
const ATTEMPTS: usize = 8;

pub(super) async fn register(client: &Client, name: &str, hello: &Hello) -> Result<(), ApiError> {
    let reported: Node = serde_json::from_slice(&hello.node_json)
        .map_err(|error| ApiError::bad_request(format!("Hello.node_json: {error}")))?;
    let mut attempt = 0;
    let node = loop {
        let result = write_node(client, name, &reported).await;
        if !again(&result, attempt) {
            break result?;
        }
        attempt += 1;
    };
    renew(client, name, DURATION, Some(&node)).await
}

/// Whether to try again: another writer was faster, and this was not the last attempt.
pub(super) fn again<T>(result: &Result<T, ApiError>, attempt: usize) -> bool {
    attempt + 1 < ATTEMPTS && result.as_ref().is_err_and(|error| error.code() == 409)
}

async fn write_node(client: &Client, name: &str, reported: &Node) -> Result<Node, ApiError> {
    let known = client.get::<Node>("", name).await?;
    let stored = match known.clone() {
        None => client.create(&new_node(name, reported)).await?,
        Some(stored) => match introduced(&stored, reported) {
            Some(changed) => client.update(&changed).await?,
            None => stored,
        },
    };
    let status = reported.status.clone().unwrap_or_default();
    let node = match with_status(&stored, status) {
        Some(changed) => client.update_status(&changed).await?,
        None => stored,
    };
    node_events::tell(client, known.as_ref(), &node);
    Ok(node)
}

/// Status of the condition Ready.
pub(super) fn readiness(node: &Node) -> Option<&str> {
    let conditions = node.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready")?;
    Some(&ready.status)
}

/// A node that is not ready yet gets no pods until it is.
pub(super) fn new_node(name: &str, reported: &Node) -> Node {
    let mut spec = reported.spec.clone().unwrap_or_default();
    spec.pod_cidr = None;
    spec.pod_cidrs = None;
    if readiness(reported) != Some("True") {
        spec.taints.get_or_insert_default().push(Taint {
            key: NOT_READY.to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        });
    }
    Node {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            labels: reported.metadata.labels.clone(),
            annotations: reported.metadata.annotations.clone(),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: reported.status.clone(),
    }
}

/// The stored node with the labels and annotations that the node itself sets; those of others stay, and so
/// does the spec. `None` when nothing changes.
pub(super) fn introduced(stored: &Node, reported: &Node) -> Option<Node> {
    let mut changed = stored.clone();
    let labels = changed.metadata.labels.get_or_insert_default();
    labels.extend(reported.metadata.labels.clone().unwrap_or_default());
    let annotations = reported.metadata.annotations.clone().unwrap_or_default();
    if !annotations.is_empty() {
        let all = changed.metadata.annotations.get_or_insert_default();
        all.extend(annotations);
    }
    (changed.metadata != stored.metadata).then_some(changed)
}

/// Extended resources are advertised by others than the node itself.
fn keep_extended(
    reported: &mut Option<BTreeMap<String, Quantity>>,
    stored: Option<&BTreeMap<String, Quantity>>,
) {
    for (name, amount) in stored
        .into_iter()
        .flatten()
        .filter(|(name, _)| is_extended(name))
    {
        let reported = reported.get_or_insert_default();
        reported
            .entry(name.clone())
            .or_insert_with(|| amount.clone());
    }
}

/// The stored node with the reported status, but for what controllers own. `None` when nothing changes.
pub(super) fn with_status(stored: &Node, mut status: NodeStatus) -> Option<Node> {
    if let Some(old) = &stored.status {
        status.volumes_attached.clone_from(&old.volumes_attached);
        keep_extended(&mut status.capacity, old.capacity.as_ref());
        keep_extended(&mut status.allocatable, old.allocatable.as_ref());
        let others: Vec<_> = old
            .conditions
            .iter()
            .flatten()
            .filter(|condition| {
                !status
                    .conditions
                    .iter()
                    .flatten()
                    .any(|other| other.type_ == condition.type_)
            })
            .cloned()
            .collect();
        if !others.is_empty() {
            status.conditions.get_or_insert_default().extend(others);
        }
    }
    if stored.status.as_ref() == Some(&status) {
        return None;
    }
    let mut changed = stored.clone();
    changed.status = Some(status);
    Some(changed)
}

/// Renews the node's Lease; makes it when it is not there.
pub(super) async fn renew(
    client: &Client,
    name: &str,
    seconds: u32,
    node: Option<&Node>,
) -> Result<(), ApiError> {
    let seconds = i32::try_from(seconds.clamp(1, 3_600)).unwrap_or(40);
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {
        "holderIdentity": name,
        "leaseDurationSeconds": seconds,
        "renewTime": now,
    }});
    match client
        .merge_patch_unread::<Lease>(LEASES, name, &patch)
        .await
    {
        Err(error) if error.code() == 404 => {}
        result => return result,
    }
    let owner = node.map(|node| OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Node".to_owned(),
        name: name.to_owned(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    });
    let lease = Lease {
        metadata: ObjectMeta {
            namespace: Some(LEASES.to_owned()),
            name: Some(name.to_owned()),
            owner_references: owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(name.to_owned()),
            lease_duration_seconds: Some(seconds),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    match client.create(&lease).await {
        Err(error) if error.reason() == "AlreadyExists" => Ok(()),
        result => result.map(|_| ()),
    }
}
