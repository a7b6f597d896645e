//! The claims of volumes that live as long as their pods (`ephemeral.volumeClaimTemplate`): made for the pod, and gone
//! with it because it owns them. Pure.

use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::cache::ObjectKey;
use crate::controllers::owner;

/// Names that the pod of such a claim may have: what comes before one of the hyphens, with what the volume is called then.
pub(super) fn candidates(key: &ObjectKey) -> impl Iterator<Item = (&str, &str)> {
    let name: &str = &key.name;
    name.match_indices('-')
        .map(move |(at, _)| (&name[..at], &name[at + 1..]))
}

/// The claim of the pod's volume, if the pod goes on and it is such a volume.
pub(super) fn claim(pod: &Pod, volume: &str) -> Option<PersistentVolumeClaim> {
    let phase = pod.status.as_ref().and_then(|it| it.phase.as_deref());
    if pod.metadata.deletion_timestamp.is_some() || matches!(phase, Some("Succeeded" | "Failed")) {
        return None;
    }
    let mut volumes = pod.spec.as_ref()?.volumes.iter().flatten();
    let found = volumes.find(|known| known.name == volume)?;
    let template = found.ephemeral.as_ref()?.volume_claim_template.as_ref()?;
    let given = template.metadata.clone().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    Some(PersistentVolumeClaim {
        metadata: ObjectMeta {
            name: Some(format!("{name}-{volume}")),
            namespace: pod.metadata.namespace.clone(),
            labels: given.labels,
            annotations: given.annotations,
            owner_references: Some(vec![owner::controller_reference(pod)]),
            ..ObjectMeta::default()
        },
        spec: Some(template.spec.clone()),
        status: None,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_owns_the_claims_that_are_made_for_it() {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {"namespace": "ns", "name": "a-b", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "plain", "emptyDir": {}},
                {"name": "c-d", "ephemeral": {"volumeClaimTemplate": {
                    "metadata": {"labels": {"k": "v"}},
                    "spec": {"accessModes": ["ReadWriteOnce"]}}}}]}}))
        .unwrap();
        let key = ObjectKey::new("ns", "a-b-c-d");
        let all: Vec<(&str, &str)> = candidates(&key).collect();
        assert_eq!(all, [("a", "b-c-d"), ("a-b", "c-d"), ("a-b-c", "d")]);
        let made = claim(&pod, "c-d").unwrap();
        assert_eq!(made.metadata.name.as_deref(), Some("a-b-c-d"));
        assert_eq!(made.metadata.namespace.as_deref(), Some("ns"));
        assert_eq!(made.metadata.labels.as_ref().unwrap()["k"], "v");
        let owners = made.metadata.owner_references.unwrap();
        assert_eq!(
            (owners[0].kind.as_str(), owners[0].uid.as_str()),
            ("Pod", "u")
        );
        assert_eq!(owners[0].controller, Some(true));
        assert_eq!(claim(&pod, "plain"), None);
        assert_eq!(claim(&pod, "none"), None);
        pod.status = serde_json::from_value(json!({"phase": "Succeeded"})).unwrap();
        assert_eq!(claim(&pod, "c-d"), None);
    }
}
