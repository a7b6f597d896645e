//! Which pods have to go for one that goes first. Pure.
//!
//! On each node where it could help: all pods of lower priority are taken away; if the pod fits then, they
//! are put back one by one, those whose budgets would be broken first, and then by importance; who cannot
//! be put back is a victim. Of the nodes the one is taken where it hurts least.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use rand::Rng;

use super::decide::{self, Failures};
use super::filter::{Prepared, filter};
use super::node_info::Usage;
use super::request::{Load, Request};
use super::selector::Selector;
use super::snapshot::Snapshot;

/// Room that is made.
#[derive(Debug)]
pub(super) struct Preemption {
    pub(super) node: String,
    pub(super) victims: Vec<Arc<Load>>,
}

#[derive(Debug)]
struct Candidate {
    slot: usize,
    victims: Vec<Arc<Load>>,
    /// Victims whose budget does not allow it.
    violations: usize,
}

/// Why there is no room.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NoRoom {
    /// The pod may not put others out, or not yet: what was made for it before stays its own.
    NotEligible(&'static str),
    /// Nobody's going would help anywhere.
    NoCandidates(String),
}

impl fmt::Display for NoRoom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotEligible(why) => f.write_str(why),
            Self::NoCandidates(why) => f.write_str(why),
        }
    }
}

const NOT_HELPFUL: &str = "Preemption is not helpful for scheduling";
const NO_VICTIMS: &str = "No preemption victims found for incoming pod";

/// Nodes that are tried: as Kubernetes does by default.
fn tries(nodes: usize) -> usize {
    (nodes / 10).max(100).min(nodes)
}

/// Whether the pod may put others out at all.
fn eligible(request: &Request, snapshot: &Snapshot, failures: &Failures) -> Result<(), NoRoom> {
    if !request.preempts() {
        return Err(NoRoom::NotEligible(
            "not eligible due to preemptionPolicy=Never.",
        ));
    }
    let Some(slot) = request.nominated().and_then(|name| snapshot.slot(name)) else {
        return Ok(());
    };
    // It does not help there any more: look elsewhere.
    let hopeless = failures
        .0
        .iter()
        .any(|(failed, failure)| *failed == slot && !failure.resolvable);
    let waits = snapshot
        .node(slot)
        .running
        .iter()
        .any(|other| other.is_victim() && other.priority < request.priority);
    if waits && !hopeless {
        return Err(NoRoom::NotEligible(
            "not eligible due to a terminating pod on the nominated node.",
        ));
    }
    Ok(())
}

/// Room for the pod, or why there is none.
pub(super) fn preempt(
    request: &Request,
    prepared: &mut Prepared,
    snapshot: &Snapshot,
    failures: &Failures,
    budgets: &[Arc<PodDisruptionBudget>],
    random: &mut impl Rng,
) -> Result<Preemption, NoRoom> {
    eligible(request, snapshot, failures)?;
    let nodes = snapshot.len();
    let mut why: Vec<Cow<'static, str>> = Vec::new();
    let mut hopeful: Vec<usize> = Vec::new();
    for (slot, failure) in &failures.0 {
        if failure.resolvable {
            hopeful.push(*slot);
        } else {
            why.push(NOT_HELPFUL.into());
        }
    }
    let mut candidates = Vec::new();
    let first = if hopeful.is_empty() {
        0
    } else {
        random.random_range(0..hopeful.len())
    };
    let most = tries(nodes);
    for position in 0..hopeful.len() {
        let slot = hopeful[(first + position) % hopeful.len()];
        match victims(request, prepared, snapshot, slot, budgets) {
            Ok(candidate) => candidates.push(candidate),
            Err(reasons) => why.extend(reasons),
        }
        if candidates.len() >= most {
            break;
        }
    }
    let Some(best) = candidates.into_iter().min_by_key(pain) else {
        return Err(NoRoom::NoCandidates(decide::sentence(
            nodes,
            why.into_iter(),
        )));
    };
    Ok(Preemption {
        node: snapshot.node(best.slot).name.clone(),
        victims: best.victims,
    })
}

/// Less is better: budgets that are broken, the highest priority, the sum of priorities, the number of
/// victims, and of the most important ones the one that runs longest should have run shortly.
fn pain(candidate: &Candidate) -> impl Ord + use<> {
    let highest = candidate.victims.iter().map(|victim| victim.priority).max();
    let sum: i64 = candidate
        .victims
        .iter()
        .map(|victim| i64::from(victim.priority) + i64::from(i32::MAX) + 1)
        .sum();
    let earliest = candidate
        .victims
        .iter()
        .filter(|victim| Some(victim.priority) == highest)
        .map(|victim| victim.standing.started)
        .min();
    (
        candidate.violations,
        highest,
        sum,
        candidate.victims.len(),
        Reverse(earliest),
    )
}

fn victims(
    request: &Request,
    prepared: &mut Prepared,
    snapshot: &Snapshot,
    slot: usize,
    budgets: &[Arc<PodDisruptionBudget>],
) -> Result<Candidate, Vec<Cow<'static, str>>> {
    let node = snapshot.node(slot);
    let mut lower: Vec<Arc<Load>> = node
        .running
        .iter()
        .filter(|other| other.priority < request.priority)
        .cloned()
        .collect();
    if lower.is_empty() {
        return Err(vec![NO_VICTIMS.into()]);
    }
    let mut usage = node.usage.clone();
    for other in &lower {
        usage.remove(other);
        prepared.update(request, other, snapshot, slot, -1);
    }
    let mut trial = Trial {
        request,
        prepared,
        snapshot,
        slot,
        usage,
    };
    let result = match trial.failure() {
        Some(reasons) => Err(reasons),
        None => {
            // The most important first: they are put back if there is room.
            lower.sort_by_key(|other| (Reverse(other.priority), other.standing.started));
            Ok(trial.reprieve(&lower, budgets))
        }
    };
    // As it was, for the next node.
    let gone: &[Arc<Load>] = match &result {
        Ok(candidate) => &candidate.victims,
        Err(_) => &lower,
    };
    for other in gone {
        prepared.update(request, other, snapshot, slot, 1);
    }
    match result {
        Ok(candidate) if candidate.victims.is_empty() => Err(vec![NO_VICTIMS.into()]),
        other => other,
    }
}

/// One node as it would be.
struct Trial<'a> {
    request: &'a Request,
    prepared: &'a mut Prepared,
    snapshot: &'a Snapshot,
    slot: usize,
    usage: Usage,
}

impl Trial<'_> {
    fn failure(&self) -> Option<Vec<Cow<'static, str>>> {
        let (request, snapshot, slot) = (self.request, self.snapshot, self.slot);
        let mut first = decide::nominated_first(request, snapshot, slot).peekable();
        let failure = if first.peek().is_some() {
            let (mut usage, mut with) = (self.usage.clone(), self.prepared.clone());
            for other in first {
                usage.add(other);
                with.update(request, other, snapshot, slot, 1);
            }
            filter(request, &with, snapshot, slot, &usage)?
        } else {
            filter(request, self.prepared, snapshot, slot, &self.usage)?
        };
        let reasons = failure.reasons.iter();
        Some(reasons.map(|reason| reason.to_string().into()).collect())
    }

    fn put(&mut self, other: &Load, by: i64) {
        if by > 0 {
            self.usage.add(other);
        } else {
            self.usage.remove(other);
        }
        self.prepared
            .update(self.request, other, self.snapshot, self.slot, by);
    }

    fn reprieve(&mut self, lower: &[Arc<Load>], budgets: &[Arc<PodDisruptionBudget>]) -> Candidate {
        let (violating, others) = by_budget(lower, budgets);
        let mut victims: Vec<Arc<Load>> = Vec::new();
        let mut violations = 0;
        for (other, violates) in violating
            .into_iter()
            .map(|other| (other, true))
            .chain(others.into_iter().map(|other| (other, false)))
        {
            self.put(other, 1);
            if self.failure().is_some() {
                self.put(other, -1);
                victims.push(Arc::clone(other));
                violations += usize::from(violates);
            }
        }
        victims.sort_by_key(|other| (Reverse(other.priority), other.standing.started));
        Candidate {
            slot: self.slot,
            victims,
            violations,
        }
    }
}

/// Pods whose budgets do not allow that all of them go, and the others.
fn by_budget<'a>(
    pods: &'a [Arc<Load>],
    budgets: &[Arc<PodDisruptionBudget>],
) -> (Vec<&'a Arc<Load>>, Vec<&'a Arc<Load>>) {
    struct Left<'b> {
        budget: &'b PodDisruptionBudget,
        selector: Selector,
        allowed: i32,
    }
    let mut left: Vec<Left<'_>> = budgets
        .iter()
        .map(|budget| {
            let spec = budget.spec.as_ref();
            let status = budget.status.as_ref();
            Left {
                budget,
                selector: Selector::new(spec.and_then(|spec| spec.selector.as_ref())),
                allowed: status
                    .and_then(|status| status.disruptions_allowed)
                    .unwrap_or(0),
            }
        })
        .collect();
    pods.iter().partition(|pod| {
        let mut violates = false;
        for one in &mut left {
            if one.budget.metadata.namespace.as_deref() != Some(&pod.class.namespace)
                || pod.class.labels.is_empty()
                || !one.selector.matches(&pod.class.labels)
            {
                continue;
            }
            // Whom the eviction already goes on for is counted.
            let counted = one
                .budget
                .status
                .as_ref()
                .and_then(|status| status.disrupted_pods.as_ref())
                .is_some_and(|counted| counted.contains_key(pod.name.as_ref()));
            if counted {
                continue;
            }
            one.allowed -= 1;
            violates |= one.allowed < 0;
        }
        violates
    })
}
