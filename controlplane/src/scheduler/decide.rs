//! The decision for one pod: filter, score, pick. Pure but for the given random numbers.

use std::collections::BTreeMap;

use rand::Rng;

use super::filter::{Reason, filter};
use super::request::Request;
use super::score;
use super::snapshot::{NodeInfo, Snapshot};

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    Node(String),
    /// No node fits; the sentence for the event and the condition.
    None(String),
}

/// With many nodes it is enough to find some that fit.
fn enough(nodes: usize) -> usize {
    const FEW: usize = 100;
    if nodes <= FEW {
        return nodes;
    }
    let percent = 50_usize.saturating_sub(nodes / 125).max(5);
    (nodes * percent / 100).max(FEW)
}

/// Finds the best node. `start` is where to begin looking; it moves on, so that all nodes get their turn.
pub(super) fn decide(
    request: &Request,
    snapshot: &Snapshot,
    start: &mut usize,
    random: &mut impl Rng,
) -> Decision {
    let nodes = snapshot.nodes();
    if nodes.is_empty() {
        return Decision::None("no nodes available to schedule pods".to_owned());
    }
    let wanted = enough(nodes.len());
    let mut fitting: Vec<&NodeInfo> = Vec::new();
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    let mut note = |found: Vec<Reason>| {
        for reason in found {
            *reasons.entry(reason.to_string()).or_default() += 1;
        }
    };
    let mut seen = 0;
    while seen < nodes.len() && fitting.len() < wanted {
        let node = &nodes[(*start + seen) % nodes.len()];
        seen += 1;
        let found = filter(request, node);
        if found.is_empty() {
            fitting.push(node);
        } else {
            note(found);
        }
    }
    *start = (*start + seen) % nodes.len();
    if fitting.is_empty() {
        return Decision::None(sentence(nodes.len(), &reasons));
    }
    let scores = score::scores(request, &fitting);
    Decision::Node(fitting[pick(&scores, random)].name.clone())
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

fn sentence(nodes: usize, reasons: &BTreeMap<String, usize>) -> String {
    let mut parts: Vec<String> = reasons
        .iter()
        .map(|(reason, count)| format!("{count} {reason}"))
        .collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
}
