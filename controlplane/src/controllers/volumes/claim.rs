//! What is to be done for a claim. Pure.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;

use super::{Change, LOCAL};
use crate::registry::EventType;
use crate::scheduler::{matching, reserve};

const PROTECTION: &str = "kubernetes.io/pvc-protection";
const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
const OLD_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// Stands for "make a volume"; it is no event.
pub(super) const PROVISION: &str = "\0provision";

pub(super) struct View<'a> {
    pub(super) claim: &'a PersistentVolumeClaim,
    pub(super) class: Option<&'a StorageClass>,
    /// What a claim that names no class gets.
    pub(super) default_class: Option<&'a str>,
    /// The volume that the claim names.
    pub(super) volume: Option<&'a PersistentVolume>,
    /// All, for a claim that names none.
    pub(super) volumes: &'a [Arc<PersistentVolume>],
}

/// A claim that is being deleted goes when no pod uses it.
pub(super) fn unprotect(claim: &PersistentVolumeClaim, used: bool) -> Option<Change> {
    let finalizers = claim.metadata.finalizers.as_ref()?;
    if used || !finalizers.iter().any(|known| known == PROTECTION) {
        return None;
    }
    let mut changed = claim.clone();
    let left = changed.metadata.finalizers.get_or_insert_default();
    left.retain(|known| known != PROTECTION);
    Some(Change::Claim(Box::new(changed)))
}

fn tell(kind: EventType, reason: &'static str, message: impl Into<String>) -> Vec<Change> {
    vec![Change::Tell(kind, reason, message.into())]
}

pub(super) fn plan(view: &View<'_>) -> Vec<Change> {
    if matching::is_bound(view.claim) {
        return bound(view);
    }
    if let Some(name) = matching::volume_name(view.claim) {
        return named(view, name);
    }
    let found = best(view);
    if let Some(volume) = found {
        return bind(view.claim, volume);
    }
    if let Some(class) = view.default_class {
        let mut changed = view.claim.clone();
        changed.spec.get_or_insert_default().storage_class_name = Some(class.to_owned());
        return vec![Change::Claim(Box::new(changed))];
    }
    let Some(class) = view.class else {
        return match matching::class_of(view.claim) {
            None | Some("") => tell(
                EventType::Normal,
                "FailedBinding",
                "no persistent volumes available for this claim and no storage class is set",
            ),
            Some(name) => tell(
                EventType::Warning,
                "ProvisioningFailed",
                format!("storageclass.storage.k8s.io \"{name}\" not found"),
            ),
        };
    };
    let waits = class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer");
    if waits && annotation(view.claim, matching::SELECTED_NODE).is_none() {
        return tell(
            EventType::Normal,
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        );
    }
    to_be_made(view.claim, class)
}

fn to_be_made(claim: &PersistentVolumeClaim, class: &StorageClass) -> Vec<Change> {
    let provisioner = &class.provisioner;
    if annotation(claim, PROVISIONER) != Some(provisioner) {
        let mut changed = claim.clone();
        let annotations = changed.metadata.annotations.get_or_insert_default();
        for key in [PROVISIONER, OLD_PROVISIONER] {
            annotations.insert(key.to_owned(), provisioner.clone());
        }
        return vec![Change::Claim(Box::new(changed))];
    }
    if provisioner == LOCAL {
        return tell(EventType::Normal, PROVISION, "");
    }
    if provisioner == "kubernetes.io/no-provisioner" {
        return tell(
            EventType::Normal,
            "FailedBinding",
            "no persistent volumes available for this claim and no storage class is set",
        );
    }
    tell(
        EventType::Normal,
        "ExternalProvisioning",
        format!(
            "Waiting for a volume to be created either by the external provisioner '{provisioner}' or manually by \
             the system administrator. If volume creation is delayed, please verify that the provisioner is running \
             and correctly registered."
        ),
    )
}

fn annotation<'a>(claim: &'a PersistentVolumeClaim, key: &str) -> Option<&'a str> {
    let annotations = claim.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

/// The volume that is reserved for the claim, or else the smallest that fits, unless a pod decides that.
fn best<'a>(view: &View<'a>) -> Option<&'a PersistentVolume> {
    let claim = view.claim;
    let mut fitting: Vec<&PersistentVolume> = view
        .volumes
        .iter()
        .map(Arc::as_ref)
        .filter(|volume| matching::fits(volume, claim))
        .collect();
    fitting.sort_by_key(|volume| {
        (
            !matching::is_for(volume, claim),
            matching::size(volume),
            volume.metadata.name.clone(),
        )
    });
    let first = *fitting.first()?;
    let waits = view
        .class
        .is_some_and(|class| class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    (matching::is_for(first, claim) || !waits).then_some(first)
}

/// A claim that names its volume.
fn named(view: &View<'_>, name: &str) -> Vec<Change> {
    let Some(volume) = view.volume else {
        return tell(
            EventType::Warning,
            "FailedBinding",
            format!("volume \"{name}\" not found"),
        );
    };
    let taken = volume
        .spec
        .as_ref()
        .is_some_and(|spec| spec.claim_ref.is_some());
    if taken && !matching::is_for(volume, view.claim) {
        return tell(
            EventType::Warning,
            "FailedBinding",
            format!("volume \"{name}\" already bound to a different claim."),
        );
    }
    // One that is the claim's already stays so.
    let why = matching::mismatch(volume, view.claim).filter(|_| !taken);
    if let Some(why) = why {
        return tell(
            EventType::Warning,
            "VolumeMismatch",
            format!("Cannot bind to requested volume \"{name}\": {why}"),
        );
    }
    bind(view.claim, volume)
}

/// The next step that makes the two each other's.
fn bind(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Vec<Change> {
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    if reference.is_none_or(|reference| reference.uid != claim.metadata.uid) {
        let mut changed = volume.clone();
        let by_user = reference.is_some();
        reserve(&mut changed, claim);
        if by_user && let Some(annotations) = &mut changed.metadata.annotations {
            annotations.remove(matching::BOUND_BY_CONTROLLER);
        }
        return vec![Change::Volume(Box::new(changed))];
    }
    let mut changed = claim.clone();
    let spec = changed.spec.get_or_insert_default();
    let chosen = spec.volume_name.as_deref().unwrap_or_default().is_empty();
    spec.volume_name = volume.metadata.name.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    annotations.insert(matching::BIND_COMPLETED.to_owned(), "yes".to_owned());
    if chosen {
        annotations.insert(matching::BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
    }
    vec![Change::Claim(Box::new(changed))]
}

/// A claim that was bound keeps its volume, or is lost.
fn bound(view: &View<'_>) -> Vec<Change> {
    let claim = view.claim;
    let Some(volume) = view.volume else {
        return lost(
            claim,
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        );
    };
    let reference = volume
        .spec
        .as_ref()
        .and_then(|spec| spec.claim_ref.as_ref());
    match reference {
        None => return bind(claim, volume),
        Some(_) if matching::is_for(volume, claim) => {}
        Some(_) => {
            return lost(
                claim,
                "ClaimMisbound",
                "Two claims are bound to the same volume, this one is bound incorrectly",
            );
        }
    }
    if let Some(larger) = grown(claim, volume, view.class) {
        return vec![Change::Volume(Box::new(larger))];
    }
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    let spec = volume.spec.as_ref();
    status.phase = Some("Bound".to_owned());
    status.access_modes = spec.and_then(|spec| spec.access_modes.clone());
    status.capacity = spec.and_then(|spec| spec.capacity.clone());
    if changed.status == claim.status {
        return Vec::new();
    }
    vec![Change::ClaimStatus(Box::new(changed))]
}

/// Directories have no size of their own: they grow by saying so.
fn grown(
    claim: &PersistentVolumeClaim,
    volume: &PersistentVolume,
    class: Option<&StorageClass>,
) -> Option<PersistentVolume> {
    if matching::wanted(claim) <= matching::size(volume) || class?.provisioner != LOCAL {
        return None;
    }
    let resources = claim.spec.as_ref()?.resources.as_ref()?;
    let wanted = resources.requests.as_ref()?.get("storage")?.clone();
    let mut larger = volume.clone();
    let capacity = larger.spec.as_mut()?.capacity.get_or_insert_default();
    capacity.insert("storage".to_owned(), wanted);
    Some(larger)
}

fn lost(claim: &PersistentVolumeClaim, reason: &'static str, message: &str) -> Vec<Change> {
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some("Lost".to_owned());
    if changed.status == claim.status {
        return Vec::new();
    }
    let mut changes = vec![Change::ClaimStatus(Box::new(changed))];
    changes.extend(tell(EventType::Warning, reason, message));
    changes
}
