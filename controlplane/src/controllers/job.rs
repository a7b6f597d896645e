//! Jobs: pods that run to their end, each end counted exactly once.
//!
//! The loop claims pods and carries out what [`plan`] says: first the status is written, then finalizers go,
//! then pods go and come.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobStatus};
use k8s_openapi::api::core::v1::Pod;

use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client};

use super::podcontrol::{self, PARALLEL_WRITES, PodControl};
use super::worker::Next;
use super::{context_error, selector};

mod count;
mod end;
mod indexes;
pub(super) mod orphans;
mod plan;
mod pods;
mod policy;
pub(super) mod ttl;
mod wanted;

use plan::Plan;
pub(super) use plan::finished;

pub(super) const NAME: &str = "job-controller";
/// What `managedBy` says when it is this controller.
const MANAGER: &str = "kubernetes.io/job-controller";
/// How often a Job is read anew because it changed while its pods were read.
const READS: usize = 8;

pub(super) struct Controller {
    pods: PodControl,
}

fn is_ours(job: &Job) -> bool {
    let manager = job
        .spec
        .as_ref()
        .and_then(|spec| spec.managed_by.as_deref());
    manager.is_none_or(|manager| manager == MANAGER)
}

fn selects(job: &Job, pod: &Pod) -> bool {
    job.spec
        .as_ref()
        .and_then(|spec| spec.selector.as_ref())
        .is_some_and(|chosen| selector::matches(chosen, pod.metadata.labels.as_ref()))
}

/// Feeds the queue with the Jobs that a change concerns.
pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let jobs = {
        let queue = queue.clone();
        cache
            .jobs
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let all = cache.jobs.clone();
    let pods = podcontrol::subscribe(cache, queue, "Job", move |namespace, pod| {
        all.list(namespace)
            .iter()
            .filter(|job| selects(job, pod))
            .map(|job| ObjectKey::of(job.as_ref()))
            .collect()
    });
    vec![jobs, pods]
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            pods: PodControl::new(client, cache, NAME),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        self.pods.caught_up(&key).await?;
        let Some((job, pods)) = self.read(&key).await? else {
            self.pods.forget(&key);
            return Ok(Next::Wait);
        };
        if !is_ours(&job) {
            return Ok(Next::Wait);
        }
        let plan = plan::plan(&plan::View {
            job: &job,
            pods: &pods,
            deleting: &self.pods.deleting(&key, &pods),
            now: Timestamp::now(),
        });
        self.execute(&key, &job, &plan).await?;
        Ok(plan.recheck.map_or(Next::Wait, Next::After))
    }

    /// The Job and its pods as they were at one moment: a status that is older than the pods would miss those
    /// that were counted and let go in between.
    async fn read(&self, key: &ObjectKey) -> Result<Option<(Arc<Job>, Vec<Arc<Pod>>)>, ApiError> {
        let jobs = &self.pods.cache.jobs;
        for _ in 0..READS {
            let Some(job) = jobs.get_key(key) else {
                return Ok(None);
            };
            let pods = if plan::finished(&job).is_none() && is_ours(&job) {
                self.pods
                    .claim_if(job.as_ref(), |pod| selects(&job, pod))
                    .await?
            } else {
                let uid = job.metadata.uid.as_deref().unwrap_or_default();
                self.pods
                    .cache
                    .pods
                    .indexed(crate::cache::BY_CONTROLLER, uid)
            };
            let version = |job: &Job| {
                let metadata = &job.metadata;
                (metadata.uid.clone(), metadata.resource_version.clone())
            };
            let again = jobs.get_key(key);
            if again.is_some_and(|again| version(&again) == version(&job)) {
                return Ok(Some((job, pods)));
            }
        }
        Err(context_error("the job changes too quickly"))
    }

    async fn execute(&self, key: &ObjectKey, job: &Job, plan: &Plan) -> Result<(), ApiError> {
        self.write_status(job, &plan.status).await?;
        for (kind, reason, message) in &plan.events {
            self.pods.client.event(job, *kind, reason, message);
        }
        self.untrack(key, &plan.untrack).await?;
        // Their ends count nowhere, so they are let go first.
        self.untrack(key, &plan.drop).await?;
        self.pods.delete(key, job, &plan.drop).await?;
        self.pods.delete(key, job, &plan.delete).await?;
        let pods: Vec<Pod> = plan.create.iter().map(|new| pods::pod(job, *new)).collect();
        self.pods.create(key, job, &pods).await
    }

    async fn untrack(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> Result<(), ApiError> {
        let tracked: Vec<_> = pods.iter().filter(|pod| pods::is_tracked(pod)).collect();
        for chunk in tracked.chunks(PARALLEL_WRITES) {
            let all = chunk
                .iter()
                .map(|pod| self.pods.remove_finalizer(key, pod, pods::TRACKING));
            for result in futures::future::join_all(all).await {
                result?;
            }
        }
        Ok(())
    }

    async fn write_status(&self, job: &Job, status: &JobStatus) -> Result<(), ApiError> {
        if job.status.as_ref() == Some(status) {
            return Ok(());
        }
        let mut changed = job.clone();
        changed.status = Some(status.clone());
        self.pods.client.update_status(&changed).await.map(drop)
    }
}
