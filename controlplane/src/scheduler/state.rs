//! Everything decisions are made from: written by informer handlers and the loop, under one lock.

use std::sync::Arc;
use std::time::Instant;

use k8s_openapi::api::core::v1::{Node, Pod, Taint};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::decide::{self, Decision};
use super::filter::Prepared;
use super::news::News;
use super::preempt::{self, NoRoom, Preemption};
use super::queue::Queue;
use super::request::{Load, Request};
use super::selector::Labels;
use super::snapshot::{Placed, Snapshot};
use super::volumes::{Lookup, Needs, Step};
use super::{BATCH, NAME};

pub(super) struct State {
    pub(super) snapshot: Snapshot,
    pub(super) queue: Queue,
    lookup: Arc<dyn Lookup>,
    random: StdRng,
    start: usize,
    /// What parked pods have not been asked about yet.
    news: News,
    /// How often decisions were made.
    round: u64,
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

/// A pod that no node was found for by looking at nothing but itself and the nodes: not at other pods, nor at volumes.
struct Refused {
    request: Arc<Request>,
    why: String,
    lost: bool,
}

impl Refused {
    fn of(outcome: &Outcome) -> Option<Self> {
        let Decision::None(why) = &outcome.decision else {
            return None;
        };
        let request = &outcome.request;
        let alone = request.affinity.is_none()
            && request.constraints.is_empty()
            && request.claims.is_empty()
            && request.nominated().is_none()
            && outcome.preemption.is_none();
        alone.then(|| Self {
            request: Arc::clone(request),
            why: why.clone(),
            lost: outcome.lost,
        })
    }

    /// The same of a pod that is like it.
    fn again(&self, request: Arc<Request>) -> Outcome {
        Outcome {
            request,
            decision: Decision::None(self.why.clone()),
            steps: Vec::new(),
            preemption: None,
            displaced: Vec::new(),
            lost: self.lost,
        }
    }
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
            news: News::default(),
            round: 0,
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
        self.news.regrouped(&self.snapshot);
    }

    pub(super) fn storage_changed(&mut self) {
        self.news.storage();
    }

    pub(super) fn node_changed(
        &mut self,
        name: &str,
        old: Option<&Arc<Node>>,
        new: Option<&Arc<Node>>,
    ) {
        let Some(new) = new else {
            self.snapshot.remove_node(name);
            self.news.regrouped(&self.snapshot);
            return;
        };
        self.snapshot.put_node(new);
        let allocatable = |node: &Arc<Node>| node.status.as_ref()?.allocatable.clone();
        let relabeled = old.is_none_or(|old| old.metadata.labels != new.metadata.labels);
        if relabeled {
            self.news.regrouped(&self.snapshot);
        }
        if relabeled
            || old.is_none_or(|old| {
                obstacles(old) != obstacles(new) || allocatable(old) != allocatable(new)
            })
        {
            self.news.node(name);
        }
    }

    /// Whether there is news for a pod that is parked.
    fn has_news(&self) -> bool {
        self.queue.has_parked() && !self.news.is_empty()
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
        let Some(new) = new else {
            return self.has_news();
        };
        if is_finished(new) {
            self.gone(new);
            return self.has_news();
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
                    self.forget_nomination(request.uid());
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
        let load = Arc::new(self.snapshot.load(new));
        self.place(&load, node);
        self.news.near();
        self.has_news()
    }

    fn place(&mut self, load: &Arc<Load>, node: &str) {
        let nominated = self.snapshot.forget_nomination(load.uid());
        if let Some(other) = nominated.filter(|nominated| nominated != node) {
            self.news.node(&other);
        }
        let before = self.snapshot.place(Arc::clone(load), node);
        // Where it was only assumed to be, or took more.
        let left = |before: &Placed| before.node != node || before.load.resources != load.resources;
        if let Some(before) = before.filter(left) {
            self.news.left(&before);
        }
    }

    fn forget_nomination(&mut self, uid: &str) {
        if let Some(node) = self.snapshot.forget_nomination(uid) {
            self.news.node(&node);
        }
    }

    fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.forget_nomination(uid);
    }

    fn gone(&mut self, pod: &Pod) {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        self.forget(uid);
        if let Some(left) = self.snapshot.remove(uid) {
            self.news.left(&left);
        }
    }

    fn wake(&mut self, now: Instant) {
        let news = std::mem::take(&mut self.news);
        if news.is_empty() || !self.queue.has_parked() {
            return;
        }
        let mut judge = news.judge(&self.snapshot, self.round);
        self.queue.wake(now, |waiting| judge.wakes(waiting));
        self.news = judge.rest();
    }

    /// Decides for up to `BATCH` pods; those with a node are assumed to be there.
    pub(super) fn decide(&mut self, now: Instant) -> Vec<Outcome> {
        self.round += 1;
        self.wake(now);
        let mut outcomes = Vec::new();
        // Of those that nothing was found for, one of each sort: nothing is found for others of it either until there is news.
        let mut refused: Vec<Refused> = Vec::new();
        while outcomes.len() < BATCH {
            let Some(request) = self.queue.take(now, self.round) else {
                break;
            };
            if self.snapshot.has_nominations() {
                refused.clear();
            }
            let labels = self.snapshot.keeps_away();
            let is_like = |known: &&Refused| {
                known.request.is_like(&request) && (!labels || known.request.class == request.class)
            };
            let outcome = match refused.iter().find(is_like) {
                Some(known) => known.again(request),
                None => {
                    let outcome = self.one(request);
                    refused.extend(Refused::of(&outcome));
                    outcome
                }
            };
            match &outcome.decision {
                Decision::Node(node) => {
                    self.place(&outcome.request.load, node);
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
                    self.forget_nomination(request.uid());
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
            if let Some(left) = self.snapshot.remove(uid) {
                self.news.left(&left);
            }
            self.queue.back_off(uid, now);
        }
    }
}
