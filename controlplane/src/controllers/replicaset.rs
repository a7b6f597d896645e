//! ReplicaSets: as many pods as asked for.
//!
//! The loop: claims pods, executes what [`plan`] says, writes status. Creation starts slowly, so that a
//! template that cannot be created costs one failed request and not a thousand.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

use crate::cache::{BY_CONTROLLER, Cache, ObjectKey, Queue, Subscription, orphans_of};
use crate::registry::{ApiError, Client, DeleteOptions, EventType};

use super::expectations::Expectations;
use super::owner::{Claim, claim, controller_of, controller_reference, with_claim};
use super::worker::Next;
use super::{context_error, selector};

mod plan;
mod rank;

pub(super) const NAME: &str = "replicaset-controller";
/// Writes of one reconcile that are under way at once.
const PARALLEL_WRITES: usize = 64;
/// How long to wait for the view to show what was written.
const VIEW_LAG: Duration = Duration::from_secs(5);

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    expectations: Expectations,
}

/// Feeds the queue with the sets that a change concerns.
pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let sets = {
        let queue = queue.clone();
        cache
            .replica_sets
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let pods = {
        let (queue, all) = (queue.clone(), cache.replica_sets.clone());
        cache.pods.subscribe(move |delta| {
            for pod in [delta.old, delta.new].into_iter().flatten() {
                match controller_of(&pod.metadata) {
                    Some(owner) if owner.kind == "ReplicaSet" => {
                        queue.add(ObjectKey::new(&delta.key.namespace, &owner.name));
                    }
                    Some(_) => {}
                    None => {
                        for set in all.list(&delta.key.namespace) {
                            if plan::selects(&set, pod) {
                                queue.add(ObjectKey::of(set.as_ref()));
                            }
                        }
                    }
                }
            }
        })
    };
    vec![sets, pods]
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            expectations: Expectations::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(set) = self.cache.replica_sets.get_key(&key) else {
            self.expectations.forget(&key);
            return Ok(Next::Wait);
        };
        let expected = self.expectations.get(&key);
        if !self.cache.pods.wait_for(expected.revision, VIEW_LAG).await {
            return Err(context_error("the view of pods lags behind"));
        }
        let pods = self.claim_pods(&set).await?;
        self.expectations.observe(&key, |uid| {
            pods.iter().any(|pod| {
                pod.metadata.uid.as_deref() == Some(uid)
                    && pod.metadata.deletion_timestamp.is_none()
            })
        });
        let deleting = self.expectations.get(&key).deleting;
        let plan = plan::plan(&plan::View {
            set: &set,
            pods: &pods,
            deleting: &deleting,
            neighbours: &self.neighbours(&set, &pods),
        });
        let failure = match &plan {
            plan::Plan::Keep => None,
            plan::Plan::Create(count) => self.create(&key, &set, *count).await.err(),
            plan::Plan::Delete(victims) => self.delete(&key, &set, victims).await.err(),
        };
        let now = Timestamp::now();
        let (status, recheck) =
            plan::status(&set, &pods, failure.as_ref().map(|f| (&plan, f)), now);
        if let Some(status) = status {
            let mut changed = set.as_ref().clone();
            changed.status = Some(status);
            self.client.update_status(&changed).await?;
        }
        match (failure, recheck) {
            (Some(error), _) => Err(error),
            (None, Some(delay)) => Ok(Next::After(delay)),
            (None, None) => Ok(Next::Wait),
        }
    }

    /// The set's own pods, after adoption and release.
    async fn claim_pods(&self, set: &ReplicaSet) -> Result<Vec<Arc<Pod>>, ApiError> {
        let namespace = set.metadata.namespace.as_deref().unwrap_or_default();
        let uid = set.metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = self.cache.pods.indexed(BY_CONTROLLER, uid);
        candidates.extend(
            self.cache
                .pods
                .indexed(BY_CONTROLLER, &orphans_of(namespace)),
        );
        let reference = controller_reference(set);
        let mut own = Vec::with_capacity(candidates.len());
        for pod in candidates {
            let matches = set.spec.as_ref().is_some_and(|spec| {
                selector::matches(&spec.selector, pod.metadata.labels.as_ref())
            });
            match claim(&set.metadata, &pod.metadata, matches) {
                Claim::Owned => own.push(pod),
                Claim::Ignore => {}
                claim if claim == Claim::Adopt && super::podstate::is_finished(&pod) => {}
                claim => {
                    let patch = json!({"metadata": {
                        "uid": pod.metadata.uid,
                        "ownerReferences": with_claim(&pod.metadata, &reference, claim),
                    }});
                    let name = pod.metadata.name.as_deref().unwrap_or_default();
                    match self
                        .client
                        .merge_patch::<Pod>(namespace, name, "", &patch)
                        .await
                    {
                        Ok(pod) if claim == Claim::Adopt => {
                            self.expectations.wrote(&ObjectKey::of(set), &pod);
                            own.push(Arc::new(pod));
                        }
                        Ok(_) => {}
                        Err(error) if error.code() == 404 => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(own)
    }

    /// Per node, how many pods of this set and its siblings (sets of the same Deployment) run there.
    fn neighbours(&self, set: &ReplicaSet, own: &[Arc<Pod>]) -> rank::Neighbours {
        let siblings = controller_of(&set.metadata).map(|owner| {
            self.cache
                .replica_sets
                .indexed(BY_CONTROLLER, &owner.uid)
                .into_iter()
                .filter(|sibling| sibling.metadata.uid != set.metadata.uid)
                .flat_map(|sibling| {
                    let uid = sibling.metadata.uid.as_deref().unwrap_or_default();
                    self.cache.pods.indexed(BY_CONTROLLER, uid)
                })
                .collect::<Vec<_>>()
        });
        rank::neighbours(own.iter().chain(siblings.iter().flatten()))
    }

    async fn create(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        count: usize,
    ) -> Result<(), ApiError> {
        let pod = plan::pod_from_template(set);
        let mut left = count;
        let mut batch = 1;
        while left > 0 {
            let now = left.min(batch).min(PARALLEL_WRITES);
            let results =
                futures::future::join_all((0..now).map(|_| self.client.create(&pod))).await;
            let mut failure = None;
            for result in results {
                match result {
                    Ok(created) => {
                        self.expectations.wrote(key, &created);
                        let name = created.metadata.name.as_deref().unwrap_or_default();
                        self.client.event(
                            set,
                            EventType::Normal,
                            "SuccessfulCreate",
                            &format!("Created pod: {name}"),
                        );
                    }
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure {
                self.client.event(
                    set,
                    EventType::Warning,
                    "FailedCreate",
                    &format!("Error creating: {error}"),
                );
                return Err(error);
            }
            left -= now;
            batch *= 2;
        }
        Ok(())
    }

    async fn delete(
        &self,
        key: &ObjectKey,
        set: &ReplicaSet,
        victims: &[Arc<Pod>],
    ) -> Result<(), ApiError> {
        for chunk in victims.chunks(PARALLEL_WRITES) {
            let deletions = chunk.iter().map(|pod| {
                let options = DeleteOptions {
                    uid: pod.metadata.uid.clone(),
                    ..DeleteOptions::default()
                };
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                async move {
                    let result = self
                        .client
                        .delete::<Pod>(&key.namespace, name, options)
                        .await;
                    (pod, name, result)
                }
            });
            for (pod, name, result) in futures::future::join_all(deletions).await {
                match result {
                    Ok(()) => {
                        self.expectations
                            .deleted(key, pod.metadata.uid.as_deref().unwrap_or_default());
                        self.client.event(
                            set,
                            EventType::Normal,
                            "SuccessfulDelete",
                            &format!("Deleted pod: {name}"),
                        );
                    }
                    // Another pod has the name by now: the victim is gone.
                    Err(error) if error.code() == 409 => {}
                    Err(error) => {
                        self.client.event(
                            set,
                            EventType::Warning,
                            "FailedDelete",
                            &format!("Error deleting: {error}"),
                        );
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }
}
