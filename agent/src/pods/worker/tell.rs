//! What a pod's worker says to the outside: statuses when they change, snapshots, events.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ObjectReference, PodStatus};

use super::{ContainerSnapshot, Snapshot, Worker};
use crate::pods::machine::Machine;
use crate::pods::plan;
use crate::pods::record::{Attempt, AttemptState};
use crate::pods::report::{EventType, PodEvent, reference};
use crate::pods::status;
use crate::pods::wanted::WantedContainer;

impl<M: Machine> Worker<M> {
    /// When the status will read differently though nothing happens.
    pub(super) fn display_change(&self) -> Option<Timestamp> {
        let now = self.now();
        let pulls = self.transient.containers.values();
        let pulls = pulls.filter_map(|container| match &container.image {
            plan::ImageState::Failed { at, .. } => Some(*at + status::ERROR_SHOWN),
            _ => None,
        });
        let starts = self.record.containers.values();
        let starts = starts.filter_map(|container| status::start_error_ends(container.ended()?));
        pulls.chain(starts).filter(|at| *at > now).min()
    }

    /// Publishes the status, and reports it when it changed.
    pub(super) fn tell(&mut self) {
        let host = status::HostFacts {
            addresses: self.context.settings.addresses(),
        };
        let status = status::status(
            &self.pod,
            &self.wanted,
            &self.record,
            &self.transient,
            &host,
            self.now(),
        );
        let changed = self.record.reported.as_ref() != Some(&status);
        self.tell_back_off(&status);
        if changed || self.snapshot.borrow().is_none() {
            self.snapshot
                .send_replace(Some(self.make_snapshot(&status)));
            if self.transient.leaving.is_none() {
                self.context.reporter.status(&self.key, &status);
            }
        }
        if changed {
            self.record.reported = Some(status);
            self.save();
        }
    }

    /// Events that go with states rather than with steps.
    fn tell_back_off(&mut self, status: &PodStatus) {
        let all = status
            .init_container_statuses
            .iter()
            .chain(&status.container_statuses)
            .chain(&status.ephemeral_container_statuses)
            .flatten();
        let mut say = Vec::new();
        for container in all {
            let Some(waiting) = container
                .state
                .as_ref()
                .and_then(|state| state.waiting.as_ref())
            else {
                continue;
            };
            let name = &container.name;
            let round = format!("{}", container.restart_count);
            match waiting.reason.as_deref() {
                Some("CrashLoopBackOff") => say.push((
                    name.clone(),
                    format!("crash {round}"),
                    EventType::Warning,
                    "BackOff",
                    format!(
                        "Back-off restarting failed container {name} in pod {}",
                        status::identity(&self.pod)
                    ),
                )),
                Some("ImagePullBackOff") => {
                    let at = match self.transient.containers.get(name).map(|c| &c.image) {
                        Some(plan::ImageState::Failed { at, .. }) => at.to_string(),
                        _ => String::new(),
                    };
                    say.push((
                        name.clone(),
                        format!("pull {at}"),
                        EventType::Normal,
                        "BackOff",
                        format!("Back-off pulling image \"{}\"", container.image),
                    ));
                }
                _ => {}
            }
        }
        for (container, round, event_type, reason, message) in say {
            let told = self
                .told
                .insert(format!("backoff {container}"), round.clone());
            if told.as_ref() != Some(&round) {
                self.event(Some(&container), event_type, reason, message);
            }
        }
    }

    fn make_snapshot(&self, status: &PodStatus) -> Snapshot {
        let statuses = status
            .init_container_statuses
            .iter()
            .chain(&status.container_statuses)
            .chain(&status.ephemeral_container_statuses)
            .flatten();
        let containers = statuses
            .map(|status| {
                let known = self.record.container(&status.name);
                let begun = |state: &AttemptState| match state {
                    AttemptState::Creating | AttemptState::Created => false,
                    AttemptState::Running { .. } => true,
                    AttemptState::Ended(ended) => ended.started_at.is_some(),
                };
                let attempt = known.and_then(|known| known.attempt.as_ref());
                let waiting = status
                    .state
                    .as_ref()
                    .and_then(|state| state.waiting.clone());
                let snapshot = ContainerSnapshot {
                    current: attempt
                        .filter(|attempt| begun(&attempt.state))
                        .map(|attempt| attempt.number),
                    previous: known
                        .and_then(|known| known.last.as_ref())
                        .map(|last| last.number),
                    live: attempt.is_some_and(Attempt::is_live),
                    waiting: waiting.and_then(|waiting| waiting.reason),
                };
                (status.name.clone(), snapshot)
            })
            .collect();
        Snapshot {
            key: self.key.clone(),
            pod: std::sync::Arc::clone(&self.pod),
            status: status.clone(),
            dirs: self.dirs.clone(),
            containers,
        }
    }

    pub(super) fn event(
        &self,
        container: Option<&str>,
        event_type: EventType,
        reason: &'static str,
        message: String,
    ) {
        self.context.reporter.event(PodEvent {
            involved: self.involved(container),
            event_type,
            reason,
            message,
        });
    }

    /// The pod or its container, as events refer to it.
    pub(super) fn involved(&self, container: Option<&str>) -> ObjectReference {
        let field_path = container.map(|name| {
            let is_in = |all: &[WantedContainer]| all.iter().any(|it| it.name == name);
            let list = if is_in(&self.wanted.init) {
                "initContainers"
            } else if is_in(&self.wanted.ephemeral) {
                "ephemeralContainers"
            } else {
                "containers"
            };
            format!("spec.{list}{{{name}}}")
        });
        reference(&self.pod, field_path)
    }

    /// Sends an event about a failure, unless the same was said last; tells whether it was sent.
    pub(super) fn event_once(
        &mut self,
        topic: &str,
        container: Option<&str>,
        reason: &'static str,
        message: String,
    ) -> bool {
        let topic = format!("{topic} {}", container.unwrap_or_default());
        let new = self.told.get(&topic) != Some(&message);
        if new {
            self.told.insert(topic, message.clone());
            self.event(container, EventType::Warning, reason, message);
        }
        new
    }
}
