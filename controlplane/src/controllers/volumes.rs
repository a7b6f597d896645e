//! Binds claims and volumes, makes the volumes of the class `local` and the claims of volumes that belong to one pod, reclaims what is released, and keeps what is
//! in use from being removed.
//!
//! Each pass plans the next change of one claim or one volume (pure: `claim`, `volume`, `provision`, `ephemeral`); the watch
//! brings the object here again until nothing is left to do. The data of a local volume is the node's: it is
//! removed there while the volume waits for its finalizer.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::worker::Next;
use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client, DeleteOptions, EventType, default_class};
use crate::scheduler::matching;

mod claim;
mod ephemeral;
mod provision;
#[cfg(test)]
mod tests;
mod volume;

pub(super) const NAME: &str = "persistentvolume-controller";
/// The driver and provisioner of volumes that are directories of nodes.
pub(crate) const LOCAL: &str = "waggle.dev/local";
/// Held until the node has removed the data.
pub(crate) const LOCAL_FINALIZER: &str = "waggle.dev/local-volume";

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    Volume(Box<PersistentVolume>),
    VolumeStatus(Box<PersistentVolume>),
    NewVolume(Box<PersistentVolume>),
    DeleteVolume,
    Claim(Box<PersistentVolumeClaim>),
    ClaimStatus(Box<PersistentVolumeClaim>),
    Tell(EventType, &'static str, String),
}

pub(super) struct Controller {
    client: Client,
    cache: Cache,
}

fn claims_of(pod: &Pod) -> Vec<ObjectKey> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let volumes = pod
        .spec
        .iter()
        .flat_map(|spec| spec.volumes.iter().flatten());
    volumes
        .filter_map(
            |volume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
                (Some(source), _) => Some(ObjectKey::new(namespace, &source.claim_name)),
                (None, Some(_)) => Some(ObjectKey::new(
                    namespace,
                    &format!("{name}-{}", volume.name),
                )),
                (None, None) => None,
            },
        )
        .collect()
}

/// Claims without a volume.
fn open(cache: &Cache, queue: &Queue<ObjectKey>) {
    for claim in cache.claims.list("") {
        if !matching::is_bound(&claim) {
            queue.add(ObjectKey::of(claim.as_ref()));
        }
    }
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let claims = {
        let queue = queue.clone();
        cache.claims.subscribe(move |delta| {
            queue.add(delta.key.clone());
            if let Some(volume) = matching::volume_name(delta.latest()) {
                queue.add(ObjectKey::cluster(volume));
            }
        })
    };
    let volumes = {
        let (queue, cache) = (queue.clone(), cache.clone());
        cache.volumes.clone().subscribe(move |delta| {
            queue.add(delta.key.clone());
            let spec = delta.latest().spec.as_ref();
            match spec.and_then(|spec| spec.claim_ref.as_ref()) {
                Some(claim) => queue.add(ObjectKey::new(
                    claim.namespace.as_deref().unwrap_or_default(),
                    claim.name.as_deref().unwrap_or_default(),
                )),
                None => open(&cache, &queue),
            }
        })
    };
    let classes = {
        let (queue, cache) = (queue.clone(), cache.clone());
        cache
            .storage_classes
            .clone()
            .subscribe(move |_| open(&cache, &queue))
    };
    let pods = {
        let queue = queue.clone();
        cache.pods.subscribe(move |delta| {
            for claim in claims_of(delta.latest()) {
                queue.add(claim);
            }
        })
    };
    vec![claims, volumes, classes, pods]
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        if key.namespace.is_empty() {
            if let Some(volume) = self.cache.volumes.get_key(&key) {
                for change in volume::plan(&volume, self.claim_of(&volume).as_deref()) {
                    self.apply(change, volume.as_ref()).await?;
                }
            }
        } else if let Some(claim) = self.cache.claims.get_key(&key) {
            for change in self.plan_claim(&claim) {
                self.apply(change, claim.as_ref()).await?;
            }
        } else {
            let made = ephemeral::candidates(&key).find_map(|(pod, volume)| {
                let pod = self.cache.pods.get(&key.namespace, pod)?;
                ephemeral::claim(&pod, volume)
            });
            if let Some(claim) = made {
                let made = self.client.create(&claim).await;
                made.map(drop).or_else(passed_over)?;
            }
        }
        Ok(Next::Wait)
    }

    fn claim_of(&self, volume: &PersistentVolume) -> Option<std::sync::Arc<PersistentVolumeClaim>> {
        let reference = volume.spec.as_ref()?.claim_ref.as_ref()?;
        self.cache.claims.get(
            reference.namespace.as_deref().unwrap_or_default(),
            reference.name.as_deref().unwrap_or_default(),
        )
    }

    fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<std::sync::Arc<StorageClass>> {
        let name = matching::class_of(claim).filter(|name| !name.is_empty())?;
        self.cache.storage_classes.get("", name)
    }

    fn plan_claim(&self, claim: &PersistentVolumeClaim) -> Vec<Change> {
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        if claim.metadata.deletion_timestamp.is_some() {
            let key = ObjectKey::of(claim);
            let used = self.cache.pods.list(namespace).iter().any(|pod| {
                let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_ref());
                bound.is_some_and(|node| !node.is_empty()) && claims_of(pod).contains(&key)
            });
            return claim::unprotect(claim, used).into_iter().collect();
        }
        let class = self.class_of(claim);
        let mine = matching::volume_name(claim).and_then(|name| self.cache.volumes.get("", name));
        let volumes = if mine.is_none() && !matching::is_bound(claim) {
            self.cache.volumes.list("")
        } else {
            Vec::new()
        };
        let mut changes = claim::plan(&claim::View {
            claim,
            class: class.as_deref(),
            default_class: self.default_class_name(claim).as_deref(),
            volume: mine.as_deref(),
            volumes: &volumes,
        });
        let asks = changes.iter().position(
            |change| matches!(change, Change::Tell(_, reason, _) if *reason == claim::PROVISION),
        );
        if let (Some(position), Some(class)) = (asks, class) {
            let nodes = self.cache.nodes.list("");
            changes.splice(
                position..=position,
                provision::plan(claim, &class, &nodes, &volumes),
            );
        }
        changes
    }

    /// For claims that were made when there was no default class.
    fn default_class_name(&self, claim: &PersistentVolumeClaim) -> Option<String> {
        if matching::class_of(claim).is_some() {
            return None;
        }
        let all: Vec<serde_json::Value> = self
            .cache
            .storage_classes
            .list("")
            .iter()
            .filter_map(|class| serde_json::to_value(class.as_ref()).ok())
            .collect();
        let class = default_class(&all)?;
        class["metadata"]["name"].as_str().map(str::to_owned)
    }

    async fn apply<K: crate::registry::Object>(
        &self,
        change: Change,
        about: &K,
    ) -> Result<(), ApiError> {
        let done = match change {
            Change::Volume(volume) => self.client.update(volume.as_ref()).await.map(drop),
            Change::VolumeStatus(volume) => {
                self.client.update_status(volume.as_ref()).await.map(drop)
            }
            Change::NewVolume(volume) => self.client.create(volume.as_ref()).await.map(drop),
            Change::DeleteVolume => {
                let metadata = about.metadata();
                let options = DeleteOptions {
                    uid: metadata.uid.clone(),
                    ..DeleteOptions::default()
                };
                let name = metadata.name.as_deref().unwrap_or_default();
                self.client
                    .delete::<PersistentVolume>("", name, options)
                    .await
            }
            Change::Claim(claim) => self.client.update(claim.as_ref()).await.map(drop),
            Change::ClaimStatus(claim) => self.client.update_status(claim.as_ref()).await.map(drop),
            Change::Tell(kind, reason, message) => {
                self.client.event(about, kind, reason, &message);
                Ok(())
            }
        };
        done.or_else(passed_over)
    }
}

/// Somebody was quicker: the watch brings it here again.
fn passed_over(error: ApiError) -> Result<(), ApiError> {
    match error.code() {
        404 | 409 => Ok(()),
        _ => Err(error),
    }
}
