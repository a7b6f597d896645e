//! Affinity and anti-affinity between pods: of the pod that is placed, and of those that run. Pure.

use std::collections::HashMap;

use super::request::{Load, Request};
use super::selector::Term;
use super::snapshot::{Counts, Snapshot};

/// What a required affinity of a running pod weighs for a pod that it wants near it.
const SYMMETRIC: i64 = 1;

/// Pods per value of one label.
#[derive(Debug, Default, Clone)]
struct Domains {
    key: String,
    counts: HashMap<u32, i64>,
}

impl Domains {
    fn new(key: &str) -> Self {
        Self {
            key: key.to_owned(),
            counts: HashMap::new(),
        }
    }

    fn add(&mut self, snapshot: &Snapshot, slot: usize, by: i64) {
        let Some(topology) = snapshot.topology(&self.key) else {
            return;
        };
        let value = topology.of(slot);
        if value != 0 {
            *self.counts.entry(value).or_default() += by;
        }
    }

    fn add_all(&mut self, snapshot: &Snapshot, nodes: &Counts) {
        for (slot, pods) in nodes {
            self.add(snapshot, *slot, *pods);
        }
    }

    fn value(&self, snapshot: &Snapshot, slot: usize) -> u32 {
        snapshot
            .topology(&self.key)
            .map_or(0, |topology| topology.of(slot))
    }

    fn here(&self, snapshot: &Snapshot, slot: usize) -> i64 {
        match self.value(snapshot, slot) {
            0 => 0,
            value => self.counts.get(&value).copied().unwrap_or(0),
        }
    }
}

/// Which required term is in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Conflict {
    Affinity,
    AntiAffinity,
    /// Of a pod that runs.
    Existing,
}

/// What one pod's required terms, and those of others about it, say of nodes.
#[derive(Debug, Default, Clone)]
pub(super) struct Required {
    affinity: Vec<Domains>,
    /// No pod matches all terms anywhere, but the pod itself would.
    first: bool,
    anti: Vec<Domains>,
    existing: Vec<Domains>,
}

fn is_about(term: &Term, request: &Load, snapshot: &Snapshot) -> bool {
    let class = &request.class;
    term.matches(
        &class.namespace,
        snapshot.namespace(&class.namespace),
        &class.labels,
    )
}

impl Required {
    /// `None` when nothing has to be looked at.
    pub(super) fn new(request: &Request, snapshot: &Snapshot) -> Option<Self> {
        let mut required = Self::default();
        for holders in snapshot.holders.values() {
            for term in &holders.affinity.anti {
                if is_about(term, request, snapshot) {
                    required
                        .of_existing(&term.key)
                        .add_all(snapshot, &holders.nodes);
                }
            }
        }
        if let Some(affinity) = &request.affinity {
            let domains = |term: &Term| Domains::new(&term.key);
            required.affinity = affinity.required.iter().map(domains).collect();
            required.anti = affinity.anti.iter().map(domains).collect();
            for (class, nodes) in &snapshot.classes {
                let of_namespace = snapshot.namespace(&class.namespace);
                let matches =
                    |term: &Term| term.matches(&class.namespace, of_namespace, &class.labels);
                if !affinity.required.is_empty() && affinity.required.iter().all(matches) {
                    for domains in &mut required.affinity {
                        domains.add_all(snapshot, nodes);
                    }
                }
                for (term, domains) in affinity.anti.iter().zip(&mut required.anti) {
                    if matches(term) {
                        domains.add_all(snapshot, nodes);
                    }
                }
            }
            required.first = affinity
                .required
                .iter()
                .all(|term| is_about(term, request, snapshot));
        }
        let nothing = required.affinity.is_empty()
            && required.anti.is_empty()
            && required.existing.is_empty();
        (!nothing).then_some(required)
    }

    fn of_existing(&mut self, key: &str) -> &mut Domains {
        let position = match self.existing.iter().position(|known| known.key == key) {
            Some(position) => position,
            None => {
                self.existing.push(Domains::new(key));
                self.existing.len() - 1
            }
        };
        &mut self.existing[position]
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
        if let Some(theirs) = &other.affinity {
            for term in &theirs.anti {
                if is_about(term, request, snapshot) {
                    self.of_existing(&term.key).add(snapshot, slot, by);
                }
            }
        }
        let Some(own) = &request.affinity else { return };
        let matches = |term: &Term| is_about(term, other, snapshot);
        if !own.required.is_empty() && own.required.iter().all(matches) {
            for domains in &mut self.affinity {
                domains.add(snapshot, slot, by);
            }
        }
        for (term, domains) in own.anti.iter().zip(&mut self.anti) {
            if matches(term) {
                domains.add(snapshot, slot, by);
            }
        }
    }

    pub(super) fn check(&self, snapshot: &Snapshot, slot: usize) -> Option<Conflict> {
        let missing = |domains: &Domains| domains.value(snapshot, slot) == 0;
        let lonely = |domains: &Domains| domains.here(snapshot, slot) <= 0;
        if self.affinity.iter().any(missing) {
            return Some(Conflict::Affinity);
        }
        if self.affinity.iter().any(lonely) {
            let nowhere = self
                .affinity
                .iter()
                .all(|domains| domains.counts.values().all(|pods| *pods <= 0));
            if !(nowhere && self.first) {
                return Some(Conflict::Affinity);
            }
        }
        let crowded = |domains: &Domains| domains.here(snapshot, slot) > 0;
        if self.anti.iter().any(crowded) {
            return Some(Conflict::AntiAffinity);
        }
        self.existing
            .iter()
            .any(crowded)
            .then_some(Conflict::Existing)
    }
}

/// Preferences as a score per node, 0 to 100; `None` when nobody prefers anything.
#[allow(clippy::cast_precision_loss)]
pub(super) fn scores(request: &Request, snapshot: &Snapshot, nodes: &[usize]) -> Option<Vec<f64>> {
    let mut domains: HashMap<&str, Domains> = HashMap::new();
    fn add<'a>(
        domains: &mut HashMap<&'a str, Domains>,
        term: &'a Term,
        weight: i64,
        snapshot: &Snapshot,
        nodes: &Counts,
    ) {
        let domain = domains
            .entry(&term.key)
            .or_insert_with(|| Domains::new(&term.key));
        for (slot, pods) in nodes {
            domain.add(snapshot, *slot, weight * pods);
        }
    }
    for holders in snapshot.holders.values() {
        let required = holders
            .affinity
            .required
            .iter()
            .map(|term| (SYMMETRIC, term));
        let preferred = holders
            .affinity
            .preferred
            .iter()
            .map(|(weight, term)| (*weight, term));
        for (weight, term) in required.chain(preferred) {
            if is_about(term, request, snapshot) {
                add(&mut domains, term, weight, snapshot, &holders.nodes);
            }
        }
    }
    let own = request.affinity.as_ref().map(|own| &own.preferred);
    if own.is_some_and(|own| !own.is_empty()) {
        for (class, counts) in &snapshot.classes {
            let of_namespace = snapshot.namespace(&class.namespace);
            for (weight, term) in own.into_iter().flatten() {
                if term.matches(&class.namespace, of_namespace, &class.labels) {
                    add(&mut domains, term, *weight, snapshot, counts);
                }
            }
        }
    }
    if domains.is_empty() {
        return None;
    }
    let sums: Vec<i64> = nodes
        .iter()
        .map(|slot| {
            domains
                .values()
                .map(|domain| domain.here(snapshot, *slot))
                .sum()
        })
        .collect();
    let (least, most) = (sums.iter().min()?, sums.iter().max()?);
    let span = (most - least) as f64;
    Some(
        sums.iter()
            .map(|sum| {
                if span > 0.0 {
                    100.0 * (sum - least) as f64 / span
                } else {
                    0.0
                }
            })
            .collect(),
    )
}
