//! How many pods a Job should have at work, which ones go and which are made. Pure.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::count::Count;
use super::plan::{Census, Plan, View};
use super::pods::{self, New};
use crate::controllers::podstate;
use crate::controllers::replicaset::{neighbours, rank_of};

/// Pods that one step makes or drops at the most.
const BURST: usize = 500;
/// After the first failure, doubled with each further one.
const FIRST_DELAY: u64 = 10;
const LAST_DELAY: u64 = 600;

pub(super) fn adjust(view: &View<'_>, count: &Count, census: &Census, plan: &mut Plan) {
    let spec = pods::spec(view.job);
    let parallelism = spec.parallelism.unwrap_or(1).max(0);
    let active = i32::try_from(census.active.len()).unwrap_or(i32::MAX);
    let wanted = match spec.completions {
        // A work queue: when the first is through no more are begun.
        None if count.succeeded > 0 => active.min(parallelism),
        None => parallelism,
        Some(completions) => {
            let failed = i32::try_from(count.failed_indexes.len()).unwrap_or(i32::MAX);
            (completions - count.succeeded - failed).clamp(0, parallelism)
        }
    };
    let mut surplus = misplaced(view, count, census);
    let kept: Vec<&Arc<Pod>> = census
        .active
        .iter()
        .filter(|pod| {
            !surplus
                .iter()
                .any(|other| other.metadata.uid == pod.metadata.uid)
        })
        .collect();
    let keep = usize::try_from(wanted).unwrap_or(0);
    if kept.len() > keep {
        let mut ranked: Vec<Arc<Pod>> = kept.iter().map(|pod| Arc::clone(pod)).collect();
        let around = neighbours(census.active.iter());
        ranked.sort_by_cached_key(|pod| {
            // High indexes go first: the low ones are done in order.
            let index = pods::index(pod).map(std::cmp::Reverse);
            (index, rank_of(pod, &around, view.now))
        });
        ranked.truncate(kept.len() - keep);
        surplus.extend(ranked);
    }
    if !surplus.is_empty() {
        surplus.truncate(BURST);
        plan.drop = surplus;
        return;
    }
    let mut missing = wanted - active;
    if pods::replaces_ended_only(view.job) {
        missing -= i32::try_from(census.terminating.len()).unwrap_or(i32::MAX);
    }
    let missing = usize::try_from(missing).unwrap_or(0).min(BURST);
    if missing == 0 {
        return;
    }
    if spec.backoff_limit_per_index.is_none() {
        let delay = back_off(view);
        if !delay.is_zero() {
            plan.look_again(delay);
            return;
        }
    }
    plan.create = if pods::is_indexed(view.job) {
        next_indexes(view, count, census, missing, plan)
    } else {
        let new = New {
            index: None,
            failures: None,
        };
        vec![new; missing]
    };
}

/// Of an Indexed Job: pods without a place, and all but one at each place.
fn misplaced(view: &View<'_>, count: &Count, census: &Census) -> Vec<Arc<Pod>> {
    if !pods::is_indexed(view.job) {
        return Vec::new();
    }
    let completions = pods::spec(view.job).completions.unwrap_or(0);
    let mut taken = BTreeSet::new();
    let mut ordered: Vec<&Arc<Pod>> = census.active.iter().collect();
    // The one that runs best and longest keeps the place.
    ordered.sort_by_key(|pod| {
        (
            podstate::phase(pod) != "Running",
            pod.metadata.creation_timestamp.clone(),
            pod.metadata.name.clone(),
        )
    });
    ordered
        .into_iter()
        .filter(|pod| match pods::index(pod) {
            Some(index) if index < completions && !count.failed_indexes.contains(&index) => {
                !taken.insert(index)
            }
            _ => true,
        })
        .cloned()
        .collect()
}

/// The first indexes at which nobody works, works no more in vain, and need not wait.
fn next_indexes(
    view: &View<'_>,
    count: &Count,
    census: &Census,
    most: usize,
    plan: &mut Plan,
) -> Vec<New> {
    let spec = pods::spec(view.job);
    let limited = spec.backoff_limit_per_index.is_some();
    let ending = pods::replaces_ended_only(view.job);
    let waited = census.terminating.iter().filter(|_| ending);
    let busy: BTreeSet<i32> = census
        .active
        .iter()
        .chain(waited)
        .filter_map(|pod| pods::index(pod))
        .collect();
    let mut next = Vec::new();
    for index in 0..spec.completions.unwrap_or(0) {
        if next.len() == most {
            break;
        }
        if busy.contains(&index)
            || count.completed.contains(&index)
            || count.failed_indexes.contains(&index)
        {
            continue;
        }
        let failures = count.index_failures.get(&index);
        if let Some(failures) = failures.filter(|_| limited) {
            let all = failures.counted + failures.ignored;
            let left = left(all, pods::ended_at(&failures.last), view.now);
            if !left.is_zero() {
                plan.look_again(left);
                continue;
            }
        }
        next.push(New {
            index: Some(index),
            failures: limited.then(|| failures.map_or((0, 0), |past| (past.counted, past.ignored))),
        });
    }
    next
}

/// What is left of the delay after so many failures, the last one at `last`.
fn left(failures: i32, last: Option<Timestamp>, now: Timestamp) -> Duration {
    let (Ok(more), Some(last)) = (u32::try_from(failures - 1), last) else {
        return Duration::ZERO;
    };
    let delay = FIRST_DELAY
        .saturating_mul(2_u64.saturating_pow(more))
        .min(LAST_DELAY);
    let past = Duration::try_from(now.duration_since(last)).unwrap_or_default();
    Duration::from_secs(delay).saturating_sub(past)
}

/// How long the next pod must wait for the failures since the last success. Those pods are still there: a
/// Job keeps them until it goes itself.
fn back_off(view: &View<'_>) -> Duration {
    let mut ends: Vec<(Timestamp, bool)> = view
        .pods
        .iter()
        .filter_map(|pod| {
            // Not those that were dropped: their ends count nowhere.
            let failed = pods::has_failed(view.job, pod)
                && (pods::is_tracked(pod) || !podstate::is_terminating(pod));
            let succeeded = podstate::phase(pod) == "Succeeded";
            (failed || succeeded).then(|| pods::ended_at(pod).map(|at| (at, succeeded)))?
        })
        .collect();
    ends.sort();
    let failures = ends
        .iter()
        .rev()
        .take_while(|(_, succeeded)| !succeeded)
        .count();
    let last = ends.last().map(|(at, _)| *at);
    left(i32::try_from(failures).unwrap_or(i32::MAX), last, view.now)
}
