//! Finished Jobs go after `ttlSecondsAfterFinished`, with what they own.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::Job;

use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::controllers::worker::Next;
use crate::registry::{ApiError, Client, DeleteOptions};

pub(in crate::controllers) const NAME: &str = "ttl-after-finished-controller";

pub(in crate::controllers) struct Controller {
    client: Client,
    cache: Cache,
}

pub(in crate::controllers) fn subscribe(
    cache: &Cache,
    queue: &Queue<ObjectKey>,
) -> Vec<Subscription> {
    let queue = queue.clone();
    vec![cache.jobs.subscribe(move |delta| {
        if delta.new.is_some_and(|job| expiry(job).is_some()) {
            queue.add(delta.key.clone());
        }
    })]
}

/// Pure: when the Job is to go.
fn expiry(job: &Job) -> Option<Timestamp> {
    if job.metadata.deletion_timestamp.is_some() {
        return None;
    }
    let seconds = job.spec.as_ref()?.ttl_seconds_after_finished?;
    let end = super::finished(job)?.last_transition_time.as_ref()?.0;
    end.checked_add(SignedDuration::from_secs(seconds.into()))
        .ok()
}

impl Controller {
    pub(in crate::controllers) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
        }
    }

    pub(in crate::controllers) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let left = |at: Timestamp| {
            Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
        };
        let Some(at) = self.cache.jobs.get_key(&key).and_then(|job| expiry(&job)) else {
            return Ok(Next::Wait);
        };
        if !left(at).is_zero() {
            return Ok(Next::After(left(at) + Duration::from_millis(1)));
        }
        // The view may be old: somebody may have given it more time.
        let live: Option<Job> = self.client.get(&key.namespace, &key.name).await?;
        let Some((job, at)) = live.and_then(|job| expiry(&job).map(|at| (job, at))) else {
            return Ok(Next::Wait);
        };
        if !left(at).is_zero() {
            return Ok(Next::After(left(at)));
        }
        let options = DeleteOptions {
            uid: job.metadata.uid,
            resource_version: job.metadata.resource_version,
            propagation: Some("Foreground".to_owned()),
            ..DeleteOptions::default()
        };
        self.client
            .delete::<Job>(&key.namespace, &key.name, options)
            .await?;
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use k8s_openapi::api::batch::v1::{JobCondition, JobSpec, JobStatus};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::controllers::fixtures::at;

    #[test]
    fn a_job_goes_so_long_after_its_end_and_no_sooner() {
        let mut job = Job {
            spec: Some(JobSpec {
                ttl_seconds_after_finished: Some(30),
                ..JobSpec::default()
            }),
            ..Job::default()
        };
        assert_eq!(expiry(&job), None);
        job.status = Some(JobStatus {
            conditions: Some(vec![JobCondition {
                type_: "Failed".into(),
                status: "True".into(),
                last_transition_time: Some(Time(at(5))),
                ..JobCondition::default()
            }]),
            ..JobStatus::default()
        });
        assert_eq!(expiry(&job), Some(at(35)));
        job.spec.as_mut().unwrap().ttl_seconds_after_finished = None;
        assert_eq!(expiry(&job), None);
    }
}
