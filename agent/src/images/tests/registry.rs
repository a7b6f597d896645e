//! Pulling from Debian's docker-registry and from one that lies.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::*;
use crate::images::digest::Digest;
use crate::images::manifest::OCI_MANIFEST;

/// `waggle:secret`.
const HTPASSWD: &str = "waggle:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// docker-registry on a free port, with its storage in a directory of its own.
struct Registry {
    child: Child,
    address: SocketAddr,
    dir: tempfile::TempDir,
}

impl Registry {
    fn start() -> Self {
        Self::start_with("")
    }

    fn start_with(extra: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // A port that another process takes in between makes the registry end: then the next one.
        for _ in 0..10 {
            let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let address = free.local_addr().unwrap();
            drop(free);
            let config = dir.path().join("config.yml");
            let storage = dir.path().join("storage");
            let text = format!(
                "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: '{address}'}}\n{extra}",
                storage.display()
            );
            fs::write(&config, text).unwrap();
            let mut command = Command::new("docker-registry");
            command
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            // SAFETY: prctl is async-signal-safe; nothing else happens between fork and exec.
            unsafe {
                command.pre_exec(|| {
                    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
                    Ok(())
                });
            }
            let mut child = command
                .spawn()
                .expect("docker-registry is installed (xtask installs it)");
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline {
                if TcpStream::connect(address).is_ok() {
                    return Self {
                        child,
                        address,
                        dir,
                    };
                }
                if child.try_wait().unwrap().is_some() {
                    break;
                }
                std::thread::yield_now();
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        panic!("docker-registry does not start");
    }

    /// Pushes the tree `n` under `name`, in the format and with the compression that skopeo is told.
    fn push(&self, n: u32, name: &str, options: &[&str]) {
        let root = self.dir.path().join(format!("root-{n}"));
        let layout = self.dir.path().join(format!("layout-{n}"));
        if !layout.exists() {
            tree(&root, n);
            write_layout(&layout, &root, &config(), "x").unwrap();
        }
        let output = Command::new("skopeo")
            .args(["copy", "--insecure-policy", "--dest-tls-verify=false"])
            .args(options)
            .arg(format!("oci:{}:x", layout.display()))
            .arg(format!("docker://{}/{name}", self.address))
            .output()
            .expect("skopeo is installed (xtask installs it)");
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.address)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) async fn store() -> (tempfile::TempDir, ImageStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = ImageStore::open(dir.path()).await.unwrap();
    (dir, store)
}

#[tokio::test(flavor = "multi_thread")]
async fn oci_and_docker_manifests_with_every_compression_are_pulled() {
    let registry = Registry::start();
    let (_dir, store) = store().await;
    for (n, options) in [
        (
            1,
            ["--format", "oci", "--dest-compress-format", "gzip"].as_slice(),
        ),
        (2, &["--format", "v2s2"]),
        (
            3,
            &[
                "--format",
                "oci",
                "--dest-compress",
                "--dest-compress-format",
                "zstd",
            ],
        ),
    ] {
        let name = format!("team/image-{n}:v1");
        registry.push(n, &name, options);
        let image = store
            .ensure(&registry.name(&name), PullPolicy::IfNotPresent, &[])
            .await
            .unwrap();
        let text = fs::read_to_string(image.layers[0].join("etc/hello")).unwrap();
        assert_eq!(text, format!("hello {n}"));
        assert_eq!(image.config.env().clone().unwrap(), ["A=b"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_missing_is_named_and_pulled_once_it_appears() {
    let registry = Registry::start();
    let (_dir, store) = store().await;
    let name = registry.name("app:v1");
    let error = store
        .ensure(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap_err();
    assert!(matches!(error, ImageError::NotFound { .. }), "{error}");
    assert_eq!(error.reason(), "ErrImagePull");
    registry.push(1, "app:v1", &[]);
    let image = store
        .ensure(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    // The tag moves: only Always notices, and the old image goes.
    registry.push(2, "app:v1", &[]);
    let same = store
        .ensure(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    assert_eq!(same.digest, image.digest);
    let moved = store.ensure(&name, PullPolicy::Always, &[]).await.unwrap();
    assert_ne!(moved.digest, image.digest);
    assert!(!image.layers[0].exists());
    let by_digest = registry.name(&format!("app@{}", image.digest));
    let old = store
        .ensure(&by_digest, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap();
    assert_eq!(old.digest, image.digest);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_callers_share_one_pull() {
    let registry = Registry::start();
    registry.push(1, "app:v1", &[]);
    let (_dir, store) = store().await;
    let name = registry.name("app:v1");
    let calls = (0..20).map(|_| store.ensure(&name, PullPolicy::Always, &[]));
    let pulls = {
        let all = futures::future::join_all(calls);
        tokio::pin!(all);
        let first = futures::poll!(&mut all);
        assert!(first.is_pending());
        let under_way = store.pulls.lock().unwrap().len();
        for result in all.await {
            result.unwrap();
        }
        under_way
    };
    assert_eq!(pulls, 1);
    assert!(store.pulls.lock().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_are_used_and_missing_or_wrong_ones_are_said() {
    let passwords = tempfile::NamedTempFile::new().unwrap();
    fs::write(passwords.path(), HTPASSWD).unwrap();
    let auth = format!(
        "auth: {{htpasswd: {{realm: test, path: {}}}}}\n",
        passwords.path().display()
    );
    let registry = Registry::start_with(&auth);
    registry.push(1, "app:v1", &["--dest-creds", "waggle:secret"]);
    let (_dir, store) = store().await;
    let name = registry.name("app:v1");
    let credentials = |registry: &str, password: &str| Credentials {
        registry: registry.to_owned(),
        username: "waggle".to_owned(),
        password: password.to_owned(),
    };
    let host = registry.address.to_string();
    let elsewhere = credentials("registry.example.com", "secret");
    let wrong = credentials(&host, "guess");
    for given in [vec![], vec![elsewhere.clone()], vec![wrong.clone()]] {
        let error = store
            .ensure(&name, PullPolicy::IfNotPresent, &given)
            .await
            .unwrap_err();
        assert!(matches!(error, ImageError::Unauthorized { .. }), "{error}");
    }
    // One after the other, as the pod lists them.
    let right = credentials(&format!("http://{host}/v2/"), "secret");
    let given = [elsewhere, wrong, right];
    store
        .ensure(&name, PullPolicy::IfNotPresent, &given)
        .await
        .unwrap();
    assert!(
        !format!("{given:?}").contains("secret"),
        "passwords are not for logs"
    );
}

type Answers = Arc<HashMap<String, (&'static str, Bytes)>>;

/// A registry that serves exactly what it is told.
async fn lying_registry(answers: HashMap<String, (&'static str, Bytes)>) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let address = listener.local_addr().unwrap();
    let answers: Answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let answers = answers.clone();
            let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let answer = answers.get(request.uri().path()).cloned();
                async move {
                    let response = http::Response::builder();
                    match answer {
                        Some((kind, body)) => {
                            response.header("content-type", kind).body(Full::new(body))
                        }
                        None if request.uri().path() == "/v2/" => response.body(Full::default()),
                        None => response.status(404).body(Full::default()),
                    }
                }
            });
            tokio::spawn(
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service),
            );
        }
    });
    address
}

/// A manifest of one layer, and what is served instead of the layer or the configuration.
pub(super) fn manifest(config: &[u8], layer: &[u8]) -> Bytes {
    let descriptor = |kind: &str, bytes: &[u8]| {
        serde_json::json!({
            "mediaType": kind, "digest": Digest::of(bytes).to_string(), "size": bytes.len(),
        })
    };
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    });
    serde_json::to_vec(&manifest).unwrap().into()
}

pub(super) fn config_for(diff_id: &Digest) -> Vec<u8> {
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }))
    .unwrap()
}

async fn pull_lies(config: &[u8], layer: &[u8], served: &[u8]) -> (ImageError, Vec<String>) {
    let blob = |bytes: &[u8]| format!("/v2/app/blobs/{}", Digest::of(bytes));
    let answers = HashMap::from([
        (
            "/v2/app/manifests/v1".to_owned(),
            (OCI_MANIFEST, manifest(config, layer)),
        ),
        (
            blob(config),
            ("application/json", Bytes::copy_from_slice(config)),
        ),
        (
            blob(layer),
            ("application/octet-stream", Bytes::copy_from_slice(served)),
        ),
    ]);
    let address = lying_registry(answers).await;
    let (dir, store) = store().await;
    let name = format!("{address}/app:v1");
    let error = store
        .ensure(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap_err();
    assert!(store.list().await.unwrap().is_empty());
    assert!(names(&dir.path().join("layers")).is_empty());
    assert!(names(&dir.path().join("tmp")).is_empty());
    let wrong = Digest::of(layer).hex().to_owned();
    let blobs = names(&dir.path().join("blobs/sha256"));
    if layer != served {
        assert!(
            !blobs.contains(&wrong),
            "a blob that is not what it is called"
        );
    }
    (error, blobs)
}

#[tokio::test]
async fn a_layer_with_a_wrong_digest_is_refused_and_not_stored() {
    let config = config_for(&Digest::of(b"layer"));
    let (error, _) = pull_lies(&config, b"layer", b"Layer").await;
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("digest mismatch"), "{error}");
}

#[tokio::test]
async fn a_layer_with_a_wrong_size_is_refused_and_not_stored() {
    let config = config_for(&Digest::of(b"layer"));
    for served in [b"layer and more".as_slice(), b"lay"] {
        let (error, _) = pull_lies(&config, b"layer", served).await;
        assert!(matches!(error, ImageError::SizeMismatch { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_layer_that_unpacks_to_something_else_is_refused() {
    let archive = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let config = config_for(&Digest::of(b"another archive"));
    let (error, _) = pull_lies(&config, &archive, &archive).await;
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(error.to_string().contains("unpacked layer"), "{error}");
}

#[tokio::test]
async fn a_layer_that_is_no_archive_is_refused() {
    let garbage = vec![b'x'; 2000];
    let config = config_for(&Digest::of(&garbage));
    let (error, _) = pull_lies(&config, &garbage, &garbage).await;
    assert!(matches!(error, ImageError::InvalidLayer { .. }), "{error}");
}

#[tokio::test]
async fn a_manifest_other_than_the_digest_asked_for_is_refused() {
    let config = config_for(&Digest::of(b"layer"));
    let wanted = Digest::of(b"what was asked for");
    let path = format!("/v2/app/manifests/{wanted}");
    let answers = HashMap::from([(path, (OCI_MANIFEST, manifest(&config, b"layer")))]);
    let address = lying_registry(answers).await;
    let (dir, store) = store().await;
    let name = format!("{address}/app@{wanted}");
    let error = store
        .ensure(&name, PullPolicy::IfNotPresent, &[])
        .await
        .unwrap_err();
    assert!(
        matches!(error, ImageError::DigestMismatch { .. }),
        "{error}"
    );
    assert!(names(&dir.path().join("blobs/sha256")).is_empty());
}
