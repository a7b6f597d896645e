//! What is to be told to the control plane: the latest of everything, sent again after a lost stream.
//! Nobody who puts something in ever waits; events are bounded, the oldest go first.
//!
//! When many pods begin together, each is as soon ready as what others report leaves time for. So a pod that is still
//! pending is told of a moment later, perhaps with what it has become by then, and events wait until statuses are told.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{NodeStatus, Pod, PodStatus};
use prometheus_client::metrics::counter::Counter;
use proto::node::v1 as wire;
use proto::node::v1::node_message::Message;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::node::NodeReporter;
use crate::pods::{EventType, PodEvent, PodKey, Reporter};

/// Events that wait at most.
const MOST_EVENTS: usize = 1024;
/// How long it is waited for what becomes of a pod that is pending.
const PENDING: Duration = Duration::from_millis(100);
/// Events come when there was no status for so long, or when they have waited so long.
const QUIET: Duration = Duration::from_millis(50);
const OLDEST_EVENT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Content {
    statuses: BTreeMap<String, Status>,
    /// Uids with a status to send, in the order in which they changed.
    dirty: VecDeque<String>,
    /// The same of pods that are pending, and when it is time.
    pending: VecDeque<(Instant, String)>,
    /// When the last status came.
    told: Option<Instant>,
    terminated: BTreeMap<String, (PodKey, bool)>,
    /// Copies of static pods, by the uid that they are reported under.
    mirrors: BTreeMap<String, Bytes>,
    events: VecDeque<(Instant, wire::EventReport)>,
    node_status: Option<(Bytes, bool)>,
    lease_seconds: Option<u32>,
    applied: u64,
    applied_sent: bool,
    /// Volumes whose data is gone.
    removed: BTreeSet<String>,
    /// The latest only.
    usage: Option<wire::Usage>,
}

#[derive(Debug)]
struct Status {
    key: PodKey,
    json: Bytes,
    dirty: bool,
    /// It is in the queue of those that do not wait.
    urgent: bool,
}

/// Shared by workers, the node's heartbeat and the client. The lock is held for moments and no other lock is
/// taken under it.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    content: Mutex<Content>,
    filled: Notify,
    pub(crate) dropped_events: Counter,
}

impl Outbox {
    fn with<R>(&self, act: impl FnOnce(&mut Content) -> R) -> R {
        act(&mut self.content.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn put(&self, act: impl FnOnce(&mut Content)) {
        self.with(act);
        self.filled.notify_one();
    }

    pub(crate) fn applied(&self, revision: u64) {
        self.put(|content| {
            if content.applied != revision {
                content.applied = revision;
                content.applied_sent = false;
            }
        });
    }

    pub(crate) fn volume_removed(&self, name: String) {
        self.put(|content| {
            content.removed.insert(name);
        });
    }

    pub(crate) fn usage(&self, usage: wire::Usage) {
        self.put(|content| content.usage = Some(usage));
    }

    /// The pod is gone from the store.
    pub(crate) fn forget(&self, uid: &str) {
        self.with(|content| {
            content.statuses.remove(uid);
            content.terminated.remove(uid);
        });
    }

    /// These are all pods that the store has.
    pub(crate) fn retain(&self, uids: &BTreeSet<String>) {
        self.with(|content| {
            let mirrors = &content.mirrors;
            let known = |uid: &String| uids.contains(uid) || mirrors.contains_key(uid);
            content.statuses.retain(|uid, _| known(uid));
            content.terminated.retain(|uid, _| known(uid));
        });
    }

    /// A new stream: what was said on the one before may not have arrived.
    pub(crate) fn begin(&self) {
        self.put(|content| {
            content.dirty = content.statuses.keys().cloned().collect();
            content.pending.clear();
            for status in content.statuses.values_mut() {
                status.dirty = true;
            }
            for (_, sent) in content.terminated.values_mut() {
                *sent = false;
            }
            if let Some((_, dirty)) = &mut content.node_status {
                *dirty = true;
            }
            content.applied_sent = content.applied == 0;
        });
    }

    fn take(&self, now: Instant) -> Option<Message> {
        self.with(|content| content.take(now))
    }

    /// The next message; waits for one.
    pub(crate) async fn next(&self) -> wire::NodeMessage {
        loop {
            let filled = self.filled.notified();
            if let Some(message) = self.take(Instant::now()) {
                return wire::NodeMessage {
                    message: Some(message),
                };
            }
            let due = self.with(|content| content.due());
            tokio::select! {
                () = filled => {}
                () = sleep_until(due) => {}
            }
        }
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

impl Content {
    /// When there will be something to take, if nothing is put in.
    fn due(&self) -> Option<Instant> {
        let pending = self.pending.front().map(|(due, _)| *due);
        pending.into_iter().chain(self.event_due()).min()
    }

    fn event_due(&self) -> Option<Instant> {
        let (at, _) = self.events.front()?;
        let quiet = self.told.map_or(*at, |told| told + QUIET);
        Some(quiet.max(*at).min(*at + OLDEST_EVENT))
    }

    /// The most urgent first; a pod's status always before its end.
    fn take(&mut self, now: Instant) -> Option<Message> {
        while let Some((_, uid)) = self.pending.pop_front_if(|(due, _)| *due <= now) {
            self.dirty.push_back(uid);
        }
        if let Some(duration_seconds) = self.lease_seconds.take() {
            return Some(Message::LeaseRenewal(wire::LeaseRenewal {
                duration_seconds,
            }));
        }
        if !self.applied_sent && self.applied > 0 {
            self.applied_sent = true;
            return Some(Message::Applied(wire::AppliedRevision {
                revision: self.applied,
            }));
        }
        while let Some(uid) = self.dirty.pop_front() {
            let Some(status) = self.statuses.get_mut(&uid).filter(|status| status.dirty) else {
                continue;
            };
            status.dirty = false;
            return Some(Message::PodStatus(wire::PodStatus {
                namespace: status.key.namespace.clone(),
                name: status.key.name.clone(),
                mirror_json: self.mirrors.get(&uid).cloned().unwrap_or_default(),
                uid,
                status_json: status.json.clone(),
            }));
        }
        if let Some((uid, (key, sent))) = self.terminated.iter_mut().find(|(_, (_, sent))| !*sent) {
            *sent = true;
            return Some(Message::PodTerminated(wire::PodTerminated {
                namespace: key.namespace.clone(),
                name: key.name.clone(),
                uid: uid.clone(),
            }));
        }
        if let Some((json, dirty)) = &mut self.node_status
            && *dirty
        {
            *dirty = false;
            return Some(Message::NodeStatus(wire::NodeStatus {
                status_json: json.clone(),
            }));
        }
        if let Some(name) = self.removed.pop_first() {
            return Some(Message::VolumeRemoved(wire::VolumeRemoved { name }));
        }
        if self.event_due().is_some_and(|due| due <= now)
            && let Some((_, event)) = self.events.pop_front()
        {
            return Some(Message::Event(event));
        }
        self.usage.take().map(Message::Usage)
    }
}

impl NodeReporter for Outbox {
    fn renew_lease(&self, seconds: u32) {
        self.put(|content| content.lease_seconds = Some(seconds));
    }

    fn node_status(&self, status: &NodeStatus) {
        match serde_json::to_vec(status) {
            Ok(json) => self.put(|content| content.node_status = Some((json.into(), true))),
            Err(error) => tracing::error!(%error, "the node's status cannot be written"),
        }
    }
}

impl Reporter for Outbox {
    fn status(&self, pod: &PodKey, status: &PodStatus) {
        let json = match serde_json::to_vec(status) {
            Ok(json) => Bytes::from(json),
            Err(error) => {
                tracing::error!(pod = %pod.name, %error, "a pod's status cannot be written");
                return;
            }
        };
        let is_pending = status.phase.as_deref() == Some("Pending");
        self.put(|content| {
            let now = Instant::now();
            content.told = Some(now);
            let known = content.statuses.get(&pod.uid);
            let queued = known.is_some_and(|known| known.dirty && known.urgent);
            let urgent = !is_pending || queued;
            let before = content.statuses.insert(
                pod.uid.clone(),
                Status {
                    key: pod.clone(),
                    json,
                    dirty: true,
                    urgent,
                },
            );
            let before = before.filter(|before| before.dirty);
            match (before.map(|before| before.urgent), urgent) {
                (None | Some(false), true) => content.dirty.push_back(pod.uid.clone()),
                (None, false) => content.pending.push_back((now + PENDING, pod.uid.clone())),
                // It has its place.
                (Some(_), _) => {}
            }
        });
    }

    fn mirror(&self, pod: &PodKey, copy: &Pod) {
        match serde_json::to_vec(copy) {
            Ok(json) => self.with(|content| {
                content.mirrors.insert(pod.uid.clone(), json.into());
            }),
            Err(error) => {
                tracing::error!(pod = %pod.name, %error, "a mirror pod cannot be written")
            }
        }
    }

    fn terminated(&self, pod: &PodKey) {
        self.put(|content| {
            // It is shown no more.
            content.mirrors.remove(&pod.uid);
            // Nothing more becomes of it.
            if let Some(status) = content.statuses.get_mut(&pod.uid)
                && status.dirty
                && !status.urgent
            {
                status.urgent = true;
                content.dirty.push_back(pod.uid.clone());
            }
            content
                .terminated
                .insert(pod.uid.clone(), (pod.clone(), false));
        });
    }

    fn event(&self, event: PodEvent) {
        let report = wire::EventReport {
            namespace: event.involved.namespace.clone().unwrap_or_default(),
            involved_object_json: match serde_json::to_vec(&event.involved) {
                Ok(json) => json.into(),
                Err(_) => return,
            },
            r#type: match event.event_type {
                EventType::Normal => "Normal",
                EventType::Warning => "Warning",
            }
            .to_owned(),
            reason: event.reason.to_owned(),
            message: event.message,
        };
        self.put(|content| {
            if content.events.len() >= MOST_EVENTS {
                content.events.pop_front();
                self.dropped_events.inc();
            }
            content.events.push_back((Instant::now(), report));
        });
    }
}

#[cfg(test)]
mod tests;
