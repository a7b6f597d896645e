//! DaemonSets: a pod on every node that it is meant for.
//!
//! The loop claims pods and revisions, executes what [`plan`] says, writes status. A pod is made for one node
//! and says so by its affinity; the scheduler binds it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::registry::{ApiError, Client, EventType};

use super::owner::controller_of;
use super::podcontrol::{self, PodControl};
use super::revisions::{self, HASH_LABEL, Store, Wanted};
use super::selector;
use super::worker::Next;

mod plan;
mod pods;
mod rolling;
mod status;

use plan::{Plan, View};

pub(super) const NAME: &str = "daemonset-controller";
/// A node whose pod fails again and again gets the next one later and later.
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LAST_WAIT: Duration = Duration::from_secs(15 * 60);

/// How often the pods of one node have failed, and until when the next one waits.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    until: Instant,
}

pub(super) struct Controller {
    pods: PodControl,
    revisions: Store,
    failures: Mutex<HashMap<(ObjectKey, String), Failures>>,
}

/// Feeds the queue with the sets that a change concerns.
pub(super) fn subscribe(cache: &Cache, queue: &Queue<ObjectKey>) -> Vec<Subscription> {
    let sets = {
        let queue = queue.clone();
        cache
            .daemon_sets
            .subscribe(move |delta| queue.add(delta.key.clone()))
    };
    let all = cache.daemon_sets.clone();
    let pods = podcontrol::subscribe(cache, queue, "DaemonSet", move |namespace, pod| {
        let labels = pod.metadata.labels.as_ref();
        all.list(namespace)
            .iter()
            .filter(|set| selector::matches(&pods::spec(set).selector, labels))
            .map(|set| ObjectKey::of(set.as_ref()))
            .collect()
    });
    let nodes = {
        let (queue, all) = (queue.clone(), cache.daemon_sets.clone());
        cache.nodes.subscribe(move |delta| {
            // Nodes report again and again; only this decides where pods run.
            let place = |node: &Arc<Node>| {
                let spec = node.spec.clone().unwrap_or_default();
                (
                    node.metadata.labels.clone(),
                    spec.taints,
                    spec.unschedulable,
                )
            };
            if delta.old.map(place) != delta.new.map(place) {
                for set in all.list("") {
                    queue.add(ObjectKey::of(set.as_ref()));
                }
            }
        })
    };
    let revisions = {
        let queue = queue.clone();
        cache.controller_revisions.subscribe(move |delta| {
            if let Some(owner) = controller_of(&delta.latest().metadata)
                && owner.kind == "DaemonSet"
            {
                queue.add(ObjectKey::new(&delta.key.namespace, &owner.name));
            }
        })
    };
    vec![sets, pods, nodes, revisions]
}

impl Controller {
    pub(super) fn new(client: &Client, cache: &Cache) -> Self {
        let client = client.with_manager(NAME);
        Self {
            pods: PodControl::new(&client, cache, NAME),
            revisions: Store::new(&client, cache),
            failures: Mutex::default(),
        }
    }

    pub(super) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let cache = &self.pods.cache;
        let Some(set) = cache.daemon_sets.get_key(&key) else {
            self.pods.forget(&key);
            self.revisions.forget(&key);
            self.failures().retain(|(other, _), _| *other != key);
            return Ok(Next::Wait);
        };
        self.pods.caught_up(&key).await?;
        let spec = pods::spec(&set);
        let pods = self.pods.claim(set.as_ref(), &spec.selector).await?;
        let mut history = self.revisions.claim(set.as_ref(), &spec.selector).await?;
        let Some(current) = self.current(&set, &mut history).await? else {
            return Ok(Next::Wait);
        };
        let hash = hash_of(&current).to_owned();
        let (held, wait) = self.held(&key);
        let deleting = self.pods.deleting(&key, &pods);
        let view = View {
            set: &set,
            nodes: &cache.nodes.list(""),
            pods: &pods,
            deleting: &deleting,
            held: &held,
            hash: &hash,
            now: Timestamp::now(),
        };
        let plan = plan::plan(&view);
        let failure = self.execute(&key, &set, &hash, &plan).await.err();
        let collisions = set
            .status
            .as_ref()
            .and_then(|status| status.collision_count);
        let (status, recheck) = status::status(&view, collisions);
        self.write_status(&set, status).await?;
        if let Some(error) = failure {
            return Err(error);
        }
        if set.metadata.deletion_timestamp.is_none() {
            self.forget_history(&pods, &history, &hash, spec.revision_history_limit)
                .await?;
        }
        let next = recheck.into_iter().chain(wait).min();
        Ok(next.map_or(Next::Wait, Next::After))
    }

    /// The revision of the template. `None`: the status was written, and comes back.
    async fn current(
        &self,
        set: &DaemonSet,
        history: &mut Vec<Arc<ControllerRevision>>,
    ) -> Result<Option<Arc<ControllerRevision>>, ApiError> {
        let spec = pods::spec(set);
        let status = set.status.clone().unwrap_or_default();
        let wanted = Wanted {
            template: &spec.template,
            selector: &spec.selector,
            hash_label: HASH_LABEL,
            collisions: status.collision_count.unwrap_or(0),
        };
        let current = self.revisions.ensure(set, history, &wanted).await?;
        if current.is_none() {
            let collided = DaemonSetStatus {
                collision_count: Some(wanted.collisions + 1),
                ..status
            };
            self.write_status(set, collided).await?;
        }
        Ok(current)
    }

    async fn execute(
        &self,
        key: &ObjectKey,
        set: &DaemonSet,
        hash: &str,
        plan: &Plan,
    ) -> Result<(), ApiError> {
        for (pods, kind, reason, what) in [
            (
                &plan.failed,
                EventType::Warning,
                "FailedDaemonPod",
                "failed",
            ),
            (
                &plan.succeeded,
                EventType::Normal,
                "SucceededDaemonPod",
                "succeeded",
            ),
        ] {
            for pod in pods {
                let node = pods::node_of(pod).unwrap_or_default();
                let pod_key = ObjectKey::of(pod.as_ref());
                let end = if what == "failed" { "kill" } else { "delete" };
                let message = format!(
                    "Found {what} daemon pod {pod_key} on node {node}, will try to {end} it"
                );
                self.pods.client.event(set, kind, reason, &message);
                if what == "failed" {
                    self.count_failure(key, node);
                }
            }
        }
        let template = pods::pod_spec(set);
        let pods: Vec<Pod> = plan
            .create
            .iter()
            .map(|node| pods::pod_for(set, &template, hash, node))
            .collect();
        let created = self.pods.create(key, set, &pods).await;
        self.pods.delete(key, set, &plan.delete).await?;
        created
    }

    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<(ObjectKey, String), Failures>> {
        self.failures.lock().expect("no panic while held")
    }

    fn count_failure(&self, key: &ObjectKey, node: &str) {
        let mut failures = self.failures();
        let entry = failures
            .entry((key.clone(), node.to_owned()))
            .or_insert(Failures {
                count: 0,
                until: Instant::now(),
            });
        let wait = FIRST_WAIT
            .saturating_mul(2_u32.saturating_pow(entry.count))
            .min(LAST_WAIT);
        entry.count = entry.count.saturating_add(1);
        entry.until = Instant::now() + wait;
    }

    /// Nodes that must wait, and when the first of them need not any more. Long after a node's last failure
    /// it is as good as new.
    fn held(&self, key: &ObjectKey) -> (HashSet<String>, Option<Duration>) {
        let now = Instant::now();
        let mut failures = self.failures();
        failures.retain(|_, failures| now < failures.until + 2 * LAST_WAIT);
        let waiting = || {
            failures
                .iter()
                .filter(|((other, _), failures)| other == key && failures.until > now)
        };
        let nodes = waiting().map(|((_, node), _)| node.clone()).collect();
        let first = waiting().map(|(_, failures)| failures.until - now).min();
        (nodes, first)
    }

    async fn forget_history(
        &self,
        pods: &[Arc<Pod>],
        history: &[Arc<ControllerRevision>],
        hash: &str,
        limit: Option<i32>,
    ) -> Result<(), ApiError> {
        let live = |revision: &ControllerRevision| {
            let of = hash_of(revision);
            let is_of = |pod: &Arc<Pod>| {
                let labels = pod.metadata.labels.as_ref();
                labels
                    .and_then(|labels| labels.get(HASH_LABEL))
                    .map(String::as_str)
                    == Some(of)
            };
            of == hash || pods.iter().any(is_of)
        };
        for revision in revisions::superfluous(history, live, limit) {
            self.revisions.delete(&revision).await?;
        }
        Ok(())
    }

    async fn write_status(&self, set: &DaemonSet, status: DaemonSetStatus) -> Result<(), ApiError> {
        if set.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let mut changed = set.clone();
        changed.status = Some(status);
        self.pods.client.update_status(&changed).await.map(drop)
    }
}

fn hash_of(revision: &ControllerRevision) -> &str {
    let labels = revision.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(HASH_LABEL))
        .map_or("", String::as_str)
}
