//! What garbage collection does about one object. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::graph::{FOREGROUND, Item, ORPHAN};

/// What has become of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    Solid,
    /// It is being deleted in the foreground.
    Waiting,
    Absent,
}

#[derive(Debug, Clone)]
pub(super) enum Action {
    /// The object itself.
    Delete {
        propagation: &'static str,
    },
    DeleteDependent(Box<Item>),
    RemoveFinalizer(&'static str),
    /// References to these owners, which the object can do without.
    RemoveOwners(Vec<String>),
    /// Takes this object out of the dependent's owners.
    Orphan(Box<Item>),
}

/// How an object that goes with its owner treats what it owns itself: as its finalizers say.
pub(super) fn inherited(item: &Item) -> &'static str {
    if item.has(ORPHAN) {
        "Orphan"
    } else if item.has(FOREGROUND) {
        "Foreground"
    } else {
        "Background"
    }
}

pub(super) fn plan(
    item: &Item,
    owners: &[(OwnerReference, Owner)],
    dependents: &[Item],
) -> Vec<Action> {
    if item.deleting {
        return finish(item, dependents);
    }
    if owners.is_empty() {
        return Vec::new();
    }
    let uids = |of: &[Owner]| -> Vec<String> {
        owners
            .iter()
            .filter(|(_, owner)| of.contains(owner))
            .map(|(reference, _)| reference.uid.clone())
            .collect()
    };
    if owners.iter().any(|(_, owner)| *owner == Owner::Solid) {
        let gone = uids(&[Owner::Absent, Owner::Waiting]);
        return if gone.is_empty() {
            Vec::new()
        } else {
            vec![Action::RemoveOwners(gone)]
        };
    }
    let waiting = owners.iter().any(|(_, owner)| *owner == Owner::Waiting);
    let propagation = if waiting && !dependents.is_empty() {
        // Whoever waits for this one waits for what it owns, too.
        "Foreground"
    } else {
        inherited(item)
    };
    vec![Action::Delete { propagation }]
}

/// The object is being deleted and only its finalizers may hold it.
fn finish(item: &Item, dependents: &[Item]) -> Vec<Action> {
    if item.has(ORPHAN) {
        let mut actions: Vec<Action> = dependents
            .iter()
            .map(|dependent| Action::Orphan(Box::new(dependent.clone())))
            .collect();
        actions.push(Action::RemoveFinalizer(ORPHAN));
        return actions;
    }
    if !item.has(FOREGROUND) {
        return Vec::new();
    }
    let blocking = || {
        dependents
            .iter()
            .filter(|dependent| dependent.blocks(&item.uid))
    };
    if blocking().next().is_none() {
        return vec![Action::RemoveFinalizer(FOREGROUND)];
    }
    // What has other owners, too, decides for itself: it was queued when this one began to wait.
    dependents
        .iter()
        .filter(|dependent| !dependent.deleting && dependent.owners.len() == 1)
        .map(|dependent| Action::DeleteDependent(Box::new(dependent.clone())))
        .collect()
}
