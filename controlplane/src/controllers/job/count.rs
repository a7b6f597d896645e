//! Counting the ends of pods, each exactly once. Pure.
//!
//! A pod bears a finalizer until its end is on record. First its uid is written into the status
//! (`uncountedTerminatedPods`), or its index among the completed ones; only then the finalizer goes; and when
//! that is seen the uid becomes one in a counter. Whatever dies in between, the next look goes on from there.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use k8s_openapi::api::batch::v1::{Job, UncountedTerminatedPods};
use k8s_openapi::api::core::v1::Pod;

use super::indexes::{self, Indexes};
use super::pods;
use super::policy::{self, Verdict};
use crate::controllers::podstate;

/// Uids in the status at a time.
const MOST_UNCOUNTED: usize = 500;

#[derive(Debug, Default)]
pub(super) struct Count {
    /// Counted for good, and those on record.
    pub(super) succeeded: i32,
    pub(super) failed: i32,
    pub(super) counted_succeeded: i32,
    pub(super) counted_failed: i32,
    pub(super) uncounted: UncountedTerminatedPods,
    pub(super) completed: Indexes,
    pub(super) failed_indexes: Indexes,
    /// Per index without success: failures so far, counted and ignored, and the pod that failed last.
    pub(super) index_failures: BTreeMap<i32, IndexFailures>,
    /// Pods whose finalizer may go once this is on record.
    pub(super) untrack: Vec<Arc<Pod>>,
    /// Why the Job fails by its pod failure policy.
    pub(super) fail_job: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct IndexFailures {
    pub(super) counted: i32,
    pub(super) ignored: i32,
    pub(super) last: Arc<Pod>,
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

fn length(list: Option<&Vec<String>>) -> i32 {
    i32::try_from(list.map_or(0, Vec::len)).unwrap_or(i32::MAX)
}

impl Count {
    fn record(&mut self, pod: &Arc<Pod>, success: bool) -> bool {
        let full = length(self.uncounted.succeeded.as_ref())
            + length(self.uncounted.failed.as_ref())
            >= i32::try_from(MOST_UNCOUNTED).unwrap_or(i32::MAX);
        if full {
            return false;
        }
        let list = if success {
            &mut self.uncounted.succeeded
        } else {
            &mut self.uncounted.failed
        };
        list.get_or_insert_default().push(uid(pod).to_owned());
        true
    }

    fn is_recorded(&self, pod: &Pod) -> bool {
        let lists = [&self.uncounted.succeeded, &self.uncounted.failed];
        lists
            .into_iter()
            .flatten()
            .any(|list| list.iter().any(|known| known == uid(pod)))
    }
}

/// What is on record becomes a number when the pod's finalizer is gone.
fn settle(job: &Job, pods: &[Arc<Pod>], count: &mut Count) {
    let status = job.status.clone().unwrap_or_default();
    count.counted_succeeded = status.succeeded.unwrap_or(0);
    count.counted_failed = status.failed.unwrap_or(0);
    let tracked: HashSet<&str> = pods
        .iter()
        .filter(|pod| pods::is_tracked(pod))
        .map(|pod| uid(pod))
        .collect();
    let before = status.uncounted_terminated_pods.unwrap_or_default();
    let split = |list: Option<Vec<String>>| -> (Vec<String>, i32) {
        let (held, free): (Vec<_>, Vec<_>) = list
            .unwrap_or_default()
            .into_iter()
            .partition(|uid| tracked.contains(uid.as_str()));
        (held, i32::try_from(free.len()).unwrap_or(i32::MAX))
    };
    let (succeeded, free_succeeded) = split(before.succeeded);
    let (failed, free_failed) = split(before.failed);
    count.counted_succeeded = count.counted_succeeded.saturating_add(free_succeeded);
    count.counted_failed = count.counted_failed.saturating_add(free_failed);
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    count.uncounted = UncountedTerminatedPods {
        succeeded: some(succeeded),
        failed: some(failed),
    };
}

/// `ending`: the Job is over or being deleted, and no failure has to be remembered for a successor.
pub(super) fn count(job: &Job, pods: &[Arc<Pod>], ending: bool) -> Count {
    let mut count = Count::default();
    settle(job, pods, &mut count);
    let spec = pods::spec(job);
    let status = job.status.clone().unwrap_or_default();
    let completions = spec.completions.unwrap_or(0);
    let indexed = pods::is_indexed(job);
    if indexed {
        let text = status.completed_indexes.unwrap_or_default();
        count.completed = indexes::parse(&text, completions);
        let text = status.failed_indexes.unwrap_or_default();
        count.failed_indexes = indexes::parse(&text, completions);
    }
    for pod in pods {
        let success = podstate::phase(pod) == "Succeeded";
        let failure = pods::has_failed(job, pod);
        if success {
            succeed(job, pod, completions, &mut count);
        } else if failure {
            fail(job, pod, completions, &mut count);
        } else if job.metadata.deletion_timestamp.is_some() && pods::is_tracked(pod) {
            count.untrack.push(Arc::clone(pod));
        }
    }
    if spec.backoff_limit_per_index.is_some() && !ending {
        keep_memories(pods, &mut count);
    }
    count.failed = count.counted_failed + length(count.uncounted.failed.as_ref());
    count.succeeded = if indexed {
        i32::try_from(count.completed.len()).unwrap_or(i32::MAX)
    } else {
        count.counted_succeeded + length(count.uncounted.succeeded.as_ref())
    };
    if indexed {
        count.counted_succeeded = count.succeeded;
    }
    count
}

fn succeed(job: &Job, pod: &Arc<Pod>, completions: i32, count: &mut Count) {
    if pods::is_indexed(job) {
        if let Some(index) = pods::index(pod).filter(|index| *index < completions)
            && pods::is_tracked(pod)
            && !count.failed_indexes.contains(&index)
        {
            count.completed.insert(index);
        }
    } else if pods::is_tracked(pod) && !count.is_recorded(pod) && !count.record(pod, true) {
        return;
    }
    if pods::is_tracked(pod) {
        count.untrack.push(Arc::clone(pod));
    }
}

fn fail(job: &Job, pod: &Arc<Pod>, completions: i32, count: &mut Count) {
    let verdict = policy::judge(job, pod);
    let index = pods::index(pod).filter(|index| *index < completions);
    if let Some(limit) = job
        .spec
        .as_ref()
        .and_then(|spec| spec.backoff_limit_per_index)
        && let Some(index) = index
    {
        fail_index(pod, index, limit, &verdict, count);
    }
    if !pods::is_tracked(pod) {
        return;
    }
    if !count.is_recorded(pod) {
        if let Verdict::FailJob(why) = &verdict {
            count.fail_job.get_or_insert_with(|| why.clone());
        }
        let counts = verdict != Verdict::Ignore && (index.is_some() || !pods::is_indexed(job));
        if counts && !count.record(pod, false) {
            return;
        }
    }
    count.untrack.push(Arc::clone(pod));
}

/// A pod knows how often its index had failed before; with its own failure that is how often it has.
fn fail_index(pod: &Arc<Pod>, index: i32, limit: i32, verdict: &Verdict, count: &mut Count) {
    let (mut counted, mut ignored) = pods::failures_before(pod);
    match verdict {
        Verdict::Ignore => ignored += 1,
        _ => counted += 1,
    }
    let done = count.completed.contains(&index);
    if (*verdict == Verdict::FailIndex || counted > limit) && !done {
        count.failed_indexes.insert(index);
    }
    let known = count.index_failures.get(&index);
    if known.is_none_or(|known| (known.counted, known.ignored) < (counted, ignored)) {
        let last = Arc::clone(pod);
        count.index_failures.insert(
            index,
            IndexFailures {
                counted,
                ignored,
                last,
            },
        );
    }
}

/// The pod that failed last at an index is not let go before it has a successor, which takes over its number
/// of failures: otherwise whoever deletes it would give the index another life.
fn keep_memories(pods: &[Arc<Pod>], count: &mut Count) {
    let busy: BTreeSet<i32> = pods
        .iter()
        .filter(|pod| podstate::is_active(pod))
        .filter_map(|pod| pods::index(pod))
        .collect();
    let keep: HashSet<String> = count
        .index_failures
        .iter()
        .filter(|(index, _)| {
            !busy.contains(index)
                && !count.completed.contains(index)
                && !count.failed_indexes.contains(index)
        })
        .map(|(_, failures)| uid(&failures.last).to_owned())
        .collect();
    count.untrack.retain(|pod| !keep.contains(uid(pod)));
}
