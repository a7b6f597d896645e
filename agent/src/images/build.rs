//! Images made here, without a registry: one layer from a directory.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use oci_spec::image::Config;

use super::digest::{Digest, Hasher};
use super::error::ImageError;
use super::manifest::{
    Descriptor, ImageManifest, Index, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, host_platform,
};
use super::reference::Reference;
use super::{Image, ImageStore, PullPolicy};

/// Builds an image whose only layer is the tree at `rootfs` and puts it into the store under `reference`.
pub async fn from_directory(
    store: &ImageStore,
    rootfs: &Path,
    config: &Config,
    reference: &str,
) -> Result<Image, ImageError> {
    let name = Reference::parse(reference)?.to_string();
    let dir = store.disk.temporary("build");
    // The sweeper takes what is in `tmp` for abandoned unless somebody holds the lock.
    let locked = store.disk.clone();
    let lock = super::blocking(move || locked.lock_shared()).await?;
    let built = {
        let (dir, rootfs, config, name) = (
            dir.clone(),
            rootfs.to_path_buf(),
            config.clone(),
            name.clone(),
        );
        super::blocking(move || write_layout(&dir, &rootfs, &config, &name)).await
    };
    let result = match built {
        Ok(()) => store.import(&dir, Some(&name)).await.map(drop),
        Err(e) => Err(e),
    };
    drop(lock);
    let removed = dir.clone();
    let _ = super::blocking(move || {
        let _ = fs::remove_dir_all(removed);
        Ok(())
    })
    .await;
    result?;
    store.ensure(&name, PullPolicy::Never, &[]).await
}

/// Writes an OCI image layout directory with one image, whose only layer is the tree at `rootfs`. The
/// same tree gives the same digests. Blocks.
pub fn write_layout(
    dir: &Path,
    rootfs: &Path,
    config: &Config,
    reference: &str,
) -> Result<(), ImageError> {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|e| ImageError::io("create", &blobs, e))?;
    let layer = layer(&blobs, rootfs).map_err(|e| ImageError::io("archive", rootfs, e))?;
    let platform = host_platform();
    let image_config = serde_json::json!({
        "architecture": platform.architecture,
        "os": platform.os,
        "config": config,
        "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
    });
    let config = put(&blobs, OCI_CONFIG, &json(&image_config))?;
    let manifest = ImageManifest {
        schema_version: 2,
        media_type: Some(OCI_MANIFEST.to_owned()),
        config,
        layers: vec![layer],
    };
    let mut manifest = put(&blobs, OCI_MANIFEST, &json(&manifest))?;
    manifest.platform = Some(platform);
    let name = (
        "org.opencontainers.image.ref.name".to_owned(),
        reference.to_owned(),
    );
    manifest.annotations = Some([name].into());
    let index = Index {
        schema_version: 2,
        media_type: Some(OCI_INDEX.to_owned()),
        manifests: vec![manifest],
    };
    write(&dir.join("index.json"), &json(&index))?;
    write(
        &dir.join("oci-layout"),
        br#"{"imageLayoutVersion":"1.0.0"}"#,
    )
}

fn json(value: &impl serde::Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data")
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    fs::write(path, bytes).map_err(|e| ImageError::io("write", path, e))
}

fn put(blobs: &Path, media_type: &str, bytes: &[u8]) -> Result<Descriptor, ImageError> {
    let digest = Digest::of(bytes);
    write(&blobs.join(digest.hex()), bytes)?;
    Ok(descriptor(media_type, digest, bytes.len() as u64))
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        platform: None,
        annotations: None,
    }
}

/// The tree as an uncompressed archive, so that its digest is the diff ID too.
fn layer(blobs: &Path, rootfs: &Path) -> io::Result<Descriptor> {
    let temporary = blobs.join("layer.part");
    let mut output = Hashing {
        file: io::BufWriter::new(File::create(&temporary)?),
        hasher: Hasher::default(),
        size: 0,
    };
    let mut builder = tar::Builder::new(&mut output);
    builder.follow_symlinks(false);
    builder.mode(tar::HeaderMode::Complete);
    append_sorted(&mut builder, rootfs, PathBuf::new())?;
    builder.finish()?;
    drop(builder);
    output.file.flush()?;
    let digest = output.hasher.finish();
    fs::rename(&temporary, blobs.join(digest.hex()))?;
    Ok(descriptor(OCI_LAYER, digest, output.size))
}

fn append_sorted<W: Write>(
    builder: &mut tar::Builder<W>,
    root: &Path,
    relative: PathBuf,
) -> io::Result<()> {
    let path = root.join(&relative);
    if fs::symlink_metadata(&path)?.file_type().is_dir() {
        if !relative.as_os_str().is_empty() {
            builder.append_dir(&relative, &path)?;
        }
        let mut names: Vec<_> = fs::read_dir(&path)?
            .map(|entry| Ok(entry?.file_name()))
            .collect::<io::Result<_>>()?;
        names.sort();
        for name in names {
            append_sorted(builder, root, relative.join(name))?;
        }
        return Ok(());
    }
    builder.append_path_with_name(&path, &relative)
}

struct Hashing {
    file: io::BufWriter<File>,
    hasher: Hasher,
    size: u64,
}

impl Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_all(bytes)?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// A root file system of nothing but a static busybox with a link for each of its commands: what the demo
/// runs and what tests build on.
pub fn busybox_rootfs(root: &Path, busybox: &Path) -> Result<(), ImageError> {
    use std::os::unix::fs::PermissionsExt;
    let make = || -> io::Result<()> {
        for (dir, mode) in [
            ("bin", 0o755),
            ("etc", 0o755),
            ("proc", 0o755),
            ("sys", 0o755),
            ("dev", 0o755),
            ("root", 0o700),
            ("tmp", 0o1777),
            ("var", 0o755),
        ] {
            let path = root.join(dir);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, PermissionsExt::from_mode(mode))?;
        }
        fs::write(
            root.join("etc/passwd"),
            "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
        )?;
        fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
        fs::copy(busybox, root.join("bin/busybox"))?;
        let listed = std::process::Command::new(busybox).arg("--list").output()?;
        let mut text = String::new();
        listed.stdout.as_slice().read_to_string(&mut text)?;
        for command in text.lines().filter(|c| *c != "busybox" && !c.contains('/')) {
            std::os::unix::fs::symlink("busybox", root.join("bin").join(command))?;
        }
        Ok(())
    };
    make().map_err(|e| ImageError::io("write a root file system to", root, e))
}
