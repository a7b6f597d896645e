//! Which volume can be a claim's. Pure; the binder uses it as well.

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};

use crate::scheduler::resources::milli;
use crate::scheduler::selector::Selector;

/// How classes were named before they had a field.
const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";
/// Where the scheduler wants the volume of a claim to be made.
pub(crate) const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The binder has finished with the claim.
pub(crate) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// It was the binder that chose.
pub(crate) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// The class of the claim; `Some("")` is none on purpose.
pub(crate) fn class_of(claim: &PersistentVolumeClaim) -> Option<&str> {
    let annotations = claim.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(CLASS_ANNOTATION))
        .or_else(|| claim.spec.as_ref()?.storage_class_name.as_ref())
        .map(String::as_str)
}

fn class_of_volume(volume: &PersistentVolume) -> &str {
    let annotations = volume.metadata.annotations.as_ref();
    annotations
        .and_then(|all| all.get(CLASS_ANNOTATION))
        .or_else(|| volume.spec.as_ref()?.storage_class_name.as_ref())
        .map_or("", String::as_str)
}

pub(crate) fn volume_name(claim: &PersistentVolumeClaim) -> Option<&str> {
    let name = claim.spec.as_ref()?.volume_name.as_deref()?;
    (!name.is_empty()).then_some(name)
}

/// The binder has bound both sides.
pub(crate) fn is_bound(claim: &PersistentVolumeClaim) -> bool {
    let annotations = claim.metadata.annotations.as_ref();
    volume_name(claim).is_some() && annotations.is_some_and(|all| all.contains_key(BIND_COMPLETED))
}

pub(crate) fn modes(claim: &PersistentVolumeClaim) -> impl Iterator<Item = &str> {
    let spec = claim.spec.as_ref();
    spec.and_then(|spec| spec.access_modes.as_ref())
        .into_iter()
        .flatten()
        .map(String::as_str)
}

/// Thousandths of bytes that the volume has.
pub(crate) fn size(volume: &PersistentVolume) -> i64 {
    let capacity = volume.spec.as_ref().and_then(|spec| spec.capacity.as_ref());
    capacity
        .and_then(|capacity| capacity.get("storage"))
        .and_then(milli)
        .unwrap_or(0)
}

pub(crate) fn wanted(claim: &PersistentVolumeClaim) -> i64 {
    let resources = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
    resources
        .and_then(|resources| resources.requests.as_ref()?.get("storage"))
        .and_then(milli)
        .unwrap_or(0)
}

/// The volume is reserved for the claim, by a user or by the binder.
pub(crate) fn is_for(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.claim_ref.as_ref())
        .is_some_and(|reference| {
            let uid = reference.uid.as_deref().unwrap_or_default();
            reference.name == claim.metadata.name
                && reference.namespace == claim.metadata.namespace
                && (uid.is_empty() || Some(uid) == claim.metadata.uid.as_deref())
        })
}

/// Why what the volume has is not what the claim asks for, whoever has it now.
pub(crate) fn mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<String> {
    let name = volume.metadata.name.as_deref().unwrap_or_default();
    let (has, asks) = (volume.spec.as_ref(), claim.spec.as_ref());
    let attributes = |class: Option<&String>| class.cloned().unwrap_or_default();
    let mode = |mode: Option<&String>| mode.map_or("Filesystem", String::as_str).to_owned();
    let offered = has.and_then(|has| has.access_modes.as_deref());
    let offered = offered.unwrap_or_default();
    let why = if volume.metadata.deletion_timestamp.is_some() {
        return Some(format!("the volume is marked for deletion {name:?}"));
    } else if size(volume) < wanted(claim) {
        "requested PV is too small"
    } else if class_of_volume(volume) != class_of(claim).unwrap_or("") {
        "storageClassName does not match"
    } else if attributes(has.and_then(|has| has.volume_attributes_class_name.as_ref()))
        != attributes(asks.and_then(|asks| asks.volume_attributes_class_name.as_ref()))
    {
        "volumeAttributesClassName does not match"
    } else if mode(has.and_then(|has| has.volume_mode.as_ref()))
        != mode(asks.and_then(|asks| asks.volume_mode.as_ref()))
    {
        "incompatible volumeMode"
    } else if !modes(claim).all(|mode| offered.iter().any(|offered| offered == mode)) {
        "incompatible accessMode"
    } else {
        return None;
    };
    Some(why.to_owned())
}

/// The claim may have the volume.
pub(crate) fn fits(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let spec = volume.spec.as_ref();
    let reserved = spec.is_some_and(|spec| spec.claim_ref.is_some());
    if (reserved && !is_for(volume, claim)) || mismatch(volume, claim).is_some() {
        return false;
    }
    if reserved {
        return true;
    }
    let phase = volume
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    let wanted = claim.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    phase == Some("Available")
        && wanted.is_none_or(|wanted| Selector::new(Some(wanted)).matches(&labels))
}
