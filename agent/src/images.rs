//! OCI images: pulled from registries or imported, kept content-addressed with verified digests, mounted
//! with overlayfs.
//!
//! ```text
//!   reference manifest           what names and manifests mean (pure)
//!   registry pull import build   where images come from
//!   unpack                       a layer's archive into a directory; layers are hostile
//!   disk sweep                   what is on disk, who may change it when; what nobody needs goes
//!   mount                        overlay mounts
//! ```
//! Deliberately not here: back-off after a failed pull (the pods' part), signatures.

pub mod build;
mod digest;
mod disk;
mod error;
mod import;
mod manifest;
mod mount;
mod pull;
mod reference;
mod registry;
mod sweep;
mod unpack;

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

use self::disk::{Disk, MountRecord, Record};
pub use self::error::ImageError;
use self::reference::Reference;
use crate::userns::UserNamespace;

/// What an image is mounted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The root of a container: what something is mounted at in all of them is there, also if the image does not have it.
    Root,
    /// A volume: the image's files and no others.
    Volume,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    Always,
    IfNotPresent,
    Never,
}

/// Credentials for one registry.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub registry: String,
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("registry", &self.registry)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// An image that is in the store.
#[derive(Debug, Clone)]
pub struct Image {
    /// As asked for, normalized (`docker.io/library/nginx:latest`).
    pub reference: String,
    /// Digest of the manifest (of the index, for images of several platforms), for `imageID`.
    pub digest: String,
    pub config: oci_spec::image::Config,
    /// Chain of unpacked layers, lowest first.
    pub layers: Vec<PathBuf>,
    pub size_bytes: u64,
}

impl Image {
    /// `registry/repository@digest`: what a container's `imageID` says.
    pub fn id(&self) -> String {
        match Reference::parse(&self.reference) {
            Ok(reference) => format!("{}@{}", reference.name(), self.digest),
            Err(_) => self.digest.clone(),
        }
    }
}

/// What an operator says of registries.
#[derive(Debug, Clone, Default)]
struct Sources {
    /// Spoken to without TLS.
    insecure: Vec<String>,
    mirrors: Vec<(String, String)>,
}

type SharedPull = Shared<BoxFuture<'static, Result<Image, ImageError>>>;
/// A pull under way, by what was asked for and with which credentials.
type Pulls = HashMap<(String, Vec<Credentials>), SharedPull>;

/// The node's image store. Processes may share the directory: see `disk` for how.
#[derive(Debug, Clone)]
pub struct ImageStore {
    disk: Disk,
    pulls: Arc<Mutex<Pulls>>,
    sources: Arc<Sources>,
    /// A sweep was put off because something was being added.
    sweep_due: Arc<AtomicBool>,
}

impl ImageStore {
    /// Opens or creates the store in `dir`, and removes what a crash left behind.
    pub async fn open(dir: &Path) -> Result<Self, ImageError> {
        // reqwest is built without a provider of its own; the first one installed stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let dir = dir.to_path_buf();
        let disk = blocking(move || {
            let disk = Disk::create(&dir)?;
            sweep::sweep(&disk)?;
            Ok(disk)
        })
        .await?;
        Ok(Self {
            disk,
            pulls: Arc::default(),
            sources: Arc::default(),
            sweep_due: Arc::default(),
        })
    }

    /// Registries (`host:port`) to be spoken to without TLS, besides those on loopback addresses.
    #[must_use]
    pub fn with_insecure_registries(mut self, registries: Vec<String>) -> Self {
        Arc::make_mut(&mut self.sources).insecure = registries;
        self
    }

    /// Where images of a registry are looked for before the registry itself: registry and mirror (`host:port`).
    #[must_use]
    pub fn with_mirrors(mut self, mirrors: Vec<(String, String)>) -> Self {
        Arc::make_mut(&mut self.sources).mirrors = mirrors;
        self
    }

    /// The image, pulled when the policy asks for it. Concurrent calls for one image share one pull, which
    /// goes on when its callers are gone.
    pub async fn ensure(
        &self,
        reference: &str,
        policy: PullPolicy,
        credentials: &[Credentials],
    ) -> Result<Image, ImageError> {
        let parsed = Reference::parse(reference)?;
        if policy != PullPolicy::Always {
            if let Some(image) = self.find(&parsed).await? {
                return Ok(image);
            }
            if policy == PullPolicy::Never {
                return Err(ImageError::NeverPull(reference.to_owned()));
            }
        }
        self.shared_pull(parsed, credentials).await
    }

    async fn shared_pull(
        &self,
        reference: Reference,
        credentials: &[Credentials],
    ) -> Result<Image, ImageError> {
        let key = (reference.to_string(), credentials.to_vec());
        let pull = {
            let mut pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            match pulls.get(&key) {
                Some(pull) => pull.clone(),
                None => {
                    let pull = self.start_pull(reference, key.clone());
                    pulls.insert(key, pull.clone());
                    pull
                }
            }
        };
        pull.await
    }

    fn start_pull(&self, reference: Reference, key: (String, Vec<Credentials>)) -> SharedPull {
        let store = self.clone();
        let task = tokio::spawn(async move {
            let result = store.pull(&reference, &key.1).await;
            // A later call starts anew: it may find something else in the registry.
            let mut pulls = store.pulls.lock().unwrap_or_else(PoisonError::into_inner);
            pulls.remove(&key);
            result
        });
        task.map(|joined| joined.unwrap_or_else(|e| Err(ImageError::Interrupted(e.to_string()))))
            .boxed()
            .shared()
    }

    async fn pull(
        &self,
        reference: &Reference,
        credentials: &[Credentials],
    ) -> Result<Image, ImageError> {
        let name = reference.to_string();
        let before = self.disk.get_record(&name)?;
        tracing::info!(image = %name, "pulling image");
        let result = pull::pull(&self.disk, reference, credentials, &self.sources).await;
        let replaced = match (&result, before) {
            (Ok(now), Some(before)) => now.digest != before.digest,
            // Make room; otherwise verified parts stay for the next attempt.
            (Err(ImageError::DiskFull { .. }), _) => true,
            _ => false,
        };
        if replaced || self.sweep_due.load(Ordering::Relaxed) {
            self.sweep().await?;
        }
        match &result {
            Ok(record) => tracing::info!(image = %name, digest = %record.digest, "pulled image"),
            Err(error) => tracing::warn!(image = %name, %error, "image not pulled"),
        }
        result.map(|record| self.image(record))
    }

    async fn find(&self, reference: &Reference) -> Result<Option<Image>, ImageError> {
        let (disk, reference) = (self.disk.clone(), reference.clone());
        let found = blocking(move || find(&disk, &reference)).await?;
        Ok(found.map(|record| self.image(record)))
    }

    fn image(&self, record: Record) -> Image {
        Image {
            layers: record
                .layers
                .iter()
                .map(|c| self.disk.layer_fs(c))
                .collect(),
            reference: record.reference,
            digest: record.digest.to_string(),
            config: record.config,
            size_bytes: record.size_bytes,
        }
    }

    /// An OCI layout directory or a tar archive (OCI or `docker save`); returns the references imported.
    /// Another process may do this while an agent uses the store.
    pub async fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<String>, ImageError> {
        let result = import::import(&self.disk, path, name).await;
        if matches!(result, Err(ImageError::DiskFull { .. })) {
            self.sweep().await?;
        }
        result
    }

    pub async fn list(&self) -> Result<Vec<Image>, ImageError> {
        let disk = self.disk.clone();
        let mut records = blocking(move || disk.records()).await?;
        records.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(records
            .into_iter()
            .map(|record| self.image(record))
            .collect())
    }

    /// Forgets a name, and removes what nothing else needs: not what is mounted.
    pub async fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let parsed = Reference::parse(reference)?;
        let (disk, name) = (self.disk.clone(), parsed.to_string());
        let removed = blocking(move || disk.remove_record(&name)).await?;
        if !removed {
            return Err(ImageError::Unknown(parsed.to_string()));
        }
        self.sweep().await
    }

    /// Names that are not in `used` and were not used for `young`, with their sizes; least recently used first.
    pub(crate) async fn unused(
        &self,
        used: &BTreeSet<String>,
        young: Duration,
    ) -> Result<Vec<(String, u64)>, ImageError> {
        let normal = |text: &String| Some(Reference::parse(text).ok()?.to_string());
        let used: BTreeSet<String> = used.iter().filter_map(normal).collect();
        let disk = self.disk.clone();
        blocking(move || {
            let mut found = Vec::new();
            for record in disk.records()? {
                let since = disk.last_used(&record.reference);
                let is_young = since.elapsed().is_ok_and(|age| age < young);
                if !used.contains(&record.reference) && !is_young {
                    found.push((since, record.reference, record.size_bytes));
                }
            }
            found.sort();
            Ok(found
                .into_iter()
                .map(|(_, name, size)| (name, size))
                .collect())
        })
        .await
    }

    async fn sweep(&self) -> Result<(), ImageError> {
        let disk = self.disk.clone();
        let done = blocking(move || sweep::sweep(&disk)).await?;
        self.sweep_due.store(!done, Ordering::Relaxed);
        Ok(())
    }

    /// Mounts the image's layers with a writable upper directory in `dir` (`dir/upper`, `dir/work`); the
    /// root file system is `dir/rootfs`. Idempotent. The layers stay until [`Self::unmount`].
    pub async fn mount(&self, image: &Image, dir: &Path) -> Result<PathBuf, ImageError> {
        self.mount_for(image, dir, Purpose::Volume, None).await
    }

    /// The same, with the image's files owned by the users of a pod.
    pub(crate) async fn mount_for(
        &self,
        image: &Image,
        dir: &Path,
        purpose: Purpose,
        users: Option<&UserNamespace>,
    ) -> Result<PathBuf, ImageError> {
        let (disk, image, dir) = (self.disk.clone(), image.clone(), dir.to_path_buf());
        let users = users.cloned();
        blocking(move || mount_image(&disk, &image, &dir, purpose, users.as_ref())).await
    }

    /// Idempotent. What the container wrote stays in `dir/upper`; `dir` is the caller's.
    pub async fn unmount(&self, dir: &Path) -> Result<(), ImageError> {
        let (disk, dir) = (self.disk.clone(), dir.to_path_buf());
        blocking(move || {
            mount::unmount_overlay(&dir).map_err(|e| ImageError::io("unmount", &dir, e))?;
            disk.remove_mount(&dir).map(drop)
        })
        .await
    }
}

/// By name; by digest also under another name of the same repository.
fn find(disk: &Disk, reference: &Reference) -> Result<Option<Record>, ImageError> {
    let complete = |record: &Record| record.layers.iter().all(|chain| disk.has_layer(chain));
    let name = reference.to_string();
    if let Some(record) = disk.get_record(&name)?.filter(complete) {
        disk.note_use(&name);
        return Ok(Some(record));
    }
    let Some(digest) = &reference.digest else {
        return Ok(None);
    };
    let same_repository = |record: &Record| {
        Reference::parse(&record.reference).is_ok_and(|r| r.name() == reference.name())
    };
    let mut records = disk.records()?.into_iter();
    let found = records.find(|r| r.blobs.contains(digest) && same_repository(r) && complete(r));
    let Some(mut record) = found else {
        return Ok(None);
    };
    // A name of its own, so that it does not go with the other.
    let _lock = disk.lock_shared()?;
    record.reference = name;
    record.digest = digest.clone();
    disk.put_record(&record)?;
    Ok(Some(record))
}

fn mount_image(
    disk: &Disk,
    image: &Image,
    dir: &Path,
    purpose: Purpose,
    users: Option<&UserNamespace>,
) -> Result<PathBuf, ImageError> {
    let _lock = disk.lock_shared()?;
    std::fs::create_dir_all(dir).map_err(|e| ImageError::io("create", dir, e))?;
    let chain = |path: &PathBuf| {
        let hex = path.parent()?.file_name()?.to_str()?;
        digest::Digest::parse(&format!("sha256:{hex}")).filter(|chain| disk.has_layer(chain))
    };
    // Gone when the image was removed since the caller got it: it has to be ensured again.
    let layers = image
        .layers
        .iter()
        .map(chain)
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| ImageError::Unknown(image.reference.clone()))?;
    // First the claim, then the mount: a crash in between leaves a claim too many.
    disk.put_mount(&MountRecord {
        dir: dir.to_path_buf(),
        layers,
    })?;
    let mut lower = Vec::with_capacity(image.layers.len() + 1);
    if purpose == Purpose::Root {
        lower.push(disk.mount_points());
    } else if image.layers.is_empty() {
        lower.push(disk.empty());
    }
    lower.extend(image.layers.iter().cloned());
    mount::mount_overlay(&lower, dir, users).map_err(|e| ImageError::io("mount overlay at", dir, e))
}

/// Runs file work off the async threads.
async fn blocking<T, F>(work: F) -> Result<T, ImageError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ImageError> + Send + 'static,
{
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(ImageError::Interrupted(e.to_string())))
}

/// Any bytes as what a registry sends.
#[cfg(fuzzing)]
pub(crate) fn fuzz_manifest(bytes: &[u8]) {
    let _ = manifest::parse("fuzz", bytes);
    for layers in 0..3 {
        let _ = manifest::parse_config("fuzz", bytes, layers);
    }
}

/// Any bytes as a layer, compressed or not.
#[cfg(fuzzing)]
pub(crate) fn fuzz_layer(bytes: &[u8]) {
    let parent = std::env::temp_dir().join(format!("waggle-fuzz-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&parent);
    let root = parent.join("a/b/root");
    std::fs::create_dir_all(&root).expect("a directory");
    let limits = unpack::Limits {
        bytes: 1 << 20,
        entries: 100,
    };
    let _ = unpack::unpack(bytes, &root, &[], limits);
    for directory in ["", "a", "a/b"] {
        let entries = std::fs::read_dir(parent.join(directory)).expect("it is there");
        assert_eq!(entries.count(), 1, "something got out of the layer");
    }
    let _ = std::fs::remove_dir_all(&parent);
}

#[cfg(test)]
pub(crate) mod tests;
