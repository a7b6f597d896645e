//! Getting the image of a container, beside the loop.

use std::time::Duration;

use jiff::SignedDuration;
use tokio::time::Instant;

use super::{Finished, Pulled, Worker};
use crate::images::{Credentials, PullPolicy};
use crate::pods::machine::{ImageFailure, Machine};
use crate::pods::objects::Lookup;
use crate::pods::plan::ImageState;
use crate::pods::report::EventType;
use crate::pods::{backoff::Backoff, credentials};

/// Reason of an image that may not be fetched and is not there.
const NOT_PRESENT: &str = "ErrImageNeverPull";

impl<M: Machine> Worker<M> {
    pub(super) fn pull(&mut self, name: &str) {
        let Some(container) = self.container(name) else {
            return;
        };
        self.transient(name).image = ImageState::Pulling;
        let reference = container.image.clone().unwrap_or_default();
        let policy = policy(container.image_pull_policy.as_deref(), &reference);
        let credentials = self.credentials();
        let machine = std::sync::Arc::clone(&self.context.machine);
        let reporter = std::sync::Arc::clone(&self.context.reporter);
        let involved = self.involved(Some(name));
        let done = self.finished.0.clone();
        let name = name.to_owned();
        let volumes = self.image_volumes(&container);
        self.beside(async move {
            let begun = Instant::now();
            let there = machine
                .ensure_image(&reference, PullPolicy::Never, &credentials)
                .await;
            let settled = match (policy, &there) {
                (PullPolicy::Never, _) => true,
                (PullPolicy::IfNotPresent, Ok(_)) => true,
                (PullPolicy::Always, Ok(_)) => false,
                (_, Err(failure)) => failure.reason != NOT_PRESENT,
            };
            let image = if settled {
                there
            } else {
                reporter.event(crate::pods::report::PodEvent {
                    involved,
                    event_type: EventType::Normal,
                    reason: "Pulling",
                    message: format!("Pulling image \"{reference}\""),
                });
                machine.ensure_image(&reference, policy, &credentials).await
            };
            let took = begun.elapsed();
            let outcome = match image {
                Ok(image) => super::image_volumes::pull(machine.as_ref(), volumes, &credentials)
                    .await
                    .map(|volumes| Pulled { image, volumes }),
                Err(failure) => Err(failure),
            };
            // The worker may be gone; then nobody wants the image.
            let _ = done
                .send(Finished::Pull {
                    container: name,
                    outcome: Box::new(outcome),
                    took,
                    was_present: settled,
                })
                .await;
        });
    }

    pub(super) fn pulled(
        &mut self,
        name: &str,
        outcome: Result<Pulled, ImageFailure>,
        took: Duration,
        was_present: bool,
    ) {
        let reference = self
            .container(name)
            .and_then(|container| container.image)
            .unwrap_or_default();
        match outcome {
            Ok(Pulled { image, volumes }) => {
                self.volume_images.extend(volumes);
                let message = if was_present {
                    format!(
                        "Container image \"{reference}\" already present on machine and can be accessed by the pod"
                    )
                } else {
                    let took = rounded(took);
                    format!(
                        "Successfully pulled image \"{reference}\" in {took:?} ({took:?} including \
                         waiting). Image size: {} bytes.",
                        image.size_bytes
                    )
                };
                self.event(Some(name), EventType::Normal, "Pulled", message);
                self.images.insert(name.to_owned(), image);
                self.pull_backoffs
                    .insert(name.to_owned(), Backoff::default());
                self.told
                    .retain(|topic, _| !topic.ends_with(&format!(" {name}")));
                self.transient(name).image = ImageState::Present;
            }
            Err(failure) => {
                self.context.metrics.pull_errors.inc();
                let now = self.now();
                let backoff = self.pull_backoffs.entry(name.to_owned()).or_default();
                backoff.step(now);
                let again = backoff
                    .until(now)
                    .unwrap_or(now + SignedDuration::from_secs(10));
                let (event, said) = match failure.reason.as_str() {
                    "InvalidImageName" => ("InspectFailed", failure.message.clone()),
                    NOT_PRESENT => (NOT_PRESENT, failure.message.clone()),
                    _ => (
                        "Failed",
                        format!("Failed to pull image \"{reference}\": {}", failure.message),
                    ),
                };
                self.event_once("pull", Some(name), event, said);
                self.event_once(
                    "pull-reason",
                    Some(name),
                    "Failed",
                    format!("Error: {}", failure.reason),
                );
                self.transient(name).image = ImageState::Failed {
                    reason: failure.reason,
                    message: failure.message,
                    at: now,
                    again,
                };
            }
        }
    }

    /// Of the pod's pull secrets; an image may be had without those that are not there.
    fn credentials(&mut self) -> Vec<Credentials> {
        let mut missing = Vec::new();
        let mut found = Vec::new();
        let spec = self.pod.spec.iter();
        for reference in spec.flat_map(|spec| spec.image_pull_secrets.iter().flatten()) {
            let objects = &self.context.objects;
            match objects.secret(&self.key.namespace, &reference.name) {
                Lookup::Found(secret) => found.extend(credentials::of_secret(&secret)),
                Lookup::Absent => missing.push(reference.name.clone()),
                Lookup::Unknown => {}
            }
        }
        if !missing.is_empty() {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                missing.join(", ")
            );
            self.event_once(
                "pull-secrets",
                None,
                "FailedToRetrieveImagePullSecret",
                message,
            );
        }
        found
    }
}

pub(super) fn policy(asked: Option<&str>, image: &str) -> PullPolicy {
    match asked {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some(_) => PullPolicy::IfNotPresent,
        None => {
            let last = image.rsplit('/').next().unwrap_or_default();
            let latest = !image.contains('@')
                && last.rsplit_once(':').is_none_or(|(_, tag)| tag == "latest");
            if latest {
                PullPolicy::Always
            } else {
                PullPolicy::IfNotPresent
            }
        }
    }
}

fn rounded(took: Duration) -> Duration {
    Duration::from_millis(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}
