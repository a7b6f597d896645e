//! A path inside a volume that a container may have written to: links in it must not lead outside.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub(crate) enum SubPathError {
    #[error("subPath {0:?} leaves the volume")]
    Outside(String),
    #[error("subPath {path:?}: {source}")]
    Io { path: String, source: io::Error },
}

/// The real path of `sub` inside `volume`, made as a directory with the volume's own mode when it is not there:
/// whoever may write to the volume may write to what is mounted of it.
pub(crate) fn ensure(volume: &Path, sub: &str) -> Result<PathBuf, SubPathError> {
    let outside = || SubPathError::Outside(sub.to_owned());
    let io = |source| SubPathError::Io {
        path: sub.to_owned(),
        source,
    };
    let root = volume.canonicalize().map_err(io)?;
    let permissions = root.metadata().map_err(io)?.permissions().mode() & 0o7777;
    let mut at = root.clone();
    for part in Path::new(sub).components() {
        match part {
            Component::Normal(name) => at.push(name),
            Component::CurDir => continue,
            _ => return Err(outside()),
        }
        match at.canonicalize() {
            Ok(real) => at = real,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // A dangling link counts as leading outside: nothing is made through it.
                if at.symlink_metadata().is_ok() {
                    return Err(outside());
                }
                std::fs::create_dir(&at).map_err(io)?;
                // Not at creation: the process' umask would take bits away.
                std::fs::set_permissions(&at, PermissionsExt::from_mode(permissions))
                    .map_err(io)?;
            }
            Err(error) => return Err(io(error)),
        }
        if !at.starts_with(&root) {
            return Err(outside());
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn is_made_with_the_mode_of_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
        for wanted in [0o777, 0o2777, 0o755] {
            let volume = dir.path().join(format!("{wanted:o}"));
            std::fs::create_dir(&volume).unwrap();
            std::fs::set_permissions(&volume, PermissionsExt::from_mode(wanted)).unwrap();
            assert_eq!(mode(&ensure(&volume, "a/b").unwrap()), wanted);
            assert_eq!(mode(&volume.join("a")), wanted);
        }
    }

    #[test]
    fn stays_inside() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        std::os::unix::fs::symlink("/etc", volume.join("out")).unwrap();
        std::os::unix::fs::symlink("nowhere", volume.join("dangling")).unwrap();
        std::fs::create_dir(volume.join("in")).unwrap();
        std::os::unix::fs::symlink("in", volume.join("alias")).unwrap();
        assert!(ensure(&volume, "a/b").unwrap().ends_with("v/a/b"));
        assert!(ensure(&volume, "alias/x").unwrap().ends_with("v/in/x"));
        for bad in ["out", "out/passwd", "..", "a/../../x", "/etc", "dangling/x"] {
            assert!(
                matches!(ensure(&volume, bad), Err(SubPathError::Outside(_))),
                "{bad}"
            );
        }
    }
}
