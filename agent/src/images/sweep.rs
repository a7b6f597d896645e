//! Removing what no name and no mount refers to. Runs only while nobody adds anything.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::digest::Digest;
use super::disk::Disk;
use super::error::ImageError;

/// What must stay: blobs of named images, layers of named images and of mounts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Roots {
    blobs: BTreeSet<String>,
    layers: BTreeSet<String>,
}

/// Sweeps now, or leaves it to the next occasion when something is being added. `false` when left.
pub(super) fn sweep(disk: &Disk) -> Result<bool, ImageError> {
    let Some(_lock) = disk.try_lock_exclusive()? else {
        return Ok(false);
    };
    let roots = roots(disk)?;
    clear(&disk.root.join("tmp"), |_| false)?;
    clear(&disk.root.join("blobs/sha256"), |name| {
        roots.blobs.contains(name)
    })?;
    clear(&disk.root.join("layers"), |name| {
        roots.layers.contains(name)
    })?;
    Ok(true)
}

fn roots(disk: &Disk) -> Result<Roots, ImageError> {
    let mut roots = Roots::default();
    let hex = |digest: &Digest| digest.hex().to_owned();
    for record in disk.records()? {
        roots.blobs.extend(record.blobs.iter().map(hex));
        roots.layers.extend(record.layers.iter().map(hex));
    }
    for mount in disk.mounts()? {
        // The directory goes with its container; a record without it is what a crash left.
        if mount.dir.exists() {
            roots.layers.extend(mount.layers.iter().map(hex));
        } else {
            disk.remove_mount(&mount.dir)?;
        }
    }
    Ok(roots)
}

/// Removes the entries of `dir` that are not to be kept.
fn clear(dir: &Path, keep: impl Fn(&str) -> bool) -> Result<(), ImageError> {
    let entries = fs::read_dir(dir).map_err(|e| ImageError::io("list", dir, e))?;
    for entry in entries {
        let entry = entry.map_err(|e| ImageError::io("list", dir, e))?;
        if entry.file_name().to_str().is_some_and(&keep) {
            continue;
        }
        let path = entry.path();
        let is_dir = entry.file_type().is_ok_and(|t| t.is_dir());
        let removed = if is_dir {
            remove_tree(&path)
        } else {
            fs::remove_file(&path)
        };
        removed.map_err(|e| ImageError::io("remove", &path, e))?;
    }
    Ok(())
}

/// A complete layer is recognized by `<layer>/fs`: that name goes first, so that a crash half-way leaves
/// nothing that looks complete.
fn remove_tree(path: &Path) -> std::io::Result<()> {
    let complete = path.join("fs");
    if complete.is_dir() {
        fs::rename(&complete, path.join("removed"))?;
    }
    fs::remove_dir_all(path)
}
