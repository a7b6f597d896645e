//! Images from files: OCI layouts (a directory or an archive of one) and what `docker save` writes.

mod archive;
mod docker;
mod layout;

use std::path::{Path, PathBuf};

use super::blocking;
use super::disk::Disk;
use super::error::ImageError;
use super::reference::Reference;

/// Files by the name they have in a layout or archive.
trait Files {
    /// Where the file is on this disk; `None` when there is no such file.
    fn find(&self, name: &str) -> Option<PathBuf>;
}

/// Imports everything `path` holds, and returns the names.
pub(super) async fn import(
    disk: &Disk,
    path: &Path,
    name: Option<&str>,
) -> Result<Vec<String>, ImageError> {
    let name = name.map(Reference::parse).transpose()?;
    let (disk, path) = (disk.clone(), path.to_path_buf());
    blocking(move || {
        let _lock = disk.lock_shared()?;
        let metadata = std::fs::metadata(&path).map_err(|e| ImageError::io("open", &path, e))?;
        if metadata.is_dir() {
            let files = layout::Directory::open(&path);
            return import_files(&disk, &path, &files, name);
        }
        let files = archive::Extracted::open(&disk, &path)?;
        import_files(&disk, &path, &files, name)
    })
    .await
}

fn import_files(
    disk: &Disk,
    path: &Path,
    files: &dyn Files,
    name: Option<Reference>,
) -> Result<Vec<String>, ImageError> {
    if files.find("index.json").is_some() {
        layout::import(disk, path, files, name)
    } else if files.find("manifest.json").is_some() {
        docker::import(disk, path, files, name)
    } else {
        let detail = "neither index.json (OCI) nor manifest.json (docker save) is in it";
        Err(invalid(path, detail))
    }
}

fn invalid(path: &Path, detail: impl Into<String>) -> ImageError {
    ImageError::InvalidArchive {
        path: path.to_path_buf(),
        detail: detail.into(),
    }
}

fn read(path: &Path, files: &dyn Files, name: &str, limit: u64) -> Result<Vec<u8>, ImageError> {
    let file = files
        .find(name)
        .ok_or_else(|| invalid(path, format!("{name} is missing")))?;
    super::disk::read_limited(&file, limit).map_err(|e| invalid(path, format!("{name}: {e}")))
}

#[cfg(test)]
mod tests;
