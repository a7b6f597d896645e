//! What controllers do to pods: adopt and release, create with a slow start, delete in parallel; and what they
//! remember of that until their view shows it.
//!
//! Deliberately not here: which pods, and how many. Plans say that.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::json;

use crate::cache::{BY_CONTROLLER, Cache, ObjectKey, Queue, Subscription, orphans_of};
use crate::registry::{ApiError, Client, DeleteOptions, EventType, Object};

use super::expectations::Expectations;
use super::owner::{Claim, claim, controller_of, controller_reference, with_claim};
use super::{context_error, podstate, selector};

/// Writes of one reconcile that are under way at once.
pub(super) const PARALLEL_WRITES: usize = 64;
/// How long to wait for the view to show what was written.
const VIEW_LAG: Duration = Duration::from_secs(5);

pub(super) struct PodControl {
    pub(super) client: Client,
    pub(super) cache: Cache,
    expectations: Expectations,
}

/// Queues the owners that a pod's change concerns: its controller of `kind`, or, for a pod without any, all
/// that `adopters` gives for its namespace and itself.
pub(super) fn subscribe(
    cache: &Cache,
    queue: &Queue<ObjectKey>,
    kind: &'static str,
    adopters: impl Fn(&str, &Pod) -> Vec<ObjectKey> + Send + Sync + 'static,
) -> Subscription {
    let queue = queue.clone();
    cache.pods.subscribe(move |delta| {
        for pod in [delta.old, delta.new].into_iter().flatten() {
            match controller_of(&pod.metadata) {
                Some(owner) if owner.kind == kind => {
                    queue.add(ObjectKey::new(&delta.key.namespace, &owner.name));
                }
                Some(_) => {}
                None => {
                    for key in adopters(&delta.key.namespace, pod) {
                        queue.add(key);
                    }
                }
            }
        }
    })
}

impl PodControl {
    pub(super) fn new(client: &Client, cache: &Cache, name: &'static str) -> Self {
        Self {
            client: client.with_manager(name),
            cache: cache.clone(),
            expectations: Expectations::default(),
        }
    }

    pub(super) fn forget(&self, key: &ObjectKey) {
        self.expectations.forget(key);
    }

    /// Waits until the view shows all pods that were written for this owner.
    pub(super) async fn caught_up(&self, key: &ObjectKey) -> Result<(), ApiError> {
        let expected = self.expectations.get(key).revision;
        if self.cache.pods.wait_for(expected, VIEW_LAG).await {
            Ok(())
        } else {
            Err(context_error("the view of pods lags behind"))
        }
    }

    /// What was written about a pod must be in the view before the owner is looked at again.
    pub(super) fn wrote(&self, key: &ObjectKey, pod: &Pod) {
        self.expectations.wrote(key, pod);
    }

    /// The owner's own pods, after adoption and release.
    pub(super) async fn claim<K: Object>(
        &self,
        owner: &K,
        chosen: &LabelSelector,
    ) -> Result<Vec<Arc<Pod>>, ApiError> {
        self.claim_if(owner, |pod| {
            selector::matches(chosen, pod.metadata.labels.as_ref())
        })
        .await
    }

    pub(super) async fn claim_if<K: Object>(
        &self,
        owner: &K,
        selects: impl Fn(&Pod) -> bool,
    ) -> Result<Vec<Arc<Pod>>, ApiError> {
        let metadata = owner.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let uid = metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = self.cache.pods.indexed(BY_CONTROLLER, uid);
        let orphans = orphans_of(namespace);
        candidates.extend(self.cache.pods.indexed(BY_CONTROLLER, &orphans));
        let mut own = Vec::with_capacity(candidates.len());
        let mut may_adopt = None;
        for pod in candidates {
            match claim(metadata, &pod.metadata, selects(&pod)) {
                Claim::Owned => own.push(pod),
                Claim::Ignore => {}
                Claim::Adopt if podstate::is_finished(&pod) => {}
                Claim::Adopt => {
                    // The view may not show yet that the owner is being deleted and has let go.
                    if may_adopt.is_none() {
                        may_adopt = Some(self.may_adopt(owner).await?);
                    }
                    if may_adopt == Some(true) {
                        own.extend(self.write_claim(owner, &pod, Claim::Adopt).await?);
                    }
                }
                Claim::Release => drop(self.write_claim(owner, &pod, Claim::Release).await?),
            }
        }
        Ok(own)
    }

    async fn may_adopt<K: Object>(&self, owner: &K) -> Result<bool, ApiError> {
        let metadata = owner.metadata();
        let namespace = metadata.namespace.as_deref().unwrap_or_default();
        let name = metadata.name.as_deref().unwrap_or_default();
        let live: Option<K> = self.client.get(namespace, name).await?;
        Ok(live.is_some_and(|live| {
            live.metadata().uid == metadata.uid && live.metadata().deletion_timestamp.is_none()
        }))
    }

    /// The adopted pod; nothing for one that was let go or is gone.
    async fn write_claim<K: Object>(
        &self,
        owner: &K,
        pod: &Pod,
        claim: Claim,
    ) -> Result<Option<Arc<Pod>>, ApiError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let patch = json!({"metadata": {
            "uid": pod.metadata.uid,
            "ownerReferences": with_claim(&pod.metadata, &controller_reference(owner), claim),
        }});
        let patched = self
            .client
            .merge_patch::<Pod>(namespace, name, "", &patch)
            .await;
        match patched {
            Ok(pod) => {
                self.expectations.wrote(&ObjectKey::of(owner), &pod);
                Ok((claim == Claim::Adopt).then(|| Arc::new(pod)))
            }
            // Gone, or another pod has the name.
            Err(error) if matches!(error.code(), 404 | 409) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Uids of pods whose deletion was asked for and that the view still shows alive.
    pub(super) fn deleting(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> HashSet<String> {
        self.expectations.observe(key, |uid| {
            pods.iter().any(|pod| {
                pod.metadata.uid.as_deref() == Some(uid) && !podstate::is_terminating(pod)
            })
        });
        self.expectations.get(key).deleting
    }

    /// Creates the pods. It starts slowly, so that a template that cannot be created costs one failed request
    /// and not a thousand.
    pub(super) async fn create<K: Object>(
        &self,
        key: &ObjectKey,
        owner: &K,
        pods: &[Pod],
    ) -> Result<(), ApiError> {
        let mut left = pods;
        let mut batch = 1;
        while !left.is_empty() {
            let (now, later) = left.split_at(left.len().min(batch).min(PARALLEL_WRITES));
            let creations = now.iter().map(|pod| self.client.create(pod));
            let mut failure = None;
            for result in futures::future::join_all(creations).await {
                match result {
                    Ok(created) => {
                        self.expectations.wrote(key, &created);
                        let name = created.metadata.name.as_deref().unwrap_or_default();
                        let message = format!("Created pod: {name}");
                        self.client
                            .event(owner, EventType::Normal, "SuccessfulCreate", &message);
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure {
                // The owner goes with its namespace: there is nothing to tell and nothing to try again.
                if error.is_namespace_terminating() {
                    return Ok(());
                }
                let message = format!("Error creating: {error}");
                self.client
                    .event(owner, EventType::Warning, "FailedCreate", &message);
                return Err(error);
            }
            left = later;
            batch *= 2;
        }
        Ok(())
    }

    /// Takes a finalizer off the pod, whatever others it has or gets meanwhile.
    pub(super) async fn remove_finalizer(
        &self,
        key: &ObjectKey,
        pod: &Pod,
        finalizer: &str,
    ) -> Result<(), ApiError> {
        let patch = json!({"metadata": {
            "uid": pod.metadata.uid,
            "$deleteFromPrimitiveList/finalizers": [finalizer],
        }});
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        match self
            .client
            .strategic_patch::<Pod>(namespace, name, &patch)
            .await
        {
            Ok(patched) => {
                self.expectations.wrote(key, &patched);
                Ok(())
            }
            // Gone, or another pod has the name.
            Err(error) if matches!(error.code(), 404 | 409) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn delete<K: Object>(
        &self,
        key: &ObjectKey,
        owner: &K,
        victims: &[Arc<Pod>],
    ) -> Result<(), ApiError> {
        for chunk in victims.chunks(PARALLEL_WRITES) {
            let deletions = chunk.iter().map(|pod| self.delete_one(key, pod));
            let results = futures::future::join_all(deletions).await;
            for (pod, result) in chunk.iter().zip(results) {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                if let Err(error) = result {
                    let message = format!("Error deleting: {error}");
                    self.client
                        .event(owner, EventType::Warning, "FailedDelete", &message);
                    return Err(error);
                }
                let message = format!("Deleted pod: {name}");
                self.client
                    .event(owner, EventType::Normal, "SuccessfulDelete", &message);
            }
        }
        Ok(())
    }

    /// This very pod, not another of its name; `Ok` also when it is gone already.
    pub(super) async fn delete_one(&self, key: &ObjectKey, pod: &Pod) -> Result<(), ApiError> {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        let options = DeleteOptions {
            uid: pod.metadata.uid.clone(),
            ..DeleteOptions::default()
        };
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        match self
            .client
            .delete::<Pod>(&key.namespace, name, options)
            .await
        {
            Ok(()) => {
                self.expectations.deleted(key, uid);
                Ok(())
            }
            Err(error) if error.code() == 409 => Ok(()),
            Err(error) => Err(error),
        }
    }
}
