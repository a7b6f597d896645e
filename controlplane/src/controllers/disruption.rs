//! Keeps the status of PodDisruptionBudgets: how many pods there should be, how many are healthy, how many may
//! go. The eviction subresource takes from it (`registry/evict.rs`); this controller gives back.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::worker::Next;
use crate::cache::{self, Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client, EventType, object, scale};
use crate::scheduler::Selector;

mod plan;
pub(super) mod stale;

use plan::{View, plan};

pub(super) const NAME: &str = "disruption-controller";

pub(super) struct Controller {
    client: Client,
    cache: Cache,
}

fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let spec = budget.spec.as_ref();
    let selector = Selector::new(spec.and_then(|spec| spec.selector.as_ref()));
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    budget.metadata.namespace == pod.metadata.namespace && selector.matches(&labels)
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let budgets = {
        let queue = queue.clone();
        cache
            .disruption_budgets
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let pods = {
        let (queue, budgets) = (queue.clone(), cache.disruption_budgets.clone());
        cache.pods.subscribe(move |delta| {
            for budget in budgets.list(&delta.key.namespace) {
                let pods = [delta.old, delta.new];
                if pods.into_iter().flatten().any(|pod| selects(&budget, pod)) {
                    queue.add(ObjectKey::of(budget.as_ref()));
                }
            }
        })
    };
    vec![budgets, pods]
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(budget) = self.cache.disruption_budgets.get_key(&key) else {
            return Ok(Next::Wait);
        };
        let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
        let labels = selector.iter().flat_map(|it| it.match_labels.iter());
        let mut pods = cache::candidates(&self.cache.pods, &key.namespace, labels.flatten());
        pods.retain(|pod| selects(&budget, pod));
        let mut scales = Vec::new();
        for (owner, pod) in plan::controllers(&pods) {
            scales.push(self.replicas(&key.namespace, &owner, &pod).await?);
        }
        let view = View {
            budget: &budget,
            pods: &pods,
            scales,
        };
        let done = plan(&view, Timestamp::now());
        if pods.is_empty() {
            let message = "No matching pods found";
            self.client
                .event(budget.as_ref(), EventType::Normal, "NoPods", message);
        }
        if let Some(message) = plan::unmanaged(&view) {
            self.client.event(
                budget.as_ref(),
                EventType::Warning,
                "UnmanagedPods",
                &message,
            );
        }
        for pod in &done.kept {
            let message = format!("Pod was expected by PDB {key} to be deleted but it wasn't");
            self.client
                .event(pod.as_ref(), EventType::Warning, "NotDeleted", &message);
        }
        if let Some(problem) = &done.problem {
            self.client.event(
                budget.as_ref(),
                EventType::Warning,
                "CalculateExpectedPodCountFailed",
                &format!("Failed to calculate the number of expected pods: {problem}"),
            );
        }
        if let Some(status) = done.status {
            let mut changed = budget.as_ref().clone();
            changed.status = Some(status);
            match self.client.update_status(&changed).await {
                // An eviction was quicker: the watch brings it here again.
                Err(error) if matches!(error.code(), 404 | 409) => {}
                other => drop(other?),
            }
        }
        Ok(done.again.map_or(Next::Wait, Next::After))
    }

    /// How many pods the controller of a pod wants, or why that cannot be known; the Deployment's number for those of
    /// its ReplicaSets.
    async fn replicas(
        &self,
        namespace: &str,
        owner: &OwnerReference,
        pod: &str,
    ) -> Result<Result<i64, String>, ApiError> {
        let unknown = || Ok(Err(format!("found no controllers for pod {pod:?}")));
        let mut owner = owner.clone();
        loop {
            let registry = self.client.registry();
            let found = registry
                .scalable(&owner.api_version, &owner.kind, namespace, &owner.name)
                .await;
            let (kind, found) = match found {
                Ok(Some(found)) => found,
                Ok(None) => {
                    let (group, version) = owner
                        .api_version
                        .split_once('/')
                        .unwrap_or(("", &owner.api_version));
                    let Some(kind) = registry.kind_named(group, version, &owner.kind) else {
                        return unknown();
                    };
                    let plural = kind.get().plural;
                    let dot = if group.is_empty() { "" } else { "." };
                    return Ok(Err(format!(
                        "{plural}{dot}{group} does not implement the scale subresource"
                    )));
                }
                Err(error) if error.is_not_found() => return unknown(),
                Err(error) => return Err(error),
            };
            if object::uid(&found) != owner.uid {
                return unknown();
            }
            let above = found["metadata"]["ownerReferences"].as_array();
            let above = above
                .into_iter()
                .flatten()
                .find(|above| above["controller"] == true && above["kind"] == "Deployment")
                .filter(|_| owner.kind == "ReplicaSet")
                .and_then(|above| serde_json::from_value(above.clone()).ok());
            match above {
                Some(above) => owner = above,
                None => {
                    let scale = scale::of(&kind.get(), &found);
                    return Ok(Ok(scale["spec"]["replicas"].as_i64().unwrap_or(0)));
                }
            }
        }
    }
}

/// An eviction that leads to no deletion within this time is taken back.
const DELETION_TIMEOUT: Duration = Duration::from_secs(120);
