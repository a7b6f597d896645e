//! The arithmetic of a rollout: how large each ReplicaSet should be. Pure, on sizes alone.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision::{self, MAX};

pub(super) fn recreates(deployment: &Deployment) -> bool {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref())
        .and_then(|strategy| strategy.type_.as_deref())
        == Some("Recreate")
}

pub(super) fn desired(deployment: &Deployment) -> i32 {
    deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec
        .as_ref()
        .and_then(|spec| spec.replicas)
        .unwrap_or(1)
}

pub(super) fn available(set: &ReplicaSet) -> i32 {
    set.status
        .as_ref()
        .and_then(|status| status.available_replicas)
        .unwrap_or(0)
}

pub(super) fn total<'a>(sets: impl IntoIterator<Item = &'a Arc<ReplicaSet>>) -> i32 {
    sets.into_iter().map(|set| size(set)).sum()
}

/// A number, or a percentage of `whole`; nonsense counts as 0 (the registry refuses it).
fn resolve(value: Option<&IntOrString>, default: &str, whole: i32, up: bool) -> i32 {
    let text = match value {
        Some(IntOrString::Int(number)) => return (*number).max(0),
        Some(IntOrString::String(text)) => text.as_str(),
        None => default,
    };
    let percent: i64 = text
        .strip_suffix('%')
        .and_then(|number| number.parse().ok())
        .unwrap_or(0);
    let product = percent.clamp(0, 1_000_000) * i64::from(whole);
    let share = if up {
        (product + 99) / 100
    } else {
        product / 100
    };
    i32::try_from(share).unwrap_or(i32::MAX)
}

/// (maxSurge, maxUnavailable) in pods. Not both are 0, or nothing could ever move.
pub(super) fn limits(deployment: &Deployment) -> (i32, i32) {
    if recreates(deployment) {
        return (0, 0);
    }
    let rolling = deployment
        .spec
        .as_ref()
        .and_then(|spec| spec.strategy.as_ref())
        .and_then(|strategy| strategy.rolling_update.as_ref());
    let desired = desired(deployment);
    let surge = resolve(
        rolling.and_then(|rolling| rolling.max_surge.as_ref()),
        "25%",
        desired,
        true,
    );
    let unavailable = resolve(
        rolling.and_then(|rolling| rolling.max_unavailable.as_ref()),
        "25%",
        desired,
        false,
    );
    if surge == 0 && unavailable == 0 {
        return (0, 1);
    }
    (surge, unavailable.min(desired))
}

/// Size that the new set may have now, given the size of all sets together.
pub(super) fn new_size(deployment: &Deployment, current: i32, all: i32) -> i32 {
    let desired = desired(deployment);
    if recreates(deployment) || current >= desired {
        return desired;
    }
    let room = desired.saturating_add(limits(deployment).0) - all;
    current + room.max(0).min(desired - current)
}

/// New sizes of the old sets (oldest first): first those pods that do not work anyway, then as many as
/// availability allows.
pub(super) fn shrink_old(
    deployment: &Deployment,
    new: &ReplicaSet,
    old: &[&Arc<ReplicaSet>],
) -> Vec<i32> {
    let mut sizes: Vec<i32> = old.iter().map(|set| size(set)).collect();
    let old_total: i32 = sizes.iter().sum();
    if old_total == 0 {
        return sizes;
    }
    let least = desired(deployment) - limits(deployment).1;
    let new_unavailable = size(new) - available(new);
    let mut budget = old_total + size(new) - least - new_unavailable;
    if budget <= 0 {
        return sizes;
    }
    for (size, set) in sizes.iter_mut().zip(old) {
        let cut = (*size - available(set)).clamp(0, budget);
        *size -= cut;
        budget -= cut;
    }
    let working: i32 = old.iter().map(|set| available(set)).sum::<i32>() + available(new);
    let mut spare = working - least;
    for size in &mut sizes {
        if spare <= 0 {
            break;
        }
        let cut = (*size).min(spare);
        *size -= cut;
        spare -= cut;
    }
    sizes
}

/// The Deployment was scaled in the middle of a rollout: each active set gets its share. Returns the new
/// sizes in the order of `sets`.
pub(super) fn proportional(deployment: &Deployment, sets: &[&Arc<ReplicaSet>]) -> Vec<i32> {
    let desired = desired(deployment);
    let allowed = if desired > 0 {
        desired.saturating_add(limits(deployment).0)
    } else {
        0
    };
    let mut sizes: Vec<i32> = sets.iter().map(|set| size(set)).collect();
    let to_add = allowed - sizes.iter().sum::<i32>();
    let mut order: Vec<usize> = (0..sets.len()).collect();
    // Largest first; among equals the newest grows and the oldest shrinks first.
    order.sort_by(|one, other| {
        let age = revision::by_age(sets[*one]).cmp(&revision::by_age(sets[*other]));
        let age = if to_add > 0 { age.reverse() } else { age };
        sizes[*other].cmp(&sizes[*one]).then(age)
    });
    let mut added = 0;
    for position in &order {
        let share = share(deployment, sets[*position], allowed, desired);
        let left = to_add - added;
        let share = if to_add > 0 {
            share.clamp(0, left)
        } else {
            share.clamp(left, 0)
        };
        sizes[*position] += share;
        added += share;
    }
    if let Some(largest) = order.first() {
        sizes[*largest] = (sizes[*largest] + to_add - added).max(0);
    }
    sizes
}

fn share(deployment: &Deployment, set: &ReplicaSet, allowed: i32, desired: i32) -> i32 {
    let current = size(set);
    if desired == 0 {
        return -current;
    }
    let before = revision::annotation(&set.metadata, MAX)
        .and_then(|max| max.parse::<i64>().ok())
        .filter(|max| *max > 0)
        .or_else(|| {
            deployment
                .status
                .as_ref()
                .and_then(|status| status.replicas)
                .map(i64::from)
                .filter(|replicas| *replicas > 0)
        })
        .unwrap_or(i64::from(current).max(1));
    let scaled = i64::from(current) * i64::from(allowed);
    // Rounded to the nearest.
    let target = (2 * scaled + before) / (2 * before);
    i32::try_from(target).unwrap_or(i32::MAX) - current
}
