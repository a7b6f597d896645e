//! Filters and scores as pure functions over a cached snapshot; binds in batches.
//!
//! Informer handlers keep [`State`] up to date; the loop takes pods from its queue, decides against the
//! snapshot with earlier decisions assumed, and binds a batch in one transaction while the next is decided.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use k8s_openapi::api::core::v1::{Node, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Subscription};
use crate::registry::{Binding, Client, EventType};

mod affinity;
mod decide;
mod filter;
mod metrics;
mod queue;
mod request;
mod resources;
mod score;
mod snapshot;

#[cfg(test)]
mod tests;

pub(crate) use affinity::{is_asked_for, tolerates};
pub(crate) use metrics::SchedulerMetrics;
pub(crate) use resources::milli;

use decide::Decision;
use request::Request;

const NAME: &str = "default-scheduler";
/// Pods bound in one transaction.
const BATCH: usize = 256;
/// Transactions under way at once.
const BATCHES: usize = 4;

/// Everything decisions are made from. Written by informer handlers and the loop, under one lock.
struct State {
    snapshot: snapshot::Snapshot,
    queue: queue::Queue,
    random: StdRng,
    start: usize,
    /// Something changed that may make room for parked pods.
    wake: bool,
}

#[derive(Clone)]
struct Shared {
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

impl Shared {
    fn new(seed: u64) -> Self {
        Self {
            state: Arc::new(Mutex::new(State {
                snapshot: snapshot::Snapshot::default(),
                queue: queue::Queue::default(),
                random: StdRng::seed_from_u64(seed),
                start: 0,
                wake: false,
            })),
            changed: Arc::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }
}

/// Runs the scheduler until `shutdown`. Call it while this member leads.
pub(crate) async fn run(
    client: Client,
    cache: Cache,
    metrics: SchedulerMetrics,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = schedule(client.with_manager(NAME), cache, metrics) => {}
        () = shutdown.cancelled() => {}
    }
}

/// Nodes first: pods find theirs known.
fn subscribe(cache: &Cache, shared: &Shared) -> (Subscription, Subscription) {
    let nodes = {
        let shared = shared.clone();
        cache.nodes.subscribe(move |delta| {
            shared
                .lock()
                .node_changed(&delta.key.name, delta.old, delta.new);
            shared.changed.notify_one();
        })
    };
    let pods = {
        let shared = shared.clone();
        cache.pods.subscribe(move |delta| {
            if shared
                .lock()
                .pod_changed(delta.old, delta.new, Instant::now())
            {
                shared.changed.notify_one();
            }
        })
    };
    (nodes, pods)
}

fn is_ours(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let scheduler = spec.scheduler_name.as_deref().unwrap_or(NAME);
    let gated = spec.scheduling_gates.iter().flatten().next().is_some();
    (scheduler.is_empty() || scheduler == NAME)
        && !gated
        && pod.metadata.deletion_timestamp.is_none()
        && !is_finished(pod)
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn node_of(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

impl State {
    fn node_changed(&mut self, name: &str, old: Option<&Arc<Node>>, new: Option<&Arc<Node>>) {
        let Some(new) = new else {
            self.snapshot.remove_node(name);
            return;
        };
        self.snapshot.put_node(new);
        let matters = old.is_none_or(|old| {
            old.spec != new.spec
                || old.metadata.labels != new.metadata.labels
                || old.status.as_ref().map(|status| &status.allocatable)
                    != new.status.as_ref().map(|status| &status.allocatable)
        });
        self.wake |= matters;
    }

    /// True when the loop has something to do.
    fn pod_changed(
        &mut self,
        old: Option<&Arc<Pod>>,
        new: Option<&Arc<Pod>>,
        now: Instant,
    ) -> bool {
        // One name, another pod: the old one is gone.
        if let Some(old) = old
            && new.is_none_or(|new| new.metadata.uid != old.metadata.uid)
        {
            self.gone(old);
        }
        let Some(new) = new else { return self.wake };
        if is_finished(new) {
            self.gone(new);
            return self.wake;
        }
        match node_of(new) {
            Some(node) => {
                let uid = new.metadata.uid.as_deref().unwrap_or_default();
                self.queue.remove(uid);
                let known = old.is_some_and(|old| {
                    old.metadata.uid == new.metadata.uid && old.spec == new.spec
                });
                if !known || !self.snapshot.is_placed(uid) {
                    self.snapshot.place(Arc::new(Request::new(new)), node);
                }
                false
            }
            None if is_ours(new) => {
                self.queue.put(Arc::new(Request::new(new)), now);
                true
            }
            None => {
                self.queue
                    .remove(new.metadata.uid.as_deref().unwrap_or_default());
                false
            }
        }
    }

    fn gone(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.queue.remove(uid);
        self.wake |= self.snapshot.remove(uid);
    }

    /// Decides for up to `BATCH` pods; those with a node are assumed to be there.
    fn decide(&mut self, now: Instant) -> Vec<(Arc<Request>, Decision)> {
        if std::mem::take(&mut self.wake) {
            self.queue.wake(now);
        }
        let mut decisions = Vec::new();
        while decisions.len() < BATCH {
            let Some(request) = self.queue.take(now) else {
                break;
            };
            let decision =
                decide::decide(&request, &self.snapshot, &mut self.start, &mut self.random);
            match &decision {
                Decision::Node(node) => self.snapshot.place(Arc::clone(&request), node),
                Decision::None(_) => self.queue.park(request.uid(), now),
            }
            decisions.push((request, decision));
        }
        decisions
    }

    /// The store refused: the pod is not there after all.
    fn withdraw(&mut self, uid: &str, now: Instant) {
        // The pod may have turned up bound by another hand, or be gone: then what is known is right.
        if self.queue.contains(uid) {
            self.snapshot.remove(uid);
            self.queue.back_off(uid, now);
        }
    }
}

async fn schedule(client: Client, cache: Cache, metrics: SchedulerMetrics) {
    cache.nodes.synced().await;
    cache.pods.synced().await;
    let shared = Shared::new(rand::random());
    let _subscriptions = subscribe(&cache, &shared);
    let mut under_way = JoinSet::new();
    loop {
        let started = Instant::now();
        let (decisions, due) = {
            let mut state = shared.lock();
            let decisions = state.decide(started);
            let (ready, waiting) = state.queue.depths();
            metrics.depths(ready, waiting);
            (decisions, state.queue.next_due())
        };
        if decisions.is_empty() {
            wait(&shared, due, &mut under_way).await;
            continue;
        }
        metrics.decided(started.elapsed(), decisions.len());
        while under_way.len() >= BATCHES {
            under_way.join_next().await;
        }
        let (client, shared, metrics) = (client.clone(), shared.clone(), metrics.clone());
        under_way.spawn(async move { execute(&client, &shared, &metrics, decisions).await });
    }
}

async fn wait(shared: &Shared, due: Option<Instant>, under_way: &mut JoinSet<()>) {
    let idle = Instant::now() + Duration::from_secs(60);
    tokio::select! {
        () = shared.changed.notified() => {}
        () = tokio::time::sleep_until(due.unwrap_or(idle).min(idle).into()) => {}
        Some(_) = under_way.join_next() => {}
    }
}

async fn execute(
    client: &Client,
    shared: &Shared,
    metrics: &SchedulerMetrics,
    decisions: Vec<(Arc<Request>, Decision)>,
) {
    let mut bound = Vec::new();
    let mut bindings = Vec::new();
    for (request, decision) in decisions {
        match decision {
            Decision::Node(node) => {
                let metadata = &request.pod.metadata;
                bindings.push(Binding {
                    namespace: metadata.namespace.clone().unwrap_or_default(),
                    pod: metadata.name.clone().unwrap_or_default(),
                    uid: metadata.uid.clone().unwrap_or_default(),
                    node,
                });
                bound.push(request);
            }
            Decision::None(why) => {
                metrics.attempt("unschedulable");
                refuse(client, &request.pod, &why).await;
            }
        }
    }
    if bindings.is_empty() {
        return;
    }
    let results = client.bind(&bindings).await;
    for ((request, binding), result) in bound.iter().zip(&bindings).zip(results) {
        match result {
            Ok(()) => {
                metrics.attempt("scheduled");
                let message = format!(
                    "Successfully assigned {}/{} to {}",
                    binding.namespace, binding.pod, binding.node
                );
                let pod = request.pod.as_ref();
                client.event(pod, EventType::Normal, "Scheduled", &message);
            }
            Err(error) => {
                metrics.attempt("error");
                shared.lock().withdraw(request.uid(), Instant::now());
                shared.changed.notify_one();
                // Gone or bound by another hand: the watch says so, and the pod leaves the queue.
                if !matches!(error.code(), 404 | 409) {
                    let pod = request.pod.as_ref();
                    let message = format!("binding rejected: {error}");
                    client.event(pod, EventType::Warning, "FailedScheduling", &message);
                }
            }
        }
    }
}

/// Event and condition of a pod that fits nowhere.
async fn refuse(client: &Client, pod: &Pod, why: &str) {
    client.event(pod, EventType::Warning, "FailedScheduling", why);
    let Some(changed) = with_condition(pod, why, jiff::Timestamp::now()) else {
        return;
    };
    // A conflict means that the pod changed meanwhile; the next attempt writes it.
    if let Err(error) = client.update_status(&changed).await {
        tracing::debug!(pod = ?pod.metadata.name, %error, "condition PodScheduled not written");
    }
}

/// The pod with `PodScheduled=False`; `None` when it says so already.
fn with_condition(pod: &Pod, why: &str, now: jiff::Timestamp) -> Option<Pod> {
    let mut changed = pod.clone();
    let status = changed.status.get_or_insert_default();
    let conditions = status.conditions.get_or_insert_default();
    let old = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled");
    let was_false = old.is_some_and(|old| old.status == "False");
    if was_false && old.is_some_and(|old| old.message.as_deref() == Some(why)) {
        return None;
    }
    let since = old
        .filter(|_| was_false)
        .and_then(|old| old.last_transition_time.clone())
        .unwrap_or(Time(now));
    conditions.retain(|condition| condition.type_ != "PodScheduled");
    conditions.push(PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(why.to_owned()),
        last_transition_time: Some(since),
        ..PodCondition::default()
    });
    Some(changed)
}
