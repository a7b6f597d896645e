//! The images that the suite uses, as one archive whose images share layers: programs built from the suite's sources, and
//! this machine's with the libraries that they load. Where only a web server is wanted, it is busybox's.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use serde_json::{Value, json};

use super::suite::Suite;
use crate::run::{self, checked};

/// Programs of the user land, besides busybox's applets, and their packages.
const PROGRAMS: &[(&str, &str)] = &[
    ("bash", "bash"),
    ("curl", "curl"),
    ("dig", "bind9-dnsutils"),
    ("getent", "libc-bin"),
    ("host", "bind9-host"),
    ("nslookup", "bind9-dnsutils"),
    ("perl", "perl-base"),
    ("ss", "iproute2"),
    // That of busybox crashes when it is given a time-out.
    ("wget", "wget"),
];
/// Packages that are unpacked, not installed, since they would start servers or replace programs of the machine.
const UNPACKED: &[&str] = &[
    "busybox",
    "etcd-server",
    "libatomic1",
    "libbsd0",
    "libhiredis0.14",
    "libjemalloc2",
    "liblua5.1-0",
    "liblzf1",
    "libmd0",
    "lua-bitop",
    "lua-cjson",
    "netcat-openbsd",
    "redis-server",
    "redis-tools",
];
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
const HTTPD: &str = "#!/bin/sh\nexec busybox httpd -f -p 80 -h /usr/local/apache2/htdocs\n";
const NGINX: &str = "#!/bin/sh\nexec busybox httpd -f -p 80 -h /usr/share/nginx/html\n";

const LIBRARY: &str = "docker.io/library";
const E2E: &str = "gcr.io/kubernetes-e2e-test-images";

/// Builds layers and the archive.
struct Builder {
    work: PathBuf,
    /// Where packages are unpacked.
    packages: PathBuf,
    /// Name and digest.
    layers: Vec<(&'static str, String)>,
    manifest: Vec<Value>,
}

pub(super) fn ensure(work: &Path, suite: &Suite) -> anyhow::Result<PathBuf> {
    let archive = work.join("images.tar");
    if archive.is_file() {
        return Ok(archive);
    }
    run::step("images");
    for (program, package) in PROGRAMS {
        if run::find_program(program).is_none() {
            bail!("{program} is not there: apt-get install {package}");
        }
    }
    let mut builder = Builder::new(work)?;
    builder.unpack()?;
    builder.layers(suite)?;
    builder.images()?;
    builder.archive(&archive)?;
    Ok(archive)
}

impl Builder {
    fn new(work: &Path) -> anyhow::Result<Self> {
        let this = Self {
            work: work.join("images"),
            packages: work.join("packages"),
            layers: Vec::new(),
            manifest: Vec::new(),
        };
        let _ = std::fs::remove_dir_all(&this.work);
        std::fs::create_dir_all(this.work.join("save"))?;
        Ok(this)
    }

    fn unpack(&self) -> anyhow::Result<()> {
        let downloads = self.work.join("downloads");
        std::fs::create_dir_all(&downloads)?;
        checked(
            Command::new("apt-get")
                .current_dir(&downloads)
                .args(["download", "-q"])
                .args(UNPACKED),
        )?;
        for entry in std::fs::read_dir(&downloads)? {
            checked(
                Command::new("dpkg")
                    .arg("-x")
                    .arg(entry?.path())
                    .arg(&self.packages),
            )?;
        }
        Ok(())
    }

    fn root(&self, layer: &str) -> PathBuf {
        self.work.join(layer)
    }

    fn layers(&mut self, suite: &Suite) -> anyhow::Result<()> {
        self.base()?;
        let built = |name: &str| suite.programs.join(name);
        let agnhost = self.root("agnhost");
        put(&built("agnhost"), &agnhost.join("agnhost"), 0o755)?;
        std::os::unix::fs::symlink("agnhost", agnhost.join("agnhost-2"))?;
        std::fs::create_dir_all(agnhost.join("uploads"))?;
        let sources = suite.sources.join("test/images");
        for file in ["localhost.crt", "localhost.key"] {
            let from = sources.join("agnhost/porter").join(file);
            put(&from, &agnhost.join(file), 0o644)?;
        }
        self.layer("agnhost")?;
        for name in ["nautilus", "kitten"] {
            let root = self.root(name);
            for entry in std::fs::read_dir(sources.join(name).join("html"))? {
                let entry = entry?;
                put(&entry.path(), &root.join(entry.file_name()), 0o644)?;
            }
            self.layer(name)?;
        }
        let page = |title: &str| format!("<html><body><h1>{title}</h1></body></html>\n");
        for (name, folder, title, script) in [
            ("httpd", "usr/local/apache2/htdocs", "It works!", HTTPD),
            ("nginx", "usr/share/nginx/html", "Welcome to nginx!", NGINX),
        ] {
            let root = self.root(name);
            write(&root.join(folder).join("index.html"), &page(title), 0o644)?;
            let start = root
                .join("usr/local/bin")
                .join(format!("{name}-foreground"));
            write(&start, script, 0o755)?;
            self.layer(name)?;
        }
        let redis = self.root("redis");
        std::fs::create_dir_all(redis.join("data"))?;
        // The server is this program under another name.
        let server = self.packages.join("usr/bin/redis-check-rdb");
        self.program(&redis, &server, "redis-server")?;
        let client = self.packages.join("usr/bin/redis-cli");
        self.program(&redis, &client, "redis-cli")?;
        self.layer("redis")?;
        let etcd = self.root("etcd");
        let server = self.packages.join("usr/bin/etcd");
        self.program(&etcd, &server, "etcd")?;
        put(&server, &etcd.join("usr/local/bin/etcd"), 0o755)?;
        self.layer("etcd")?;
        for (layer, program, mode) in [
            ("nnp", "usr/local/bin/nnp", 0o6755),
            ("consumer", "consumer", 0o755),
            ("kube-sample-apiserver", "kube-sample-apiserver", 0o755),
            ("regression-issue-74839", "regression-issue-74839", 0o755),
        ] {
            put(&built(layer), &self.root(layer).join(program), mode)?;
            self.layer(layer)?;
        }
        Ok(())
    }

    /// A small user land: busybox, a shell, what the suite's scripts call.
    fn base(&mut self) -> anyhow::Result<()> {
        let root = self.root("base");
        for folder in [
            "etc",
            "proc",
            "sys",
            "dev",
            "root",
            "run",
            "home",
            "mnt",
            "opt",
            "srv",
            "tmp",
            "usr/bin",
            "usr/lib",
            "usr/lib64",
            "usr/sbin",
            "var/run",
            "var/tmp",
        ] {
            std::fs::create_dir_all(root.join(folder))?;
        }
        for folder in ["tmp", "var/tmp"] {
            set_mode(&root.join(folder), 0o1777)?;
        }
        for link in ["bin", "lib", "lib64", "sbin"] {
            std::os::unix::fs::symlink(format!("usr/{link}"), root.join(link))?;
        }
        // Not the static one: its resolver crashes.
        let busybox = self.packages.join("bin/busybox");
        let applets = run::output(&busybox, &["--list"]).context("busybox")?;
        for applet in applets.lines() {
            std::os::unix::fs::symlink("busybox", root.join("usr/bin").join(applet))?;
        }
        self.program(&root, &busybox, "busybox")?;
        for (name, _) in PROGRAMS {
            let program = run::find_program(name).context(*name)?.canonicalize()?;
            self.program(&root, &program, name)?;
        }
        self.program(&root, &self.packages.join("bin/nc.openbsd"), "nc")?;
        for (file, text) in [
            (
                "passwd",
                "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
            ),
            ("group", "root:x:0:\nnobody:x:65534:\n"),
            (
                "nsswitch.conf",
                "passwd: files\ngroup: files\nhosts: files dns\n",
            ),
        ] {
            write(&root.join("etc").join(file), text, 0o644)?;
        }
        self.layer("base")
    }

    /// A program as `/usr/bin/NAME`, and the shared objects that it loads.
    fn program(&self, root: &Path, program: &Path, name: &str) -> anyhow::Result<()> {
        let to = root.join("usr/bin").join(name);
        let _ = std::fs::remove_file(&to);
        put(program, &to, 0o755)?;
        let listing = Command::new("ldd")
            .arg(program)
            .env("LD_LIBRARY_PATH", self.packages.join(LIBRARIES))
            .output()
            .context("run ldd")?;
        for line in String::from_utf8_lossy(&listing.stdout).lines() {
            let object = line.split("=>").last().unwrap_or_default().trim();
            let object = object.split(' ').next().unwrap_or_default();
            if object == "not" {
                bail!("{}: {}", program.display(), line.trim());
            }
            let Some(inner) = object.strip_prefix('/') else {
                continue;
            };
            let inner = match Path::new(object).strip_prefix(&self.packages) {
                Ok(inner) => inner,
                Err(_) => Path::new(inner),
            };
            // `/lib` is a link.
            let inner = match inner.starts_with("usr") {
                true => inner.to_owned(),
                false => Path::new("usr").join(inner),
            };
            put(Path::new(object), &root.join(inner), 0o755)?;
        }
        Ok(())
    }

    fn layer(&mut self, name: &'static str) -> anyhow::Result<()> {
        let to = self.work.join("save").join(format!("{name}.tar"));
        checked(
            Command::new("tar")
                .args([
                    "--numeric-owner",
                    "--owner=0",
                    "--group=0",
                    "--sort=name",
                    "--mtime=@0",
                ])
                .arg("-cf")
                .arg(&to)
                .arg("-C")
                .arg(self.root(name))
                .arg("."),
        )?;
        let sum = run::output("sha256sum", &[&to.to_string_lossy()]).context("sha256sum")?;
        let digest = sum.split(' ').next().unwrap_or_default();
        self.layers.push((name, format!("sha256:{digest}")));
        Ok(())
    }

    fn image(&mut self, names: &[String], layers: &[&str], config: &Value) -> anyhow::Result<()> {
        let mut digests = Vec::new();
        for layer in layers {
            let known = self.layers.iter().find(|(name, _)| name == layer);
            digests.push(known.with_context(|| format!("layer {layer}"))?.1.clone());
        }
        let mut config = config.clone();
        config["Env"] =
            json!(["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]);
        let file = format!("config-{}.json", self.manifest.len());
        let image = json!({
            "architecture": "amd64", "os": "linux", "config": config, "history": [],
            "rootfs": {"type": "layers", "diff_ids": digests},
        });
        std::fs::write(self.work.join("save").join(&file), image.to_string())?;
        let layers: Vec<String> = layers.iter().map(|layer| format!("{layer}.tar")).collect();
        self.manifest
            .push(json!({"Config": file, "RepoTags": names, "Layers": layers}));
        Ok(())
    }

    /// As `test/utils/image/manifest.go` of the suite names them.
    fn images(&mut self) -> anyhow::Result<()> {
        let agnhost = json!({"Entrypoint": ["/agnhost"], "Cmd": ["pause"]});
        let shell = json!({"Cmd": ["sh"]});
        let web = json!({"Entrypoint": ["/agnhost"], "Cmd": ["test-webserver"]});
        let start = |program: &str| json!({"Cmd": [program]});
        let enter = |words: &[&str]| json!({"Entrypoint": words});
        let library = |name: &str| format!("{LIBRARY}/{name}");
        let e2e = |name: &str| format!("{E2E}/{name}");
        let images: [(&[String], &[&str], Value); 16] = [
            (
                &["k8s.gcr.io/e2e-test-images/agnhost:2.21".to_owned()],
                &["base", "agnhost"],
                agnhost,
            ),
            (
                &["k8s.gcr.io/pause:3.2".to_owned()],
                &["base", "agnhost"],
                enter(&["/agnhost", "pause"]),
            ),
            (
                &[library("busybox:1.29"), e2e("ipc-utils:1.0")],
                &["base"],
                shell.clone(),
            ),
            (
                &[e2e("nonroot:1.0")],
                &["base"],
                json!({"Cmd": ["sh"], "User": "1234"}),
            ),
            (&[e2e("jessie-dnsutils:1.0")], &["base"], shell),
            (
                &[e2e("nautilus:1.0")],
                &["base", "agnhost", "nautilus"],
                web.clone(),
            ),
            (&[e2e("kitten:1.0")], &["base", "agnhost", "kitten"], web),
            (
                &[
                    library("httpd:2.4.38-alpine"),
                    library("httpd:2.4.39-alpine"),
                ],
                &["base", "httpd"],
                start("httpd-foreground"),
            ),
            (
                &[library("nginx:1.14-alpine"), library("nginx:1.15-alpine")],
                &["base", "nginx"],
                start("nginx-foreground"),
            ),
            (
                &[library("redis:5.0.5-alpine")],
                &["base", "redis"],
                json!({"Cmd": ["redis-server", "--protected-mode", "no"], "WorkingDir": "/data"}),
            ),
            (&[library("perl:5.26")], &["base"], start("perl")),
            (
                &["k8s.gcr.io/etcd:3.4.13-0".to_owned()],
                &["base", "etcd"],
                start("etcd"),
            ),
            (&[e2e("nonewprivs:1.0")], &["base", "nnp"], start("nnp")),
            (
                &[e2e("resource-consumer:1.5")],
                &["base", "consumer"],
                enter(&["/consumer"]),
            ),
            (
                &[e2e("sample-apiserver:1.17")],
                &["base", "kube-sample-apiserver"],
                enter(&["/kube-sample-apiserver", "--v", "3"]),
            ),
            (
                &[e2e("regression-issue-74839-amd64:1.0")],
                &["base", "regression-issue-74839"],
                enter(&["/regression-issue-74839"]),
            ),
        ];
        for (names, layers, config) in &images {
            self.image(names, layers, config)?;
        }
        Ok(())
    }

    fn archive(&self, to: &Path) -> anyhow::Result<()> {
        let save = self.work.join("save");
        let manifest = Value::Array(self.manifest.clone());
        std::fs::write(save.join("manifest.json"), manifest.to_string())?;
        let part = to.with_extension("part");
        checked(
            Command::new("tar")
                .arg("-cf")
                .arg(&part)
                .arg("-C")
                .arg(&save)
                .arg("."),
        )?;
        std::fs::rename(&part, to)?;
        std::fs::remove_dir_all(&self.work)?;
        Ok(())
    }
}

fn set_mode(path: &Path, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
        .with_context(|| format!("mode of {}", path.display()))
}

fn put(from: &Path, to: &Path, mode: u32) -> anyhow::Result<()> {
    let folder = to.parent().context("below a root")?;
    std::fs::create_dir_all(folder)?;
    std::fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    set_mode(to, mode)
}

fn write(to: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let folder = to.parent().context("below a root")?;
    std::fs::create_dir_all(folder)?;
    std::fs::write(to, text)?;
    set_mode(to, mode)
}
