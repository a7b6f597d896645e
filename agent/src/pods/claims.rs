//! What a claim of a pod is on this node: a directory of the host, or one of our own. Pure but for the
//! look-ups. What was found is kept as a link among the pod's volumes, so that its containers start again while
//! the control plane is away.

use k8s_openapi::api::core::v1::{Pod, Volume};

use super::mounts::VolumeContent;
use super::objects::{Lookup, Objects};

/// The driver of volumes that are directories of nodes.
pub(super) const LOCAL: &str = "waggle.dev/local";

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ClaimError {
    #[error("persistentvolumeclaim \"{0}\" not found")]
    NoClaim(String),
    #[error("persistentvolume \"{0}\" not found")]
    NoVolume(String),
    #[error("PVC \"{0}\" was not created for this pod (pod is not owner)")]
    NotOwner(String),
    #[error("PVC is not bound")]
    Unbound,
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    Driver(String),
    #[error("volumes of this type are not supported")]
    Unsupported,
    #[error("volume mode Block is not supported")]
    Block,
}

/// The claim of a volume; an ephemeral one has a claim named after its pod.
pub(super) fn name_of(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => {
            let pod = pod.metadata.name.as_deref().unwrap_or_default();
            Some(format!("{pod}-{}", volume.name))
        }
        (None, None) => None,
    }
}

pub(super) fn is_claim(volume: &Volume) -> bool {
    volume.persistent_volume_claim.is_some() || volume.ephemeral.is_some()
}

/// Containers may not write to it, whatever their mounts say.
pub(super) fn is_read_only(volume: &Volume) -> bool {
    let source = volume.persistent_volume_claim.as_ref();
    source.is_some_and(|source| source.read_only == Some(true))
}

/// What is behind the claim; `owner` is the uid of the pod that it was made for, if it was made for one.
pub(super) fn resolve(
    namespace: &str,
    name: String,
    owner: Option<&str>,
    objects: &Objects,
) -> Result<VolumeContent, ClaimError> {
    let claim = match objects.claim(namespace, &name) {
        Lookup::Found(claim) => claim,
        Lookup::Absent | Lookup::Unknown => return Err(ClaimError::NoClaim(name)),
    };
    let mut owners = claim.metadata.owner_references.iter().flatten();
    if owner.is_some_and(|uid| !owners.any(|it| it.uid == uid && it.controller == Some(true))) {
        return Err(ClaimError::NotOwner(name));
    }
    let spec = claim.spec.as_ref();
    let volume = spec
        .and_then(|spec| spec.volume_name.clone())
        .filter(|name| !name.is_empty())
        .ok_or(ClaimError::Unbound)?;
    let volume = match objects.volume(&volume) {
        Lookup::Found(volume) => volume,
        Lookup::Absent | Lookup::Unknown => return Err(ClaimError::NoVolume(volume)),
    };
    let spec = volume.spec.as_ref().ok_or(ClaimError::Unsupported)?;
    // Somebody else's volume is not for this claim.
    let owner = spec.claim_ref.as_ref().and_then(|owner| owner.uid.as_ref());
    if owner.is_some_and(|owner| Some(owner) != claim.metadata.uid.as_ref()) {
        return Err(ClaimError::Unbound);
    }
    if spec.volume_mode.as_deref() == Some("Block") {
        return Err(ClaimError::Block);
    }
    if let Some(source) = &spec.host_path {
        return Ok(VolumeContent::HostPath {
            path: source.path.clone(),
            kind: source.type_.clone().unwrap_or_default(),
            grouped: false,
        });
    }
    if let Some(source) = &spec.local {
        return Ok(VolumeContent::HostPath {
            path: source.path.clone(),
            kind: "Directory".to_owned(),
            grouped: true,
        });
    }
    match &spec.csi {
        Some(csi) if csi.driver == LOCAL => Ok(VolumeContent::Local {
            handle: csi.volume_handle.clone(),
        }),
        Some(csi) => Err(ClaimError::Driver(csi.driver.clone())),
        None => Err(ClaimError::Unsupported),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::{Value, json};

    use super::*;
    use crate::cluster::ObjectName;

    fn name(namespace: &str, name: &str) -> ObjectName {
        ObjectName {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    fn objects(source: &Value) -> Objects {
        let objects = Objects::default();
        let claim = json!({"metadata": {"uid": "u"}, "spec": {"volumeName": "v"}});
        objects.set_claim(name("ns", "c"), serde_json::from_value(claim).unwrap());
        let mut volume = json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": "u"}}});
        for (key, value) in source.as_object().unwrap() {
            volume["spec"][key] = value.clone();
        }
        objects.set_volume(name("", "v"), serde_json::from_value(volume).unwrap());
        objects
    }

    fn content(source: &Value) -> Result<VolumeContent, ClaimError> {
        resolve("ns", "c".into(), None, &objects(source))
    }

    #[test]
    fn claims_lead_to_directories() {
        assert_eq!(
            content(&json!({"local": {"path": "/mnt/a"}})),
            Ok(VolumeContent::HostPath {
                path: "/mnt/a".into(),
                kind: "Directory".into(),
                grouped: true,
            })
        );
        assert_eq!(
            content(&json!({"csi": {"driver": LOCAL, "volumeHandle": "pvc-u"}})),
            Ok(VolumeContent::Local {
                handle: "pvc-u".into()
            })
        );
        assert_eq!(
            content(&json!({"csi": {"driver": "x", "volumeHandle": "y"}})),
            Err(ClaimError::Driver("x".into()))
        );
        let others = json!({"claimRef": {"uid": "other"}, "local": {"path": "/mnt/a"}});
        assert_eq!(content(&others), Err(ClaimError::Unbound));
        assert_eq!(
            resolve("ns", "none".into(), None, &objects(&json!({}))),
            Err(ClaimError::NoClaim("none".into()))
        );
        assert_eq!(
            resolve("ns", "c".into(), Some("pod"), &objects(&json!({}))),
            Err(ClaimError::NotOwner("c".into()))
        );
    }
}
