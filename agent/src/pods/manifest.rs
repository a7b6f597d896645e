//! Static pods: what a file in the node's folder means. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest, Sha256};

const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";
const SEEN: &str = "kubernetes.io/config.seen";
/// What the control plane's copy of a static pod is known by; its value is the static pod's hash.
pub(crate) const MIRROR: &str = "kubernetes.io/config.mirror";

#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("{0}")]
    Syntax(String),
    #[error("it is a {0}, not a Pod")]
    Kind(String),
    #[error("it has no name")]
    Nameless,
    #[error("it has no containers")]
    Empty,
    #[error("static pods cannot refer to {0}")]
    Refers(&'static str),
}

/// The pod of one file, as this node runs it. Its uid follows from what it says: another content is another pod.
pub(crate) fn parse(text: &str, node: &str, seen: Timestamp) -> Result<Pod, ManifestError> {
    let value: serde_json::Value =
        serde_saphyr::from_str(text).map_err(|error| ManifestError::Syntax(error.to_string()))?;
    match value.get("kind").and_then(serde_json::Value::as_str) {
        Some("Pod") => {}
        other => return Err(ManifestError::Kind(other.unwrap_or("document").to_owned())),
    }
    let mut pod: Pod = serde_json::from_value(value.clone())
        .map_err(|error| ManifestError::Syntax(error.to_string()))?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty());
    let name = name.ok_or(ManifestError::Nameless)?;
    let spec = pod.spec.get_or_insert_default();
    if spec.containers.is_empty() {
        return Err(ManifestError::Empty);
    }
    if spec
        .service_account_name
        .as_ref()
        .is_some_and(|name| !name.is_empty())
    {
        return Err(ManifestError::Refers("service accounts"));
    }
    spec.node_name = Some(node.to_owned());
    spec.enable_service_links.get_or_insert(true);
    spec.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".to_owned()),
        effect: Some("NoExecute".to_owned()),
        ..Toleration::default()
    });
    let hash = hash(&value, node);
    let annotations = pod.metadata.annotations.get_or_insert_default();
    annotations.extend(BTreeMap::from([
        (SOURCE.to_owned(), "file".to_owned()),
        (HASH.to_owned(), hash.clone()),
        (SEEN.to_owned(), seen.to_string()),
    ]));
    pod.metadata.name = Some(format!("{name}-{node}"));
    pod.metadata
        .namespace
        .get_or_insert_with(|| "default".to_owned());
    pod.metadata.uid = Some(hash);
    pod.metadata.creation_timestamp = Some(Time(seen));
    Ok(pod)
}

fn hash(value: &serde_json::Value, node: &str) -> String {
    let mut hasher = Sha256::new();
    hasher.update(node.as_bytes());
    hasher.update(value.to_string().as_bytes());
    hex::encode(&hasher.finalize()[..16])
}

/// The copy that the control plane shows.
pub(crate) fn mirror(pod: &Pod) -> Pod {
    let mut mirror = pod.clone();
    let hash = mirror.metadata.uid.take().unwrap_or_default();
    mirror.metadata.creation_timestamp = None;
    mirror.metadata.resource_version = None;
    mirror.status = None;
    let annotations = mirror.metadata.annotations.get_or_insert_default();
    annotations.insert(MIRROR.to_owned(), hash);
    mirror
}

/// Whether this is such a copy.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    let annotations = pod.metadata.annotations.as_ref();
    annotations.is_some_and(|all| all.contains_key(MIRROR))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const TEXT: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: kube-system}\n\
                        spec:\n  containers:\n  - {name: c, image: i}\n";

    fn parsed(text: &str) -> Result<Pod, ManifestError> {
        parse(text, "n1", Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_file_is_a_pod_of_its_node() {
        let pod = parsed(TEXT).unwrap();
        assert_eq!(pod.metadata.name.as_deref(), Some("web-n1"));
        assert_eq!(pod.spec.as_ref().unwrap().node_name.as_deref(), Some("n1"));
        assert!(crate::pods::admit::is_static(&pod));
        let other = parsed(&TEXT.replace("image: i", "image: j")).unwrap();
        assert_ne!(pod.metadata.uid, other.metadata.uid);
        let copy = mirror(&pod);
        assert!(is_mirror(&copy) && !is_mirror(&pod));
        assert_eq!(
            copy.metadata.annotations.unwrap()[MIRROR],
            pod.metadata.uid.unwrap()
        );
    }

    #[test]
    fn what_is_no_pod_is_named() {
        for (text, said) in [
            ("kind: Service\n", "Service"),
            ("[", ""),
            (&TEXT.replace("name: web,", ""), "no name"),
            (
                &TEXT.replace("  - {name: c, image: i}\n", "  []\n"),
                "no containers",
            ),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
