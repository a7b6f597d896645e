//! Who owns whom: the metadata of every object that garbage collection looks at. Pure.

use std::collections::{BTreeSet, HashMap};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::kinds::KindRef;

pub(super) const FOREGROUND: &str = "foregroundDeletion";
pub(super) const ORPHAN: &str = "orphan";

/// What is read of an object's metadata.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    namespace: Option<String>,
    name: Option<String>,
    uid: Option<String>,
    owner_references: Option<Vec<OwnerReference>>,
    deletion_timestamp: Option<IgnoredAny>,
    finalizers: Option<Vec<String>>,
}

#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) kind: KindRef,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) owners: Vec<OwnerReference>,
    pub(super) deleting: bool,
    pub(super) finalizers: Vec<String>,
}

impl Item {
    pub(super) fn new(kind: KindRef, metadata: Metadata) -> Self {
        Self {
            kind,
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            owners: metadata.owner_references.unwrap_or_default(),
            deleting: metadata.deletion_timestamp.is_some(),
            finalizers: metadata.finalizers.unwrap_or_default(),
        }
    }

    pub(super) fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|name| name == finalizer)
    }

    /// Being deleted in the foreground: it goes after what it owns.
    pub(super) fn waits_for_dependents(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    fn is(&self, reference: &OwnerReference) -> bool {
        let group = reference
            .api_version
            .split_once('/')
            .map_or("", |(group, _)| group);
        self.uid == reference.uid
            && self.kind.get().kind == reference.kind
            && self.kind.get().group == group
            && self.name == reference.name
    }

    /// Whether it is what the dependent means by the reference, and can be: of the same namespace, or of none.
    pub(super) fn is_owner(&self, reference: &OwnerReference, dependent: &Self) -> bool {
        self.is(reference) && (self.namespace.is_empty() || self.namespace == dependent.namespace)
    }

    /// Deletion of its owner must wait for it.
    pub(super) fn blocks(&self, owner: &str) -> bool {
        self.owners
            .iter()
            .any(|reference| reference.uid == owner && reference.block_owner_deletion == Some(true))
    }
}

#[derive(Debug, Default)]
pub(super) struct Graph {
    items: HashMap<String, Item>,
    /// Owner's uid to those of what it owns; the owner itself may be absent.
    owned: HashMap<String, BTreeSet<String>>,
}

impl Graph {
    pub(super) fn get(&self, uid: &str) -> Option<&Item> {
        self.items.get(uid)
    }

    /// The uids that are not among those that were seen.
    pub(super) fn others(&self, seen: &std::collections::HashSet<String>) -> Vec<String> {
        self.items
            .keys()
            .filter(|uid| !seen.contains(*uid))
            .cloned()
            .collect()
    }

    pub(super) fn dependents(&self, uid: &str) -> Vec<Item> {
        self.owned
            .get(uid)
            .into_iter()
            .flatten()
            .filter_map(|dependent| self.items.get(dependent).cloned())
            .collect()
    }

    /// Takes in an object; returns the uids that must be looked at.
    pub(super) fn put(&mut self, item: Item) -> Vec<String> {
        let uid = item.uid.clone();
        let mut touched = Vec::new();
        let owners_changed = self
            .items
            .get(&uid)
            .is_none_or(|old| old.owners != item.owners);
        if owners_changed {
            touched.extend(self.unlink(&uid));
            for owner in &item.owners {
                self.owned
                    .entry(owner.uid.clone())
                    .or_default()
                    .insert(uid.clone());
            }
        }
        let orphaned = item.owners.iter().any(|owner| {
            self.items
                .get(&owner.uid)
                .is_none_or(|known| known.waits_for_dependents() || !known.is_owner(owner, &item))
        });
        let finishing = item.deleting && (item.has(FOREGROUND) || item.has(ORPHAN));
        if finishing || (orphaned && !item.deleting) {
            touched.push(uid.clone());
        }
        if item.deleting {
            // An owner that waits for this one looks again.
            touched.extend(self.waiting_owners(&item));
        }
        let waited = self.items.get(&uid).is_some_and(Item::waits_for_dependents);
        if item.waits_for_dependents() && !waited {
            // What has other owners too does not go: it lets go of this one, which waits for that.
            touched.extend(self.shared(&uid));
        }
        self.items.insert(uid, item);
        touched
    }

    /// What the object does not own alone.
    fn shared(&self, uid: &str) -> Vec<String> {
        let owned = self.owned.get(uid).into_iter().flatten();
        owned
            .filter(|dependent| {
                self.items
                    .get(*dependent)
                    .is_some_and(|item| !item.deleting && item.owners.len() > 1)
            })
            .cloned()
            .collect()
    }

    pub(super) fn remove(&mut self, uid: &str) -> Vec<String> {
        let mut touched = self.unlink(uid);
        self.items.remove(uid);
        touched.extend(self.owned.get(uid).into_iter().flatten().cloned());
        touched
    }

    /// Takes the object out of what its owners own; returns the owners that wait for it.
    fn unlink(&mut self, uid: &str) -> Vec<String> {
        let Some(item) = self.items.get(uid).cloned() else {
            return Vec::new();
        };
        for owner in &item.owners {
            if let Some(owned) = self.owned.get_mut(&owner.uid) {
                owned.remove(uid);
                if owned.is_empty() {
                    self.owned.remove(&owner.uid);
                }
            }
        }
        self.waiting_owners(&item)
    }

    fn waiting_owners(&self, item: &Item) -> Vec<String> {
        item.owners
            .iter()
            .filter(|owner| {
                self.items.get(&owner.uid).is_some_and(|owner| {
                    owner.deleting && (owner.has(FOREGROUND) || owner.has(ORPHAN))
                })
            })
            .map(|owner| owner.uid.clone())
            .collect()
    }
}
