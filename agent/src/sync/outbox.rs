//! What is to be told to the control plane: the latest of everything, sent again after a lost stream.
//! Nobody who puts something in ever waits; events are bounded, the oldest go first.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use k8s_openapi::api::core::v1::{NodeStatus, Pod, PodStatus};
use prometheus_client::metrics::counter::Counter;
use proto::node::v1 as wire;
use proto::node::v1::node_message::Message;
use tokio::sync::Notify;

use crate::node::NodeReporter;
use crate::pods::{EventType, PodEvent, PodKey, Reporter};

/// Events that wait at most.
const MOST_EVENTS: usize = 1024;

#[derive(Debug, Default)]
struct Content {
    statuses: BTreeMap<String, Status>,
    /// Uids with a status to send, in the order in which they changed.
    dirty: VecDeque<String>,
    terminated: BTreeMap<String, (PodKey, bool)>,
    /// Copies of static pods, by the uid that they are reported under.
    mirrors: BTreeMap<String, Bytes>,
    events: VecDeque<wire::EventReport>,
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

    fn take(&self) -> Option<Message> {
        self.with(Content::take)
    }

    /// The next message; waits for one.
    pub(crate) async fn next(&self) -> wire::NodeMessage {
        loop {
            let filled = self.filled.notified();
            if let Some(message) = self.take() {
                return wire::NodeMessage {
                    message: Some(message),
                };
            }
            filled.await;
        }
    }
}

impl Content {
    /// The most urgent first; a pod's status always before its end.
    fn take(&mut self) -> Option<Message> {
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
        if let Some(event) = self.events.pop_front() {
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
        self.put(|content| {
            let before = content.statuses.insert(
                pod.uid.clone(),
                Status {
                    key: pod.clone(),
                    json,
                    dirty: true,
                },
            );
            if !before.is_some_and(|before| before.dirty) {
                content.dirty.push_back(pod.uid.clone());
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
            content.events.push_back(report);
        });
    }
}

#[cfg(test)]
mod tests;
