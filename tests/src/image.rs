//! The image that test pods run: Debian's static busybox with a link per applet, curl and dig, as a docker archive.

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

    for program in ["/usr/bin/curl", "/usr/bin/dig"] {
        add_program(&root, Path::new(program));
    }
    root
}

/// Copies a program of the machine to `/bin`, and the shared objects that it loads: busybox's own network
/// applets are of no use, the resolver in Debian's static build crashes.
fn add_program(root: &Path, program: &Path) {
    let name = program.file_name().expect("a program has a name");
    std::fs::copy(program, root.join("bin").join(name)).expect("copy a program");
    for line in Outcome::of(Command::new("ldd").arg(program)).ok().lines() {
        let path = line.split("=>").last().unwrap_or_default().trim();
        let path = path.split(' ').next().unwrap_or_default();
        if path.starts_with('/') {
            let target = root.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(target.parent().expect("below the root")).expect("a folder");
            std::fs::copy(path, target).expect("copy a library");
        }
    }
}

/// Writes a `docker save` style archive of the image to `directory` and returns its path.
pub fn busybox_archive(directory: &Path) -> PathBuf {
    let root = busybox_root(directory);
    archive(directory, &root, IMAGE, "busybox.tar", "/bin")
}

/// Name of the image with nothing but one program, for pods that only serve.
pub const PEER_IMAGE: &str = "waggle.test/peer:1";

/// An archive of an image with this program as `/bin/NAME`.
pub fn program_archive(directory: &Path, program: &Path) -> PathBuf {
    let root = directory.join("program-root");
    for folder in ["bin", "etc", "proc", "sys", "dev", "tmp"] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder of the image");
    }
    add_program(&root, program);
    archive(directory, &root, PEER_IMAGE, "program.tar", "/bin")
}

/// Packs `root` as image `name` into `file` below `directory`; `path` is where its programs are.
pub(crate) fn archive(
    directory: &Path,
    root: &Path,
    name: &str,
    file: &str,
    path: &str,
) -> PathBuf {
    let save = directory.join("save");
    std::fs::create_dir_all(&save).expect("a folder for the archive");
    Outcome::of(
        Command::new("tar")
            .args(["--numeric-owner", "--owner=0", "--group=0", "-cf"])
            .arg(save.join("layer.tar"))
            .arg("-C")
            .arg(root)
            .arg("."),
    )
    .ok();
    let digest = Outcome::of(Command::new("sha256sum").arg(save.join("layer.tar"))).ok();
    let digest = digest.split(' ').next().expect("a digest").to_owned();
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": [format!("PATH={path}")], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": []
    });
    std::fs::write(save.join("config.json"), config.to_string()).expect("config");
    let manifest =
        serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    std::fs::write(save.join("manifest.json"), manifest.to_string()).expect("manifest");
    let archive = directory.join(file);
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
