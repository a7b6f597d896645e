//! ReplicaSets and ReplicationControllers: as many pods as asked for.
//!
//! The loop: claims pods, executes what [`plan`] says, writes status.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;

use crate::cache::{BY_CONTROLLER, Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client};

use super::owner::{controller_of, controller_reference};
use super::podcontrol::{self, PodControl};
use super::worker::Next;

mod kind;
mod plan;
mod rank;

pub(super) use kind::Replicated;
pub(super) use rank::{Neighbours, neighbours, rank as rank_of};

/// For one of the two kinds.
pub(super) struct Controller<K> {
    pods: PodControl,
    _kind: std::marker::PhantomData<fn() -> K>,
}

/// Feeds the queue with the sets that a change concerns.
pub(super) fn subscribe<K: Replicated>(
    cache: &Cache,
    queue: &Queue<ObjectKey>,
) -> Vec<Subscription> {
    let sets = {
        let queue = queue.clone();
        K::informer(cache).subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let all = K::informer(cache).clone();
    let pods = podcontrol::subscribe(cache, queue, K::KIND, move |namespace, pod| {
        all.list(namespace)
            .iter()
            .filter(|set| plan::selects(&set.as_set(), pod))
            .map(|set| ObjectKey::of(set.as_ref()))
            .collect()
    });
    vec![sets, pods]
}

impl<K: Replicated> Controller<K> {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            pods: PodControl::new(client, cache, K::name()),
            _kind: std::marker::PhantomData,
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(owner) = K::informer(&self.pods.cache).get_key(&key) else {
            self.pods.forget(&key);
            return Ok(Next::Wait);
        };
        let set = owner.as_set();
        self.pods.caught_up(&key).await?;
        let chosen = set.spec.clone().unwrap_or_default().selector;
        let pods = self.pods.claim(owner.as_ref(), &chosen).await?;
        let now = Timestamp::now();
        let plan = plan::plan(&plan::View {
            set: &set,
            pods: &pods,
            deleting: &self.pods.deleting(&key, &pods),
            neighbours: &self.neighbours(&set, &pods),
            now,
        });
        let failure = match &plan {
            plan::Plan::Keep => None,
            plan::Plan::Create(count) => {
                let pod = plan::pod_from_template(&set, controller_reference(owner.as_ref()));
                let pods = vec![pod; *count];
                self.pods.create(&key, owner.as_ref(), &pods).await.err()
            }
            plan::Plan::Delete(victims) => {
                self.pods.delete(&key, owner.as_ref(), victims).await.err()
            }
        };
        let (status, recheck) =
            plan::status(&set, &pods, failure.as_ref().map(|f| (&plan, f)), now);
        if let Some(status) = status {
            self.pods
                .client
                .update_status(&owner.with_status(status))
                .await?;
        }
        match (failure, recheck) {
            (Some(error), _) => Err(error),
            (None, Some(delay)) => Ok(Next::After(delay)),
            (None, None) => Ok(Next::Wait),
        }
    }

    /// Per node, how many pods of this set and its siblings (sets of the same Deployment) run there.
    fn neighbours(&self, set: &ReplicaSet, own: &[Arc<Pod>]) -> Neighbours {
        let cache = &self.pods.cache;
        let siblings = controller_of(&set.metadata).map(|owner| {
            cache
                .replica_sets
                .indexed(BY_CONTROLLER, &owner.uid)
                .into_iter()
                .filter(|sibling| sibling.metadata.uid != set.metadata.uid)
                .flat_map(|sibling| {
                    let uid = sibling.metadata.uid.as_deref().unwrap_or_default();
                    cache.pods.indexed(BY_CONTROLLER, uid)
                })
                .collect::<Vec<_>>()
        });
        neighbours(own.iter().chain(siblings.iter().flatten()))
    }
}
