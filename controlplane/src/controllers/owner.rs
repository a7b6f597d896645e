//! Owner references: who controls an object, and how a controller claims what matches its selector. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::registry::Object;

pub(super) fn controller_of(metadata: &ObjectMeta) -> Option<&OwnerReference> {
    metadata
        .owner_references
        .as_ref()?
        .iter()
        .find(|owner| owner.controller == Some(true))
}

pub(super) fn controller_reference<K: Object>(owner: &K) -> OwnerReference {
    let metadata = owner.metadata();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// What an owner does about an object of the kind that it manages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claim {
    /// It is the owner's.
    Owned,
    /// Nobody controls it and it matches: take it.
    Adopt,
    /// It is the owner's but no longer matches: let it go.
    Release,
    /// None of the owner's business.
    Ignore,
}

/// An owner that is being deleted takes and releases nothing; an object being deleted is not taken.
pub(super) fn claim(owner: &ObjectMeta, object: &ObjectMeta, matches: bool) -> Claim {
    match controller_of(object) {
        Some(controller) if Some(&controller.uid) != owner.uid.as_ref() => Claim::Ignore,
        Some(_) if matches => Claim::Owned,
        Some(_) if owner.deletion_timestamp.is_some() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if matches
            && owner.deletion_timestamp.is_none()
            && object.deletion_timestamp.is_none() =>
        {
            Claim::Adopt
        }
        None => Claim::Ignore,
    }
}

/// The object's owner references with the owner added (`Adopt`) or taken out (`Release`), for a patch.
pub(super) fn with_claim(
    object: &ObjectMeta,
    reference: &OwnerReference,
    claim: Claim,
) -> Vec<OwnerReference> {
    let mut owners: Vec<_> = object
        .owner_references
        .iter()
        .flatten()
        .filter(|owner| owner.uid != reference.uid)
        .cloned()
        .collect();
    if claim == Claim::Adopt {
        owners.push(reference.clone());
    }
    owners
}
