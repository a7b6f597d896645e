//! Pods of which it was said that they are put out, and that nobody has deleted: it is taken back, or whoever reads it
//! would go on believing it.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::cache::{Cache, ObjectKey, Queue, Subscription};
use crate::controllers::disruption_target::CONDITION;
use crate::controllers::podstate;
use crate::controllers::worker::Next;
use crate::registry::{ApiError, Client};

pub(in crate::controllers) const NAME: &str = "stale-disruption-controller";
/// So long a deletion may take to follow.
const TIMEOUT: Duration = Duration::from_secs(120);
/// A node says it itself, and ends the pod in its own time.
const BY_NODE: &str = "TerminationByKubelet";

pub(in crate::controllers) struct Controller {
    client: Client,
    cache: Cache,
}

/// The queue's keys are pods.
pub(in crate::controllers) fn subscribe(
    cache: &Cache,
    queue: &Queue<ObjectKey>,
) -> Vec<Subscription> {
    let queue = queue.clone();
    vec![cache.pods.subscribe(move |delta| {
        if delta.new.is_some_and(|pod| told(pod).is_some()) {
            queue.add(delta.key.clone());
        }
    })]
}

/// The condition that waits for a deletion.
fn told(pod: &Pod) -> Option<&PodCondition> {
    if !podstate::is_active(pod) {
        return None;
    }
    podstate::condition(pod, CONDITION)
        .filter(|known| known.status == "True" && known.reason.as_deref() != Some(BY_NODE))
}

/// For how long it may still stand; `None` for a pod of which nothing was said.
fn left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let since = told(pod)?.last_transition_time.as_ref();
    let age = since.map(|since| now.duration_since(since.0));
    // One that is said to begin later has not begun.
    let age = age.and_then(|age| Duration::try_from(age).ok());
    Some(TIMEOUT.saturating_sub(age.unwrap_or_default()))
}

/// The pod without it.
fn taken_back(pod: &Pod, now: Timestamp) -> Pod {
    let mut changed = pod.clone();
    let conditions = changed
        .status
        .iter_mut()
        .flat_map(|status| status.conditions.iter_mut());
    for known in conditions
        .flatten()
        .filter(|known| known.type_ == CONDITION)
    {
        *known = PodCondition {
            type_: CONDITION.to_owned(),
            status: "False".to_owned(),
            last_transition_time: Some(Time(now)),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
    }
    changed
}

impl Controller {
    pub(in crate::controllers) fn new(client: &Client, cache: &Cache) -> Self {
        Self {
            client: client.with_manager(NAME),
            cache: cache.clone(),
        }
    }

    pub(in crate::controllers) async fn reconcile(&self, key: ObjectKey) -> Result<Next, ApiError> {
        let now = Timestamp::now();
        let Some(pod) = self.cache.pods.get_key(&key) else {
            return Ok(Next::Wait);
        };
        match left(&pod, now) {
            None => Ok(Next::Wait),
            Some(left) if !left.is_zero() => Ok(Next::After(left)),
            Some(_) => match self.client.update_status(&taken_back(&pod, now)).await {
                // It has gone, or changed: the watch brings it here again.
                Err(error) if !matches!(error.code(), 404 | 409) => Err(error),
                _ => Ok(Next::Wait),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    fn pod(reason: &str, more: &serde_json::Value) -> Pod {
        let mut pod = json!({"metadata": {"name": "p", "generation": 2}, "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"},
            {"type": CONDITION, "status": "True", "reason": reason, "lastTransitionTime": "1970-01-01T00:01:00Z"}]}});
        pod = crate::patch::merge_patch(&pod, more);
        serde_json::from_value(pod).unwrap()
    }

    #[test]
    fn what_was_said_of_a_pod_that_stays_is_taken_back() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let stays = pod("EvictionByEvictionAPI", &json!({}));
        assert_eq!(left(&stays, at(100)), Some(Duration::from_secs(80)));
        assert_eq!(left(&stays, at(30)), Some(TIMEOUT));
        assert_eq!(left(&stays, at(200)), Some(Duration::ZERO));
        let changed = taken_back(&stays, at(200));
        assert_eq!(left(&changed, at(200)), None);
        let condition = podstate::condition(&changed, CONDITION).unwrap();
        assert_eq!(
            (condition.status.as_str(), &condition.reason),
            ("False", &None)
        );
        assert_eq!(condition.observed_generation, Some(2));
        assert!(podstate::is_ready(&changed));
    }

    #[test]
    fn what_goes_what_has_ended_and_what_a_node_says_stays() {
        let now = Timestamp::from_second(1_000).unwrap();
        let deleted = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:01:00Z"}});
        let ended = json!({"status": {"phase": "Failed"}});
        for pod in [
            pod("EvictionByEvictionAPI", &deleted),
            pod("EvictionByEvictionAPI", &ended),
            pod(BY_NODE, &json!({})),
        ] {
            assert_eq!(left(&pod, now), None);
        }
    }
}
