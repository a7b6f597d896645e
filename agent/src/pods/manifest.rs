//! Static pods: what a file in the node's folder means. Pure.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use sha2::{Digest, Sha256};

mod references;

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
    #[error("static pods may not reference {0}")]
    Refers(&'static str),
    #[error("{0}: Required value")]
    Required(String),
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
        .map_err(|error| ManifestError::Syntax(located(text, &error)))?;
    let name = pod.metadata.name.clone().filter(|name| !name.is_empty());
    let name = name.ok_or(ManifestError::Nameless)?;
    let spec = pod.spec.get_or_insert_default();
    if spec.containers.is_empty() {
        return Err(ManifestError::Empty);
    }
    required(spec)?;
    if let Some(referenced) = references::of(spec) {
        return Err(ManifestError::Refers(referenced));
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

/// What is wrong, and where in the file, if that can be told.
fn located(text: &str, error: &serde_json::Error) -> String {
    let again = serde_saphyr::from_str::<Pod>(text);
    let text = again.map_or_else(|located| located.to_string(), |_| error.to_string());
    // What follows shows the place.
    let first = text.lines().next().unwrap_or_default();
    first.trim_start_matches("error: ").to_owned()
}

fn required(spec: &PodSpec) -> Result<(), ManifestError> {
    let init = spec.init_containers.iter().flatten().enumerate();
    let init = init.map(|(index, it)| (format!("spec.initContainers[{index}]"), it));
    let main = spec.containers.iter().enumerate();
    let main = main.map(|(index, it)| (format!("spec.containers[{index}]"), it));
    for (path, container) in init.chain(main) {
        if container.name.is_empty() {
            return Err(ManifestError::Required(format!("{path}.name")));
        }
        if container.image.as_deref().unwrap_or_default().is_empty() {
            return Err(ManifestError::Required(format!("{path}.image")));
        }
    }
    Ok(())
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

/// The uid of the static pod that this is the copy of, if it is one.
pub(crate) fn mirrored(pod: &Pod) -> Option<&str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(MIRROR).map(String::as_str)
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
        assert_eq!(mirrored(&copy), pod.metadata.uid.as_deref());
        assert_eq!(mirrored(&pod), None);
    }

    #[test]
    fn what_is_no_pod_is_named() {
        for (text, said) in [
            ("kind: Service\n", "Service"),
            ("[", ""),
            (&TEXT.replace("name: web,", ""), "no name"),
            (
                &TEXT.replace("\n  - {name: c, image: i}\n", " []\n"),
                "no containers",
            ),
            (
                &TEXT.replace(", image: i", ""),
                "spec.containers[0].image: Required value",
            ),
            // The line and what is wrong there.
            (&TEXT.replace("image: i", "image: i, stdin: soon"), "line 6"),
        ] {
            let error = parsed(text).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
