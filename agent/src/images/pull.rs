//! Bringing an image from a registry into the store.

use std::path::PathBuf;

use futures::{StreamExt, TryStreamExt};

use super::digest::{Digest, chain_ids};
use super::disk::{Disk, Record, rename_durably};
use super::error::ImageError;
use super::manifest::{self, Descriptor, ImageManifest, Manifest};
use super::reference::Reference;
use super::registry::Registry;
use super::unpack::{self, Limits, UnpackError};
use super::{Credentials, Sources, blocking};

const PARALLEL_DOWNLOADS: usize = 3;

/// From the registry's mirrors, one after the other, then from itself. What a mirror cannot give is no error.
pub(super) async fn pull(
    disk: &Disk,
    reference: &Reference,
    credentials: &[Credentials],
    sources: &Sources,
) -> Result<Record, ImageError> {
    let locked = disk.clone();
    let _lock = blocking(move || locked.lock_shared()).await?;
    let mirrors = sources.mirrors.iter();
    for (_, mirror) in mirrors.filter(|(registry, _)| *registry == reference.registry) {
        let at = Reference {
            registry: mirror.clone(),
            ..reference.clone()
        };
        match pull_from(disk, reference, &at, credentials, sources).await {
            Err(error) if !matches!(error, ImageError::DiskFull { .. }) => {
                tracing::warn!(image = %reference, mirror, %error, "the mirror does not help");
            }
            settled => return settled,
        }
    }
    pull_from(disk, reference, reference, credentials, sources).await
}

/// Pulls with the credentials for the registry, one after the other until one is accepted; anonymously
/// when there are none. `at` is where the image is fetched, `reference` what it will be called.
async fn pull_from(
    disk: &Disk,
    reference: &Reference,
    at: &Reference,
    credentials: &[Credentials],
    sources: &Sources,
) -> Result<Record, ImageError> {
    let insecure = &sources.insecure;
    let fitting: Vec<&Credentials> = credentials.iter().filter(|c| applies(c, at)).collect();
    if fitting.is_empty() {
        return pull_with(disk, reference, at, None, insecure).await;
    }
    let mut last = None;
    for credentials in fitting {
        match pull_with(disk, reference, at, Some(credentials), insecure).await {
            Err(e @ ImageError::Unauthorized { .. }) => last = Some(e),
            other => return other,
        }
    }
    Err(last.expect("there was at least one to try"))
}

/// Docker's own registry goes by several names in credential files.
fn applies(credentials: &Credentials, reference: &Reference) -> bool {
    let name = credentials.registry.as_str();
    let name = name
        .strip_prefix("https://")
        .or_else(|| name.strip_prefix("http://"))
        .unwrap_or(name);
    let host = name.split('/').next().unwrap_or(name);
    host == reference.registry
        || (reference.registry == "docker.io"
            && matches!(host, "index.docker.io" | "registry-1.docker.io"))
}

async fn pull_with(
    disk: &Disk,
    reference: &Reference,
    at: &Reference,
    credentials: Option<&Credentials>,
    insecure: &[String],
) -> Result<Record, ImageError> {
    let shown = reference.to_string();
    let registry = Registry::new(at, credentials, insecure)?;
    let (bytes, digest) = registry.manifest(None).await?;
    let mut blobs = vec![disk.put_blob(&bytes)?];
    let image = match manifest::parse(&shown, &bytes)? {
        Manifest::Image(image) => image,
        Manifest::Index(index) => {
            let chosen = manifest::choose(&shown, &index, &manifest::host_platform())?;
            let (bytes, _) = registry.manifest(Some(&chosen.digest)).await?;
            blobs.push(disk.put_blob(&bytes)?);
            image_manifest(&shown, &bytes)?
        }
    };
    check_config_size(&shown, &image.config)?;
    registry.blob(disk, &image.config).await?;
    let plan = plan(disk, &shown, &image)?;
    // A blob twice in one image is fetched once.
    let mut wanted: Vec<Descriptor> = plan
        .missing
        .iter()
        .map(|i| image.layers[*i].clone())
        .collect();
    wanted.sort_by(|a, b| a.digest.cmp(&b.digest));
    wanted.dedup_by(|a, b| a.digest == b.digest);
    futures::stream::iter(wanted)
        .map(|layer| {
            let registry = &registry;
            async move { registry.blob(disk, &layer).await }
        })
        .buffer_unordered(PARALLEL_DOWNLOADS)
        .try_collect::<()>()
        .await?;
    let disk = disk.clone();
    blocking(move || complete(&disk, shown, digest, blobs, &image, plan)).await
}

pub(super) fn image_manifest(reference: &str, bytes: &[u8]) -> Result<ImageManifest, ImageError> {
    match manifest::parse(reference, bytes)? {
        Manifest::Image(image) => Ok(image),
        Manifest::Index(_) => Err(ImageError::invalid(reference, "an index within an index")),
    }
}

pub(super) fn check_config_size(reference: &str, config: &Descriptor) -> Result<(), ImageError> {
    if config.size > manifest::MAX_CONFIG_BYTES {
        return Err(ImageError::invalid(
            reference,
            "its configuration is too large",
        ));
    }
    Ok(())
}

/// What an image consists of once unpacked, and which of its layers are not there.
pub(super) struct Plan {
    config: oci_spec::image::Config,
    diff_ids: Vec<Digest>,
    chain: Vec<Digest>,
    /// Indices of layers to unpack, lowest first.
    pub(super) missing: Vec<usize>,
}

/// Reads the configuration, which has to be in the store.
pub(super) fn plan(
    disk: &Disk,
    reference: &str,
    image: &ImageManifest,
) -> Result<Plan, ImageError> {
    let bytes = disk.read_blob(&image.config.digest, manifest::MAX_CONFIG_BYTES)?;
    let config = manifest::parse_config(reference, &bytes, image.layers.len())?;
    let chain = chain_ids(&config.diff_ids);
    let missing = (0..chain.len())
        .filter(|i| !disk.has_layer(&chain[*i]))
        .collect();
    Ok(Plan {
        config: config.config,
        diff_ids: config.diff_ids,
        chain,
        missing,
    })
}

/// Unpacks what is missing and gives the image its name. All missing blobs are in the store, and the
/// caller holds the lock.
pub(super) fn complete(
    disk: &Disk,
    reference: String,
    digest: Digest,
    mut blobs: Vec<Digest>,
    image: &ImageManifest,
    plan: Plan,
) -> Result<Record, ImageError> {
    for i in &plan.missing {
        unpack_layer(disk, &reference, &image.layers[*i], &plan, *i)?;
    }
    let descriptors = || std::iter::once(&image.config).chain(&image.layers);
    // A layer that was there unpacked may not be there as a blob; then there is nothing to keep.
    blobs.extend(descriptors().map(|d| d.digest.clone()));
    let record = Record {
        reference,
        digest,
        blobs,
        layers: plan.chain,
        size_bytes: descriptors().map(|d| d.size).fold(0, u64::saturating_add),
        config: plan.config,
    };
    disk.put_record(&record)?;
    Ok(record)
}

fn unpack_layer(
    disk: &Disk,
    reference: &str,
    layer: &Descriptor,
    plan: &Plan,
    i: usize,
) -> Result<(), ImageError> {
    let target = disk.layer(&plan.chain[i]);
    let work = disk.temporary("layer");
    let result = unpack_into(disk, reference, layer, plan, i, &work).and_then(|()| {
        match rename_durably(&work, &target) {
            Ok(()) => Ok(()),
            // Another process was faster; a complete layer is as good as ours.
            Err(_) if disk.has_layer(&plan.chain[i]) => Ok(()),
            Err(e) => Err(ImageError::io("rename", &target, e)),
        }
    });
    let _ = std::fs::remove_dir_all(&work);
    result
}

fn unpack_into(
    disk: &Disk,
    reference: &str,
    layer: &Descriptor,
    plan: &Plan,
    i: usize,
    work: &std::path::Path,
) -> Result<(), ImageError> {
    let root = work.join("fs");
    std::fs::create_dir_all(&root).map_err(|e| ImageError::io("create", &root, e))?;
    let below: Vec<PathBuf> = plan.chain[..i].iter().map(|c| disk.layer_fs(c)).collect();
    let path = disk.blob(&layer.digest);
    let blob = std::fs::File::open(&path).map_err(|e| ImageError::io("open", &path, e))?;
    let actual = unpack::unpack(blob, &root, &below, Limits::default())
        .map_err(|e| explain(reference, layer, &root, &e))?;
    if actual != plan.diff_ids[i] {
        return Err(ImageError::DigestMismatch {
            reference: reference.to_owned(),
            expected: format!("{} (unpacked layer)", plan.diff_ids[i]),
            actual: actual.to_string(),
        });
    }
    // One for all its files; their number has no bound.
    std::fs::File::open(&root)
        .and_then(|dir| Ok(nix::unistd::syncfs(dir)?))
        .map_err(|e| ImageError::io("sync", &root, e))
}

fn explain(
    reference: &str,
    layer: &Descriptor,
    root: &std::path::Path,
    error: &UnpackError,
) -> ImageError {
    if error.is_disk_full() {
        return ImageError::DiskFull {
            what: "unpack a layer into",
            path: root.to_path_buf(),
        };
    }
    ImageError::InvalidLayer {
        reference: reference.to_owned(),
        layer: layer.digest.to_string(),
        detail: error.to_string(),
    }
}
