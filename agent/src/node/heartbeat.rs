//! Tells the control plane that the node lives, and how it is when that changed.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus, ObjectReference};
use tokio::sync::watch;

use super::host::Usage;
use super::status::{self, NodeFacts};
use crate::images::ImageStore;
use crate::pods::{EventType, PodEvent, Pressure};

/// How long the control plane may wait for the next renewal.
const LEASE_SECONDS: u32 = 40;
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// A status that did not change is sent this often all the same.
const REPORT_EVERY: Duration = Duration::from_secs(300);
/// Renewals from one listing of the images to the next.
const IMAGES_EVERY: u32 = 3;

/// Where the node is reported; node sync implements it. Neither waits.
pub(crate) trait NodeReporter: Send + Sync + 'static {
    fn renew_lease(&self, seconds: u32);
    fn node_status(&self, status: &NodeStatus);
}

/// One per agent.
pub(crate) struct Heartbeat {
    pub(crate) facts: Mutex<NodeFacts>,
    pub(crate) data_dir: PathBuf,
    pub(crate) images: ImageStore,
    pub(crate) reporter: Arc<dyn NodeReporter>,
    reported: Mutex<Option<NodeStatus>>,
    /// Something that the status shows was changed from outside.
    changed: tokio::sync::Notify,
}

impl Heartbeat {
    pub(crate) fn new(
        facts: NodeFacts,
        data_dir: PathBuf,
        images: ImageStore,
        reporter: Arc<dyn NodeReporter>,
    ) -> Self {
        Self {
            facts: Mutex::new(facts),
            data_dir,
            images,
            reporter,
            reported: Mutex::default(),
            changed: tokio::sync::Notify::new(),
        }
    }

    /// Whether pods can run, and if not, why.
    pub(crate) fn set_not_ready(&self, why: Option<String>) {
        self.facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .not_ready = why;
        self.changed.notify_one();
    }

    /// The machine is about to go down, and why that means that the node is not ready.
    pub(crate) fn set_shutting_down(&self, why: Option<String>) {
        self.facts
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .shutting_down = why;
        self.changed.notify_one();
    }

    pub(crate) fn set_pressure(&self, pressure: Pressure) {
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        if facts.pressure != pressure {
            tracing::warn!(?pressure, "what the node is short of changed");
            facts.pressure = pressure;
            drop(facts);
            self.changed.notify_one();
        }
    }

    /// The addresses that the node is reached by.
    pub(crate) fn set_addresses(&self, addresses: Vec<IpAddr>) {
        {
            let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
            if facts.addresses == addresses {
                return;
            }
            tracing::info!(from = ?facts.addresses, to = ?addresses, "the node's addresses changed");
            facts.addresses = addresses;
        }
        self.changed.notify_one();
    }

    /// The node's last status: it runs no pods any more, so their endpoints must go.
    pub(crate) fn leave(&self, why: &str) {
        self.set_not_ready(Some(why.to_owned()));
        self.report(&mut None);
    }

    /// An event about the node. As kubelets do, it is named instead of its uid.
    pub(crate) fn event(
        &self,
        event_type: EventType,
        reason: &'static str,
        message: String,
    ) -> PodEvent {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        PodEvent {
            involved: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Node".to_owned()),
                name: Some(facts.name.clone()),
                uid: Some(facts.name.clone()),
                ..ObjectReference::default()
            },
            event_type,
            reason,
            message,
        }
    }

    /// The node as it registers.
    pub(crate) fn node(&self) -> Node {
        let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let node = status::node(&facts, reported.as_ref(), Timestamp::now());
        reported.clone_from(&node.status);
        node
    }

    /// Until `stop` says so.
    pub(crate) async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut ticks = tokio::time::interval(RENEW_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut last = None;
        let mut round = 0u32;
        loop {
            tokio::select! {
                _ = ticks.tick() => self.reporter.renew_lease(LEASE_SECONDS),
                () = self.changed.notified() => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            if round.is_multiple_of(IMAGES_EVERY) {
                self.list_images().await;
            }
            round = round.wrapping_add(1);
            self.measure();
            self.report(&mut last);
        }
    }

    async fn list_images(&self) {
        let images = match self.images.list().await {
            Ok(images) => images
                .into_iter()
                .map(|image| {
                    let repository = image
                        .reference
                        .rsplit_once(':')
                        .map_or(image.reference.as_str(), |(repository, _)| repository);
                    let by_digest = format!("{repository}@{}", image.digest);
                    (vec![by_digest, image.reference], image.size_bytes)
                })
                .collect(),
            Err(error) => {
                tracing::warn!(%error, "images cannot be listed");
                Vec::new()
            }
        };
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.images = images;
    }

    fn measure(&self) {
        let usage = Usage::read(&self.data_dir);
        let mut facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
        facts.usage = usage;
    }

    fn report(&self, last: &mut Option<tokio::time::Instant>) {
        let status = {
            let facts = self.facts.lock().unwrap_or_else(PoisonError::into_inner);
            let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
            let status = status::node_status(&facts, reported.as_ref(), Timestamp::now());
            let due = last.is_none_or(|last| last.elapsed() >= REPORT_EVERY);
            if !due
                && reported
                    .as_ref()
                    .is_some_and(|before| same(before, &status))
            {
                return;
            }
            *reported = Some(status.clone());
            status
        };
        *last = Some(tokio::time::Instant::now());
        self.reporter.node_status(&status);
    }
}

/// Equal but for the times of the heartbeats.
fn same(one: &NodeStatus, other: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        status
    };
    plain(one) == plain(other)
}
