//! Pods that bear the finalizer of a Job that is not there any more, or that has let go of them: nobody will
//! count them, so nothing may hold them.

use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;

use super::pods::{self, TRACKING};
use crate::cache::{BY_CONTROLLER, Cache, ObjectKey, Queue, Subscription};
use crate::controllers::owner::controller_of;
use crate::controllers::podcontrol::PodControl;
use crate::controllers::worker::Next;
use crate::registry::{ApiError, Client};

pub(in crate::controllers) const NAME: &str = "job-orphan-controller";

pub(in crate::controllers) struct Controller {
    pods: PodControl,
}

/// The queue's keys are pods.
pub(in crate::controllers) fn subscribe(
    cache: &Cache,
    queue: &Queue<ObjectKey>,
) -> Vec<Subscription> {
    let pods = {
        let (queue, jobs) = (queue.clone(), cache.jobs.clone());
        cache.pods.subscribe(move |delta| {
            let Some(pod) = delta.new.filter(|pod| pods::is_tracked(pod)) else {
                return;
            };
            let owned = controller_of(&pod.metadata).is_some_and(|owner| {
                let job = jobs.get(&delta.key.namespace, &owner.name);
                job.is_some_and(|job| job.metadata.uid.as_ref() == Some(&owner.uid))
            });
            if !owned {
                queue.add(delta.key.clone());
            }
        })
    };
    let jobs = {
        let (queue, pods) = (queue.clone(), cache.pods.clone());
        cache.jobs.subscribe(move |delta| {
            let gone = delta.old.filter(|old| {
                delta
                    .new
                    .is_none_or(|new| new.metadata.uid != old.metadata.uid)
            });
            let uid = gone.and_then(|job| job.metadata.uid.as_deref());
            for pod in uid
                .map(|uid| pods.indexed(BY_CONTROLLER, uid))
                .unwrap_or_default()
            {
                queue.add(ObjectKey::of(pod.as_ref()));
            }
        })
    };
    vec![pods, jobs]
}

impl Controller {
    pub(in crate::controllers) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            pods: PodControl::new(client, cache, NAME),
        }
    }

    pub(in crate::controllers) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let pod = self.pods.cache.pods.get_key(&key);
        let Some(pod) = pod.filter(|pod| pods::is_tracked(pod)) else {
            return Ok(Next::Wait);
        };
        if !self.has_job(&pod).await? {
            self.pods.remove_finalizer(&key, &pod, TRACKING).await?;
            self.pods.forget(&key);
        }
        Ok(Next::Wait)
    }

    /// Asked of the store: the view may not have the Job yet.
    async fn has_job(&self, pod: &Pod) -> Result<bool, ApiError> {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let Some(owner) = controller_of(&pod.metadata) else {
            // One that a Job is about to adopt keeps it.
            let jobs = self.pods.cache.jobs.list(namespace);
            return Ok(jobs.iter().any(|job| {
                job.metadata.deletion_timestamp.is_none()
                    && super::finished(job).is_none()
                    && super::selects(job, pod)
            }));
        };
        if owner.kind != "Job" {
            return Ok(false);
        }
        let job: Option<Job> = self.pods.client.get(namespace, &owner.name).await?;
        Ok(job.is_some_and(|job| job.metadata.uid.as_ref() == Some(&owner.uid)))
    }
}
