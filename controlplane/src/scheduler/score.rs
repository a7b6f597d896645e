//! Which of the nodes that fit is best. Pure: each score is 0 to 100 per node, weighted and summed.

use std::collections::HashMap;

use super::affinity;
use super::request::Request;
use super::snapshot::NodeInfo;

const BEST: f64 = 100.0;
const LEAST_ALLOCATED: f64 = 1.0;
const BALANCED: f64 = 1.0;
const SPREAD: f64 = 2.0;
const AFFINITY: f64 = 2.0;
const TAINTS: f64 = 3.0;
const IMAGES: f64 = 1.0;
/// Of the spreading score, where nodes have zones.
const ZONE_SHARE: f64 = 2.0 / 3.0;

/// One score per node, in order.
pub(super) fn scores(request: &Request, nodes: &[&NodeInfo]) -> Vec<f64> {
    let mut total: Vec<f64> = nodes
        .iter()
        .map(|node| {
            let (cpu, memory) = fractions(request, node);
            LEAST_ALLOCATED * least_allocated(cpu, memory)
                + BALANCED * balanced(cpu, memory)
                + IMAGES * images(request, node)
        })
        .collect();
    let mut add = |weight: f64, scores: Vec<f64>| {
        for (total, score) in total.iter_mut().zip(scores) {
            *total += weight * score;
        }
    };
    add(SPREAD, spread(request, nodes));
    if let Some(scores) = preferred(request, nodes) {
        add(AFFINITY, scores);
    }
    if let Some(scores) = soft_taints(request, nodes) {
        add(TAINTS, scores);
    }
    total
}

/// Used parts of CPU and memory with the pod on the node, 0 to 1.
#[allow(clippy::cast_precision_loss)]
fn fractions(request: &Request, node: &NodeInfo) -> (f64, f64) {
    let part = |want: i64, used: i64, have: i64| {
        if have <= 0 {
            return 1.0;
        }
        (want.saturating_add(used) as f64 / have as f64).min(1.0)
    };
    (
        part(
            request.weight.milli_cpu,
            node.weight.milli_cpu,
            node.allocatable.milli_cpu,
        ),
        part(
            request.weight.memory,
            node.weight.memory,
            node.allocatable.memory,
        ),
    )
}

fn least_allocated(cpu: f64, memory: f64) -> f64 {
    (2.0 - cpu - memory) / 2.0 * BEST
}

/// CPU and memory should be used up at the same pace.
fn balanced(cpu: f64, memory: f64) -> f64 {
    (1.0 - (cpu - memory).abs() / 2.0) * BEST
}

#[allow(clippy::cast_precision_loss)]
fn images(request: &Request, node: &NodeInfo) -> f64 {
    let Some(spec) = &request.pod.spec else {
        return 0.0;
    };
    let present = spec
        .containers
        .iter()
        .filter_map(|container| container.image.as_ref())
        .filter(|image| node.images.contains(*image))
        .count();
    BEST * present as f64 / spec.containers.len().max(1) as f64
}

#[allow(clippy::cast_precision_loss)]
fn spread(request: &Request, nodes: &[&NodeInfo]) -> Vec<f64> {
    let count = |node: &NodeInfo| node.groups.get(&request.group).copied().unwrap_or(0) as f64;
    let mut zones: HashMap<&str, f64> = HashMap::new();
    let mut most = 0.0_f64;
    for node in nodes {
        most = most.max(count(node));
        if !node.zone.is_empty() {
            *zones.entry(&node.zone).or_default() += count(node);
        }
    }
    let most_in_zone = zones.values().copied().fold(0.0, f64::max);
    let part = |count: f64, most: f64| {
        if most > 0.0 {
            (most - count) / most
        } else {
            1.0
        }
    };
    nodes
        .iter()
        .map(|node| {
            let by_node = part(count(node), most);
            match zones.get(node.zone.as_str()) {
                Some(in_zone) => {
                    let by_zone = part(*in_zone, most_in_zone);
                    BEST * (ZONE_SHARE * by_zone + (1.0 - ZONE_SHARE) * by_node)
                }
                None => BEST * by_node,
            }
        })
        .collect()
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

fn preferred(request: &Request, nodes: &[&NodeInfo]) -> Option<Vec<f64>> {
    let terms = request
        .node_affinity()?
        .preferred_during_scheduling_ignored_during_execution
        .as_ref()?;
    let sum = |node: &&NodeInfo| {
        terms
            .iter()
            .filter(|term| affinity::term_matches(&term.preference, &node.node))
            .map(|term| f64::from(term.weight))
            .sum()
    };
    Some(normalized(nodes.iter().map(sum).collect()))
}

#[allow(clippy::cast_precision_loss)]
fn soft_taints(request: &Request, nodes: &[&NodeInfo]) -> Option<Vec<f64>> {
    let count = |node: &&NodeInfo| {
        affinity::untolerated(node.taints(), request.tolerations(), &["PreferNoSchedule"]).count()
    };
    let counts: Vec<f64> = nodes.iter().map(|node| count(node) as f64).collect();
    if counts.iter().all(|count| *count == 0.0) {
        return None;
    }
    let worst = normalized(counts);
    Some(worst.into_iter().map(|score| BEST - score).collect())
}
