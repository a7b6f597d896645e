//! Which of the nodes that fit is best. Pure: each score is 0 to 100 per node, weighted and summed.

use k8s_openapi::api::core::v1::{Node, NodeSelectorTerm};

use super::node_info::NodeInfo;
use super::request::Request;
use super::snapshot::Snapshot;
use super::{affinity, interpod, spread};

const BEST: f64 = 100.0;
const LEAST_ALLOCATED: f64 = 1.0;
const BALANCED: f64 = 1.0;
const SPREAD: f64 = 2.0;
const NEIGHBOURS: f64 = 2.0;
const AFFINITY: f64 = 2.0;
const TAINTS: f64 = 3.0;
const IMAGES: f64 = 1.0;

/// One score per node, in order.
pub(super) fn scores(request: &Request, snapshot: &Snapshot, slots: &[usize]) -> Vec<f64> {
    let nodes: Vec<&NodeInfo> = slots.iter().map(|slot| snapshot.node(*slot)).collect();
    let images = Images::new(request, snapshot);
    let mut total: Vec<f64> = nodes
        .iter()
        .map(|node| {
            LEAST_ALLOCATED * least_allocated(request, node)
                + BALANCED * balanced(request, node)
                + IMAGES * images.score(node)
        })
        .collect();
    let mut add = |weight: f64, scores: Option<Vec<f64>>| {
        for (total, score) in total.iter_mut().zip(scores.into_iter().flatten()) {
            *total += weight * score;
        }
    };
    add(SPREAD, spread::scores(request, snapshot, slots));
    add(NEIGHBOURS, interpod::scores(request, snapshot, slots));
    add(AFFINITY, preferred(request, &nodes));
    add(TAINTS, soft_taints(request, &nodes));
    total
}

/// The used part of what a node has, with the pod on it: 0 to 1.
#[allow(clippy::cast_precision_loss)]
fn part(want: i64, used: i64, have: i64) -> f64 {
    if have <= 0 {
        return 1.0;
    }
    (want.saturating_add(used) as f64 / have as f64).min(1.0)
}

/// Pods that ask for nothing count as if they did, or they would all go to one node.
fn least_allocated(request: &Request, node: &NodeInfo) -> f64 {
    let (want, used, have) = (&request.weight, &node.usage.weight, &node.allocatable);
    let cpu = part(want.milli_cpu, used.milli_cpu, have.milli_cpu);
    let memory = part(want.memory, used.memory, have.memory);
    (2.0 - cpu - memory) / 2.0 * BEST
}

/// CPU and memory should be used up at the same pace. Here what is really asked for counts, so that a pod that asks for
/// nothing has no say.
fn balanced(request: &Request, node: &NodeInfo) -> f64 {
    let (want, used, have) = (&request.resources, &node.usage.requested, &node.allocatable);
    if want.milli_cpu == 0 && want.memory == 0 {
        return 0.0;
    }
    // There is no pace without both.
    if have.milli_cpu == 0 || have.memory == 0 {
        return BEST;
    }
    let cpu = part(want.milli_cpu, used.milli_cpu, have.milli_cpu);
    let memory = part(want.memory, used.memory, have.memory);
    (1.0 - (cpu - memory).abs() / 2.0) * BEST
}

/// Images that are worth going where they are: large, and on many nodes already.
struct Images<'a> {
    wanted: Vec<(&'a str, f64)>,
    containers: f64,
}

const MIB: f64 = 1024.0 * 1024.0;
/// What is smaller than this makes no difference, and what is larger (per container) no more.
const SMALL: f64 = 23.0 * MIB;
const LARGE: f64 = 1000.0 * MIB;

impl<'a> Images<'a> {
    #[allow(clippy::cast_precision_loss)]
    fn new(request: &'a Request, snapshot: &Snapshot) -> Self {
        let wanted = request
            .images
            .iter()
            .map(|image| (image.as_str(), snapshot.image_spread(image)))
            .filter(|(_, spread)| *spread > 0.0)
            .collect();
        Self {
            wanted,
            containers: request.images.len().max(1) as f64,
        }
    }

    #[allow(clippy::cast_precision_loss)]
    fn score(&self, node: &NodeInfo) -> f64 {
        if self.wanted.is_empty() {
            return 0.0;
        }
        let sum: f64 = self
            .wanted
            .iter()
            .filter_map(|(image, spread)| Some(*node.images.get(*image)? as f64 * spread))
            .sum();
        let most = LARGE * self.containers;
        BEST * (sum.clamp(SMALL, most) - SMALL) / (most - SMALL)
    }
}

/// The largest value becomes 100 and the others in proportion.
fn normalized(values: Vec<f64>) -> Vec<f64> {
    let most = values.iter().copied().fold(0.0, f64::max);
    if most <= 0.0 {
        return values.into_iter().map(|_| 0.0).collect();
    }
    values
        .into_iter()
        .map(|value| BEST * value / most)
        .collect()
}

/// An empty preference is for every node.
fn prefers(term: &NodeSelectorTerm, node: &Node) -> bool {
    let is_empty = |list: &Option<Vec<_>>| list.as_ref().is_none_or(Vec::is_empty);
    (is_empty(&term.match_expressions) && is_empty(&term.match_fields))
        || affinity::term_matches(term, node)
}

fn preferred(request: &Request, nodes: &[&NodeInfo]) -> Option<Vec<f64>> {
    let terms = request
        .node_affinity()?
        .preferred_during_scheduling_ignored_during_execution
        .as_ref()?;
    let sum = |node: &&NodeInfo| {
        terms
            .iter()
            .filter(|term| prefers(&term.preference, &node.node))
            .map(|term| f64::from(term.weight))
            .sum()
    };
    Some(normalized(nodes.iter().map(sum).collect()))
}

#[allow(clippy::cast_precision_loss)]
fn soft_taints(request: &Request, nodes: &[&NodeInfo]) -> Option<Vec<f64>> {
    let count = |node: &&NodeInfo| {
        affinity::untolerated(&node.taints, request.tolerations(), &["PreferNoSchedule"]).count()
    };
    let counts: Vec<f64> = nodes.iter().map(|node| count(node) as f64).collect();
    if counts.iter().all(|count| *count == 0.0) {
        return None;
    }
    let worst = normalized(counts);
    Some(worst.into_iter().map(|score| BEST - score).collect())
}
