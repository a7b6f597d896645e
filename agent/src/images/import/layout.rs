//! OCI image layouts.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::{Files, invalid, read};
use crate::images::disk::{BlobWriter, Disk};
use crate::images::error::ImageError;
use crate::images::manifest::{self, Descriptor, MAX_MANIFEST_BYTES, Manifest};
use crate::images::pull::{check_config_size, complete, image_manifest, plan};
use crate::images::reference::Reference;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// A layout that is a directory already. It is the caller's own, so links in it are followed.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn open(path: &Path) -> Self {
        Self(path.to_path_buf())
    }
}

impl Files for Directory {
    fn find(&self, name: &str) -> Option<PathBuf> {
        let path = self.0.join(name);
        path.is_file().then_some(path)
    }
}

pub(super) fn import(
    disk: &Disk,
    path: &Path,
    files: &dyn Files,
    name: Option<Reference>,
) -> Result<Vec<String>, ImageError> {
    let bytes = read(path, files, "index.json", MAX_MANIFEST_BYTES)?;
    let shown = path.display().to_string();
    let index = match manifest::parse(&shown, &bytes) {
        Ok(Manifest::Index(index)) => index,
        Ok(Manifest::Image(_)) => return Err(invalid(path, "index.json is no index")),
        Err(error) => return Err(invalid(path, format!("index.json: {error}"))),
    };
    let mut imported = Vec::new();
    for (descriptor, reference) in named(path, &index, name)? {
        import_one(disk, path, files, descriptor, &reference)?;
        imported.push(reference.to_string());
    }
    Ok(imported)
}

/// What to import under which name.
fn named<'a>(
    path: &Path,
    index: &'a manifest::Index,
    name: Option<Reference>,
) -> Result<Vec<(&'a Descriptor, Reference)>, ImageError> {
    if let Some(name) = name {
        // One image, perhaps for several platforms.
        let shown = path.display().to_string();
        let descriptor = match index.manifests.as_slice() {
            [only] => only,
            _ => manifest::choose(&shown, index, &manifest::host_platform())?,
        };
        return Ok(vec![(descriptor, name)]);
    }
    let mut all = Vec::new();
    for descriptor in &index.manifests {
        let annotation = |key: &str| descriptor.annotations.as_ref()?.get(key).cloned();
        let full = annotation(CONTAINERD_NAME)
            // A bare tag does not say of what.
            .or_else(|| annotation(REF_NAME).filter(|name| name.contains([':', '/', '@'])));
        if let Some(full) = full {
            all.push((descriptor, Reference::parse(&full)?));
        }
    }
    if all.is_empty() {
        return Err(invalid(
            path,
            "it does not say what its images are called; give a name",
        ));
    }
    Ok(all)
}

fn import_one(
    disk: &Disk,
    path: &Path,
    files: &dyn Files,
    top: &Descriptor,
    reference: &Reference,
) -> Result<(), ImageError> {
    let shown = reference.to_string();
    copy(disk, path, files, &shown, top)?;
    let mut blobs = vec![top.digest.clone()];
    let bytes = disk.read_blob(&top.digest, MAX_MANIFEST_BYTES)?;
    let image = match manifest::parse(&shown, &bytes)? {
        Manifest::Image(image) => image,
        Manifest::Index(index) => {
            let chosen = manifest::choose(&shown, &index, &manifest::host_platform())?;
            copy(disk, path, files, &shown, chosen)?;
            blobs.push(chosen.digest.clone());
            image_manifest(&shown, &disk.read_blob(&chosen.digest, MAX_MANIFEST_BYTES)?)?
        }
    };
    check_config_size(&shown, &image.config)?;
    copy(disk, path, files, &shown, &image.config)?;
    let plan = plan(disk, &shown, &image)?;
    for i in &plan.missing {
        copy(disk, path, files, &shown, &image.layers[*i])?;
    }
    complete(disk, shown, top.digest.clone(), blobs, &image, plan)?;
    Ok(())
}

/// Copies a blob into the store, verifying it.
fn copy(
    disk: &Disk,
    path: &Path,
    files: &dyn Files,
    reference: &str,
    blob: &Descriptor,
) -> Result<(), ImageError> {
    if disk.has_blob(&blob.digest, blob.size) {
        return Ok(());
    }
    let name = format!("blobs/sha256/{}", blob.digest.hex());
    let file = files
        .find(&name)
        .ok_or_else(|| invalid(path, format!("{name} is missing")))?;
    copy_file(disk, &file, reference, Some(blob)).map(drop)
}

pub(super) fn copy_file(
    disk: &Disk,
    file: &Path,
    reference: &str,
    expected: Option<&Descriptor>,
) -> Result<(crate::images::digest::Digest, u64), ImageError> {
    let mut source = std::fs::File::open(file).map_err(|e| ImageError::io("open", file, e))?;
    let mut writer = BlobWriter::new(disk)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let n = source
            .read(&mut buffer)
            .map_err(|e| ImageError::io("read", file, e))?;
        if n == 0 {
            break;
        }
        writer.write(&buffer[..n])?;
    }
    writer.finish(reference, expected.map(|d| (&d.digest, d.size)))
}
