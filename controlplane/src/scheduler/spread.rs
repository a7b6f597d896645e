//! Topology spread constraints: as a condition (`DoNotSchedule`) and as a wish (`ScheduleAnyway`); pods without
//! any are spread softly over nodes and zones. Pure.

use std::collections::HashMap;

use super::node_info::NodeInfo;
use super::request::{Constraint, Load, Request};
use super::snapshot::{Snapshot, ZONE};

const HOSTNAME: &str = "kubernetes.io/hostname";
/// How much more on one node, in one zone, pods of one owner may be without being told apart.
const DEFAULT_NODE_SKEW: f64 = 3.0;
const DEFAULT_ZONE_SKEW: f64 = 5.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Conflict {
    MissingLabel,
    Skew,
}

#[derive(Debug, Clone)]
struct Hard {
    constraint: Constraint,
    /// Matching pods per domain; every domain that counts is there.
    counts: HashMap<u32, i64>,
    own: i64,
}

/// The hard constraints of a pod.
#[derive(Debug, Clone)]
pub(super) struct Required(Vec<Hard>);

/// Whether the node's pods and domain count for the constraint.
fn counts(constraint: &Constraint, request: &Request, node: &NodeInfo) -> bool {
    (!constraint.honor_affinity || node.is_selected(request))
        && (!constraint.honor_taints || node.is_tolerated(request))
}

fn value(snapshot: &Snapshot, key: &str, slot: usize) -> u32 {
    snapshot
        .topology(key)
        .map_or(0, |topology| topology.of(slot))
}

fn has_all<'a>(
    snapshot: &Snapshot,
    slot: usize,
    mut all: impl Iterator<Item = &'a Constraint>,
) -> bool {
    all.all(|constraint| value(snapshot, &constraint.key, slot) != 0)
}

fn matches(constraint: &Constraint, request: &Load, other: &Load) -> bool {
    !other.class.going
        && other.class.namespace == request.class.namespace
        && constraint.selector.matches(&other.class.labels)
}

/// Calls `each` for every node's number of pods that the constraint is about.
fn matching(
    constraint: &Constraint,
    request: &Request,
    snapshot: &Snapshot,
    mut each: impl FnMut(usize, i64),
) {
    for (class, nodes) in &snapshot.classes {
        if !class.going
            && class.namespace == request.class.namespace
            && constraint.selector.matches(&class.labels)
        {
            for (slot, pods) in nodes {
                each(*slot, *pods);
            }
        }
    }
}

impl Required {
    /// `None` when the pod has none.
    pub(super) fn new(request: &Request, snapshot: &Snapshot) -> Option<Self> {
        let hard = || request.constraints.iter().filter(|one| one.hard);
        hard().next()?;
        let mut all: Vec<Hard> = hard()
            .map(|constraint| Hard {
                constraint: constraint.clone(),
                counts: HashMap::new(),
                own: i64::from(
                    constraint.selector.matches(&request.class.labels) && !request.class.going,
                ),
            })
            .collect();
        for (slot, node) in snapshot.nodes() {
            if !has_all(snapshot, slot, hard()) {
                continue;
            }
            for one in &mut all {
                if counts(&one.constraint, request, node) {
                    let domain = value(snapshot, &one.constraint.key, slot);
                    one.counts.entry(domain).or_default();
                }
            }
        }
        for one in &mut all {
            let Hard {
                constraint,
                counts: domains,
                ..
            } = one;
            matching(constraint, request, snapshot, |slot, pods| {
                if has_all(snapshot, slot, hard())
                    && counts(constraint, request, snapshot.node(slot))
                    && let Some(count) = domains.get_mut(&value(snapshot, &constraint.key, slot))
                {
                    *count += pods;
                }
            });
        }
        Some(Self(all))
    }

    /// A pod comes to (1) or leaves (-1) a node.
    pub(super) fn update(
        &mut self,
        request: &Request,
        other: &Load,
        snapshot: &Snapshot,
        slot: usize,
        by: i64,
    ) {
        for one in &mut self.0 {
            if matches(&one.constraint, request, other)
                && counts(&one.constraint, request, snapshot.node(slot))
                && let Some(count) = one
                    .counts
                    .get_mut(&value(snapshot, &one.constraint.key, slot))
            {
                *count += by;
            }
        }
    }

    pub(super) fn check(&self, snapshot: &Snapshot, slot: usize) -> Option<Conflict> {
        for one in &self.0 {
            let domain = value(snapshot, &one.constraint.key, slot);
            if domain == 0 {
                return Some(Conflict::MissingLabel);
            }
            let domains = i64::try_from(one.counts.len()).unwrap_or(i64::MAX);
            let least = if domains < one.constraint.min_domains {
                0
            } else {
                one.counts.values().copied().min().unwrap_or(0)
            };
            let here = one.counts.get(&domain).copied().unwrap_or(0);
            if here + one.own - least > one.constraint.max_skew {
                return Some(Conflict::Skew);
            }
        }
        None
    }
}

/// The wish as a score per node, 0 to 100.
pub(super) fn scores(request: &Request, snapshot: &Snapshot, nodes: &[usize]) -> Option<Vec<f64>> {
    let crowds = if request.constraints.is_empty() {
        by_owner(request, snapshot, nodes)?
    } else {
        wished(request, snapshot, nodes)?
    };
    let most = crowds.iter().flatten().copied().fold(0.0, f64::max);
    let least = crowds.iter().flatten().copied().fold(f64::MAX, f64::min);
    Some(
        crowds
            .into_iter()
            .map(|crowd| match crowd {
                None => 0.0,
                Some(_) if most <= 0.0 => 100.0,
                Some(crowd) => 100.0 * (most + least - crowd) / most,
            })
            .collect(),
    )
}

#[allow(clippy::cast_precision_loss)]
fn weight(domains: usize) -> f64 {
    (domains as f64 + 2.0).ln()
}

/// Of pods without constraints: those of the same owner, by node and by zone.
#[allow(clippy::cast_precision_loss)]
fn by_owner(request: &Request, snapshot: &Snapshot, nodes: &[usize]) -> Option<Vec<Option<f64>>> {
    let group = snapshot.group(request.group)?;
    let zones = snapshot.topology(ZONE);
    let zone = |slot: usize| zones.map_or(0, |zones| zones.of(slot));
    let mut seen: Vec<u32> = nodes.iter().map(|slot| zone(*slot)).collect();
    seen.sort_unstable();
    seen.dedup();
    seen.retain(|zone| *zone != 0);
    let (by_node, by_zone) = (weight(nodes.len()), weight(seen.len()));
    let crowd = |slot: &usize| {
        let here = group.nodes.get(slot).copied().unwrap_or(0) as f64;
        let mut sum = here * by_node + (DEFAULT_NODE_SKEW - 1.0);
        let zone = zone(*slot);
        if zone != 0 {
            let there = group.zones.get(&zone).copied().unwrap_or(0) as f64;
            sum += there * by_zone + (DEFAULT_ZONE_SKEW - 1.0);
        }
        Some(sum.round())
    };
    Some(nodes.iter().map(crowd).collect())
}

/// `None` for nodes without one of the labels.
#[allow(clippy::cast_precision_loss)]
fn wished(request: &Request, snapshot: &Snapshot, nodes: &[usize]) -> Option<Vec<Option<f64>>> {
    let soft = || request.constraints.iter().filter(|one| !one.hard);
    soft().next()?;
    let mut sums: Vec<Option<f64>> = nodes
        .iter()
        .map(|slot| has_all(snapshot, *slot, soft()).then_some(0.0))
        .collect();
    for constraint in soft() {
        let mut domains: HashMap<u32, i64> = HashMap::new();
        for (slot, sum) in nodes.iter().zip(&sums) {
            if sum.is_some() {
                domains.insert(value(snapshot, &constraint.key, *slot), 0);
            }
        }
        let weight = weight(domains.len());
        // On one node only its own pods count, whatever the policies say.
        let is_node = constraint.key == HOSTNAME;
        matching(constraint, request, snapshot, |slot, pods| {
            // Pods on nodes without one of the labels count nowhere, as with hard constraints.
            if has_all(snapshot, slot, soft())
                && let Some(count) = domains.get_mut(&value(snapshot, &constraint.key, slot))
                && (is_node || counts(constraint, request, snapshot.node(slot)))
            {
                *count += pods;
            }
        });
        for (slot, sum) in nodes.iter().zip(&mut sums) {
            if let Some(sum) = sum {
                let domain = value(snapshot, &constraint.key, *slot);
                let pods = domains.get(&domain).copied().unwrap_or(0) as f64;
                *sum += pods * weight + (constraint.max_skew - 1) as f64;
            }
        }
    }
    for sum in sums.iter_mut().flatten() {
        *sum = sum.round();
    }
    Some(sums)
}
