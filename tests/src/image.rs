//! The image that test pods run: Debian's static busybox with a link per applet, as an OCI archive.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::process::Outcome;

/// Name under which tests import it.
pub const IMAGE: &str = "waggle.test/busybox:1";

/// Lays the image's root file system out below `directory` and returns its path.
pub fn busybox_root(directory: &Path) -> PathBuf {
    let root = directory.join("busybox-root");
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp", "root", "var"] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder of the image");
    }
    let busybox = ["/bin/busybox", "/usr/bin/busybox"]
        .into_iter()
        .find(|path| Path::new(path).is_file())
        .expect("busybox-static is installed by set-up");
    std::fs::copy(busybox, root.join("bin/busybox")).expect("copy busybox");
    for applet in Outcome::of(Command::new(busybox).arg("--list"))
        .ok()
        .lines()
    {
        let _ = std::os::unix::fs::symlink("busybox", root.join("bin").join(applet));
    }
    std::fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n",
    )
    .expect("passwd");
    std::fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n").expect("group");

    root
}

/// Writes a `docker save` style archive of the image to `directory` and returns its path.
pub fn busybox_archive(directory: &Path) -> PathBuf {
    let root = busybox_root(directory);
    let save = directory.join("save");
    std::fs::create_dir_all(&save).expect("a folder for the archive");
    Outcome::of(
        Command::new("tar")
            .args(["--numeric-owner", "--owner=0", "--group=0", "-cf"])
            .arg(save.join("layer.tar"))
            .arg("-C")
            .arg(&root)
            .arg("."),
    )
    .ok();
    let digest = Outcome::of(Command::new("sha256sum").arg(save.join("layer.tar"))).ok();
    let digest = digest.split(' ').next().expect("a digest").to_owned();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": []
    });
    std::fs::write(save.join("config.json"), config.to_string()).expect("config");
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [IMAGE], "Layers": ["layer.tar"]}]);
    std::fs::write(save.join("manifest.json"), manifest.to_string()).expect("manifest");
    let archive = directory.join("busybox.tar");
    Outcome::of(
        Command::new("tar")
            .arg("-cf")
            .arg(&archive)
            .arg("-C")
            .arg(&save)
            .args(["manifest.json", "config.json", "layer.tar"]),
    )
    .ok();
    archive
}
