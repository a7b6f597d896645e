//! What is to be done for a volume. Pure.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use super::{Change, LOCAL, LOCAL_FINALIZER};
use crate::registry::EventType;
use crate::scheduler::matching;

const PROTECTION: &str = "kubernetes.io/pv-protection";

fn phase(volume: &PersistentVolume) -> &str {
    let status = volume.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}

/// `claim` is the one that the volume refers to, by name.
pub(super) fn plan(
    volume: &PersistentVolume,
    claim: Option<&PersistentVolumeClaim>,
) -> Vec<Change> {
    let Some(spec) = &volume.spec else {
        return Vec::new();
    };
    let wanted = match &spec.claim_ref {
        None => "Available",
        // Reserved by a user, for a claim that may come.
        Some(reference) if reference.uid.as_deref().unwrap_or_default().is_empty() => "Available",
        Some(_) => match claim.filter(|claim| matching::is_for(volume, claim)) {
            Some(claim) if matching::volume_name(claim) == volume.metadata.name.as_deref() => {
                "Bound"
            }
            // The claim is about to be told.
            Some(claim) if matching::volume_name(claim).is_none() => "Bound",
            Some(_) => return unbind(volume),
            None => "Released",
        },
    };
    if let Some(change) = unprotect(volume, wanted) {
        return vec![change];
    }
    let settled = wanted == "Released" && phase(volume) == "Failed";
    if phase(volume) != wanted && !settled {
        return vec![with_phase(volume, wanted, "")];
    }
    if wanted == "Released" && volume.metadata.deletion_timestamp.is_none() {
        return reclaim(volume);
    }
    Vec::new()
}

fn with_phase(volume: &PersistentVolume, phase: &str, message: &str) -> Change {
    let mut changed = volume.clone();
    let status = changed.status.get_or_insert_default();
    status.phase = Some(phase.to_owned());
    status.message = (!message.is_empty()).then(|| message.to_owned());
    Change::VolumeStatus(Box::new(changed))
}

/// The claim has another volume: whoever chose this one for it was late.
fn unbind(volume: &PersistentVolume) -> Vec<Change> {
    let mut changed = volume.clone();
    let annotations = changed.metadata.annotations.get_or_insert_default();
    let chosen = annotations.remove(matching::BOUND_BY_CONTROLLER).is_some();
    let Some(spec) = changed.spec.as_mut() else {
        return Vec::new();
    };
    if chosen {
        spec.claim_ref = None;
    } else if let Some(reference) = &mut spec.claim_ref {
        reference.uid = None;
        reference.resource_version = None;
    }
    vec![Change::Volume(Box::new(changed))]
}

/// A volume that is being deleted goes when it is nobody's.
fn unprotect(volume: &PersistentVolume, wanted: &str) -> Option<Change> {
    let finalizers = volume.metadata.finalizers.as_ref()?;
    volume.metadata.deletion_timestamp.as_ref()?;
    if wanted == "Bound" || !finalizers.iter().any(|known| known == PROTECTION) {
        return None;
    }
    let mut changed = volume.clone();
    let left = changed.metadata.finalizers.get_or_insert_default();
    left.retain(|known| known != PROTECTION);
    Some(Change::Volume(Box::new(changed)))
}

/// Whether the node's data is ours to remove.
fn is_local(volume: &PersistentVolume) -> bool {
    let csi = volume.spec.as_ref().and_then(|spec| spec.csi.as_ref());
    let finalizers = volume.metadata.finalizers.iter().flatten();
    csi.is_some_and(|csi| csi.driver == LOCAL)
        && finalizers.into_iter().any(|known| known == LOCAL_FINALIZER)
}

fn reclaim(volume: &PersistentVolume) -> Vec<Change> {
    let spec = volume.spec.as_ref();
    let policy = spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref());
    let failed = |reason: &'static str, message: &str| {
        if phase(volume) == "Failed" {
            return Vec::new();
        }
        vec![
            with_phase(volume, "Failed", message),
            Change::Tell(EventType::Warning, reason, message.to_owned()),
        ]
    };
    match policy {
        Some("Delete") if is_local(volume) => vec![Change::DeleteVolume],
        // Another driver's provisioner does that.
        Some("Delete") if spec.is_some_and(|spec| spec.csi.is_some()) => Vec::new(),
        Some("Delete") => {
            let name = volume.metadata.name.as_deref().unwrap_or_default();
            failed(
                "VolumeFailedDelete",
                &format!(
                    "error getting deleter volume plugin for volume \"{name}\": no deletable volume plugin matched"
                ),
            )
        }
        Some("Recycle") => failed(
            "VolumeFailedRecycle",
            "No recycler plugin found for the volume!",
        ),
        _ => Vec::new(),
    }
}
