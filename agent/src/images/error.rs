//! Why an image is not there, in the words the kubelet uses.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Why an image is not there. Cloneable, because concurrent callers share one pull.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    #[error(
        "Failed to apply default image tag {0:?}: couldn't parse image reference {0:?}: invalid reference format: {1}"
    )]
    InvalidName(String, String),
    #[error("Container image {0:?} is not present with pull policy of Never")]
    NeverPull(String),
    #[error("failed to pull image {reference:?}: not found in registry {registry}")]
    NotFound { reference: String, registry: String },
    #[error(
        "failed to pull image {reference:?}: registry {registry} denies access: the repository does not exist or needs credentials ({detail})"
    )]
    Unauthorized {
        reference: String,
        registry: String,
        detail: String,
    },
    #[error("failed to pull image {reference:?}: registry {registry} is unavailable: {detail}")]
    RegistryUnavailable {
        reference: String,
        registry: String,
        detail: String,
    },
    #[error("failed to pull image {reference:?}: registry {registry} answered: {detail}")]
    Registry {
        reference: String,
        registry: String,
        detail: String,
    },
    #[error("image {reference:?}: digest mismatch: expected {expected}, received {actual}")]
    DigestMismatch {
        reference: String,
        expected: String,
        actual: String,
    },
    #[error(
        "image {reference:?}: blob {digest} has {actual} bytes, its descriptor says {expected}"
    )]
    SizeMismatch {
        reference: String,
        digest: String,
        expected: u64,
        actual: u64,
    },
    #[error("image {reference:?}: no variant for {wanted}, only for {}", offered.join(", "))]
    NoPlatform {
        reference: String,
        wanted: String,
        offered: Vec<String>,
    },
    #[error("image {reference:?}: {detail}")]
    InvalidImage { reference: String, detail: String },
    /// A layer that would write outside its root, or is not a tar archive, or is larger than allowed.
    #[error("image {reference:?}: layer {layer}: {detail}")]
    InvalidLayer {
        reference: String,
        layer: String,
        detail: String,
    },
    #[error("cannot import {}: {detail}", path.display())]
    InvalidArchive { path: PathBuf, detail: String },
    #[error("image {0:?} is not in the store")]
    Unknown(String),
    #[error("no space left on device ({what} {})", path.display())]
    DiskFull { what: &'static str, path: PathBuf },
    #[error("image store {} has format {found:?}; this program knows {known:?}", path.display())]
    Format {
        path: PathBuf,
        found: String,
        known: &'static str,
    },
    #[error("{what} {}: {source}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        source: Arc<io::Error>,
    },
    /// The task that did the work was torn down (shutdown) or panicked.
    #[error("image work was interrupted: {0}")]
    Interrupted(String),
}

impl ImageError {
    /// The container's `waiting.reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName(..) => "InvalidImageName",
            Self::NeverPull(_) => "ErrImageNeverPull",
            Self::RegistryUnavailable { .. } => "RegistryUnavailable",
            Self::Unknown(_) => "ImageInspectError",
            _ => "ErrImagePull",
        }
    }

    /// An input/output error, with a full disk told apart.
    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_path_buf();
        if is_disk_full(&source) {
            Self::DiskFull { what, path }
        } else {
            let source = Arc::new(source);
            Self::Io { what, path, source }
        }
    }

    pub(super) fn invalid(reference: &str, detail: impl Into<String>) -> Self {
        Self::InvalidImage {
            reference: reference.to_owned(),
            detail: detail.into(),
        }
    }
}

pub(super) fn is_disk_full(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    if matches!(error.kind(), StorageFull | QuotaExceeded) {
        return true;
    }
    // The tar reader wraps what the file system said.
    let mut source: Option<&(dyn std::error::Error + 'static)> = error
        .get_ref()
        .map(|e| e as &(dyn std::error::Error + 'static));
    while let Some(inner) = source {
        if let Some(inner) = inner.downcast_ref::<io::Error>()
            && matches!(inner.kind(), StorageFull | QuotaExceeded)
        {
            return true;
        }
        source = inner.source();
    }
    false
}
