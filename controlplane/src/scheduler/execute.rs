//! Does what was decided: binds, makes room, readies volumes, and says why a pod fits nowhere.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::json;

use super::condition::{Refusal, as_target, with_condition};
use super::decide::Decision;
use super::preempt::Preemption;
use super::request::Request;
use super::state::{Nomination, Outcome, node_of};
use super::volumes::{Step, matching};
use super::{SchedulerMetrics, Shared};
use crate::cache::{Cache, ObjectKey, Queue};
use crate::registry::{ApiError, Binding, Client, DeleteOptions, EventType};

/// Refusals that are written at once.
const REFUSALS: usize = 16;
/// How long a pod waits for its volumes before it is tried elsewhere.
const VOLUME_WAIT: Duration = Duration::from_secs(600);

#[derive(Clone)]
pub(super) struct Executor {
    pub(super) client: Client,
    pub(super) cache: Cache,
    pub(super) shared: Shared,
    pub(super) metrics: SchedulerMetrics,
    pub(super) refusals: Refusals,
}

/// What still has to be written of pods that fit nowhere, of each the last that was found. Nobody waits for it: while ten
/// thousand are told that there is no room for them, others go where there is.
#[derive(Clone, Default)]
pub(super) struct Refusals {
    queue: Queue<ObjectKey>,
    latest: Arc<Mutex<HashMap<ObjectKey, Outcome>>>,
}

impl Refusals {
    fn put(&self, outcome: Outcome) {
        let key = ObjectKey::of(outcome.request.pod.as_ref());
        self.lock().insert(key.clone(), outcome);
        self.queue.add(key);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Outcome>> {
        self.latest.lock().expect("no panic while held")
    }
}

/// Pods whose volumes have to be readied first, and the others.
pub(super) fn apart(outcomes: Vec<Outcome>) -> (Vec<Outcome>, Vec<Outcome>) {
    outcomes
        .into_iter()
        .partition(|outcome| !outcome.steps.is_empty())
}

impl Executor {
    pub(super) async fn execute(&self, outcomes: Vec<Outcome>) {
        let mut bound = Vec::new();
        let mut bindings = Vec::new();
        let mut refused = Vec::new();
        for outcome in outcomes {
            match &outcome.decision {
                Decision::Node(node) => {
                    bindings.push(binding(&outcome.request, node));
                    bound.push(outcome.request);
                }
                Decision::None(_) => refused.push(outcome),
            }
        }
        self.bind(&bound, &bindings).await;
        let (making_room, hopeless): (Vec<_>, Vec<_>) = refused
            .into_iter()
            .partition(|outcome| outcome.preemption.is_some());
        hopeless
            .into_iter()
            .for_each(|outcome| self.refusals.put(outcome));
        futures::future::join_all(making_room.iter().map(|outcome| self.refuse(outcome))).await;
    }

    /// Writes what is to be written of pods that fit nowhere, for ever.
    pub(super) async fn write_refusals(&self) {
        let one = async || {
            loop {
                let key = self.refusals.queue.next().await;
                let outcome = self.refusals.lock().remove(&key);
                if let Some(outcome) = outcome {
                    self.refuse(&outcome).await;
                }
                self.refusals.queue.done(&key);
            }
        };
        futures::future::join_all((0..REFUSALS).map(|_| one())).await;
    }

    async fn bind(&self, bound: &[Arc<Request>], bindings: &[Binding]) {
        if bindings.is_empty() {
            return;
        }
        let results = self.client.bind(bindings).await;
        for ((request, binding), result) in bound.iter().zip(bindings).zip(results) {
            match result {
                Ok(()) => {
                    self.metrics.attempt("scheduled");
                    let message = format!(
                        "Successfully assigned {}/{} to {}",
                        binding.namespace, binding.pod, binding.node
                    );
                    let pod = request.pod.as_ref();
                    self.client
                        .event(pod, EventType::Normal, "Scheduled", &message);
                }
                // Gone or bound by another hand: the watch says so, and the pod leaves the queue.
                Err(error) if matches!(error.code(), 404 | 409) => self.withdraw(request),
                Err(error) => {
                    let why = format!("binding rejected: {error}");
                    self.failed(request, &why).await;
                }
            }
        }
    }

    fn withdraw(&self, request: &Request) {
        self.metrics.attempt("error");
        self.shared.lock().withdraw(request.uid(), Instant::now());
        self.shared.changed.notify_one();
    }

    /// It had its node and could not be bound to it.
    async fn failed(&self, request: &Request, why: &str) {
        self.withdraw(request);
        let pod = request.pod.as_ref();
        self.client
            .event(pod, EventType::Warning, "FailedScheduling", why);
        self.write_condition(pod, Refusal::Error, why, Nomination::Kept)
            .await;
    }

    async fn write_condition(
        &self,
        pod: &Pod,
        refusal: Refusal,
        why: &str,
        nomination: Nomination<'_>,
    ) {
        let now = jiff::Timestamp::now();
        if let Some(changed) = with_condition(pod, refusal, why, nomination, now) {
            // A conflict means that the pod changed meanwhile; the next attempt writes it.
            if let Err(error) = self.client.update_status(&changed).await {
                tracing::debug!(pod = ?pod.metadata.name, %error, "condition PodScheduled not written");
            }
        }
    }

    /// Readies the volumes of a pod that has its node, waits for them, and binds it.
    pub(super) async fn with_volumes(&self, outcome: Outcome) {
        let Decision::Node(node) = &outcome.decision else {
            return;
        };
        self.expect(&outcome.request.pod, Some(node)).await;
        for step in &outcome.steps {
            if let Err(error) = self.ready(step, node).await {
                let why = format!("running PreBind plugin \"VolumeBinding\": {error}");
                return self.failed(&outcome.request, &why).await;
            }
        }
        if let Err(why) = self.volumes_bound(&outcome, node).await {
            let why = format!("running PreBind plugin \"VolumeBinding\": binding volumes: {why}");
            return self.failed(&outcome.request, &why).await;
        }
        let binding = binding(&outcome.request, node);
        self.bind(&[outcome.request], &[binding]).await;
    }

    async fn ready(&self, step: &Step, node: &str) -> Result<(), ApiError> {
        match step {
            Step::Bind { claim, volume } => {
                let mut changed = volume.as_ref().clone();
                reserve(&mut changed, claim);
                self.client.update(&changed).await.map(drop)
            }
            Step::Provision { claim } => {
                let metadata = &claim.metadata;
                let patch = json!({"metadata": {
                    "uid": metadata.uid,
                    "annotations": {matching::SELECTED_NODE: node},
                }});
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                let name = metadata.name.as_deref().unwrap_or_default();
                self.client
                    .merge_patch::<PersistentVolumeClaim>(namespace, name, "", &patch)
                    .await
                    .map(drop)
            }
        }
    }

    async fn volumes_bound(&self, outcome: &Outcome, node: &str) -> Result<(), String> {
        let mut advanced = self.cache.advanced();
        let deadline = tokio::time::Instant::now() + VOLUME_WAIT;
        loop {
            advanced.borrow_and_update();
            let mut all = true;
            for step in &outcome.steps {
                let (Step::Bind { claim, .. } | Step::Provision { claim }) = step;
                let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
                let name = claim.metadata.name.as_deref().unwrap_or_default();
                let Some(now) = self.cache.claims.get(namespace, name) else {
                    return Err(format!("persistentvolumeclaim \"{name}\" not found"));
                };
                if now.metadata.uid != claim.metadata.uid {
                    return Err(format!("persistentvolumeclaim \"{name}\" was made anew"));
                }
                // The provisioner gives a node back that it cannot make the volume on.
                let selected = now
                    .metadata
                    .annotations
                    .as_ref()
                    .and_then(|all| all.get(matching::SELECTED_NODE));
                if selected.is_some_and(|selected| selected != node) {
                    return Err("selectedNode annotation value has changed".to_owned());
                }
                all &= matching::is_bound(&now);
            }
            let gone = self.pod_is_gone(&outcome.request);
            if all {
                return Ok(());
            }
            if gone {
                return Err("pod does not exist any more".to_owned());
            }
            match tokio::time::timeout_at(deadline, advanced.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err("the cache has ended".to_owned()),
                Err(_) => return Err("context deadline exceeded".to_owned()),
            }
        }
    }

    fn pod_is_gone(&self, request: &Request) -> bool {
        let metadata = &request.pod.metadata;
        let pod = self.cache.pods.get(
            metadata.namespace.as_deref().unwrap_or_default(),
            metadata.name.as_deref().unwrap_or_default(),
        );
        pod.is_none_or(|pod| {
            pod.metadata.uid != metadata.uid || pod.metadata.deletion_timestamp.is_some()
        })
    }

    /// Event and condition of a pod that fits nowhere, and the room that is made for it.
    async fn refuse(&self, outcome: &Outcome) {
        let Decision::None(why) = &outcome.decision else {
            return;
        };
        self.metrics.attempt("unschedulable");
        let pod = outcome.request.pod.as_ref();
        self.client
            .event(pod, EventType::Warning, "FailedScheduling", why);
        let (namespace, name) = names(pod);
        let now = self.cache.pods.get(namespace, name);
        let waits = |now: &Arc<Pod>| now.metadata.uid == pod.metadata.uid && node_of(now).is_none();
        let Some(now) = now.filter(waits) else {
            return;
        };
        self.write_condition(&now, Refusal::Unschedulable, why, outcome.nomination())
            .await;
        if let Some(preemption) = &outcome.preemption {
            for other in &outcome.displaced {
                self.expect(&other.pod, None).await;
            }
            self.put_out(preemption, &outcome.request).await;
        }
    }

    /// Tells where the pod is about to go, or that this is not so any more. Whoever looks at it, such as one that adds
    /// nodes, counts on that; nothing fails without it.
    async fn expect(&self, pod: &Pod, node: Option<&str>) {
        let patch =
            json!({"metadata": {"uid": pod.metadata.uid}, "status": {"nominatedNodeName": node}});
        let (namespace, name) = names(pod);
        if let Err(error) = self
            .client
            .merge_patch::<Pod>(namespace, name, "status", &patch)
            .await
        {
            tracing::debug!(name, ?node, %error, "nomination not written");
        }
    }

    async fn put_out(&self, preemption: &Preemption, by: &Request) {
        self.metrics.preempted(preemption.victims.len());
        for victim in preemption
            .victims
            .iter()
            .filter(|victim| !victim.is_going())
        {
            let (namespace, name) = (&victim.class.namespace, victim.name.as_ref());
            let live = match self.client.get::<Pod>(namespace, name).await {
                Ok(Some(live)) if live.metadata.uid.as_deref() == Some(victim.uid()) => live,
                Ok(_) => continue,
                Err(error) => {
                    tracing::debug!(name, %error, "victim not deleted");
                    continue;
                }
            };
            let marked = as_target(&live, jiff::Timestamp::now());
            if let Err(error) = self.client.update_status(&marked).await {
                tracing::debug!(name, %error, "condition DisruptionTarget not written");
            }
            let options = DeleteOptions {
                uid: live.metadata.uid.clone(),
                ..DeleteOptions::default()
            };
            match self.client.delete::<Pod>(namespace, name, options).await {
                Ok(()) => {
                    let message =
                        format!("Preempted by pod {} on node {}", by.uid(), preemption.node);
                    self.client
                        .event(&live, EventType::Normal, "Preempted", &message);
                }
                Err(error) => tracing::debug!(name, %error, "victim not deleted"),
            }
        }
    }
}

fn names(pod: &Pod) -> (&str, &str) {
    (
        pod.metadata.namespace.as_deref().unwrap_or_default(),
        pod.metadata.name.as_deref().unwrap_or_default(),
    )
}

fn binding(request: &Request, node: &str) -> Binding {
    let metadata = &request.pod.metadata;
    Binding {
        namespace: metadata.namespace.clone().unwrap_or_default(),
        pod: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        node: node.to_owned(),
    }
}

/// The volume is the claim's from now on.
pub(crate) fn reserve(volume: &mut PersistentVolume, claim: &PersistentVolumeClaim) {
    let reference = ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some("PersistentVolumeClaim".to_owned()),
        namespace: claim.metadata.namespace.clone(),
        name: claim.metadata.name.clone(),
        uid: claim.metadata.uid.clone(),
        resource_version: claim.metadata.resource_version.clone(),
        field_path: None,
    };
    volume.spec.get_or_insert_default().claim_ref = Some(reference);
    volume
        .metadata
        .annotations
        .get_or_insert_default()
        .insert(matching::BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
}
