//! Manifests, indexes and image configurations, OCI and Docker schema 2: parsing and the choice of a
//! platform. Pure.

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::error::ImageError;

pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(super) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

pub(super) const MAX_MANIFEST_BYTES: u64 = 4 << 20;
pub(super) const MAX_CONFIG_BYTES: u64 = 8 << 20;
/// Overlayfs takes 500; images stay below 128.
const MAX_LAYERS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) annotations: Option<std::collections::BTreeMap<String, String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Platform {
    pub(super) architecture: String,
    pub(super) os: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) variant: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageManifest {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Index {
    pub(super) schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) media_type: Option<String>,
    pub(super) manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Manifest {
    Image(ImageManifest),
    Index(Index),
}

/// Tells an index from an image by its media type, or by its fields where it names none.
pub(super) fn parse(reference: &str, bytes: &[u8]) -> Result<Manifest, ImageError> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Probe {
        #[serde(default)]
        schema_version: u32,
        media_type: Option<String>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let bad = |e: serde_json::Error| ImageError::invalid(reference, format!("manifest: {e}"));
    let probe: Probe = serde_json::from_slice(bytes).map_err(bad)?;
    if probe.schema_version != 2 {
        let detail = format!(
            "manifest schema version {} is not supported",
            probe.schema_version
        );
        return Err(ImageError::invalid(reference, detail));
    }
    let index = match probe.media_type.as_deref() {
        Some(OCI_INDEX | DOCKER_LIST) => true,
        Some(OCI_MANIFEST | DOCKER_MANIFEST) => false,
        None | Some("") => probe.manifests.is_some(),
        Some(other) => {
            let detail = format!("manifest media type {other:?} is not that of an image");
            return Err(ImageError::invalid(reference, detail));
        }
    };
    if index {
        return serde_json::from_slice(bytes)
            .map(Manifest::Index)
            .map_err(bad);
    }
    let manifest: ImageManifest = serde_json::from_slice(bytes).map_err(bad)?;
    if manifest.layers.len() > MAX_LAYERS {
        let detail = format!(
            "{} layers; {MAX_LAYERS} are the most",
            manifest.layers.len()
        );
        return Err(ImageError::invalid(reference, detail));
    }
    if let Some(layer) = manifest.layers.iter().find(|l| !is_layer(&l.media_type)) {
        let detail = format!("layer media type {:?} is not supported", layer.media_type);
        return Err(ImageError::invalid(reference, detail));
    }
    Ok(Manifest::Image(manifest))
}

/// How a layer is compressed is told from its bytes; the media type only has to be one of a tar layer.
fn is_layer(media_type: &str) -> bool {
    let base = media_type
        .strip_suffix("+gzip")
        .or_else(|| media_type.strip_suffix("+zstd"))
        .or_else(|| media_type.strip_suffix(".gzip"))
        .or_else(|| media_type.strip_suffix(".zstd"))
        .unwrap_or(media_type);
    matches!(
        base,
        OCI_LAYER
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar"
    )
}

/// This machine's architecture, as Go and so OCI call it, with the variant where one is usual.
pub(super) fn host_platform() -> Platform {
    let (architecture, variant) = match std::env::consts::ARCH {
        "x86_64" => ("amd64", None),
        "aarch64" => ("arm64", Some("v8".to_owned())),
        "arm" => ("arm", Some("v7".to_owned())),
        "powerpc64" => ("ppc64le", None),
        "loongarch64" => ("loong64", None),
        other => (other, None),
    };
    Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        variant,
    }
}

/// The entry of an index for a platform: same variant first, then one without, then any.
pub(super) fn choose<'a>(
    reference: &str,
    index: &'a Index,
    wanted: &Platform,
) -> Result<&'a Descriptor, ImageError> {
    let fits = |d: &&Descriptor| {
        d.platform
            .as_ref()
            .is_some_and(|p| p.os == wanted.os && p.architecture == wanted.architecture)
    };
    let rank = |d: &&Descriptor| match d.platform.as_ref().and_then(|p| p.variant.as_ref()) {
        variant if variant == wanted.variant.as_ref() => 0,
        None => 1,
        Some(_) => 2,
    };
    if let Some(found) = index.manifests.iter().filter(fits).min_by_key(rank) {
        return Ok(found);
    }
    // A single manifest that names no platform is for whoever asks.
    if let [only] = index.manifests.as_slice()
        && only.platform.is_none()
    {
        return Ok(only);
    }
    let show = |d: &Descriptor| match &d.platform {
        Some(p) => format!("{}/{}", p.os, p.architecture),
        None => "unspecified".to_owned(),
    };
    Err(ImageError::NoPlatform {
        reference: reference.to_owned(),
        wanted: format!("{}/{}", wanted.os, wanted.architecture),
        offered: index.manifests.iter().map(show).collect(),
    })
}

/// What is needed of an image's configuration.
#[derive(Debug, Clone)]
pub(super) struct ImageConfig {
    pub(super) config: oci_spec::image::Config,
    pub(super) diff_ids: Vec<Digest>,
}

pub(super) fn parse_config(
    reference: &str,
    bytes: &[u8],
    layers: usize,
) -> Result<ImageConfig, ImageError> {
    #[derive(Deserialize)]
    struct File {
        config: Option<serde_json::Value>,
        rootfs: RootFs,
    }
    #[derive(Deserialize)]
    struct RootFs {
        #[serde(default)]
        diff_ids: Option<Vec<Digest>>,
    }
    let bad = |e: serde_json::Error| ImageError::invalid(reference, format!("configuration: {e}"));
    let file: File = serde_json::from_slice(bytes).map_err(bad)?;
    let diff_ids = file.rootfs.diff_ids.unwrap_or_default();
    if diff_ids.len() != layers {
        let detail = format!("{layers} layers but {} diff IDs", diff_ids.len());
        return Err(ImageError::invalid(reference, detail));
    }
    let config = match file.config {
        None | Some(serde_json::Value::Null) => oci_spec::image::Config::default(),
        Some(mut value) => {
            // Docker writes `null` for what is empty, also where the type wants a map.
            if let Some(map) = value.as_object_mut() {
                map.retain(|_, v| !v.is_null());
            }
            serde_json::from_value(value).map_err(bad)?
        }
    };
    Ok(ImageConfig { config, diff_ids })
}

#[cfg(test)]
mod tests;
