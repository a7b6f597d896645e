//! The rolling update of a DaemonSet: which old pods may go, or where a new one may join an old one. Pure.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::plan::{Place, Plan, View};
use crate::controllers::podstate;

pub(super) fn rolls(set: &DaemonSet) -> bool {
    set.spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref()?.type_.as_deref())
        .is_none_or(|kind| kind == "RollingUpdate")
}

/// A number, or a percentage of `whole`, rounded up; nonsense counts as 0 (the registry refuses it).
fn resolve(value: Option<&IntOrString>, default: i64, whole: usize) -> usize {
    let whole = i64::try_from(whole).unwrap_or(i64::MAX);
    let number = match value {
        None => default,
        Some(IntOrString::Int(number)) => i64::from(*number),
        Some(IntOrString::String(text)) => text
            .strip_suffix('%')
            .and_then(|percent| percent.parse::<i64>().ok())
            .map_or(0, |percent| (percent.clamp(0, 100) * whole + 99) / 100),
    };
    usize::try_from(number).unwrap_or(0)
}

/// (maxSurge, maxUnavailable) for so many nodes. Not both are 0, or nothing could ever move.
fn limits(set: &DaemonSet, nodes: usize) -> (usize, usize) {
    let rolling = set
        .spec
        .as_ref()
        .and_then(|spec| spec.update_strategy.as_ref()?.rolling_update.clone())
        .unwrap_or_default();
    let surge = resolve(rolling.max_surge.as_ref(), 0, nodes);
    let unavailable = resolve(rolling.max_unavailable.as_ref(), 1, nodes);
    if surge == 0 && unavailable == 0 {
        return (0, 1);
    }
    (surge, unavailable)
}

pub(super) fn surges(set: &DaemonSet) -> bool {
    limits(set, 100).0 > 0
}

/// The pod of the current template and the one of an older, of those that are not being deleted.
fn pair<'a>(
    view: &View<'_>,
    pods: &[&'a Arc<Pod>],
) -> (Option<&'a Arc<Pod>>, Option<&'a Arc<Pod>>) {
    let alive = || pods.iter().copied().filter(|pod| !view.is_terminating(pod));
    (
        alive().find(|pod| view.is_current(pod)),
        alive().find(|pod| !view.is_current(pod)),
    )
}

/// With surge one new and one old pod may stand side by side, until the new one is available or the old one
/// is of no use.
pub(super) fn surplus_of_surge<'a>(view: &View<'_>, running: &[&'a Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
    let (new, old) = pair(view, running);
    let keep = |pod: &Arc<Pod>, kept: Option<&Arc<Pod>>| {
        kept.is_some_and(|kept| kept.metadata.uid == pod.metadata.uid)
    };
    let old_goes = match (new, old) {
        (Some(new), Some(old)) => !podstate::is_ready(old) || view.is_available(new),
        _ => false,
    };
    running
        .iter()
        .copied()
        .filter(|pod| !keep(pod, new) && (old_goes || !keep(pod, old)))
        .collect()
}

pub(super) fn step(view: &View<'_>, places: &[Place<'_>], plan: &mut Plan) {
    let nodes = places.iter().filter(|place| place.fit.runs).count();
    let (surge, unavailable) = limits(view.set, nodes);
    let used = places
        .iter()
        .filter(|place| place.fit.stays && (place.fit.runs || !place.pods.is_empty()));
    if surge > 0 {
        join(view, used, surge, plan);
    } else {
        replace(view, used, unavailable, plan);
    }
}

/// Old pods that go: those that are unavailable anyway, and as many others as may be unavailable.
fn replace<'a>(
    view: &View<'_>,
    places: impl Iterator<Item = &'a Place<'a>>,
    most: usize,
    plan: &mut Plan,
) {
    let mut unavailable = 0;
    let mut candidates = Vec::new();
    for place in places {
        match pair(view, &place.pods) {
            (Some(new), None) => unavailable += usize::from(!view.is_available(new)),
            (None, Some(old)) if !view.is_available(old) => {
                unavailable += 1;
                plan.delete.push(Arc::clone(old));
            }
            (None, Some(old)) => candidates.push(old),
            // None yet, or two, which the first half of the plan looks after.
            _ => unavailable += 1,
        }
    }
    let room = most.saturating_sub(unavailable);
    plan.delete
        .extend(candidates.into_iter().take(room).cloned());
}

/// Nodes where a new pod joins the old one.
fn join<'a>(
    view: &View<'_>,
    places: impl Iterator<Item = &'a Place<'a>>,
    most: usize,
    plan: &mut Plan,
) {
    let mut surging = 0;
    let mut candidates = Vec::new();
    for place in places.filter(|place| place.fit.runs) {
        match pair(view, &place.pods) {
            (Some(new), None) => surging += usize::from(!view.is_available(new)),
            (Some(_), Some(_)) => surging += 1,
            (None, Some(old)) if !view.is_available(old) => plan.create.push(place.node.to_owned()),
            (None, Some(_)) => candidates.push(place.node.to_owned()),
            // None yet: the first half of the plan looks after that.
            (None, None) => surging += 1,
        }
    }
    let room = most.saturating_sub(surging);
    plan.create.extend(candidates.into_iter().take(room));
}
