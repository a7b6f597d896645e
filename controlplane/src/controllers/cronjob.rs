//! CronJobs: a Job whenever one is due.
//!
//! The loop carries out what [`plan`] says and comes back when the next one is due.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{CronJob, CronJobStatus, Job};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::cache::{BY_CONTROLLER, Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client, DeleteOptions, EventType};

use super::context_error;
use super::expectations::Expectations;
use super::owner::controller_of;
use super::worker::Next;

mod plan;

use plan::Plan;

pub(super) const NAME: &str = "cronjob-controller";
const VIEW_LAG: std::time::Duration = std::time::Duration::from_secs(5);

pub(super) struct Controller {
    client: Client,
    cache: Cache,
    expectations: Expectations,
}

pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let crons = {
        let queue = queue.clone();
        cache
            .cron_jobs
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let jobs = {
        let queue = queue.clone();
        cache.jobs.subscribe(move |delta| {
            if let Some(owner) = controller_of(&delta.latest().metadata)
                && owner.kind == "CronJob"
            {
                queue.add(ObjectKey::new(&delta.key.namespace, &owner.name));
            }
        })
    };
    vec![crons, jobs]
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
        // A Job, and the status that tells of it, must be seen before another is thought of.
        let expected = self.expectations.get(&key).revision;
        if !self.cache.jobs.wait_for(expected, VIEW_LAG).await {
            return Err(context_error("the view of jobs lags behind"));
        }
        let Some(cron) = self.cache.cron_jobs.get_key(&key) else {
            self.expectations.forget(&key);
            return Ok(Next::Wait);
        };
        let uid = cron.metadata.uid.as_deref().unwrap_or_default();
        let jobs = self.cache.jobs.indexed(BY_CONTROLLER, uid);
        let plan = plan::plan(&plan::View {
            cron: &cron,
            jobs: &jobs,
            now: Timestamp::now(),
        });
        let recheck = plan.recheck;
        self.execute(&key, &cron, plan).await?;
        Ok(recheck.map_or(Next::Wait, Next::After))
    }

    async fn execute(&self, key: &ObjectKey, cron: &CronJob, plan: Plan) -> Result<(), ApiError> {
        for (kind, reason, message) in &plan.events {
            self.client.event(cron, *kind, reason, message);
        }
        for job in &plan.forget {
            self.delete(cron, job).await?;
        }
        let mut status = plan.status;
        for job in &plan.replace {
            self.delete(cron, job).await?;
            let active = status.active.get_or_insert_default();
            active.retain(|one| one.uid != job.metadata.uid);
        }
        if let Some((job, due)) = &plan.create {
            let created = self.create(key, cron, job).await?;
            if let Some(created) = created {
                let active = status.active.get_or_insert_default();
                active.push(plan::reference(&created));
            }
            status.last_schedule_time = Some(Time(*due));
        }
        self.write_status(key, cron, status).await
    }

    /// `None` when the Job of this time was made before.
    async fn create(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        job: &Job,
    ) -> Result<Option<Job>, ApiError> {
        match self.client.create(job).await {
            Ok(created) => {
                self.expectations.wrote(key, &created);
                let name = created.metadata.name.as_deref().unwrap_or_default();
                let message = format!("Created job {name}");
                self.client
                    .event(cron, EventType::Normal, "SuccessfulCreate", &message);
                Ok(Some(created))
            }
            Err(error) if error.reason() == "AlreadyExists" => Ok(None),
            Err(error) => {
                let message = format!("Error creating job: {error}");
                self.client
                    .event(cron, EventType::Warning, "FailedCreate", &message);
                Err(error)
            }
        }
    }

    async fn delete(&self, cron: &CronJob, job: &Arc<Job>) -> Result<(), ApiError> {
        let options = DeleteOptions {
            uid: job.metadata.uid.clone(),
            propagation: Some("Background".to_owned()),
            ..DeleteOptions::default()
        };
        let key = ObjectKey::of(job.as_ref());
        let result = self
            .client
            .delete::<Job>(&key.namespace, &key.name, options)
            .await;
        match result {
            Ok(()) => {
                let message = format!("Deleted job {}", key.name);
                self.client
                    .event(cron, EventType::Normal, "SuccessfulDelete", &message);
                Ok(())
            }
            Err(error) if error.code() == 409 => Ok(()),
            Err(error) => {
                let message = format!("Deleted job: {error}");
                self.client
                    .event(cron, EventType::Warning, "FailedDelete", &message);
                Err(error)
            }
        }
    }

    async fn write_status(
        &self,
        key: &ObjectKey,
        cron: &CronJob,
        status: CronJobStatus,
    ) -> Result<(), ApiError> {
        if cron.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = cron.clone();
        changed.status = Some(status);
        let written = self.client.update_status(&changed).await?;
        self.expectations.wrote(key, &written);
        Ok(())
    }
}
