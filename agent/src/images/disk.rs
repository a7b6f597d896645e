//! What the store keeps on disk, and who may change it when.
//!
//! ```text
//!   VERSION                      format of this directory
//!   lock                         flock: shared while something is added, exclusive while something is swept
//!   blobs/sha256/<hex>           manifests, configurations and layers as they came, digest verified
//!   layers/<chain id>/fs         an unpacked layer; the directory is there only when it is complete
//!   images/<hash of name>.json   a name and what it stands for
//!   mounts/<hash of dir>.json    a mount and the layers below it, which are therefore in use
//!   empty/                       the lower directory of an image without layers
//!   mount-points/                the lowest directory of a container's root: what runc mounts something at
//!   tmp/                         everything unfinished
//! ```
//! Whatever is under its final name is complete and durable: it was written in `tmp`, synced and renamed.
//! Several processes may use one store: adders hold the lock shared and never touch what is not theirs; the
//! sweeper holds it exclusively, so nothing in `tmp` is then alive. There is no other shared state.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::digest::{Digest, Hasher};
use super::error::ImageError;

const FORMAT: &str = "waggle-images-1";

const EMPTY: &str = "empty";
const MOUNT_POINTS: &str = "mount-points";

/// The store's directory.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) root: PathBuf,
}

/// A name in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) reference: String,
    /// What the name resolved to: an index or a manifest.
    pub(super) digest: Digest,
    /// Every blob of the image, so that it stays.
    pub(super) blobs: Vec<Digest>,
    /// Chain IDs, lowest first.
    pub(super) layers: Vec<Digest>,
    pub(super) size_bytes: u64,
    pub(super) config: oci_spec::image::Config,
}

/// A mount that keeps its layers in the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct MountRecord {
    pub(super) dir: PathBuf,
    pub(super) layers: Vec<Digest>,
}

/// Held while the store is changed; dropping it unlocks.
#[derive(Debug)]
pub(super) struct Lock(#[allow(dead_code)] File);

/// Idempotent. As in the images of distributions: directories that all may read, empty files.
fn make_mount_points(layer: &Path) -> Result<(), ImageError> {
    let make = || -> io::Result<()> {
        for directory in ["", "dev", "etc", "proc", "sys"] {
            let path = layer.join(directory);
            fs::create_dir_all(&path)?;
            fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        }
        for file in ["etc/hostname", "etc/hosts", "etc/resolv.conf"] {
            let path = layer.join(file);
            File::options().append(true).create(true).open(&path)?;
            fs::set_permissions(&path, PermissionsExt::from_mode(0o644))?;
        }
        Ok(())
    };
    make().map_err(|e| ImageError::io("create", layer, e))
}

impl Disk {
    pub(super) fn create(root: &Path) -> Result<Self, ImageError> {
        for sub in ["blobs/sha256", "layers", "images", "mounts", EMPTY, "tmp"] {
            let path = root.join(sub);
            fs::create_dir_all(&path).map_err(|e| ImageError::io("create", &path, e))?;
        }
        make_mount_points(&root.join(MOUNT_POINTS))?;
        // Layers hold set-uid programs, perhaps with known holes: not for this machine's users.
        let private = PermissionsExt::from_mode(0o700);
        fs::set_permissions(root, private).map_err(|e| ImageError::io("protect", root, e))?;
        let disk = Self {
            root: root.to_path_buf(),
        };
        disk.check_format()?;
        Ok(disk)
    }

    fn check_format(&self) -> Result<(), ImageError> {
        let path = self.root.join("VERSION");
        match fs::read_to_string(&path) {
            Ok(found) if found.trim() == FORMAT => Ok(()),
            Ok(found) => Err(ImageError::Format {
                path: self.root.clone(),
                found: found.trim().chars().take(64).collect(),
                known: FORMAT,
            }),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                self.write_durably(&path, FORMAT.as_bytes())
            }
            Err(e) => Err(ImageError::io("read", &path, e)),
        }
    }

    /// A layer without anything.
    pub(super) fn empty(&self) -> PathBuf {
        self.root.join(EMPTY)
    }

    /// A layer with what every container has something mounted at. Without it runc makes these in each container, where
    /// a file costs the file system a copy of its directory, too.
    pub(super) fn mount_points(&self) -> PathBuf {
        self.root.join(MOUNT_POINTS)
    }

    fn open_lock(&self) -> Result<(PathBuf, File), ImageError> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(|e| ImageError::io("open", &path, e))?;
        Ok((path, file))
    }

    /// Waits for a sweep under way, if any; then nothing is swept until the lock is dropped. Blocks.
    pub(super) fn lock_shared(&self) -> Result<Lock, ImageError> {
        let (path, file) = self.open_lock()?;
        file.lock_shared()
            .map_err(|e| ImageError::io("lock", &path, e))?;
        Ok(Lock(file))
    }

    /// `None` while anyone adds something.
    pub(super) fn try_lock_exclusive(&self) -> Result<Option<Lock>, ImageError> {
        let (path, file) = self.open_lock()?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Lock(file))),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(e)) => Err(ImageError::io("lock", &path, e)),
        }
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    pub(super) fn layer(&self, chain: &Digest) -> PathBuf {
        self.root.join("layers").join(chain.hex())
    }

    /// The unpacked tree of a layer.
    pub(super) fn layer_fs(&self, chain: &Digest) -> PathBuf {
        self.layer(chain).join("fs")
    }

    fn record(&self, reference: &str) -> PathBuf {
        let name = Digest::of(reference.as_bytes());
        self.root
            .join("images")
            .join(format!("{}.json", name.hex()))
    }

    fn mount_record(&self, dir: &Path) -> PathBuf {
        let name = Digest::of(dir.as_os_str().as_encoded_bytes());
        self.root
            .join("mounts")
            .join(format!("{}.json", name.hex()))
    }

    /// A name below `tmp` that nobody else uses.
    pub(super) fn temporary(&self, kind: &str) -> PathBuf {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let random: u32 = rand::random();
        let name = format!("{kind}-{}-{n}-{random:08x}", std::process::id());
        self.root.join("tmp").join(name)
    }

    pub(super) fn write_durably(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        self.write(path, bytes, |file, temporary| {
            file.sync_all()?;
            rename_durably(temporary, path)
        })
    }

    /// `complete` gives what is written its name: a reader sees all of it or what was there before.
    fn write(
        &self,
        path: &Path,
        bytes: &[u8],
        complete: impl FnOnce(&File, &Path) -> io::Result<()>,
    ) -> Result<(), ImageError> {
        let temporary = self.temporary("file");
        let write = || -> io::Result<()> {
            let mut file = File::create_new(&temporary)?;
            file.write_all(bytes)?;
            complete(&file, &temporary)
        };
        write().map_err(|e| {
            let _ = fs::remove_file(&temporary);
            ImageError::io("write", path, e)
        })
    }

    pub(super) fn put_record(&self, record: &Record) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(record).expect("a record is plain data");
        self.write_durably(&self.record(&record.reference), &bytes)
    }

    pub(super) fn get_record(&self, reference: &str) -> Result<Option<Record>, ImageError> {
        read_json(&self.record(reference))
    }

    /// When a name was written or used last: the time of its file.
    pub(super) fn last_used(&self, reference: &str) -> SystemTime {
        let modified = fs::metadata(self.record(reference)).and_then(|it| it.modified());
        modified.unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// A hint for who makes room: failing to note it does no harm.
    pub(super) fn note_use(&self, reference: &str) {
        let file = File::options().append(true).open(self.record(reference));
        let _ = file.and_then(|file| file.set_modified(SystemTime::now()));
    }

    pub(super) fn remove_record(&self, reference: &str) -> Result<bool, ImageError> {
        remove_file(&self.record(reference))
    }

    pub(super) fn records(&self) -> Result<Vec<Record>, ImageError> {
        read_all_json(&self.root.join("images"))
    }

    /// The disk is not waited for: a mount does not outlive the machine's power either, and each pod makes one.
    pub(super) fn put_mount(&self, record: &MountRecord) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(record).expect("a record is plain data");
        let path = self.mount_record(&record.dir);
        self.write(&path, &bytes, |_, temporary| fs::rename(temporary, &path))
    }

    pub(super) fn remove_mount(&self, dir: &Path) -> Result<bool, ImageError> {
        remove_file(&self.mount_record(dir))
    }

    pub(super) fn mounts(&self) -> Result<Vec<MountRecord>, ImageError> {
        read_all_json(&self.root.join("mounts"))
    }

    pub(super) fn has_blob(&self, digest: &Digest, size: u64) -> bool {
        fs::metadata(self.blob(digest)).is_ok_and(|m| m.len() == size)
    }

    pub(super) fn has_layer(&self, chain: &Digest) -> bool {
        self.layer_fs(chain).is_dir()
    }

    /// Bytes that are in memory and verified already.
    pub(super) fn put_blob(&self, bytes: &[u8]) -> Result<Digest, ImageError> {
        let digest = Digest::of(bytes);
        if !self.has_blob(&digest, bytes.len() as u64) {
            self.write_durably(&self.blob(&digest), bytes)?;
        }
        Ok(digest)
    }

    pub(super) fn read_blob(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let path = self.blob(digest);
        read_limited(&path, limit).map_err(|e| ImageError::io("read", &path, e))
    }
}

/// A blob on its way into the store: it gets its name only when digest and size are right.
pub(super) struct BlobWriter<'a> {
    disk: &'a Disk,
    path: PathBuf,
    file: Option<File>,
    hasher: Hasher,
    written: u64,
}

impl<'a> BlobWriter<'a> {
    pub(super) fn new(disk: &'a Disk) -> Result<Self, ImageError> {
        let path = disk.temporary("blob");
        let file = File::create_new(&path).map_err(|e| ImageError::io("create", &path, e))?;
        Ok(Self {
            disk,
            path,
            file: Some(file),
            hasher: Hasher::default(),
            written: 0,
        })
    }

    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let file = self.file.as_mut().expect("open until it is finished");
        file.write_all(bytes)
            .map_err(|e| ImageError::io("write", &self.path, e))?;
        self.hasher.update(bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }

    /// Makes it durable under its name when it is what was expected.
    pub(super) fn finish(
        mut self,
        reference: &str,
        expected: Option<(&Digest, u64)>,
    ) -> Result<(Digest, u64), ImageError> {
        let file = self.file.take().expect("open until it is finished");
        let digest = std::mem::take(&mut self.hasher).finish();
        if let Some((expected, size)) = expected {
            check(reference, expected, size, &digest, self.written)?;
        }
        let target = self.disk.blob(&digest);
        file.sync_all()
            .and_then(|()| rename_durably(&self.path, &target))
            .map_err(|e| ImageError::io("write", &target, e))?;
        Ok((digest, self.written))
    }
}

impl Drop for BlobWriter<'_> {
    fn drop(&mut self) {
        // Renamed away when all went well.
        let _ = fs::remove_file(&self.path);
    }
}

fn check(
    reference: &str,
    expected: &Digest,
    size: u64,
    actual: &Digest,
    written: u64,
) -> Result<(), ImageError> {
    if written != size {
        return Err(ImageError::SizeMismatch {
            reference: reference.to_owned(),
            digest: expected.to_string(),
            expected: size,
            actual: written,
        });
    }
    if actual != expected {
        return Err(ImageError::DigestMismatch {
            reference: reference.to_owned(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        });
    }
    Ok(())
}

/// Renames and makes the new name durable.
pub(super) fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    let parent = to.parent().unwrap_or(Path::new("/"));
    File::open(parent)?.sync_all()
}

pub(super) fn read_limited(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = Vec::new();
    File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        let message = format!("larger than {limit} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, message));
    }
    Ok(bytes)
}

fn remove_file(path: &Path) -> Result<bool, ImageError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(ImageError::io("remove", path, e)),
    }
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(ImageError::io("read", path, e)),
    };
    match serde_json::from_slice(&bytes) {
        Ok(value) => Ok(Some(value)),
        Err(e) => {
            // As if it were not there: the image is pulled again, nothing wrong is served.
            tracing::warn!(path = %path.display(), error = %e, "image store: unreadable record ignored");
            Ok(None)
        }
    }
}

fn read_all_json<T: serde::de::DeserializeOwned>(dir: &Path) -> Result<Vec<T>, ImageError> {
    let entries = fs::read_dir(dir).map_err(|e| ImageError::io("list", dir, e))?;
    let mut all = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| ImageError::io("list", dir, e))?.path();
        all.extend(read_json(&path)?);
    }
    Ok(all)
}
