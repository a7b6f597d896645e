//! A DaemonSet's status: counts over nodes. Pure.

use std::time::Duration;

use k8s_openapi::api::apps::v1::DaemonSetStatus;

use super::plan::{View, places};
use crate::controllers::podstate;

/// The status, and when a pod becomes available with time alone.
pub(super) fn status(
    view: &View<'_>,
    collisions: Option<i32>,
) -> (DaemonSetStatus, Option<Duration>) {
    let (places, _) = places(view);
    let seconds = view
        .set
        .spec
        .as_ref()
        .and_then(|spec| spec.min_ready_seconds)
        .unwrap_or(0);
    let (mut desired, mut current, mut misplaced, mut ready) = (0, 0, 0, 0);
    let (mut updated, mut available) = (0, 0);
    let mut recheck: Option<Duration> = None;
    for place in &places {
        if !place.fit.runs {
            misplaced += i32::from(!place.pods.is_empty());
            continue;
        }
        desired += 1;
        if place.pods.is_empty() {
            continue;
        }
        current += 1;
        // A pod that is ready speaks for its node; among those the oldest.
        let pod = place
            .pods
            .iter()
            .find(|pod| podstate::is_ready(pod))
            .unwrap_or(&place.pods[0]);
        if podstate::is_ready(pod) {
            ready += 1;
            match podstate::availability(pod, seconds, view.now) {
                Ok(()) => available += 1,
                Err(Some(left)) => recheck = Some(recheck.map_or(left, |other| other.min(left))),
                Err(None) => {}
            }
        }
        updated += i32::from(place.pods.iter().any(|pod| view.is_current(pod)));
    }
    let old = view.set.status.clone().unwrap_or_default();
    // As Kubernetes shows it: of these a count of nothing is not there.
    let some = |count: i32| (count > 0).then_some(count);
    let status = DaemonSetStatus {
        desired_number_scheduled: desired,
        current_number_scheduled: current,
        number_misscheduled: misplaced,
        number_ready: ready,
        updated_number_scheduled: some(updated),
        number_available: some(available),
        number_unavailable: some(desired - available),
        observed_generation: view.set.metadata.generation,
        collision_count: collisions,
        conditions: old.conditions,
    };
    (status, recheck)
}
