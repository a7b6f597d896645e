//! The claims of a pod on the disk: a link to where the data is, among the pod's volumes.

use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Volume;

use crate::pods::claims;

/// Makes `link` lead to the data.
pub(super) fn point(link: &Path, data: &Path) -> io::Result<()> {
    if std::fs::read_link(link).is_ok_and(|known| known == data) {
        return Ok(());
    }
    if let Some(parent) = link.parent() {
        std::fs::create_dir_all(parent)?;
    }
    match std::fs::remove_file(link) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(data, link)
}

/// Where containers find the volume: `dir` itself, or what it leads to.
pub(super) fn root(volume: &Volume, dir: PathBuf) -> PathBuf {
    if claims::is_claim(volume) {
        std::fs::read_link(&dir).unwrap_or(dir)
    } else {
        dir
    }
}

pub(super) fn is_read_only(volume: &Volume) -> bool {
    claims::is_read_only(volume)
}
