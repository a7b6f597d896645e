//! Deployments: a template rolled out through ReplicaSets.
//!
//! The loop claims ReplicaSets, executes what [`plan`] says, writes status. Pods are the ReplicaSet
//! controller's business; here they only matter for `Recreate`, which waits until the old ones are gone.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::json;

use crate::cache::{BY_CONTROLLER, Cache, ObjectKey, Queue, Subscription, orphans_of};
use crate::registry::{ApiError, Client, DeleteOptions, EventType};

use super::expectations::Expectations;
use super::owner::{Claim, claim, controller_of, controller_reference, with_claim};
use super::worker::Next;
use super::{context_error, podstate, selector};

mod plan;
mod revision;
mod rolling;
mod status;

use plan::Action;

pub(super) const NAME: &str = "deployment-controller";
const VIEW_LAG: Duration = Duration::from_secs(5);

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    expectations: Expectations,
}

/// Feeds the queue with the Deployments that a change concerns.
pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let deployments = {
        let queue = queue.clone();
        cache
            .deployments
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let sets = {
        let (queue, all) = (queue.clone(), cache.deployments.clone());
        cache.replica_sets.subscribe(move |delta| {
            for set in [delta.old, delta.new].into_iter().flatten() {
                match controller_of(&set.metadata) {
                    Some(owner) if owner.kind == "Deployment" => {
                        queue.add(ObjectKey::new(&delta.key.namespace, &owner.name));
                    }
                    Some(_) => {}
                    None => {
                        for deployment in all.list(&delta.key.namespace) {
                            if selects(&deployment, set) {
                                queue.add(ObjectKey::of(deployment.as_ref()));
                            }
                        }
                    }
                }
            }
        })
    };
    // A Deployment that recreates waits for its last old pod to go, which no ReplicaSet's status shows.
    let pods = {
        let (queue, sets, deployments) = (
            queue.clone(),
            cache.replica_sets.clone(),
            cache.deployments.clone(),
        );
        cache.pods.subscribe(move |delta| {
            let gone = delta.new.is_none_or(|pod| podstate::is_finished(pod));
            let Some(owner) = controller_of(&delta.latest().metadata).filter(|_| gone) else {
                return;
            };
            if owner.kind != "ReplicaSet" {
                return;
            }
            let namespace = &delta.key.namespace;
            let deployment = sets
                .get(namespace, &owner.name)
                .and_then(|set| controller_of(&set.metadata).map(|owner| owner.name.clone()))
                .and_then(|name| deployments.get(namespace, &name));
            if let Some(deployment) = deployment.filter(|found| rolling::recreates(found)) {
                queue.add(ObjectKey::of(deployment.as_ref()));
            }
        })
    };
    vec![deployments, sets, pods]
}

fn selects(deployment: &Deployment, set: &ReplicaSet) -> bool {
    deployment
        .spec
        .as_ref()
        .is_some_and(|spec| selector::matches(&spec.selector, set.metadata.labels.as_ref()))
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
        let Some(deployment) = self.cache.deployments.get_key(&key) else {
            self.expectations.forget(&key);
            return Ok(Next::Wait);
        };
        let expected = self.expectations.get(&key);
        if !self
            .cache
            .replica_sets
            .wait_for(expected.revision, VIEW_LAG)
            .await
        {
            return Err(context_error("the view of replica sets lags behind"));
        }
        let sets = self.claim_sets(&deployment).await?;
        let plan = plan::plan(&plan::View {
            deployment: &deployment,
            sets: &sets,
            running: &self.running(&deployment, &sets),
            now: Timestamp::now(),
        });
        let mut status = plan.status;
        for action in &plan.actions {
            if let Err(error) = self.execute(&key, &deployment, action).await {
                let Action::Create(set) = action else {
                    return Err(error);
                };
                let now = Timestamp::now();
                let failed = if error.reason() == "AlreadyExists" {
                    self.collided(&deployment, set)
                } else if error.is_namespace_terminating() {
                    return Ok(Next::Wait);
                } else {
                    let name = set.metadata.name.as_deref().unwrap_or_default();
                    let message = format!("Failed to create new replica set {name:?}: {error}");
                    let reason = status::CREATE_FAILED;
                    self.client
                        .event(deployment.as_ref(), EventType::Warning, reason, &message);
                    status::create_failed(&deployment, &message, now)
                };
                if let Some(failed) = failed {
                    self.write_status(&deployment, failed).await?;
                }
                return Err(error);
            }
        }
        if let Some(status) = status.take() {
            self.write_status(&deployment, status).await?;
        }
        Ok(plan.recheck.map_or(Next::Wait, Next::After))
    }

    async fn claim_sets(&self, deployment: &Deployment) -> Result<Vec<Arc<ReplicaSet>>, ApiError> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or_default();
        let uid = deployment.metadata.uid.as_deref().unwrap_or_default();
        let mut candidates = self.cache.replica_sets.indexed(BY_CONTROLLER, uid);
        let orphans = orphans_of(namespace);
        candidates.extend(self.cache.replica_sets.indexed(BY_CONTROLLER, &orphans));
        let reference = controller_reference(deployment);
        let mut own = Vec::new();
        for set in candidates {
            let matches = selects(deployment, &set);
            match claim(&deployment.metadata, &set.metadata, matches) {
                Claim::Owned => own.push(set),
                Claim::Ignore => {}
                claim => {
                    let patch = json!({"metadata": {
                        "uid": set.metadata.uid,
                        "ownerReferences": with_claim(&set.metadata, &reference, claim),
                    }});
                    let name = set.metadata.name.as_deref().unwrap_or_default();
                    let patched = self
                        .client
                        .merge_patch::<ReplicaSet>(namespace, name, "", &patch)
                        .await;
                    match patched {
                        Ok(set) if claim == Claim::Adopt => {
                            self.expectations.wrote(&ObjectKey::of(deployment), &set);
                            own.push(Arc::new(set));
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

    /// Pods that have not ended, by the uid of their set; only `Recreate` needs to know.
    fn running(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> HashMap<String, usize> {
        if !rolling::recreates(deployment) {
            return HashMap::new();
        }
        sets.iter()
            .filter_map(|set| set.metadata.uid.clone())
            .map(|uid| {
                let pods = self.cache.pods.indexed(BY_CONTROLLER, &uid);
                let running = pods.iter().filter(|pod| !podstate::is_finished(pod));
                (uid, running.count())
            })
            .collect()
    }

    async fn execute(
        &self,
        key: &ObjectKey,
        deployment: &Deployment,
        action: &Action,
    ) -> Result<(), ApiError> {
        match action {
            Action::Create(set) => {
                let created = self.client.create(set.as_ref()).await?;
                self.expectations.wrote(key, &created);
                let replicas = rolling::size(&created);
                if replicas > 0 {
                    self.scaled(deployment, &created, 0, replicas);
                }
            }
            Action::Update { set, from } => {
                let updated = self.client.update(set.as_ref()).await?;
                self.expectations.wrote(key, &updated);
                let to = rolling::size(&updated);
                if *from != to {
                    self.scaled(deployment, &updated, *from, to);
                }
            }
            Action::Delete(set) => {
                let options = DeleteOptions {
                    uid: set.metadata.uid.clone(),
                    ..DeleteOptions::default()
                };
                let name = set.metadata.name.as_deref().unwrap_or_default();
                self.client
                    .delete::<ReplicaSet>(&key.namespace, name, options)
                    .await?;
            }
            Action::Annotate(revision) => {
                let patch = json!({"metadata": {"annotations": {(revision::REVISION): revision}}});
                self.client
                    .merge_patch::<Deployment>(&key.namespace, &key.name, "status", &patch)
                    .await?;
            }
        }
        Ok(())
    }

    fn scaled(&self, deployment: &Deployment, set: &ReplicaSet, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let name = set.metadata.name.as_deref().unwrap_or_default();
        self.client.event(
            deployment,
            EventType::Normal,
            "ScalingReplicaSet",
            &format!("Scaled {direction} replica set {name} from {from} to {to}"),
        );
    }

    /// The name that the hash gives is taken. When by something else than this very set, which a lagging
    /// view may not show yet, the next hash must differ.
    fn collided(
        &self,
        deployment: &Deployment,
        wanted: &ReplicaSet,
    ) -> Option<k8s_openapi::api::apps::v1::DeploymentStatus> {
        let other = self.cache.replica_sets.get_key(&ObjectKey::of(wanted))?;
        let ours = controller_of(&other.metadata)
            .is_some_and(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref());
        if ours && revision::same_template(wanted, &other) {
            return None;
        }
        let mut status = deployment.status.clone().unwrap_or_default();
        status.collision_count = Some(status.collision_count.unwrap_or(0) + 1);
        Some(status)
    }

    /// Changes nothing but the status; a revision annotation written just before does not make it conflict.
    async fn write_status(
        &self,
        deployment: &Deployment,
        status: k8s_openapi::api::apps::v1::DeploymentStatus,
    ) -> Result<(), ApiError> {
        let key = ObjectKey::of(deployment);
        let mut changed = deployment.clone();
        changed.metadata.resource_version = None;
        changed.metadata.managed_fields = None;
        changed.metadata.annotations = None;
        changed.status = Some(status);
        if changed.metadata.uid.is_none() {
            return Err(context_error(&format!("deployment {key} has no uid")));
        }
        self.client.update_status(&changed).await?;
        Ok(())
    }
}
