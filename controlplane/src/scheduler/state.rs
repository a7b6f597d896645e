//! Everything decisions are made from: written by informer handlers and the loop, under one lock.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::decide::{self, Decision};
use super::filter::Prepared;
use super::preempt::{self, NoRoom, Preemption};
use super::queue::Queue;
use super::request::Request;
use super::selector::Labels;
use super::snapshot::Snapshot;
use super::volumes::{Lookup, Needs, Step};
use super::{BATCH, NAME};

pub(super) struct State {
    pub(super) snapshot: Snapshot,
    pub(super) queue: Queue,
    lookup: Arc<dyn Lookup>,
    random: StdRng,
    start: usize,
    /// Something changed that may make room for parked pods.
    pub(super) wake: bool,
    /// Pods came or changed: for those that want to be near others.
    near: bool,
    /// Claims, volumes or classes changed.
    storage: bool,
}

/// What was decided for a pod, and what has to be done for it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) request: Arc<Request>,
    pub(super) decision: Decision,
    /// Of its claims, before it is bound.
    pub(super) steps: Vec<Step>,
    pub(super) preemption: Option<Preemption>,
    /// Pods of lower priority that room was made for on the node that this one gets.
    pub(super) displaced: Vec<Arc<Request>>,
    /// What room was made for it before is of no use to it any more.
    pub(super) lost: bool,
}

/// What becomes of the node that a pod waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Nomination<'a> {
    Kept,
    Lost,
    Of(&'a str),
}

impl Outcome {
    pub(super) fn nomination(&self) -> Nomination<'_> {
        match &self.preemption {
            Some(made) => Nomination::Of(&made.node),
            None if self.lost => Nomination::Lost,
            None => Nomination::Kept,
        }
    }
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

/// What of a node's spec keeps pods away. The rest of it, such as its pod range, makes room for nobody.
fn obstacles(node: &Node) -> (&[Taint], bool) {
    let spec = node.spec.as_ref();
    let taints = spec.and_then(|spec| spec.taints.as_deref());
    let unschedulable = spec.and_then(|spec| spec.unschedulable);
    (taints.unwrap_or_default(), unschedulable.unwrap_or(false))
}

fn is_finished(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

pub(super) fn node_of(pod: &Pod) -> Option<&str> {
    let name = pod.spec.as_ref()?.node_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

impl State {
    pub(super) fn new(seed: u64, lookup: Arc<dyn Lookup>) -> Self {
        Self {
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            lookup,
            random: StdRng::seed_from_u64(seed),
            start: 0,
            wake: false,
            near: false,
            storage: false,
        }
    }

    pub(super) fn depths(&self) -> (usize, usize) {
        self.queue.depths()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.queue.next_due()
    }

    pub(super) fn namespace_changed(&mut self, name: &str, labels: Option<Labels>) {
        self.snapshot.set_namespace(name, labels);
        self.near = true;
    }

    pub(super) fn storage_changed(&mut self) {
        self.storage = true;
    }

    pub(super) fn node_changed(
        &mut self,
        name: &str,
        old: Option<&Arc<Node>>,
        new: Option<&Arc<Node>>,
    ) {
        let Some(new) = new else {
            self.snapshot.remove_node(name);
            return;
        };
        self.snapshot.put_node(new);
        let matters = old.is_none_or(|old| {
            obstacles(old) != obstacles(new)
                || old.metadata.labels != new.metadata.labels
                || old.status.as_ref().map(|status| &status.allocatable)
                    != new.status.as_ref().map(|status| &status.allocatable)
        });
        self.wake |= matters;
    }

    /// True when the loop has something to do.
    pub(super) fn pod_changed(
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
            Some(node) => self.bound(old, new, node),
            None if is_ours(new) => {
                let request = self.snapshot.request(new);
                // One that has its node, and waits for its volumes there, is counted there already.
                let nominated = request.nominated();
                let nominated = nominated.filter(|_| !self.snapshot.is_placed(request.uid()));
                if let Some(node) = nominated {
                    let node = node.to_owned();
                    self.snapshot.nominate(&request, &node);
                } else if !self.queue.is_in_hand(request.uid()) {
                    self.snapshot.forget_nomination(request.uid());
                }
                self.queue.put(request, now);
                true
            }
            None => {
                self.forget(new.metadata.uid.as_deref().unwrap_or_default());
                false
            }
        }
    }

    fn bound(&mut self, old: Option<&Arc<Pod>>, new: &Arc<Pod>, node: &str) -> bool {
        let uid = new.metadata.uid.as_deref().unwrap_or_default();
        self.queue.remove(uid);
        let known = old.is_some_and(|old| {
            old.metadata.uid == new.metadata.uid
                && old.spec == new.spec
                && old.metadata.labels == new.metadata.labels
                && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        });
        if known && self.snapshot.is_placed(uid) {
            self.snapshot.renew(uid, new);
            return false;
        }
        self.snapshot.place(Arc::new(self.snapshot.load(new)), node);
        self.near = true;
        self.queue.has_parked()
    }

    fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.snapshot.forget_nomination(uid);
    }

    fn gone(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.forget(uid);
        self.wake |= self.snapshot.remove(uid);
    }

    fn wake(&mut self, now: Instant) {
        let near = std::mem::take(&mut self.near);
        let storage = std::mem::take(&mut self.storage);
        if std::mem::take(&mut self.wake) {
            self.queue.wake(now, |_| true);
        } else if near || storage {
            self.queue.wake(now, |request| {
                (near && (request.affinity.is_some() || !request.constraints.is_empty()))
                    || (storage && !request.claims.is_empty())
            });
        }
    }

    /// Decides for up to `BATCH` pods; those with a node are assumed to be there.
    pub(super) fn decide(&mut self, now: Instant) -> Vec<Outcome> {
        self.wake(now);
        let mut outcomes = Vec::new();
        while outcomes.len() < BATCH {
            let Some(request) = self.queue.take(now) else {
                break;
            };
            let outcome = self.one(request);
            match &outcome.decision {
                Decision::Node(node) => {
                    let load = Arc::clone(&outcome.request.load);
                    self.snapshot.place(load, node);
                }
                Decision::None(_) => self.queue.park(outcome.request.uid(), now),
            }
            outcomes.push(outcome);
        }
        outcomes
    }

    fn one(&mut self, request: Arc<Request>) -> Outcome {
        let mut outcome = Outcome {
            decision: Decision::None("no nodes available to schedule pods".to_owned()),
            steps: Vec::new(),
            preemption: None,
            displaced: Vec::new(),
            lost: false,
            request: Arc::clone(&request),
        };
        let nodes = self.snapshot.len();
        if nodes == 0 {
            return outcome;
        }
        let needs = match Needs::new(&request, self.lookup.as_ref()) {
            Ok(needs) => needs,
            Err(why) => {
                outcome.decision = Decision::None(format!(
                    "0/{nodes} nodes are available: {why}. preemption: 0/{nodes} nodes are available: \
                     {nodes} Preemption is not helpful for scheduling."
                ));
                return outcome;
            }
        };
        decide::learn(&request, &mut self.snapshot);
        let mut prepared = Prepared::new(&request, &self.snapshot);
        prepared.volumes = needs.map(Arc::new);
        let found = decide::decide(
            &request,
            &prepared,
            &self.snapshot,
            &mut self.start,
            &mut self.random,
        );
        match found {
            Ok(slot) => {
                let node = self.snapshot.node(slot);
                let needs = prepared.volumes.as_ref();
                // The filter has found them, so there are some.
                outcome.steps = needs
                    .and_then(|needs| needs.on(&node.node).ok())
                    .unwrap_or_default();
                outcome.decision = Decision::Node(node.name.clone());
            }
            Err(failures) => self.make_room(&mut outcome, &mut prepared, &failures),
        }
        outcome
    }

    fn make_room(
        &mut self,
        outcome: &mut Outcome,
        prepared: &mut Prepared,
        failures: &decide::Failures,
    ) {
        let request = Arc::clone(&outcome.request);
        let reasons = failures.0.iter().flat_map(|(_, failure)| &failure.reasons);
        let mut why = decide::sentence(self.snapshot.len(), reasons);
        let budgets = self.lookup.budgets("");
        let made = preempt::preempt(
            &request,
            prepared,
            &self.snapshot,
            failures,
            &budgets,
            &mut self.random,
        );
        match made {
            Ok(preemption) => {
                let lower = self.snapshot.nominated(&preemption.node);
                outcome.displaced = lower
                    .iter()
                    .filter(|other| other.priority < request.priority)
                    .cloned()
                    .collect();
                for other in &outcome.displaced {
                    self.snapshot.forget_nomination(other.uid());
                }
                self.snapshot.nominate(&request, &preemption.node);
                outcome.preemption = Some(preemption);
            }
            Err(more) => {
                // Others may have the room that it cannot use.
                if matches!(more, NoRoom::NoCandidates(_)) {
                    outcome.lost = true;
                    self.snapshot.forget_nomination(request.uid());
                }
                why.push_str(" preemption: ");
                why.push_str(&more.to_string());
            }
        }
        outcome.decision = Decision::None(why);
    }

    /// The store refused: the pod is not there after all.
    pub(super) fn withdraw(&mut self, uid: &str, now: Instant) {
        // The pod may have turned up bound by another hand, or be gone: then what is known is right.
        if self.queue.contains(uid) {
            self.snapshot.remove(uid);
            self.queue.back_off(uid, now);
        }
    }
}
