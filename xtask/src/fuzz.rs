//! `cargo xtask fuzz`: runs the fuzz targets in `tests/fuzz` for a while, on nightly, with cargo-fuzz.
//!
//! What is found stays in `tests/fuzz/artifacts`, what was learnt in `tests/fuzz/corpus`; neither is committed.

use std::process::Command;

use anyhow::bail;
use clap::Args;

use crate::run::{self, checked};

#[derive(Debug, Args)]
pub(crate) struct FuzzArguments {
    /// One target, of those in `tests/fuzz/targets`; all without.
    target: Option<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

/// Targets, and the whole crate that they need, if any.
const TARGETS: [(&str, Option<&str>); 18] = [
    ("packet", None),
    ("refusal", None),
    ("dns", Some("agent")),
    ("image", Some("agent")),
    ("layer", Some("agent")),
    ("sockets", Some("agent")),
    ("sync", Some("agent")),
    ("spdy", Some("controlplane")),
    ("path", Some("controlplane")),
    ("query", Some("controlplane")),
    ("body", Some("controlplane")),
    ("patch", Some("controlplane")),
    ("selector", Some("controlplane")),
    ("token", Some("controlplane")),
    ("expression", Some("controlplane")),
    ("raft", Some("controlplane")),
    ("record", Some("controlplane")),
    ("snapshot", Some("controlplane")),
];

pub(crate) fn run(arguments: &FuzzArguments) -> anyhow::Result<()> {
    if run::find_program("cargo-fuzz").is_none() {
        bail!(
            "cargo-fuzz is not there: cargo install cargo-fuzz (and rustup toolchain install nightly)"
        );
    }
    let wanted = |name: &str| arguments.target.as_deref().is_none_or(|one| one == name);
    let mut targets = TARGETS.iter().filter(|(name, _)| wanted(name)).peekable();
    if targets.peek().is_none() {
        let names = TARGETS.map(|(name, _)| name).join(", ");
        bail!("no such target; there are {names}");
    }
    for (target, needed) in targets {
        run::step(&format!("{target}: {} s", arguments.seconds));
        let mut command = Command::new("cargo");
        command
            .args(["+nightly", "fuzz", "run", "--fuzz-dir", "tests/fuzz"])
            // The nightly that is there may have no library for `-Z build-std`, and needs none.
            .args(["--debug-assertions", "-O"]);
        if let Some(needed) = needed {
            command.args(["--features", needed]);
        }
        command.arg(target).arg("--");
        command.arg(format!("-max_total_time={}", arguments.seconds));
        checked(&mut command)?;
    }
    Ok(())
}
