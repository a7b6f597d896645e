//! A directory of files whose change appears whole to those who read it.
//!
//! ```text
//!   volume/..2026_1a2b/key      the content
//!   volume/..data -> ..2026_1a2b      replaced by one rename
//!   volume/key -> ..data/key    what programs open
//! ```
//! Programs that watch for a change of `..data`, as many do, find the layout that they know.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

use super::payload::File;

const DATA: &str = "..data";

/// Makes `dir` hold exactly `files`; returns whether something changed. The files are `group`'s where one is
/// given, and it may read them whatever their mode says.
pub(crate) fn write(dir: &Path, files: &[File], group: Option<u32>) -> io::Result<bool> {
    std::fs::create_dir_all(dir)?;
    let readable;
    let files = match group {
        Some(_) => {
            readable = group_readable(files);
            &readable
        }
        None => files,
    };
    let data = dir.join(DATA);
    let current = std::fs::read_link(&data).ok();
    if let Some(current) = &current
        && same(&dir.join(current), files)?
    {
        return Ok(false);
    }
    let generation = format!("..{}", uuid::Uuid::new_v4().simple());
    let new = dir.join(&generation);
    if let Err(error) = fill(&new, files, group) {
        let _ = std::fs::remove_dir_all(&new);
        return Err(error);
    }
    let link = dir.join("..data_tmp");
    let _ = std::fs::remove_file(&link);
    symlink(&generation, &link)?;
    std::fs::rename(&link, &data)?;
    link_top_level(dir, files)?;
    remove_old(dir, &generation)?;
    Ok(true)
}

fn group_readable(files: &[File]) -> Vec<File> {
    let mut files = files.to_vec();
    for file in &mut files {
        file.mode |= 0o440;
    }
    files
}

/// A directory that all may read, also where the umask is strict.
fn open_dir(dir: &Path) -> io::Result<()> {
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))
}

fn fill(dir: &Path, files: &[File], group: Option<u32>) -> io::Result<()> {
    open_dir(dir)?;
    for file in files {
        let path = dir.join(&file.path);
        for (at, _) in file.path.match_indices('/') {
            open_dir(&dir.join(&file.path[..at]))?;
        }
        let mut open = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)?;
        io::Write::write_all(&mut open, &file.content)?;
        std::os::unix::fs::fchown(&open, file.owner, group)?;
        // Not by the mode of `open`, which the umask would cut.
        open.set_permissions(std::fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// Whether a generation holds these files already.
fn same(dir: &Path, files: &[File]) -> io::Result<bool> {
    let mut there = BTreeSet::new();
    collect(dir, dir, &mut there)?;
    let wanted: BTreeSet<String> = files.iter().map(|file| file.path.clone()).collect();
    if there != wanted {
        return Ok(false);
    }
    for file in files {
        let path = dir.join(&file.path);
        let mode = std::fs::metadata(&path)?.permissions().mode() & 0o7777;
        if mode != file.mode || std::fs::read(&path)? != file.content {
            return Ok(false);
        }
    }
    Ok(true)
}

fn collect(root: &Path, dir: &Path, into: &mut BTreeSet<String>) -> io::Result<()> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(root, &path, into)?;
        } else if let Ok(relative) = path.strip_prefix(root) {
            into.insert(relative.to_string_lossy().into_owned());
        }
    }
    Ok(())
}

fn link_top_level(dir: &Path, files: &[File]) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files
        .iter()
        .filter_map(|file| file.path.split('/').next())
        .collect();
    for name in &wanted {
        let link = dir.join(name);
        match symlink(Path::new(DATA).join(name), &link) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => made?,
        }
    }
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(name.as_ref()) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn remove_old(dir: &Path, keep: &str) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..") && name != DATA && name != keep {
            if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(entry.path())?;
            } else {
                std::fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
