//! The store against a real kernel (overlayfs, as root) and, in `registry`, against a real registry.
#![allow(clippy::unwrap_used)]

mod crash;
mod registry;
mod resumed;

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use oci_spec::image::{Config, ConfigBuilder};

use super::build::{from_directory, write_layout};
use super::*;

/// A small tree whose content depends on `n`.
pub(crate) fn tree(dir: &Path, n: u32) {
    fs::create_dir_all(dir.join("etc")).unwrap();
    fs::write(dir.join("etc/hello"), format!("hello {n}")).unwrap();
    fs::write(dir.join("su"), "x").unwrap();
    fs::set_permissions(dir.join("su"), PermissionsExt::from_mode(0o4755)).unwrap();
    std::os::unix::fs::symlink("etc/hello", dir.join("link")).unwrap();
    std::os::unix::fs::chown(dir.join("etc/hello"), Some(12), Some(34)).unwrap();
}

pub(crate) fn config() -> Config {
    ConfigBuilder::default()
        .cmd(vec!["/bin/sh".to_owned()])
        .env(vec!["A=b".to_owned()])
        .build()
        .unwrap()
}

pub(crate) fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

struct Fixture {
    dir: tempfile::TempDir,
    store: ImageStore,
}

impl Fixture {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&dir.path().join("store")).await.unwrap();
        Self { dir, store }
    }

    fn store_dir(&self) -> std::path::PathBuf {
        self.dir.path().join("store")
    }

    async fn image(&self, n: u32, reference: &str) -> Image {
        let root = self.dir.path().join(format!("root-{n}"));
        if !root.exists() {
            tree(&root, n);
        }
        from_directory(&self.store, &root, &config(), reference)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn an_image_is_built_mounted_written_to_and_unmounted() {
    let f = Fixture::new().await;
    let image = f.image(1, "localhost/one:v1").await;
    assert_eq!(image.reference, "localhost/one:v1");
    assert_eq!(image.config.cmd().clone().unwrap(), ["/bin/sh"]);
    assert_eq!(image.layers.len(), 1);
    assert!(
        image.id().starts_with("localhost/one@sha256:"),
        "{}",
        image.id()
    );

    let dir = f.dir.path().join("container");
    let rootfs = f.store.mount(&image, &dir).await.unwrap();
    assert_eq!(
        f.store.mount(&image, &dir).await.unwrap(),
        rootfs,
        "idempotent"
    );
    let hello = rootfs.join("link");
    assert_eq!(fs::read_to_string(&hello).unwrap(), "hello 1");
    let metadata = fs::metadata(&hello).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), (12, 34));
    assert_eq!(
        fs::metadata(rootfs.join("su")).unwrap().mode() & 0o7777,
        0o4755
    );
    fs::write(rootfs.join("etc/hello"), "changed").unwrap();
    assert_eq!(
        fs::read_to_string(image.layers[0].join("etc/hello")).unwrap(),
        "hello 1"
    );

    f.store.unmount(&dir).await.unwrap();
    f.store.unmount(&dir).await.unwrap();
    assert!(names(&rootfs).is_empty());
    assert_eq!(
        fs::read_to_string(dir.join("upper/etc/hello")).unwrap(),
        "changed"
    );
}

#[tokio::test]
async fn policies_decide_whether_the_registry_is_asked() {
    let f = Fixture::new().await;
    // Port 1 of loopback: nobody is there.
    let name = "127.0.0.1:1/x:v1";
    let error = f
        .store
        .ensure(name, PullPolicy::Never, &[])
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "ErrImageNeverPull");
    assert!(
        error
            .to_string()
            .contains("is not present with pull policy of Never")
    );
    let error = f
        .store
        .ensure(name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "RegistryUnavailable", "{error}");
    assert!(error.to_string().contains("refused"), "{error}");
    f.image(1, name).await;
    f.store.ensure(name, PullPolicy::Never, &[]).await.unwrap();
    f.store
        .ensure(name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    let error = f
        .store
        .ensure(name, PullPolicy::Always, &[])
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "RegistryUnavailable", "{error}");
    let error = f
        .store
        .ensure("X Y", PullPolicy::Always, &[])
        .await
        .unwrap_err();
    assert_eq!(error.reason(), "InvalidImageName");
}

#[tokio::test]
async fn an_image_is_found_by_its_digest() {
    let f = Fixture::new().await;
    let image = f.image(1, "127.0.0.1:1/x:v1").await;
    let by_digest = format!("127.0.0.1:1/x@{}", image.digest);
    let found = f
        .store
        .ensure(&by_digest, PullPolicy::Never, &[])
        .await
        .unwrap();
    assert_eq!(found.digest, image.digest);
    let elsewhere = format!("127.0.0.1:1/y@{}", image.digest);
    assert!(
        f.store
            .ensure(&elsewhere, PullPolicy::Never, &[])
            .await
            .is_err()
    );
}

#[tokio::test]
async fn in_the_root_of_a_container_there_is_what_is_mounted_at_and_nothing_is_made_for_it() {
    let f = Fixture::new().await;
    let image = f.image(1, "localhost/one").await;
    let dir = f.dir.path().join("container");
    let mounted = f.store.mount_for(&image, &dir, Purpose::Root, None).await;
    let rootfs = mounted.unwrap();
    let etc = names(&rootfs.join("etc"));
    let made = names(&dir.join("upper"));
    let mode = fs::metadata(rootfs.join("etc/hosts")).map(|it| it.mode() & 0o7777);
    // An image's own file is above it.
    let hello = fs::read_to_string(rootfs.join("etc/hello"));
    f.store.unmount(&dir).await.unwrap();
    assert_eq!(etc, ["hello", "hostname", "hosts", "resolv.conf"]);
    assert_eq!(made, Vec::<String>::new());
    assert_eq!(mode.unwrap(), 0o644);
    assert_eq!(hello.unwrap(), "hello 1");

    let dir = f.dir.path().join("volume");
    let mounted = f.store.mount_for(&image, &dir, Purpose::Volume, None).await;
    let etc = names(&mounted.unwrap().join("etc"));
    f.store.unmount(&dir).await.unwrap();
    assert_eq!(etc, ["hello"], "a volume has the image's files");
}

#[tokio::test]
async fn removing_keeps_what_other_names_and_mounts_need() {
    let f = Fixture::new().await;
    let one = f.image(1, "localhost/one").await;
    f.image(1, "localhost/same").await;
    let two = f.image(2, "localhost/two").await;
    assert_eq!(f.store.list().await.unwrap().len(), 3);
    assert_eq!(names(&f.store_dir().join("layers")).len(), 2);

    f.store.remove("localhost/one").await.unwrap();
    assert!(one.layers[0].exists(), "the other name needs it");
    f.store.remove("localhost/same").await.unwrap();
    assert!(!one.layers[0].exists());

    let dir = f.dir.path().join("container");
    f.store.mount(&two, &dir).await.unwrap();
    f.store.remove("localhost/two").await.unwrap();
    assert!(names(&f.store_dir().join("blobs/sha256")).is_empty());
    assert_eq!(
        fs::read_to_string(dir.join("rootfs/etc/hello")).unwrap(),
        "hello 2"
    );
    f.store.unmount(&dir).await.unwrap();
    ImageStore::open(&f.store_dir()).await.unwrap();
    assert!(names(&f.store_dir().join("layers")).is_empty());

    let error = f.store.remove("localhost/two").await.unwrap_err();
    assert!(matches!(error, ImageError::Unknown(_)));
    let error = f.store.mount(&two, &dir).await.unwrap_err();
    assert!(matches!(error, ImageError::Unknown(_)), "{error}");
}

#[tokio::test]
async fn what_a_crash_left_is_swept_and_what_is_complete_stays() {
    let f = Fixture::new().await;
    let image = f.image(1, "localhost/one").await;
    let root = f.store_dir();
    fs::create_dir_all(root.join("tmp/layer-1-1-0/fs/etc")).unwrap();
    fs::write(root.join("tmp/blob-1-1-0"), "half").unwrap();
    fs::create_dir_all(root.join("layers").join("0".repeat(64)).join("removed/etc")).unwrap();
    fs::write(root.join("blobs/sha256").join("0".repeat(64)), "orphan").unwrap();
    fs::write(root.join("images/torn.json"), "{\"reference\":").unwrap();

    // Not while somebody adds something: it could be theirs.
    let lock = f.store.disk.lock_shared().unwrap();
    let again = ImageStore::open(&root).await.unwrap();
    assert_eq!(names(&root.join("tmp")).len(), 2);
    drop(lock);

    drop(again);
    let again = ImageStore::open(&root).await.unwrap();
    assert!(names(&root.join("tmp")).is_empty());
    assert_eq!(names(&root.join("layers")).len(), 1);
    assert_eq!(again.list().await.unwrap().len(), 1);
    again
        .ensure("localhost/one", PullPolicy::Never, &[])
        .await
        .unwrap();
    assert!(image.layers[0].join("etc/hello").exists());
}

#[tokio::test]
async fn a_sweep_that_was_put_off_is_made_up_for() {
    let f = Fixture::new().await;
    let image = f.image(1, "localhost/one").await;
    let pulling = f.store.disk.lock_shared().unwrap();
    f.store.remove("localhost/one").await.unwrap();
    assert!(image.layers[0].exists(), "somebody may be about to need it");
    drop(pulling);
    // Any pull will do, also one that fails.
    let pull = f.store.ensure("127.0.0.1:1/x", PullPolicy::Always, &[]);
    pull.await.unwrap_err();
    assert!(!image.layers[0].exists());
}

#[tokio::test]
async fn an_unknown_format_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("VERSION"), "something-else-9").unwrap();
    let error = ImageStore::open(dir.path()).await.unwrap_err();
    assert!(error.to_string().contains("something-else-9"), "{error}");
}

#[tokio::test]
async fn two_stores_on_one_directory_see_each_others_images() {
    let f = Fixture::new().await;
    let other = ImageStore::open(&f.store_dir()).await.unwrap();
    f.image(1, "localhost/one").await;
    other
        .ensure("localhost/one", PullPolicy::Never, &[])
        .await
        .unwrap();
}

#[tokio::test]
async fn the_same_tree_gives_the_same_digests() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    tree(&root, 1);
    for n in ["a", "b"] {
        write_layout(&dir.path().join(n), &root, &config(), "localhost/x:y").unwrap();
    }
    let index = |n: &str| fs::read(dir.path().join(n).join("index.json")).unwrap();
    assert_eq!(index("a"), index("b"));
}

#[tokio::test]
async fn many_layers_fit_into_a_mount() {
    let dir = tempfile::tempdir().unwrap();
    // Long names, so that the options exceed a page; a comma and a colon, which mean something there.
    let base = dir.path().join(format!("a,b:c-{}", "x".repeat(60)));
    let layers: Vec<_> = (0..120)
        .map(|n| {
            let layer = base.join(n.to_string()).join("fs");
            fs::create_dir_all(&layer).unwrap();
            fs::write(layer.join(format!("file-{n}")), "").unwrap();
            fs::write(layer.join("top"), n.to_string()).unwrap();
            layer
        })
        .collect();
    let at = base.join("container");
    let rootfs = mount::mount_overlay(&layers, &at, None).unwrap();
    let seen = names(&rootfs).len();
    let top = fs::read_to_string(rootfs.join("top")).unwrap();
    mount::unmount_overlay(&at).unwrap();
    assert_eq!((seen, top.as_str()), (121, "119"));
}

#[test]
fn whiteouts_are_what_overlayfs_takes_for_them() {
    // Kept apart from the unpack tests because it needs a mount.
    let dir = tempfile::tempdir().unwrap();
    let layers: Vec<_> = ["one", "two"].iter().map(|n| dir.path().join(n)).collect();
    for layer in &layers {
        fs::create_dir(layer).unwrap();
    }
    let archive = |entries: &[(&str, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    };
    let lower = archive(&[
        ("gone", "1"),
        ("kept", "1"),
        ("dir/a", "1"),
        ("dir/b", "1"),
        ("full/x", "1"),
    ]);
    let upper = archive(&[
        (".wh.gone", ""),
        ("dir/c", "2"),
        ("dir/.wh..wh..opq", ""),
        ("full/y", "2"),
        ("full/.wh.x", ""),
        (".wh..wh.aufs", ""),
    ]);
    let limits = unpack::Limits::default();
    unpack::unpack(lower.as_slice(), &layers[0], &[], limits).unwrap();
    unpack::unpack(upper.as_slice(), &layers[1], &layers[..1], limits).unwrap();
    assert!(
        fs::symlink_metadata(layers[1].join("gone"))
            .unwrap()
            .file_type()
            .is_char_device()
    );
    let at = dir.path().join("container");
    let rootfs = mount::mount_overlay(&layers, &at, None).unwrap();
    let seen = [
        names(&rootfs),
        names(&rootfs.join("dir")),
        names(&rootfs.join("full")),
    ];
    mount::unmount_overlay(&at).unwrap();
    assert_eq!(seen, [vec!["dir", "full", "kept"], vec!["c"], vec!["y"]]);
}

/// A file system of a few MiB, gone with the value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        let options = format!("size={size}");
        nix::mount::mount(
            Some("tmpfs"),
            dir.path(),
            Some("tmpfs"),
            flags,
            Some(options.as_str()),
        )
        .unwrap();
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH);
    }
}

#[tokio::test]
async fn a_full_disk_is_named_and_leaves_room_for_what_fits() {
    let dir = tempfile::tempdir().unwrap();
    let (large, small) = (dir.path().join("large"), dir.path().join("small"));
    fs::create_dir(&large).unwrap();
    fs::write(large.join("file"), vec![7; 3 << 20]).unwrap();
    tree(&small, 1);
    for (root, name) in [(&large, "large-layout"), (&small, "small-layout")] {
        write_layout(&dir.path().join(name), root, &config(), "localhost/x").unwrap();
    }
    // The blob fits, the blob and the layer do not; then not even the blob does.
    for size in ["5m", "1m"] {
        let disk = SmallDisk::mount(size);
        let store = ImageStore::open(disk.0.path()).await.unwrap();
        let error = store
            .import(&dir.path().join("large-layout"), None)
            .await
            .unwrap_err();
        assert!(
            matches!(error, ImageError::DiskFull { .. }),
            "{size}: {error}"
        );
        assert!(error.to_string().contains("no space left"), "{error}");
        assert!(names(&disk.0.path().join("tmp")).is_empty());
        assert!(names(&disk.0.path().join("layers")).is_empty());
        store
            .import(&dir.path().join("small-layout"), None)
            .await
            .unwrap();
        let image = store
            .ensure("localhost/x", PullPolicy::Never, &[])
            .await
            .unwrap();
        assert!(image.layers[0].join("etc/hello").exists());
    }
}
