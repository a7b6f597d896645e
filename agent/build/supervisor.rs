//! The supervisor of pods: always optimized for size, and linked statically for a fixed address, because there is a
//! process of it for each pod. The C library must be there as an archive (`libc6-dev` of Debian has it, elsewhere it is
//! a package such as `glibc-static`).

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

const PACKAGE: &str = "agent-supervisor";
const PROGRAM: &str = "waggle-supervisor";
/// In the workspace's `Cargo.toml`.
const PROFILE: &str = "supervisor";
const FLAGS: &[&str] = &["-Ctarget-feature=+crt-static", "-Crelocation-model=static"];

pub(crate) fn build() -> anyhow::Result<()> {
    let workspace = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    for input in [
        "agent-supervisor/src",
        "agent-supervisor/Cargo.toml",
        "Cargo.toml",
    ] {
        println!("cargo:rerun-if-changed={workspace}/{input}");
    }
    let variable = |name| std::env::var_os(name).context(name);
    let target = std::env::var("TARGET")?;
    // A directory of its own: cargo holds the other one while this runs.
    let directory = PathBuf::from(variable("OUT_DIR")?).join(PACKAGE);
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(workspace)
        .args(["build", "--locked", "--package", PACKAGE, "--bin", PROGRAM])
        // With a target the flags are for what runs there, not for macros and build scripts.
        .args(["--profile", PROFILE, "--target", &target, "--target-dir"])
        .arg(&directory)
        .env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"))
        // Of clippy, which would look at it and build nothing.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .stdout(Stdio::null());
    let output = cargo.output().with_context(|| format!("run {cargo:?}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        bail!("{cargo:?}: {}\n{text}", output.status);
    }
    let program = directory.join(target).join(PROFILE).join(PROGRAM);
    println!("cargo:rustc-env=WAGGLE_SUPERVISOR={}", program.display());
    Ok(())
}
