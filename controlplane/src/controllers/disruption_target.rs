//! What is written on a pod before it is taken away: that it did not end by itself. Pure but for [`mark`].

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::registry::{ApiError, Client};

use super::podstate;

pub(super) const CONDITION: &str = "DisruptionTarget";

/// Why a pod is taken away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cause {
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
    /// Nothing runs any more, and whoever would say how it ended is not there.
    pub(super) ended: bool,
}

/// The pod with the condition; `None` when it bears it already.
fn marked(pod: &Pod, cause: Cause, now: Timestamp) -> Option<Pod> {
    let mut changed = pod.clone();
    let status = changed.status.get_or_insert_default();
    if cause.ended && !podstate::is_finished(pod) {
        status.phase = Some("Failed".to_owned());
    }
    let known = podstate::condition(pod, CONDITION).is_some_and(|known| {
        known.status == "True" && known.reason.as_deref() == Some(cause.reason)
    });
    if !known {
        let conditions = status.conditions.get_or_insert_default();
        conditions.retain(|condition| condition.type_ != CONDITION);
        conditions.push(PodCondition {
            type_: CONDITION.to_owned(),
            status: "True".to_owned(),
            reason: Some(cause.reason.to_owned()),
            message: Some(cause.message.to_owned()),
            last_transition_time: Some(Time(now)),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        });
    }
    (changed.status != pod.status).then_some(changed)
}

/// Writes it; a pod that is gone or has changed meanwhile is for the next look.
pub(super) async fn mark(client: &Client, pod: &Pod, cause: Cause) -> Result<(), ApiError> {
    let Some(changed) = marked(pod, cause, Timestamp::now()) else {
        return Ok(());
    };
    match client.update_status(&changed).await {
        Err(error) if error.code() != 404 => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::controllers::fixtures::{at, pod};

    #[test]
    fn a_pod_is_marked_once() {
        let cause = Cause {
            reason: "DeletionByPodGC",
            message: "gone",
            ended: true,
        };
        let mut pod = pod("p", Some("n"), None);
        pod.metadata.generation = Some(2);
        let first = marked(&pod, cause, at(1)).unwrap();
        assert_eq!(podstate::phase(&first), "Failed");
        let condition = podstate::condition(&first, CONDITION).unwrap();
        assert_eq!(condition.reason.as_deref(), Some("DeletionByPodGC"));
        assert_eq!(condition.observed_generation, Some(2));
        assert_eq!(marked(&first, cause, at(2)), None);
    }
}
