//! Volumes that are directories of this node, each named by its handle below one root. A handle is a name, never
//! a path; removing one follows no links.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Where the directories are, below the agent's data.
pub(crate) const ROOT: &str = "local-volumes";

#[derive(Debug, thiserror::Error)]
pub(crate) enum LocalError {
    #[error("{0:?} is no name of a local volume")]
    Handle(String),
    #[error("local volume {path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("local volume {0} is no directory")]
    NoDirectory(PathBuf),
}

fn place(root: &Path, handle: &str) -> Result<PathBuf, LocalError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if handle.is_empty()
        || handle.len() > 253
        || handle.starts_with('.')
        || !handle.chars().all(plain)
    {
        return Err(LocalError::Handle(handle.to_owned()));
    }
    Ok(root.join(handle))
}

/// The volume's directory, made where it is missing. Any user may write to a new one.
pub(crate) fn ensure(root: &Path, handle: &str) -> Result<PathBuf, LocalError> {
    let path = place(root, handle)?;
    let error = |source| LocalError::Io {
        path: path.clone(),
        source,
    };
    std::fs::create_dir_all(root).map_err(error)?;
    match std::fs::create_dir(&path) {
        Ok(()) => std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777))
            .map_err(error)?,
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(error(source)),
    }
    // A link that somebody put there would lead elsewhere.
    if std::fs::symlink_metadata(&path).map_err(error)?.is_dir() {
        Ok(path)
    } else {
        Err(LocalError::NoDirectory(path))
    }
}

/// Removes the volume with its data; one that is not there is removed already.
pub(crate) fn remove(root: &Path, handle: &str) -> Result<(), LocalError> {
    let path = place(root, handle)?;
    let done = match std::fs::symlink_metadata(&path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(&path),
        Ok(_) => std::fs::remove_file(&path),
        Err(error) => Err(error),
    };
    match done {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LocalError::Io { path, source })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn volumes_are_made_once_and_removed_with_their_data() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let path = ensure(&root, "pvc-1").unwrap();
        std::fs::write(path.join("f"), "data").unwrap();
        assert_eq!(ensure(&root, "pvc-1").unwrap(), path);
        assert!(path.join("f").exists());
        remove(&root, "pvc-1").unwrap();
        remove(&root, "pvc-1").unwrap();
        assert!(!path.exists());
    }

    #[test]
    fn nothing_outside_is_touched() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        for handle in ["", ".", "..", "../x", "a/b", "/etc", ".hidden", "a\0b"] {
            assert!(ensure(&root, handle).is_err(), "{handle:?}");
            assert!(remove(&root, handle).is_err(), "{handle:?}");
        }
        let outside = dir.path().join("outside");
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("f"), "data").unwrap();
        std::fs::create_dir_all(&root).unwrap();
        std::os::unix::fs::symlink(&outside, root.join("link")).unwrap();
        assert!(ensure(&root, "link").is_err());
        let volume = ensure(&root, "v").unwrap();
        std::os::unix::fs::symlink(&outside, volume.join("inner")).unwrap();
        remove(&root, "v").unwrap();
        remove(&root, "link").unwrap();
        assert!(outside.join("f").exists());
    }
}
