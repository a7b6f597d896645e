//! Pods leave nodes whose NoExecute taints they do not tolerate, at once or after tolerationSeconds.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};

use crate::cache::{BY_NODE, Cache, ObjectKey, Queue, Subscription};
use crate::controllers::disruption_target::{self, Cause};
use crate::controllers::podstate;
use crate::controllers::worker::Next;
use crate::registry::{ApiError, Client, DeleteOptions, EventType};
use crate::scheduler::tolerates;

pub(in crate::controllers) const NAME: &str = "taint-eviction-controller";

pub(in crate::controllers) struct Controller {
    client: Client,
    cache: Cache,
    /// Uid of a pod that may stay for a while, and when it was first seen on a node with such taints.
    seen: Mutex<HashMap<ObjectKey, (String, Timestamp)>>,
}

fn evicting(node: &Node) -> Vec<&Taint> {
    let taints = node
        .spec
        .iter()
        .flat_map(|spec| spec.taints.iter().flatten());
    taints.filter(|taint| taint.effect == "NoExecute").collect()
}

pub(in crate::controllers) fn subscribe(
    cache: &Cache,
    queue: &Queue<ObjectKey>,
) -> Vec<Subscription> {
    let nodes = {
        let (queue, pods) = (queue.clone(), cache.pods.clone());
        cache.nodes.subscribe(move |delta| {
            let taints = |node: &Node| evicting(node).into_iter().cloned().collect::<Vec<_>>();
            let new = delta.new.map(|node| taints(node)).unwrap_or_default();
            let old = delta.old.map(|node| taints(node)).unwrap_or_default();
            if new != old {
                for pod in pods.indexed(BY_NODE, &delta.key.name) {
                    queue.add(ObjectKey::of(pod.as_ref()));
                }
            }
        })
    };
    let pods = {
        let (queue, nodes) = (queue.clone(), cache.nodes.clone());
        cache.pods.subscribe(move |delta| {
            let node = delta
                .new
                .and_then(|pod| pod.spec.as_ref()?.node_name.as_deref())
                .and_then(|name| nodes.get("", name));
            if node.is_some_and(|node| !evicting(&node).is_empty()) {
                queue.add(delta.key.clone());
            }
        })
    };
    vec![nodes, pods]
}

/// When the pod must go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stay {
    ForEver,
    /// Seconds from now; 0 is at once.
    For(i64),
}

/// Pure: the shortest that any of the taints allows. Of several tolerations of one taint the first counts, as in
/// Kubernetes, where an order is the only way to say which is meant.
///
/// `since` is when the taints were first seen: one that people set says nothing of when it was added.
pub(super) fn stay(
    taints: &[&Taint],
    tolerations: &[Toleration],
    since: Timestamp,
    now: Timestamp,
) -> Stay {
    let mut least: Option<i64> = None;
    for taint in taints {
        let first = tolerations
            .iter()
            .find(|toleration| tolerates(toleration, taint));
        let Some(toleration) = first else {
            return Stay::For(0);
        };
        if let Some(seconds) = toleration.toleration_seconds {
            let seconds = seconds.max(0);
            let added = taint.time_added.as_ref().map_or(since, |time| time.0);
            let left = (added.as_second() + seconds - now.as_second()).max(0);
            least = Some(least.map_or(left, |other| other.min(left)));
        }
    }
    least.map_or(Stay::ForEver, Stay::For)
}

impl Controller {
    pub(in crate::controllers) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
            seen: Mutex::default(),
        }
    }

    /// When this pod was first seen with such taints.
    fn since(&self, key: &ObjectKey, pod: &Pod, now: Timestamp) -> Timestamp {
        let uid = pod.metadata.uid.clone().unwrap_or_default();
        let mut seen = self.seen.lock().expect("no panic while held");
        let known = seen.entry(key.clone()).or_insert((uid.clone(), now));
        if known.0 != uid {
            *known = (uid, now);
        }
        known.1
    }

    /// Whether this pod was about to go.
    fn forget(&self, key: &ObjectKey, pod: Option<&Pod>) -> bool {
        let known = self.seen.lock().expect("no panic while held").remove(key);
        let uid = pod.and_then(|pod| pod.metadata.uid.as_deref());
        known.is_some_and(|(known, _)| uid == Some(&known))
    }

    pub(in crate::controllers) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let Some(pod) = self.cache.pods.get_key(&key) else {
            self.forget(&key, None);
            return Ok(Next::Wait);
        };
        let spec = pod.spec.clone().unwrap_or_default();
        let node = spec
            .node_name
            .as_deref()
            .and_then(|name| self.cache.nodes.get("", name));
        let Some(node) = node.filter(|_| !podstate::is_terminating(&pod)) else {
            return Ok(Next::Wait);
        };
        let taints = evicting(&node);
        let tolerations = spec.tolerations.as_deref().unwrap_or_default();
        let now = Timestamp::now();
        if stay(&taints, tolerations, now, now) == Stay::ForEver {
            if self.forget(&key, Some(&pod)) {
                let message = format!("Cancelling deletion of Pod {key}");
                self.client
                    .event(&*pod, EventType::Normal, "TaintManagerEviction", &message);
            }
            return Ok(Next::Wait);
        }
        let since = self.since(&key, &pod, now);
        match stay(&taints, tolerations, since, now) {
            Stay::ForEver => Ok(Next::Wait),
            Stay::For(0) => {
                self.evict(&key, &pod).await?;
                self.forget(&key, None);
                Ok(Next::Wait)
            }
            Stay::For(seconds) => Ok(Next::After(Duration::from_secs(seconds.unsigned_abs()))),
        }
    }

    async fn evict(&self, key: &ObjectKey, pod: &Pod) -> Result<(), ApiError> {
        let cause = Cause {
            reason: "DeletionByTaintManager",
            message: "Taint manager: deleting due to NoExecute taint",
            ended: false,
        };
        disruption_target::mark(&self.client, pod, cause).await?;
        let message = format!("Marking for deletion Pod {key}");
        self.client
            .event(pod, EventType::Normal, "TaintManagerEviction", &message);
        let options = DeleteOptions {
            uid: pod.metadata.uid.clone(),
            ..DeleteOptions::default()
        };
        match self
            .client
            .delete::<Pod>(&key.namespace, &key.name, options)
            .await
        {
            Err(error) if error.code() == 409 => Ok(()),
            result => result,
        }
    }
}
