//! Checks (and makes, where asked) what a hostPath volume points at.

use std::fs::FileType;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

#[derive(Debug, thiserror::Error)]
pub(crate) enum HostPathError {
    #[error("hostPath type check failed: {path} is not a {wanted}")]
    WrongType { path: String, wanted: &'static str },
    #[error("hostPath type {0:?} is unknown")]
    UnknownType(String),
    #[error("hostPath {path}: {source}")]
    Io { path: String, source: io::Error },
}

/// Makes sure that `path` is what `kind` says. Without a kind nothing is checked, and where nothing is, a directory is made,
/// as the runtimes of Kubernetes do.
pub(crate) fn ensure(path: &Path, kind: &str) -> Result<(), HostPathError> {
    let shown = path.display().to_string();
    let io = |source| HostPathError::Io {
        path: shown.clone(),
        source,
    };
    let is: (fn(&FileType) -> bool, &'static str) = match kind {
        "" => {
            if !path.exists() {
                make_dir(path).map_err(io)?;
            }
            return Ok(());
        }
        "DirectoryOrCreate" => {
            if !path.exists() {
                make_dir(path).map_err(io)?;
            }
            (FileType::is_dir, "directory")
        }
        "FileOrCreate" => {
            if !path.exists() {
                std::fs::write(path, b"").map_err(io)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
                    .map_err(io)?;
            }
            (FileType::is_file, "file")
        }
        "Directory" => (FileType::is_dir, "directory"),
        "File" => (FileType::is_file, "file"),
        "Socket" => (FileType::is_socket, "socket file"),
        "CharDevice" => (FileType::is_char_device, "character device"),
        "BlockDevice" => (FileType::is_block_device, "block device"),
        other => return Err(HostPathError::UnknownType(other.to_owned())),
    };
    let found = std::fs::metadata(path).map_err(io)?.file_type();
    if is.0(&found) {
        Ok(())
    } else {
        Err(HostPathError::WrongType {
            path: shown,
            wanted: is.1,
        })
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn types_are_checked_and_made() {
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("a/b");
        assert!(ensure(&made, "Directory").is_err());
        ensure(&made, "DirectoryOrCreate").unwrap();
        ensure(&made, "Directory").unwrap();
        assert!(ensure(&made, "File").is_err());
        ensure(&made.join("f"), "FileOrCreate").unwrap();
        ensure(&made.join("f"), "File").unwrap();
        assert!(ensure(&made, "Nonsense").is_err());
        let any = dir.path().join("any/where");
        ensure(&any, "").unwrap();
        assert_eq!(any.metadata().unwrap().permissions().mode() & 0o7777, 0o755);
        ensure(&made.join("f"), "").unwrap();
        ensure(&made.join("f/below"), "").unwrap_err();
    }
}
