//! What `docker save` writes: `manifest.json`, configurations and uncompressed layers. Such an archive has
//! no manifest in the sense of a registry, so one is made.

use std::collections::HashMap;
use std::path::Path;

use serde::Deserialize;

use super::layout::copy_file;
use super::{Files, invalid, read};
use crate::images::digest::Digest;
use crate::images::disk::Disk;
use crate::images::error::ImageError;
use crate::images::manifest::{
    Descriptor, ImageManifest, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, OCI_CONFIG, OCI_LAYER,
    OCI_MANIFEST,
};
use crate::images::pull::{complete, plan};
use crate::images::reference::Reference;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
}

/// Layers by their names in the archive that are in the store: images of one archive share most of them, and
/// each is copied and digested once.
type Stored = HashMap<String, (Digest, u64)>;

pub(super) fn import(
    disk: &Disk,
    path: &Path,
    files: &dyn Files,
    name: Option<Reference>,
) -> Result<Vec<String>, ImageError> {
    let bytes = read(path, files, "manifest.json", MAX_MANIFEST_BYTES)?;
    let saved: Vec<Saved> =
        serde_json::from_slice(&bytes).map_err(|e| invalid(path, format!("manifest.json: {e}")))?;
    if name.is_some() && saved.len() != 1 {
        let detail = format!(
            "it holds {} images; a name can be given to one",
            saved.len()
        );
        return Err(invalid(path, detail));
    }
    let mut imported = Vec::new();
    let mut stored = Stored::new();
    for one in &saved {
        let references = match &name {
            Some(name) => vec![name.clone()],
            None => one
                .repo_tags
                .iter()
                .flatten()
                .map(|tag| Reference::parse(tag))
                .collect::<Result<_, _>>()?,
        };
        for reference in references {
            import_one(disk, path, files, one, &reference, &mut stored)?;
            imported.push(reference.to_string());
        }
    }
    if imported.is_empty() {
        return Err(invalid(
            path,
            "it does not say what its images are called; give a name",
        ));
    }
    Ok(imported)
}

fn import_one(
    disk: &Disk,
    path: &Path,
    files: &dyn Files,
    saved: &Saved,
    reference: &Reference,
    stored: &mut Stored,
) -> Result<(), ImageError> {
    let shown = reference.to_string();
    let config = read(path, files, &saved.config, MAX_CONFIG_BYTES)?;
    let mut layers = Vec::new();
    for layer in saved.layers.iter().flatten() {
        let file = files
            .find(layer)
            .ok_or_else(|| invalid(path, format!("{layer} is missing")))?;
        let (digest, size) = match stored.get(layer) {
            Some(known) => known.clone(),
            None => copy_file(disk, &file, &shown, None)?,
        };
        stored.insert(layer.clone(), (digest.clone(), size));
        layers.push(descriptor(OCI_LAYER, digest, size));
    }
    let config_digest = disk.put_blob(&config)?;
    let image = ImageManifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config: descriptor(OCI_CONFIG, config_digest, config.len() as u64),
        layers,
    };
    let bytes = serde_json::to_vec(&image).expect("a manifest is plain data");
    let digest = disk.put_blob(&bytes)?;
    let plan = plan(disk, &shown, &image)?;
    complete(disk, shown, digest.clone(), vec![digest], &image, plan)?;
    Ok(())
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: None,
    }
}
