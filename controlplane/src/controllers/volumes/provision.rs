//! A directory of a node as the volume of a claim. Pure: the node makes the directory when a pod mounts it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    CSIPersistentVolumeSource, Node, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm,
    ObjectReference, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
    VolumeNodeAffinity,
};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{Change, LOCAL, LOCAL_FINALIZER};
use crate::registry::EventType;
use crate::scheduler::matching;

const HOSTNAME: &str = "kubernetes.io/hostname";

pub(super) fn plan(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    nodes: &[Arc<Node>],
    volumes: &[Arc<PersistentVolume>],
) -> Vec<Change> {
    let uid = claim.metadata.uid.as_deref().unwrap_or_default();
    let name = format!("pvc-{uid}");
    let made = volumes
        .iter()
        .any(|volume| volume.metadata.name.as_deref() == Some(&name));
    if made {
        return Vec::new();
    }
    match volume(claim, class, nodes, &name) {
        Ok(volume) => vec![
            Change::NewVolume(Box::new(volume)),
            Change::Tell(
                EventType::Normal,
                "ProvisioningSucceeded",
                format!("Successfully provisioned volume {name}"),
            ),
        ],
        Err(why) => {
            let class = class.metadata.name.as_deref().unwrap_or_default();
            let message =
                format!("failed to provision volume with StorageClass \"{class}\": {why}");
            vec![Change::Tell(
                EventType::Warning,
                "ProvisioningFailed",
                message,
            )]
        }
    }
}

fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    nodes: &[Arc<Node>],
    name: &str,
) -> Result<PersistentVolume, String> {
    let empty = Default::default();
    let spec = claim.spec.as_ref().unwrap_or(&empty);
    if let Some(mode) = matching::modes(claim).find(|mode| !mode.starts_with("ReadWriteOnce")) {
        return Err(format!(
            "a directory of a node cannot be {mode}: only ReadWriteOnce and ReadWriteOncePod are supported"
        ));
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err("a directory of a node is no block device".to_owned());
    }
    if spec.selector.is_some() {
        return Err("claim.spec.selector is not supported".to_owned());
    }
    if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        return Err(
            "a directory of a node begins empty: claim.spec.dataSource is not supported".to_owned(),
        );
    }
    let hostname = hostname(claim, nodes)?;
    let requests = spec
        .resources
        .as_ref()
        .and_then(|resources| resources.requests.as_ref());
    let size = requests
        .and_then(|requests| requests.get("storage"))
        .cloned();
    Ok(PersistentVolume {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            annotations: Some(
                [(
                    "pv.kubernetes.io/provisioned-by".to_owned(),
                    LOCAL.to_owned(),
                )]
                .into(),
            ),
            finalizers: Some(vec![LOCAL_FINALIZER.to_owned()]),
            ..ObjectMeta::default()
        },
        spec: Some(PersistentVolumeSpec {
            access_modes: spec.access_modes.clone(),
            capacity: size.map(|size| [("storage".to_owned(), size)].into()),
            claim_ref: Some(ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("PersistentVolumeClaim".to_owned()),
                namespace: claim.metadata.namespace.clone(),
                name: claim.metadata.name.clone(),
                uid: claim.metadata.uid.clone(),
                resource_version: claim.metadata.resource_version.clone(),
                field_path: None,
            }),
            csi: Some(CSIPersistentVolumeSource {
                driver: LOCAL.to_owned(),
                volume_handle: name.to_owned(),
                ..CSIPersistentVolumeSource::default()
            }),
            mount_options: class.mount_options.clone(),
            node_affinity: Some(VolumeNodeAffinity {
                required: Some(NodeSelector {
                    node_selector_terms: vec![NodeSelectorTerm {
                        match_expressions: Some(vec![NodeSelectorRequirement {
                            key: HOSTNAME.to_owned(),
                            operator: "In".to_owned(),
                            values: Some(vec![hostname]),
                        }]),
                        match_fields: None,
                    }],
                }),
            }),
            persistent_volume_reclaim_policy: class
                .reclaim_policy
                .clone()
                .filter(|policy| !policy.is_empty()),
            storage_class_name: class.metadata.name.clone(),
            volume_mode: Some("Filesystem".to_owned()),
            ..PersistentVolumeSpec::default()
        }),
        status: None,
    })
}

/// The node that the scheduler chose; without one (volumes that are made at once) any that takes pods.
fn hostname(claim: &PersistentVolumeClaim, nodes: &[Arc<Node>]) -> Result<String, String> {
    let annotations = claim.metadata.annotations.as_ref();
    let selected = annotations.and_then(|all| all.get(matching::SELECTED_NODE));
    let node = match selected {
        Some(name) => nodes
            .iter()
            .find(|node| node.metadata.name.as_ref() == Some(name))
            .ok_or_else(|| format!("node \"{name}\" not found"))?,
        None => nodes
            .iter()
            .filter(|node| {
                let spec = node.spec.as_ref();
                spec.is_none_or(|spec| spec.unschedulable != Some(true) && spec.taints.is_none())
            })
            .min_by_key(|node| node.metadata.name.clone())
            .ok_or("no node takes pods")?,
    };
    let labels = node.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(HOSTNAME))
        .or(node.metadata.name.as_ref())
        .cloned()
        .ok_or_else(|| "the node has no name".to_owned())
}
