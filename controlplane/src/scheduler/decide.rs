//! The decision for one pod: filter, score, pick. Pure but for the given random numbers.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::Arc;

use rand::Rng;

use super::filter::{Failure, Prepared, Reason, filter, has_room};
use super::request::Request;
use super::score;
use super::snapshot::Snapshot;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Node(String),
    /// No node fits; the sentence for the event and the condition.
    None(String),
}

/// Nodes that do not fit, when none does.
#[derive(Debug, Default)]
pub(super) struct Failures(pub(super) Vec<(usize, Failure)>);

/// With many nodes it is enough to find some that fit.
fn enough(nodes: usize) -> usize {
    const FEW: usize = 100;
    if nodes <= FEW {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEW)
}

/// Numbers the labels that the pod asks for.
pub(super) fn learn(request: &Request, snapshot: &mut Snapshot) {
    for constraint in &request.constraints {
        snapshot.learn(&constraint.key);
    }
    for key in request.affinity.iter().flat_map(|affinity| affinity.keys()) {
        snapshot.learn(key);
    }
}

/// Finds the best node. `start` is where to begin looking; it moves on, so that all nodes get their turn.
pub(super) fn decide(
    request: &Request,
    prepared: &Prepared,
    snapshot: &Snapshot,
    start: &mut usize,
    random: &mut impl Rng,
) -> Result<usize, Failures> {
    // Where room was made for it, it goes at once if it can.
    if let Some(slot) = request.nominated().and_then(|name| snapshot.slot(name))
        && check(request, prepared, snapshot, slot).is_none()
    {
        return Ok(slot);
    }
    if let Some(names) = &request.only {
        return among(request, prepared, snapshot, names, random);
    }
    let order = snapshot.order();
    let wanted = enough(order.len());
    let mut fitting: Vec<usize> = Vec::new();
    let mut seen = 0;
    while seen < order.len() && fitting.len() < wanted {
        let slot = order[(*start + seen) % order.len()];
        seen += 1;
        let node = snapshot.node(slot);
        // Most nodes of a full cluster are full: it is said of none of them why while there may be one that is not.
        if has_room(request, node, &node.usage)
            && check(request, prepared, snapshot, slot).is_none()
        {
            fitting.push(slot);
        }
    }
    *start = (*start + seen) % order.len().max(1);
    if fitting.is_empty() {
        let failure = |slot: &usize| Some((*slot, check(request, prepared, snapshot, *slot)?));
        return Err(Failures(order.iter().filter_map(failure).collect()));
    }
    Ok(best(request, snapshot, &fitting, random))
}

/// Of a few nodes only.
fn among(
    request: &Request,
    prepared: &Prepared,
    snapshot: &Snapshot,
    names: &[String],
    random: &mut impl Rng,
) -> Result<usize, Failures> {
    let mut fitting = Vec::new();
    let mut failures = Failures::default();
    for (slot, node) in snapshot.nodes() {
        if !names.contains(&node.name) {
            let failure = Failure {
                reasons: vec![Reason::NotNamed],
                resolvable: false,
            };
            failures.0.push((slot, failure));
            continue;
        }
        match check(request, prepared, snapshot, slot) {
            None => fitting.push(slot),
            Some(failure) => failures.0.push((slot, failure)),
        }
    }
    if fitting.is_empty() {
        return Err(failures);
    }
    Ok(best(request, snapshot, &fitting, random))
}

fn best(request: &Request, snapshot: &Snapshot, fitting: &[usize], random: &mut impl Rng) -> usize {
    if let [only] = fitting {
        return *only;
    }
    let scores = score::scores(request, snapshot, fitting);
    fitting[pick(&scores, random)]
}

/// The filter, with those that room was made for there, and without them.
pub(super) fn check(
    request: &Request,
    prepared: &Prepared,
    snapshot: &Snapshot,
    slot: usize,
) -> Option<Failure> {
    let node = snapshot.node(slot);
    let mut first = nominated_first(request, snapshot, slot).peekable();
    if first.peek().is_some() {
        let (mut usage, mut with) = (node.usage.clone(), prepared.clone());
        for other in first {
            usage.add(other);
            with.update(request, other, snapshot, slot, 1);
        }
        let failure = filter(request, &with, snapshot, slot, &usage);
        if failure.is_some() {
            return failure;
        }
    }
    filter(request, prepared, snapshot, slot, &node.usage)
}

/// Pods that room was made for on the node, and that go first.
pub(super) fn nominated_first<'a>(
    request: &'a Request,
    snapshot: &'a Snapshot,
    slot: usize,
) -> impl Iterator<Item = &'a Arc<Request>> {
    snapshot
        .nominated(&snapshot.node(slot).name)
        .iter()
        .filter(|other| other.priority >= request.priority && other.uid() != request.uid())
}

/// One of the best at random.
fn pick(scores: &[f64], random: &mut impl Rng) -> usize {
    let best = scores.iter().copied().fold(f64::MIN, f64::max);
    let mut chosen = 0;
    let mut ties = 0_u32;
    for (position, score) in scores.iter().enumerate() {
        if (best - score).abs() < 1e-9 {
            ties += 1;
            if random.random_range(0..ties) == 0 {
                chosen = position;
            }
        }
    }
    chosen
}

/// `0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu.` There is a reason for each node, and few
/// differ: they become text once they are counted.
pub(super) fn sentence<T: ToString + Eq + Hash>(
    nodes: usize,
    reasons: impl Iterator<Item = T>,
) -> String {
    let mut counts: HashMap<T, usize> = HashMap::new();
    for reason in reasons {
        *counts.entry(reason).or_default() += 1;
    }
    let mut by_text: BTreeMap<String, usize> = BTreeMap::new();
    for (reason, count) in counts {
        *by_text.entry(reason.to_string()).or_default() += count;
    }
    let mut parts: Vec<String> = by_text
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}
