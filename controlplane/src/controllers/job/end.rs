//! Whether a Job has come to its end, and which. Pure.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::batch::v1::{Job, JobStatus};

use super::count::Count;
use super::plan::{Census, condition};
use super::pods;
use super::policy;
use crate::controllers::podstate;

const SUCCESS: &str = "SuccessCriteriaMet";
const FAILURE: &str = "FailureTarget";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) success: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

impl Outcome {
    fn success(reason: &str, message: &str) -> Self {
        Self {
            success: true,
            reason: reason.to_owned(),
            message: message.to_owned(),
        }
    }

    fn failure(reason: &str, message: &str) -> Self {
        Self {
            success: false,
            ..Self::success(reason, message)
        }
    }

    /// The condition that announces the end, and the one that is the end.
    pub(super) fn conditions(&self) -> (&'static str, &'static str) {
        if self.success {
            (SUCCESS, "Complete")
        } else {
            (FAILURE, "Failed")
        }
    }
}

/// The end that was announced: it does not change any more.
pub(super) fn decided(job: &Job) -> Option<Outcome> {
    let read = |kind: &str, success: bool| {
        condition(job, kind).map(|condition| Outcome {
            success,
            reason: condition.reason.clone().unwrap_or_default(),
            message: condition.message.clone().unwrap_or_default(),
        })
    };
    read(FAILURE, false).or_else(|| read(SUCCESS, true))
}

/// `status` as it is about to be written: with the time of the start.
pub(super) fn outcome(
    job: &Job,
    status: &JobStatus,
    count: &Count,
    census: &Census,
    now: Timestamp,
) -> Option<Outcome> {
    if let Some(decided) = decided(job) {
        return Some(decided);
    }
    if let Some(why) = &count.fail_job {
        return Some(Outcome::failure("PodFailurePolicy", why));
    }
    if exceeds_limit(job, count, census) {
        let message = "Job has reached the specified backoff limit";
        return Some(Outcome::failure("BackoffLimitExceeded", message));
    }
    if past_deadline(job, status, now) {
        let message = "Job was active longer than specified deadline";
        return Some(Outcome::failure("DeadlineExceeded", message));
    }
    if pods::is_indexed(job) {
        if let Some(outcome) = indexes_failed(job, count) {
            return Some(outcome);
        }
        if let Some(why) = policy::success(job, &count.completed) {
            return Some(Outcome::success("SuccessPolicy", &why));
        }
    }
    let complete = match pods::spec(job).completions {
        Some(completions) => count.succeeded >= completions && census.active.is_empty(),
        None => count.succeeded > 0 && census.active.is_empty(),
    };
    // What is suspended does not complete, but for what has nothing to do.
    let message = "Reached expected number of succeeded pods";
    complete.then(|| Outcome::success("CompletionsReached", message))
}

fn exceeds_limit(job: &Job, count: &Count, census: &Census) -> bool {
    let spec = pods::spec(job);
    let limit = spec.backoff_limit.unwrap_or(6);
    if count.failed > limit {
        return true;
    }
    let restarts_in_place = spec
        .template
        .spec
        .as_ref()
        .and_then(|spec| spec.restart_policy.as_deref())
        == Some("OnFailure");
    if !restarts_in_place {
        return false;
    }
    let restarts: i32 = census
        .active
        .iter()
        .filter(|pod| matches!(podstate::phase(pod), "Running" | "Pending"))
        .flat_map(|pod| pods::statuses(pod))
        .map(|status| status.restart_count)
        .sum();
    if limit == 0 {
        restarts > 0
    } else {
        restarts >= limit
    }
}

fn past_deadline(job: &Job, status: &JobStatus, now: Timestamp) -> bool {
    let (Some(seconds), Some(start)) =
        (pods::spec(job).active_deadline_seconds, &status.start_time)
    else {
        return false;
    };
    !super::plan::suspended(job)
        && now.duration_since(start.0) >= SignedDuration::from_secs(seconds)
}

fn indexes_failed(job: &Job, count: &Count) -> Option<Outcome> {
    let spec = pods::spec(job);
    spec.backoff_limit_per_index?;
    let failed = i32::try_from(count.failed_indexes.len()).unwrap_or(i32::MAX);
    if spec.max_failed_indexes.is_some_and(|most| failed > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(Outcome::failure("MaxFailedIndexesExceeded", message));
    }
    let all = count.succeeded.saturating_add(failed) >= spec.completions.unwrap_or(0);
    (failed > 0 && all).then(|| Outcome::failure("FailedIndexes", "Job has failed indexes"))
}
