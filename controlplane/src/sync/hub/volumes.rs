//! Local volumes that are being deleted: their node is told, so that it removes the data.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::PersistentVolume;

use super::super::batch::Own;
use super::super::references::{Kind, Reference};
use super::{Hub, state};
use crate::cache::{Cache, ObjectKey};
use crate::sync::volumes::is_going_from;

/// Stands for a pod that holds the volume.
pub(super) fn key(reference: &Reference) -> ObjectKey {
    ObjectKey::new("", &format!("volume {}", reference.name))
}

fn is_going(cache: &Cache, volume: &PersistentVolume, node: &str) -> bool {
    let node = cache.nodes.get("", node);
    node.is_some_and(|node| is_going_from(volume, &node))
}

/// Volumes whose data the node has to remove.
pub(super) fn going_on(cache: &Cache, node: &str) -> Vec<Reference> {
    cache
        .volumes
        .list("")
        .iter()
        .filter(|volume| is_going(cache, volume, node))
        .filter_map(|volume| volume.metadata.name.as_deref())
        .map(|name| Reference::new(Kind::Volume, "", name))
        .collect()
}

impl Hub {
    /// A volume that begins to go, or is gone.
    pub(super) fn flush_going_volume(
        &mut self,
        reference: &Reference,
        own: &mut HashMap<String, Own>,
    ) {
        if reference.kind != Kind::Volume {
            return;
        }
        let volume = self.cache.volumes.get("", &reference.name);
        let nodes: Vec<String> = self.peers.keys().cloned().collect();
        for node in nodes {
            let goes = volume
                .as_ref()
                .is_some_and(|volume| is_going(&self.cache, volume, &node));
            let Some(peer) = self.peers.get_mut(&node) else {
                continue;
            };
            let (gained, lost) = if goes {
                peer.put(&key(reference), [reference.clone()].into())
            } else {
                (Vec::new(), peer.remove(&key(reference)))
            };
            if gained.is_empty() && lost.is_empty() {
                continue;
            }
            let changes = own.entry(node.clone()).or_default();
            for reference in gained {
                changes.objects.push(state::object(&self.cache, &reference));
                self.hold(&reference, &node);
            }
            for reference in lost {
                changes.objects.push(state::object_gone(&reference));
                self.release_object(&reference, &node);
            }
        }
    }
}
