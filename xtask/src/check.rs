//! `cargo xtask check`: the read-only gate. Changes nothing in the work tree.

use std::process::Command;

use anyhow::bail;

use crate::run::{self, cargo, checked};
use crate::setup::{self, SetupNeed};
use crate::tidy;

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArguments {
    /// Leave out what needs set-up (clippy and deny): formatting and tidy only.
    #[arg(long)]
    quick: bool,
}

pub(crate) fn run(arguments: &CheckArguments) -> anyhow::Result<()> {
    run::step("formatting");
    checked(cargo().args(["fmt", "--all", "--check"]))?;
    run::step("tidy");
    let problems = tidy::check(&run::workspace_root())?;
    for problem in &problems {
        eprintln!("    {problem}");
    }
    if !problems.is_empty() {
        bail!("tidy found {} problem(s)", problems.len());
    }
    if arguments.quick {
        return Ok(());
    }
    setup::ensure(SetupNeed::Tests)?;
    run::step("clippy on the host");
    checked(cargo().args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))?;
    run::step("clippy on the eBPF target");
    clippy_ebpf()?;
    run::step("dependency rules");
    // Advisories need a data base that is fetched at run time: not part of this gate.
    checked(Command::new("cargo-deny").args(["check", "bans", "licenses", "sources"]))
}

/// The toolchain that builds the programs also lints them.
fn clippy_ebpf() -> anyhow::Result<()> {
    let Some(toolchain) = setup::current(SetupNeed::Run).ebpf_toolchain else {
        bail!("no eBPF tool chain: run `cargo xtask setup`")
    };
    checked(
        Command::new("rustup")
            .args([
                "run",
                &toolchain,
                "cargo",
                "clippy",
                "--package",
                "agent-ebpf",
                "--release",
            ])
            .args(["--target", "bpfel-unknown-none", "-Z", "build-std=core"])
            .args(["--target-dir", "target/clippy-ebpf"])
            .env("RUSTC_BOOTSTRAP", "1")
            .env_remove("CARGO")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env(
                "CARGO_ENCODED_RUSTFLAGS",
                "--cfg=bpf_target_arch=\"x86_64\"\u{1f}-Dwarnings",
            ),
    )
}
