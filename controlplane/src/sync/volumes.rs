//! Volumes that are directories of nodes: a node that has removed the data of one says so, and the volume goes.

use k8s_openapi::api::core::v1::{Node, PersistentVolume};

use crate::cache::Cache;
use crate::controllers::{LOCAL, LOCAL_FINALIZER};
use crate::registry::{ApiError, Client};
use crate::scheduler::selects;

/// The volume is deleted, and its data is on the node.
pub(super) fn is_going_from(volume: &PersistentVolume, node: &Node) -> bool {
    let spec = volume.spec.as_ref();
    let local = spec
        .and_then(|spec| spec.csi.as_ref())
        .is_some_and(|csi| csi.driver == LOCAL);
    let mut finalizers = volume.metadata.finalizers.iter().flatten();
    let selector = spec
        .and_then(|spec| spec.node_affinity.as_ref())
        .and_then(|affinity| affinity.required.as_ref());
    local
        && volume.metadata.deletion_timestamp.is_some()
        && finalizers.any(|known| known == LOCAL_FINALIZER)
        && selector.is_some_and(|selector| selects(selector, node))
}

/// The node says that the data of the volume is gone.
pub(super) async fn removed(
    client: &Client,
    cache: &Cache,
    node: &str,
    name: &str,
) -> Result<(), ApiError> {
    let Some(node) = cache.nodes.get("", node) else {
        return Ok(());
    };
    let Some(mut volume) = client.get::<PersistentVolume>("", name).await? else {
        return Ok(());
    };
    // A node speaks for its own volumes only.
    if !is_going_from(&volume, &node) {
        return Ok(());
    }
    let finalizers = volume.metadata.finalizers.get_or_insert_default();
    finalizers.retain(|known| known != LOCAL_FINALIZER);
    client.update(&volume).await.map(drop)
}
