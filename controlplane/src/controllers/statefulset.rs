//! StatefulSets: pods with names, each with volumes of its own.
//!
//! The loop claims pods and revisions, executes what [`plan`] says, writes status. At most one pod of a name
//! exists: a pod that is being deleted keeps its place until it is gone.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use serde_json::json;

use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client, EventType};

use super::owner::controller_of;
use super::podcontrol::{self, PodControl};
use super::revisions::{self, Store, Wanted};
use super::worker::Next;
use super::{podstate, selector};

mod identity;
mod plan;

use identity::Keeper;
use plan::{Action, Version};

pub(super) const NAME: &str = "statefulset-controller";
/// The label of a revision's hash on the revision itself.
const REVISION_HASH: &str = "controller.kubernetes.io/hash";

pub(super) struct Controller {
    pods: PodControl,
    revisions: Store,
}

/// Feeds the queue with the sets that a change concerns.
pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let sets = {
        let queue = queue.clone();
        cache
            .stateful_sets
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let all = cache.stateful_sets.clone();
    let pods = podcontrol::subscribe(cache, queue, "StatefulSet", move |namespace, pod| {
        all.list(namespace)
            .iter()
            .filter(|set| selects(set, pod))
            .map(|set| ObjectKey::of(set.as_ref()))
            .collect()
    });
    let revisions = {
        let queue = queue.clone();
        cache.controller_revisions.subscribe(move |delta| {
            if let Some(owner) = controller_of(&delta.latest().metadata)
                && owner.kind == "StatefulSet"
            {
                queue.add(ObjectKey::new(&delta.key.namespace, &owner.name));
            }
        })
    };
    vec![sets, pods, revisions]
}

/// Only pods that are named as the set's pods are can be its own.
fn selects(set: &StatefulSet, pod: &Pod) -> bool {
    identity::ordinal(set, pod).is_some()
        && selector::matches(&identity::spec(set).selector, pod.metadata.labels.as_ref())
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        let client = client.with_manager(NAME);
        Self {
            pods: PodControl::new(&client, cache, NAME),
            revisions: Store::new(&client, cache),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(set) = self.pods.cache.stateful_sets.get_key(&key) else {
            self.pods.forget(&key);
            self.revisions.forget(&key);
            return Ok(Next::Wait);
        };
        self.pods.caught_up(&key).await?;
        let spec = identity::spec(&set);
        let pods = self
            .pods
            .claim_if(set.as_ref(), |pod| selects(&set, pod))
            .await?;
        let mut history = self.revisions.claim(set.as_ref(), &spec.selector).await?;
        let Some((current, update)) = self.versions(&set, &mut history).await? else {
            return Ok(Next::Wait);
        };
        let view = plan::View {
            set: &set,
            pods: &pods,
            deleting: &self.pods.deleting(&key, &pods),
            current: &current,
            update: &update,
            now: Timestamp::now(),
        };
        let plan = plan::plan(&view);
        let collisions = set
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        let status = plan::status(&view, collisions);
        let failure = self.execute(&key, &set, &plan.actions).await.err();
        self.write_status(&set, status).await?;
        if let Some(error) = failure {
            return Err(error);
        }
        if set.metadata.deletion_timestamp.is_none() {
            self.keep_claims(&set, &pods).await?;
            self.forget_history(
                &pods,
                &history,
                &[&current, &update],
                spec.revision_history_limit,
            )
            .await?;
        }
        Ok(plan.recheck.map_or(Next::Wait, Next::After))
    }

    /// The current and the update version. `None`: the status was written, and comes back.
    async fn versions(
        &self,
        set: &StatefulSet,
        history: &mut Vec<Arc<ControllerRevision>>,
    ) -> Result<Option<(Version, Version)>, ApiError> {
        let spec = identity::spec(set);
        let status = set.status.clone().unwrap_or_default();
        let wanted = Wanted {
            template: &spec.template,
            selector: &spec.selector,
            hash_label: REVISION_HASH,
            collisions: status.collision_count.unwrap_or(0),
        };
        let Some(update) = self.revisions.ensure(set, history, &wanted).await? else {
            let collided = StatefulSetStatus {
                collision_count: Some(wanted.collisions + 1),
                ..status
            };
            self.write_status(set, collided).await?;
            return Ok(None);
        };
        let version = |revision: &ControllerRevision| {
            let template = revisions::template_of(revision)?;
            let revision = revision.metadata.name.clone()?;
            Some(Version { revision, template })
        };
        let update = version(&update).unwrap_or_else(|| Version {
            revision: update.metadata.name.clone().unwrap_or_default(),
            template: spec.template.clone(),
        });
        let current = history
            .iter()
            .find(|revision| revision.metadata.name == status.current_revision)
            .and_then(|revision| version(revision))
            .unwrap_or_else(|| update.clone());
        Ok(Some((current, update)))
    }

    async fn execute(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        actions: &[Action],
    ) -> Result<(), ApiError> {
        // Pods are made one after the other in order, or all at once.
        let mut failure = None;
        for chunk in actions.chunks(podcontrol::PARALLEL_WRITES) {
            let all = chunk.iter().map(|action| self.act(key, set, action));
            for result in futures::future::join_all(all).await {
                failure = result.err().or(failure);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    async fn act(
        &self,
        key: &ObjectKey,
        set: &StatefulSet,
        action: &Action,
    ) -> Result<(), ApiError> {
        match action {
            Action::Create(pod) => self.create(key, set, pod).await,
            Action::Repair(pod) => self.repair(key, set, pod).await,
            Action::Claims(pod) => {
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                self.create_claims(set, name).await
            }
            Action::Restart(pod) => {
                let failed = podstate::phase(pod) == "Failed";
                let (reason, how) = if failed {
                    ("RecreatingFailedPod", "failed")
                } else {
                    ("RecreatingTerminatedPod", "terminated")
                };
                let name = pod.metadata.name.as_deref().unwrap_or_default();
                let message = format!("StatefulSet {key} is recreating {how} Pod {name}");
                let kind = if failed {
                    EventType::Warning
                } else {
                    EventType::Normal
                };
                self.pods.client.event(set, kind, reason, &message);
                self.delete(key, set, pod).await
            }
            Action::Remove(pod) => {
                // Before the pod goes: what shall go with it must know.
                self.keep_claims_of(set, pod).await?;
                self.delete(key, set, pod).await
            }
            Action::Replace(pod) => self.delete(key, set, pod).await,
        }
    }

    fn tell<T>(&self, set: &StatefulSet, verb: &str, pod: &str, result: &Result<T, ApiError>) {
        let name = set.metadata.name.as_deref().unwrap_or_default();
        let done = if verb == "create" { "Create" } else { "Delete" };
        match result {
            Ok(_) => self.pods.client.event(
                set,
                EventType::Normal,
                &format!("Successful{done}"),
                &format!("{verb} Pod {pod} in StatefulSet {name} successful"),
            ),
            Err(error) => self.pods.client.event(
                set,
                EventType::Warning,
                &format!("Failed{done}"),
                &format!("{verb} Pod {pod} in StatefulSet {name} failed error: {error}"),
            ),
        }
    }

    async fn create(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), ApiError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        self.create_claims(set, name).await?;
        let result = self.pods.client.create(pod).await;
        if let Err(error) = &result
            && error.reason() == "AlreadyExists"
        {
            // The one that is there has to go first; its end comes by the watch.
            return Ok(());
        }
        self.tell(set, "create", name, &result);
        self.pods.wrote(key, &result?);
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), ApiError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let result = self.pods.delete_one(key, pod).await;
        self.tell(set, "delete", name, &result);
        result
    }

    /// Labels that say which pod it is, and the claims that it cannot start without.
    async fn repair(&self, key: &ObjectKey, set: &StatefulSet, pod: &Pod) -> Result<(), ApiError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let ordinal = identity::ordinal(set, pod).unwrap_or_default();
        self.create_claims(set, name).await?;
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "labels": {
            (identity::POD_NAME): name,
            (identity::POD_INDEX): ordinal.to_string(),
        }}});
        let pod = self
            .pods
            .client
            .merge_patch::<Pod>(&key.namespace, name, "", &patch)
            .await?;
        self.pods.wrote(key, &pod);
        Ok(())
    }

    async fn create_claims(&self, set: &StatefulSet, pod: &str) -> Result<(), ApiError> {
        let set_name = set.metadata.name.as_deref().unwrap_or_default();
        for claim in identity::claims(set, pod) {
            let key = ObjectKey::of(&claim);
            let client = &self.pods.client;
            if let Some(there) = self.pods.cache.claims.get_key(&key) {
                if there.metadata.deletion_timestamp.is_some() {
                    return Err(super::context_error(&format!(
                        "pvc {} is being deleted",
                        key.name
                    )));
                }
                continue;
            }
            let result = client.create(&claim).await;
            let what = format!(
                "create Claim {} Pod {pod} in StatefulSet {set_name}",
                key.name
            );
            match result {
                Ok(_) => {
                    let message = format!("{what} success");
                    client.event(set, EventType::Normal, "SuccessfulCreate", &message);
                }
                Err(error) if error.reason() == "AlreadyExists" => {}
                Err(error) => {
                    let message = format!("{what} failed error: {error}");
                    client.event(set, EventType::Warning, "FailedCreate", &message);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Owners of the claims of all pods, by the retention policy.
    async fn keep_claims(&self, set: &StatefulSet, pods: &[Arc<Pod>]) -> Result<(), ApiError> {
        for pod in pods {
            self.keep_claims_of(set, pod).await?;
        }
        Ok(())
    }

    async fn keep_claims_of(&self, set: &StatefulSet, pod: &Pod) -> Result<(), ApiError> {
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        let Some(ordinal) = identity::ordinal(set, pod) else {
            return Ok(());
        };
        let keeper = identity::keeper(set, ordinal);
        for claim in identity::claims(set, name) {
            self.keep_claim(set, pod, &ObjectKey::of(&claim), keeper)
                .await?;
        }
        Ok(())
    }

    async fn keep_claim(
        &self,
        set: &StatefulSet,
        pod: &Pod,
        key: &ObjectKey,
        keeper: Keeper,
    ) -> Result<(), ApiError> {
        let client = &self.pods.client;
        let live = self.pods.cache.claims.get_key(key);
        let Some(owners) = live
            .as_ref()
            .and_then(|live| identity::owners(set, Some(pod), live, keeper))
        else {
            return Ok(());
        };
        let uid = live.and_then(|live| live.metadata.uid.clone());
        let patch = json!({"metadata": {"uid": uid, "ownerReferences": owners}});
        let patched = client
            .merge_patch::<PersistentVolumeClaim>(&key.namespace, &key.name, "", &patch)
            .await;
        match patched {
            Err(error) if error.code() != 404 => Err(error),
            _ => Ok(()),
        }
    }

    async fn forget_history(
        &self,
        pods: &[Arc<Pod>],
        history: &[Arc<ControllerRevision>],
        versions: &[&Version],
        limit: Option<i32>,
    ) -> Result<(), ApiError> {
        let live = |revision: &ControllerRevision| {
            let name = revision.metadata.name.as_deref().unwrap_or_default();
            versions.iter().any(|version| version.revision == name)
                || pods.iter().any(|pod| plan::revision_of(pod) == name)
        };
        for revision in revisions::superfluous(history, live, limit) {
            self.revisions.delete(&revision).await?;
        }
        Ok(())
    }

    async fn write_status(
        &self,
        set: &StatefulSet,
        status: StatefulSetStatus,
    ) -> Result<(), ApiError> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        self.pods.client.update_status(&changed).await.map(drop)
    }
}
