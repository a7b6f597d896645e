//! The eBPF programs, which the loader embeds.
//!
//! The tool chain is whatever the machine has (`cargo xtask setup` installs one and says which): the
//! rustup toolchain named in `WAGGLE_EBPF_TOOLCHAIN`, else `debian` (Debian's rustc with its library
//! source, linked as a toolchain), else `nightly` with rust-src.

use std::process::{Command, Stdio};

use anyhow::bail;
use aya_build::{Package, Toolchain};

fn has_library_source(toolchain: &str) -> bool {
    let Ok(output) = Command::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .stderr(Stdio::null())
        .output()
    else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success()
        && std::path::Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .exists()
}

pub(crate) fn build() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed=WAGGLE_EBPF_TOOLCHAIN");
    let chosen = std::env::var("WAGGLE_EBPF_TOOLCHAIN").ok();
    let candidates: Vec<&str> = match &chosen {
        Some(name) => vec![name],
        None => vec!["debian", "nightly"],
    };
    let Some(toolchain) = candidates.iter().find(|name| has_library_source(name)) else {
        bail!(
            "no rustup toolchain with the library source among {candidates:?}: run `cargo xtask setup`, \
             or `rustup toolchain install nightly --component rust-src`"
        );
    };
    // SAFETY: a build script's main thread, before any other thread is started.
    unsafe { std::env::set_var("RUSTC_BOOTSTRAP", "1") };
    let next: &[&str] = match std::env::var_os("CARGO_FEATURE_NEXT_LAYOUT") {
        Some(_) => &["next-layout"],
        None => &[],
    };
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../agent-ebpf");
    aya_build::build_ebpf(
        [Package {
            name: "agent-ebpf",
            root_dir: root,
            no_default_features: false,
            features: next,
        }],
        Toolchain::Custom(toolchain),
    )
}
