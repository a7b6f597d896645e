//! Which keys have changed since the hub last looked. Written by informer handlers, emptied by the hub.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use k8s_openapi::api::core::v1::Pod;

use super::super::convert;
use super::super::references::{Kind, Reference};
use crate::cache::{Cache, ObjectKey, Subscription};

/// Keys that changed since the last flush.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) services: BTreeSet<ObjectKey>,
    pub(super) slices: BTreeSet<ObjectKey>,
    pub(super) nodes: BTreeSet<ObjectKey>,
    pub(super) objects: BTreeSet<Reference>,
    /// By node and key: the uids that changed.
    pub(super) pods: BTreeMap<(String, ObjectKey), BTreeSet<String>>,
}

impl Dirty {
    pub(super) fn is_empty(&self) -> bool {
        self.services.is_empty()
            && self.slices.is_empty()
            && self.nodes.is_empty()
            && self.objects.is_empty()
            && self.pods.is_empty()
    }

    fn pod(&mut self, key: &ObjectKey, pod: &Pod) {
        let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
        if let Some(node) = node.filter(|node| !node.is_empty()) {
            self.pods
                .entry((node.to_owned(), key.clone()))
                .or_default()
                .insert(pod.metadata.uid.clone().unwrap_or_default());
        }
    }
}

pub(super) fn subscribe(cache: &Cache, dirty: &Arc<Mutex<Dirty>>) -> Vec<Subscription> {
    fn note(dirty: &Arc<Mutex<Dirty>>, how: impl FnOnce(&mut Dirty)) {
        how(&mut dirty.lock().expect("no panic while held"));
    }
    let object = |kind: Kind| {
        let dirty = Arc::clone(dirty);
        move |key: &ObjectKey| {
            let reference = Reference::new(kind, &key.namespace, &key.name);
            note(&dirty, |dirty| {
                dirty.objects.insert(reference);
            });
        }
    };
    let config_map = object(Kind::ConfigMap);
    let secret = object(Kind::Secret);
    let account = object(Kind::ServiceAccount);
    let claim = object(Kind::Claim);
    let volume = object(Kind::Volume);
    let runtime_class = object(Kind::RuntimeClass);
    let [services, slices, nodes, pods] = std::array::from_fn(|_| Arc::clone(dirty));
    vec![
        cache.services.subscribe(move |delta| {
            note(&services, |dirty| {
                dirty.services.insert(delta.key.clone());
            });
        }),
        cache.endpoint_slices.subscribe(move |delta| {
            note(&slices, |dirty| {
                dirty.slices.insert(delta.key.clone());
            });
        }),
        cache.nodes.subscribe(move |delta| {
            // Heart-beats change nothing that other nodes see.
            if let (Some(old), Some(new)) = (delta.old, delta.new)
                && convert::node(old) == convert::node(new)
            {
                return;
            }
            note(&nodes, |dirty| {
                dirty.nodes.insert(delta.key.clone());
            });
        }),
        cache.pods.subscribe(move |delta| {
            note(&pods, |dirty| {
                for pod in [delta.old, delta.new].into_iter().flatten() {
                    dirty.pod(delta.key, pod);
                }
            });
        }),
        cache
            .config_maps
            .subscribe(move |delta| config_map(delta.key)),
        cache.secrets.subscribe(move |delta| secret(delta.key)),
        cache
            .service_accounts
            .subscribe(move |delta| account(delta.key)),
        cache.claims.subscribe(move |delta| claim(delta.key)),
        cache.volumes.subscribe(move |delta| volume(delta.key)),
        cache
            .runtime_classes
            .subscribe(move |delta| runtime_class(delta.key)),
    ]
}
