//! Mirror pods: how static pods of a node are shown. Made and replaced when the node reports; what they are, only the
//! node's files can change.

use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use crate::cache::ObjectKey;
use crate::registry::{ApiError, Client, DeleteOptions};

const MIRROR: &str = "kubernetes.io/config.mirror";

/// Whether this is the mirror pod of a static pod.
pub(super) fn shows(pod: &Pod, hash: &str) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(MIRROR))
        .map(String::as_str)
        == Some(hash)
}

/// There is a mirror pod for this static pod of `node`. One for an earlier file of that name gives way; a pod that is
/// no mirror keeps its name.
pub(super) async fn ensure(
    client: &Client,
    node: &str,
    key: &ObjectKey,
    hash: &str,
    mirror: &Pod,
) -> Result<(), ApiError> {
    let mut mirror = mirror.clone();
    let bound = mirror
        .spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref());
    if bound != Some(node) || !shows(&mirror, hash) {
        return Ok(());
    }
    if let Some(there) = client.get::<Pod>(&key.namespace, &key.name).await? {
        let is_mirror = there
            .metadata
            .annotations
            .iter()
            .any(|all| all.contains_key(MIRROR));
        let mine = there
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            == Some(node);
        if shows(&there, hash) || !is_mirror || !mine {
            return Ok(());
        }
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: there.metadata.uid,
            ..DeleteOptions::default()
        };
        client
            .delete::<Pod>(&key.namespace, &key.name, options)
            .await?;
    }
    mirror.metadata.namespace = Some(key.namespace.to_string());
    mirror.metadata.name = Some(key.name.to_string());
    if let Some(owner) = client.get::<Node>("", node).await? {
        mirror.metadata.owner_references = Some(vec![OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: node.to_owned(),
            uid: owner.metadata.uid.unwrap_or_default(),
            controller: Some(true),
            ..OwnerReference::default()
        }]);
    }
    client.create(&mirror).await.map(|_| ())
}
