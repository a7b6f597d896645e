//! What to do about a Deployment now. Pure: one step of a rollout; what the step causes starts the next.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentStatus, ReplicaSet};

use super::revision::{self, DESIRED, MAX};
use super::rolling;
use super::status::{self, Step};

#[cfg(test)]
mod tests;

#[derive(Debug)]
pub(super) struct View<'a> {
    pub(super) deployment: &'a Deployment,
    /// The Deployment's own sets.
    pub(super) sets: &'a [Arc<ReplicaSet>],
    /// Pods that have not ended, by the uid of their set; empty unless the strategy is `Recreate`.
    pub(super) running: &'a HashMap<String, usize>,
    pub(super) now: Timestamp,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Action {
    Create(Box<ReplicaSet>),
    /// The whole object to write, and the size it had.
    Update {
        set: Box<ReplicaSet>,
        from: i32,
    },
    Delete(Arc<ReplicaSet>),
    /// The Deployment's own revision annotation.
    Annotate(String),
}

#[derive(Debug)]
pub(super) struct Plan {
    pub(super) actions: Vec<Action>,
    pub(super) status: Option<DeploymentStatus>,
    pub(super) recheck: Option<Duration>,
}

pub(super) fn plan(view: &View<'_>) -> Plan {
    let deployment = view.deployment;
    let (new, old) = revision::split(deployment, view.sets);
    let mut actions = Vec::new();
    let mut created = None;
    let spec = deployment.spec.as_ref();
    let paused = spec.is_some_and(|spec| spec.paused == Some(true));
    if deployment.metadata.deletion_timestamp.is_none() {
        if paused || was_scaled(view) {
            actions = scale(view, new, &old);
        } else {
            actions = roll(view, new, &old);
        }
        created = actions.iter().find_map(|action| match action {
            Action::Create(set) => Some(set.as_ref().clone()),
            _ => None,
        });
        annotate(deployment, new, created.as_ref(), &mut actions);
    }
    let step = if created.is_some() {
        Step::Created
    } else {
        Step::Other
    };
    let shown = created.as_ref().or(new.map(AsRef::as_ref));
    let (status, recheck) = status::status(deployment, shown, view.sets, step, view.now);
    if actions.is_empty() || only_annotation(&actions) {
        let idle = paused || status::is_complete(deployment, &status);
        if idle && deployment.metadata.deletion_timestamp.is_none() {
            let surplus = revision::superfluous(deployment, &old);
            actions.extend(surplus.into_iter().map(Action::Delete));
        }
    }
    let changed = deployment.status.as_ref() != Some(&status);
    Plan {
        actions,
        status: changed.then_some(status),
        recheck,
    }
}

fn only_annotation(actions: &[Action]) -> bool {
    actions
        .iter()
        .all(|action| matches!(action, Action::Annotate(_)))
}

/// The number of wanted pods is another than the active sets were last told.
fn was_scaled(view: &View<'_>) -> bool {
    let desired = rolling::desired(view.deployment).to_string();
    view.sets
        .iter()
        .filter(|set| rolling::size(set) > 0)
        .any(|set| revision::annotation(&set.metadata, DESIRED).is_some_and(|told| told != desired))
}

/// The Deployment carries the revision of its new set.
fn annotate(
    deployment: &Deployment,
    new: Option<&Arc<ReplicaSet>>,
    created: Option<&ReplicaSet>,
    actions: &mut Vec<Action>,
) {
    let updated = actions.iter().find_map(|action| match action {
        Action::Update { set, .. }
            if new.is_some_and(|new| new.metadata.uid == set.metadata.uid) =>
        {
            Some(set.as_ref())
        }
        _ => None,
    });
    let Some(set) = created.or(updated).or(new.map(AsRef::as_ref)) else {
        return;
    };
    let Some(wanted) = revision::annotation(&set.metadata, revision::REVISION) else {
        return;
    };
    if revision::annotation(&deployment.metadata, revision::REVISION) != Some(wanted) {
        actions.push(Action::Annotate(wanted.to_owned()));
    }
}

/// The set with another size and with the annotations that say what it is a part of; `None` when it has
/// all that already.
fn resized(
    deployment: &Deployment,
    base: &ReplicaSet,
    live: &ReplicaSet,
    to: i32,
) -> Option<Action> {
    let mut set = base.clone();
    set.spec.get_or_insert_default().replicas = Some(to);
    let desired = rolling::desired(deployment);
    let most = desired.saturating_add(rolling::limits(deployment).0);
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED.to_owned(), desired.to_string());
    annotations.insert(MAX.to_owned(), most.to_string());
    let changed = rolling::size(live) != to
        || set.metadata.annotations != live.metadata.annotations
        || set.spec != live.spec;
    changed.then(|| Action::Update {
        set: Box::new(set),
        from: rolling::size(live),
    })
}

/// The new set: made if it is not there, else with its revision and size as they must be.
fn new_set(
    view: &View<'_>,
    new: Option<&Arc<ReplicaSet>>,
    old: &[&Arc<ReplicaSet>],
) -> Option<Action> {
    let deployment = view.deployment;
    let number = revision::next(old);
    let all = rolling::total(view.sets);
    let Some(live) = new else {
        let made = revision::new_set(deployment, number);
        let to = rolling::new_size(deployment, 0, all);
        return match resized(deployment, &made, &made, to) {
            Some(Action::Update { set, .. }) => Some(Action::Create(set)),
            _ => Some(Action::Create(Box::new(made))),
        };
    };
    let fresh = revision::refreshed(deployment, live, number);
    let to = rolling::new_size(deployment, rolling::size(live), all);
    resized(deployment, &fresh, live, to)
}

fn roll(view: &View<'_>, new: Option<&Arc<ReplicaSet>>, old: &[&Arc<ReplicaSet>]) -> Vec<Action> {
    let deployment = view.deployment;
    if rolling::recreates(deployment) {
        let stop: Vec<_> = old
            .iter()
            .filter(|set| rolling::size(set) > 0)
            .filter_map(|set| resized(deployment, set, set, 0))
            .collect();
        let busy = old.iter().any(|set| {
            let uid = set.metadata.uid.as_deref().unwrap_or_default();
            view.running.get(uid).is_some_and(|running| *running > 0)
        });
        if !stop.is_empty() || busy {
            return stop;
        }
        return new_set(view, new, old).into_iter().collect();
    }
    if let Some(action) = new_set(view, new, old) {
        return vec![action];
    }
    let Some(new) = new else {
        return Vec::new();
    };
    let sizes = rolling::shrink_old(deployment, new, old);
    old.iter()
        .zip(sizes)
        .filter(|(set, to)| rolling::size(set) != *to)
        .filter_map(|(set, to)| resized(deployment, set, set, to))
        .collect()
}

/// Scaling without rolling: while paused, or when the size changed in the middle of a rollout.
fn scale(view: &View<'_>, new: Option<&Arc<ReplicaSet>>, old: &[&Arc<ReplicaSet>]) -> Vec<Action> {
    let deployment = view.deployment;
    let desired = rolling::desired(deployment);
    let mut active: Vec<&Arc<ReplicaSet>> = old
        .iter()
        .copied()
        .chain(new)
        .filter(|set| rolling::size(set) > 0)
        .collect();
    if active.len() <= 1 {
        let latest = active
            .first()
            .copied()
            .or(new)
            .or_else(|| old.iter().copied().max_by_key(|set| revision::by_age(set)));
        return latest
            .and_then(|set| resized(deployment, set, set, desired))
            .into_iter()
            .collect();
    }
    let saturated = new.is_some_and(|set| {
        rolling::size(set) == desired
            && rolling::available(set) == desired
            && revision::annotation(&set.metadata, DESIRED) == Some(desired.to_string().as_str())
    });
    if saturated {
        return old
            .iter()
            .filter(|set| rolling::size(set) > 0)
            .filter_map(|set| resized(deployment, set, set, 0))
            .collect();
    }
    if rolling::recreates(deployment) {
        return Vec::new();
    }
    active.sort_by_key(|set| revision::by_age(set));
    let sizes = rolling::proportional(deployment, &active);
    active
        .iter()
        .zip(sizes)
        .filter_map(|(set, to)| resized(deployment, set, set, to))
        .collect()
}
