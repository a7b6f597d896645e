//! OCI images: pulled from registries or imported, kept content-addressed with verified digests, mounted
//! with overlayfs.

use std::path::{Path, PathBuf};

/// Why an image is not there; the reasons are those the kubelet reports (`ErrImagePull`,
/// `InvalidImageName`, `ErrImageNeverPull`, `RegistryUnavailable`…).
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("invalid image name {0:?}: {1}")]
    InvalidName(String, String),
}

impl ImageError {
    /// The container's `waiting.reason`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::InvalidName(..) => "InvalidImageName",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Credentials for one registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub registry: String,
    pub username: String,
    pub password: String,
}

/// An image that is in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// As asked for, normalized (`docker.io/library/nginx:latest`).
    pub reference: String,
    /// Digest of the manifest, for `imageID`.
    pub digest: String,
    pub config: oci_spec::image::Config,
    /// Chain of unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    pub size_bytes: u64,
}

/// The node's image store. One process owns the directory.
#[derive(Debug, Clone)]
pub struct ImageStore {}

#[allow(unused_variables, clippy::unused_async)]
impl ImageStore {
    pub async fn open(dir: &Path) -> Result<Self, ImageError> {
        todo!()
    }
    /// The image, pulled when the policy asks for it. Concurrent calls for one image share one pull.
    pub async fn ensure(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[Credentials],
    ) -> Result<Image, ImageError> {
        todo!()
    }
    /// An OCI layout directory or a tar archive (OCI or `docker save`); returns the references imported.
    pub async fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
        todo!()
    }
    pub async fn list(&self) -> Result<Vec<Image>, ImageError> {
        todo!()
    }
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        todo!()
    }
    /// Mounts the image's layers with a writable upper directory in `dir` (`dir/upper`, `dir/work`); the
    /// root file system is `dir/rootfs`. Idempotent.
    pub async fn mount(&self, image: &Image, dir: &Path) -> Result<PathBuf, ImageError> {
        todo!()
    }
    /// Idempotent.
    pub async fn unmount(&self, dir: &Path) -> Result<(), ImageError> {
        todo!()
    }
}
