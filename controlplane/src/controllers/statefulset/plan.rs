//! What to do about a StatefulSet now, and its status. Pure: one step; what the step causes starts the next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::identity::{self, POD_INDEX, POD_NAME};
use crate::controllers::podstate;
use crate::controllers::revisions::HASH_LABEL;

#[cfg(test)]
mod tests;

/// A template and the name of the revision that holds it.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) revision: String,
    pub(super) template: PodTemplateSpec,
}

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) set: &'a StatefulSet,
    /// The set's own pods.
    pub(super) pods: &'a [Arc<Pod>],
    /// Uids whose deletion was asked for already.
    pub(super) deleting: &'a HashSet<String>,
    pub(super) current: &'a Version,
    pub(super) update: &'a Version,
    pub(super) now: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    /// With the claims that it needs.
    Create(Box<Pod>),
    /// A pod that ended; it is made anew when it is gone.
    Restart(Arc<Pod>),
    /// Its name, labels or claims are not as they must be.
    Repair(Arc<Pod>),
    /// It waits, perhaps for a claim that is not there any more.
    Claims(Arc<Pod>),
    /// Scaled away: its claims go the way that the retention policy says.
    Remove(Arc<Pod>),
    /// It is of an older revision.
    Replace(Arc<Pod>),
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) recheck: Option<Duration>,
}

struct Shape {
    start: i32,
    replicas: i32,
    parallel: bool,
    min_ready: i32,
}

impl Shape {
    fn of(set: &StatefulSet) -> Self {
        let spec = set.spec.as_ref();
        let number = |value: Option<i32>, default| value.unwrap_or(default);
        Self {
            start: spec
                .and_then(|spec| spec.ordinals.as_ref()?.start)
                .unwrap_or(0),
            replicas: number(spec.and_then(|spec| spec.replicas), 1),
            parallel: spec.and_then(|spec| spec.pod_management_policy.as_deref())
                == Some("Parallel"),
            min_ready: number(spec.and_then(|spec| spec.min_ready_seconds), 0),
        }
    }

    fn ordinals(&self) -> std::ops::Range<i32> {
        self.start..self.start.saturating_add(self.replicas)
    }
}

pub(super) fn revision_of(pod: &Pod) -> &str {
    let labels = pod.metadata.labels.as_ref();
    labels
        .and_then(|labels| labels.get(HASH_LABEL))
        .map_or("", String::as_str)
}

fn is_running_and_ready(pod: &Pod) -> bool {
    podstate::phase(pod) == "Running" && podstate::is_ready(pod)
}

/// How a pod stands, as the order of a set needs to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Terminating,
    NotReady,
    /// Ready, but not for long enough yet.
    Waiting(Duration),
    Available,
}

impl View<'_> {
    fn is_terminating(&self, pod: &Pod) -> bool {
        let uid = pod.metadata.uid.as_deref().unwrap_or_default();
        podstate::is_terminating(pod) || self.deleting.contains(uid)
    }

    fn state(&self, pod: &Pod, min_ready: i32) -> State {
        if self.is_terminating(pod) {
            return State::Terminating;
        }
        if !is_running_and_ready(pod) {
            return State::NotReady;
        }
        match podstate::availability(pod, min_ready, self.now) {
            Ok(()) => State::Available,
            Err(Some(left)) => State::Waiting(left),
            Err(None) => State::NotReady,
        }
    }

    /// Of which version the pod of this ordinal is made.
    fn version(&self, ordinal: i32, start: i32) -> &Version {
        let strategy = self
            .set
            .spec
            .as_ref()
            .and_then(|spec| spec.update_strategy.as_ref());
        let rolls = strategy
            .and_then(|strategy| strategy.type_.as_deref())
            .is_none_or(|kind| kind == "RollingUpdate");
        let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
        let kept = match rolling {
            Some(rolling) => rolling.partition.unwrap_or(0),
            None => self
                .set
                .status
                .as_ref()
                .and_then(|status| status.current_replicas)
                .unwrap_or(0),
        };
        if rolls && ordinal < start.saturating_add(kept) {
            self.current
        } else {
            self.update
        }
    }
}

type Placed<'a> = BTreeMap<i32, &'a Arc<Pod>>;
type Condemned<'a> = Vec<(i32, &'a Arc<Pod>)>;

/// The pods in their places, and those that have none any more (highest ordinal first).
fn sorted<'a>(
    set: &StatefulSet,
    shape: &Shape,
    pods: &'a [Arc<Pod>],
) -> (Placed<'a>, Condemned<'a>) {
    let mut placed = BTreeMap::new();
    let mut condemned = Vec::new();
    for pod in pods {
        let Some(ordinal) = identity::ordinal(set, pod) else {
            continue;
        };
        if shape.ordinals().contains(&ordinal) {
            placed.insert(ordinal, pod);
        } else {
            condemned.push((ordinal, pod));
        }
    }
    condemned.sort_by_key(|(ordinal, _)| Reverse(*ordinal));
    (placed, condemned)
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan {
        actions: Vec::new(),
        recheck: None,
    };
    if view.set.metadata.deletion_timestamp.is_some() {
        return plan;
    }
    let shape = Shape::of(view.set);
    let (placed, condemned) = sorted(view.set, &shape, view.pods);
    if fill(view, &shape, &placed, &mut plan)
        && shrink(view, &shape, &placed, &condemned, &mut plan)
    {
        update(view, &shape, &placed, &mut plan);
    }
    plan
}

impl Plan {
    fn wait(&mut self, left: Duration) {
        self.recheck = Some(self.recheck.map_or(left, |other| other.min(left)));
    }
}

/// Makes the pods that should be there. False: nothing else may be done in this step.
fn fill(
    view: &View<'_>,
    shape: &Shape,
    placed: &BTreeMap<i32, &Arc<Pod>>,
    plan: &mut Plan,
) -> bool {
    for ordinal in shape.ordinals() {
        let Some(pod) = placed.get(&ordinal) else {
            let version = view.version(ordinal, shape.start);
            let pod = identity::pod(view.set, &version.template, &version.revision, ordinal);
            plan.actions.push(Action::Create(Box::new(pod)));
            if !shape.parallel {
                return false;
            }
            continue;
        };
        let state = view.state(pod, shape.min_ready);
        if podstate::is_finished(pod) && state != State::Terminating {
            plan.actions.push(Action::Restart(Arc::clone(pod)));
            if !shape.parallel {
                return false;
            }
            continue;
        }
        if state != State::Terminating {
            if !has_identity(pod, ordinal) {
                plan.actions.push(Action::Repair(Arc::clone(pod)));
            } else if podstate::phase(pod) == "Pending" && has_claims(view.set) {
                plan.actions.push(Action::Claims(Arc::clone(pod)));
            }
        }
        if let State::Waiting(left) = state {
            plan.wait(left);
        }
        if state != State::Available && !shape.parallel {
            return false;
        }
    }
    true
}

fn has_claims(set: &StatefulSet) -> bool {
    let spec = set.spec.as_ref();
    let claims = spec.and_then(|spec| spec.volume_claim_templates.as_ref());
    claims.is_some_and(|claims| !claims.is_empty())
}

fn has_identity(pod: &Pod, ordinal: i32) -> bool {
    let label = |key: &str| pod.metadata.labels.as_ref()?.get(key).map(String::as_str);
    label(POD_NAME) == pod.metadata.name.as_deref()
        && label(POD_INDEX) == Some(ordinal.to_string().as_str())
}

/// Removes the pods that should not be there. False: nothing else may be done in this step.
fn shrink(
    view: &View<'_>,
    shape: &Shape,
    placed: &BTreeMap<i32, &Arc<Pod>>,
    condemned: &[(i32, &Arc<Pod>)],
    plan: &mut Plan,
) -> bool {
    let all = placed.iter().map(|(ordinal, pod)| (*ordinal, *pod));
    let first_unhealthy = all
        .chain(condemned.iter().copied())
        .filter(|(_, pod)| matches!(view.state(pod, 0), State::Terminating | State::NotReady))
        .map(|(ordinal, _)| ordinal)
        .min();
    for (ordinal, pod) in condemned {
        let state = view.state(pod, shape.min_ready);
        if state == State::Terminating {
            if !shape.parallel {
                return false;
            }
            continue;
        }
        // One at a time, and while others are not well only the one that is the cause.
        if !shape.parallel && state != State::Available && first_unhealthy != Some(*ordinal) {
            if let State::Waiting(left) = state {
                plan.wait(left);
            }
            return false;
        }
        plan.actions.push(Action::Remove(Arc::clone(pod)));
        if !shape.parallel {
            return false;
        }
    }
    true
}

/// Replaces pods of older revisions from the highest ordinal down to the partition, no more at a time than
/// may be unavailable. One that is unavailable as it is costs nothing.
fn update(view: &View<'_>, shape: &Shape, placed: &BTreeMap<i32, &Arc<Pod>>, plan: &mut Plan) {
    let spec = view.set.spec.clone().unwrap_or_default();
    let strategy = spec.update_strategy.unwrap_or_default();
    if strategy.type_.as_deref() == Some("OnDelete") {
        return;
    }
    let rolling = strategy.rolling_update.unwrap_or_default();
    let partition = rolling.partition.unwrap_or(0);
    let most = most_unavailable(rolling.max_unavailable.as_ref(), shape.replicas);
    let mut unavailable = 0;
    for ordinal in shape.ordinals() {
        let state = placed
            .get(&ordinal)
            .map(|pod| view.state(pod, shape.min_ready));
        if let Some(State::Waiting(left)) = state {
            plan.wait(left);
        }
        unavailable += i32::from(state != Some(State::Available));
    }
    let mut left = (most - unavailable).max(0);
    let lowest = shape.start.saturating_add(partition);
    for (ordinal, pod) in placed
        .iter()
        .rev()
        .filter(|(ordinal, _)| **ordinal >= lowest)
    {
        let state = view.state(pod, shape.min_ready);
        if state == State::Terminating
            || revision_of(pod) == view.update.revision
            || podstate::is_finished(pod)
        {
            continue;
        }
        debug_assert!(shape.ordinals().contains(ordinal));
        if state == State::Available {
            if left == 0 {
                continue;
            }
            left -= 1;
        }
        plan.actions.push(Action::Replace(Arc::clone(pod)));
    }
}

/// At least one, or no update could ever move.
fn most_unavailable(value: Option<&IntOrString>, replicas: i32) -> i32 {
    let most = match value {
        None => 1,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text
                .strip_suffix('%')
                .and_then(|number| number.parse().ok())
                .unwrap_or(0);
            i32::try_from(percent * i64::from(replicas) / 100).unwrap_or(i32::MAX)
        }
    };
    most.max(1)
}

/// The status that these pods make.
pub(super) fn status(view: &View<'_>, collisions: Option<i32>) -> StatefulSetStatus {
    let shape = Shape::of(view.set);
    let old = view.set.status.clone().unwrap_or_default();
    let mut status = StatefulSetStatus {
        observed_generation: view.set.metadata.generation,
        replicas: 0,
        ready_replicas: Some(0),
        available_replicas: Some(0),
        current_replicas: Some(0),
        updated_replicas: Some(0),
        current_revision: Some(view.current.revision.clone()),
        update_revision: Some(view.update.revision.clone()),
        collision_count: collisions,
        conditions: old.conditions,
    };
    let mut up_to_date = 0;
    let (mut ready, mut available, mut current, mut updated) = (0, 0, 0, 0);
    let members = view
        .pods
        .iter()
        .filter(|pod| identity::ordinal(view.set, pod).is_some());
    for pod in members {
        status.replicas += 1;
        if is_running_and_ready(pod) {
            ready += 1;
            available += i32::from(podstate::availability(pod, shape.min_ready, view.now).is_ok());
        }
        if view.is_terminating(pod) {
            continue;
        }
        let revision = revision_of(pod);
        current += i32::from(revision == view.current.revision);
        updated += i32::from(revision == view.update.revision);
        up_to_date += i32::from(revision == view.update.revision && is_running_and_ready(pod));
    }
    let rolls = view
        .set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref())
        .is_none_or(|kind| kind == "RollingUpdate");
    if rolls && up_to_date == shape.replicas && status.replicas == shape.replicas {
        // The roll-out is complete: what was new is what there is.
        status.current_revision.clone_from(&status.update_revision);
        current = updated;
    }
    // As Kubernetes shows it: a count of nothing is not there, but for the available ones.
    let some = |count: i32| (count > 0).then_some(count);
    status.ready_replicas = some(ready);
    status.available_replicas = Some(available);
    status.current_replicas = some(current);
    status.updated_replicas = some(updated);
    status
}
