//! Layouts and archives as skopeo and others write them, and as nobody should.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write;
use std::process::Command;

use crate::images::build::write_layout;
use crate::images::manifest::host_platform;
use crate::images::tests::{config, names, tree};
use crate::images::{ImageError, ImageStore, PullPolicy};

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

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// A layout with the tree `n`, its image called `reference`.
    fn layout(&self, n: u32, reference: &str) -> std::path::PathBuf {
        let layout = self.path(&format!("layout-{n}"));
        tree(&self.path(&format!("root-{n}")), n);
        write_layout(
            &layout,
            &self.path(&format!("root-{n}")),
            &config(),
            reference,
        )
        .unwrap();
        layout
    }

    fn skopeo(&self, from: &str, to: &str) {
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", from, to])
            .output()
            .expect("skopeo is installed (xtask installs it)");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    async fn assert_has(&self, reference: &str, n: u32) {
        let image = self
            .store
            .ensure(reference, PullPolicy::Never, &[])
            .await
            .unwrap();
        let text = fs::read_to_string(image.layers[0].join("etc/hello")).unwrap();
        assert_eq!(text, format!("hello {n}"));
        assert_eq!(image.config.cmd().clone().unwrap(), ["/bin/sh"]);
    }

    fn assert_clean(&self) {
        assert!(names(&self.path("store/tmp")).is_empty());
    }
}

#[tokio::test]
async fn a_layout_directory_is_imported_under_its_name_or_another() {
    let f = Fixture::new().await;
    let layout = f.layout(1, "localhost/one:v1");
    assert_eq!(
        f.store.import(&layout, None).await.unwrap(),
        ["localhost/one:v1"]
    );
    f.assert_has("localhost/one:v1", 1).await;
    let names = f.store.import(&layout, Some("other")).await.unwrap();
    assert_eq!(names, ["docker.io/library/other:latest"]);
    f.assert_has("other", 1).await;
    f.assert_clean();
}

#[tokio::test]
async fn archives_of_layouts_and_of_docker_are_imported() {
    let f = Fixture::new().await;
    let layout = f.layout(2, "x");
    let from = format!("oci:{}:x", layout.display());
    let oci = f.path("oci.tar");
    f.skopeo(
        &from,
        &format!("oci-archive:{}:quay.io/team/oci:v2", oci.display()),
    );
    assert_eq!(
        f.store.import(&oci, None).await.unwrap(),
        ["quay.io/team/oci:v2"]
    );
    f.assert_has("quay.io/team/oci:v2", 2).await;

    let docker = f.path("docker.tar");
    f.skopeo(
        &from,
        &format!("docker-archive:{}:docker:v3", docker.display()),
    );
    let names = f.store.import(&docker, None).await.unwrap();
    assert_eq!(names, ["docker.io/library/docker:v3"]);
    f.assert_has("docker:v3", 2).await;

    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(&fs::read(&docker).unwrap()).unwrap();
    let compressed = f.path("docker.tar.gz");
    fs::write(&compressed, gzip.finish().unwrap()).unwrap();
    f.store.import(&compressed, Some("gz")).await.unwrap();
    f.assert_has("gz", 2).await;
    f.assert_clean();
}

/// Also a layer that is named under two names.
#[tokio::test]
async fn images_of_one_archive_share_layers() {
    let f = Fixture::new().await;
    let layout = f.layout(3, "x");
    let saved = f.path("saved.tar");
    f.skopeo(
        &format!("oci:{}:x", layout.display()),
        &format!("docker-archive:{}:first:v1", saved.display()),
    );
    let files = f.path("saved");
    fs::create_dir(&files).unwrap();
    tar::Archive::new(fs::File::open(&saved).unwrap())
        .unpack(&files)
        .unwrap();
    let manifest = fs::read(files.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
    let first = manifest[0].clone();
    let layer = first["Layers"][0].as_str().unwrap();
    fs::copy(files.join(layer), files.join("again.tar")).unwrap();
    let mut second = first.clone();
    second["RepoTags"] = serde_json::json!(["second:v1", "third:v1"]);
    let mut fourth = first.clone();
    fourth["RepoTags"] = serde_json::json!(["fourth:v1"]);
    fourth["Layers"] = serde_json::json!(["again.tar"]);
    let all = serde_json::json!([first, second, fourth]);
    fs::write(files.join("manifest.json"), all.to_string()).unwrap();
    let mut builder = tar::Builder::new(fs::File::create(&saved).unwrap());
    builder.append_dir_all(".", &files).unwrap();
    builder.into_inner().unwrap();
    let names = f.store.import(&saved, None).await.unwrap();
    let expected = ["first", "second", "third", "fourth"];
    assert_eq!(
        names,
        expected.map(|it| format!("docker.io/library/{it}:v1"))
    );
    for name in expected {
        f.assert_has(&format!("{name}:v1"), 3).await;
    }
    f.assert_clean();
}

#[tokio::test]
async fn of_several_platforms_this_one_is_taken() {
    let f = Fixture::new().await;
    let (ours, theirs) = (f.layout(1, "x"), f.layout(2, "x"));
    let read = |path: &std::path::Path| -> serde_json::Value {
        serde_json::from_slice(&fs::read(path.join("index.json")).unwrap()).unwrap()
    };
    let mut other = read(&theirs)["manifests"][0].clone();
    other["platform"]["architecture"] = "pdp11".into();
    let mut index = read(&ours);
    let mine = index["manifests"][0].take();
    index["manifests"] = serde_json::json!([other, mine]);
    fs::write(ours.join("index.json"), index.to_string()).unwrap();
    // Their blobs are not even there.
    f.store.import(&ours, Some("multi")).await.unwrap();
    f.assert_has("multi", 1).await;

    index["manifests"] = serde_json::json!([other, other]);
    fs::write(ours.join("index.json"), index.to_string()).unwrap();
    let error = f.store.import(&ours, Some("none")).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("pdp11") && text.contains(&host_platform().architecture),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_no_image_is_refused_and_leaves_nothing() {
    let f = Fixture::new().await;
    let archive = |entries: &[(&str, &str)]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            builder
                .append_data(&mut header, path, content.as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    };
    let missing_layer = r#"[{"Config":"c.json","RepoTags":["x"],"Layers":["../../etc/passwd"]}]"#;
    let missing_config = r#"[{"Config":"/etc/hostname","RepoTags":["x"],"Layers":[]}]"#;
    let cases = [
        ("empty", Vec::new()),
        ("garbage", vec![b'x'; 3000]),
        ("other files", archive(&[("a", "b")])),
        ("bad index", archive(&[("index.json", "{")])),
        (
            "empty index",
            archive(&[("index.json", r#"{"schemaVersion":2,"manifests":[]}"#)]),
        ),
        ("no names", archive(&[("manifest.json", "[]")])),
        (
            "layer outside",
            archive(&[("manifest.json", missing_layer), ("c.json", "{}")]),
        ),
        (
            "config outside",
            archive(&[("manifest.json", missing_config)]),
        ),
    ];
    for (name, bytes) in cases {
        let path = f.path("file.tar");
        fs::write(&path, bytes).unwrap();
        let error = f.store.import(&path, None).await.unwrap_err();
        assert!(
            matches!(error, ImageError::InvalidArchive { .. }),
            "{name}: {error}"
        );
    }
    let error = f.store.import(&f.path("nowhere"), None).await.unwrap_err();
    assert!(matches!(error, ImageError::Io { .. }), "{error}");
    assert!(f.store.list().await.unwrap().is_empty());
    f.assert_clean();
}

#[tokio::test]
async fn a_layout_whose_blobs_were_changed_is_refused() {
    let f = Fixture::new().await;
    let layout = f.layout(1, "localhost/x");
    for blob in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = blob.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let error = f.store.import(&layout, None).await.unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(names(&f.path("store/blobs/sha256")).is_empty());
}

#[tokio::test]
async fn another_process_may_import_while_one_pulls() {
    let f = Fixture::new().await;
    let layout = f.layout(1, "localhost/x");
    // What a pull holds all along.
    let _pulling = f.store.disk.lock_shared().unwrap();
    let other = ImageStore::open(&f.path("store")).await.unwrap();
    other.import(&layout, None).await.unwrap();
    f.assert_has("localhost/x", 1).await;
}
