//! `cargo xtask dev`: set-up and build, then `waggle dev --demo` does the rest.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::Context as _;

use crate::run::{self, cargo, checked};
use crate::setup::{self, SetupNeed};

#[derive(Debug, clap::Args)]
pub(crate) struct DevArguments {
    /// `down` stops a cluster that was started with --detach.
    #[arg(value_enum)]
    action: Option<Action>,
    /// Return when the cluster is up and leave it running.
    #[arg(long)]
    detach: bool,
    /// Do not apply the demo.
    #[arg(long)]
    no_demo: bool,
    /// Build without optimization (faster to build, slower to run).
    #[arg(long)]
    debug: bool,
    /// Passed on to `waggle dev` (see `waggle dev --help`).
    #[arg(last = true)]
    more: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Action {
    Down,
}

pub(crate) fn run(arguments: &DevArguments) -> anyhow::Result<()> {
    setup::ensure(SetupNeed::Run)?;
    run::step("building waggle");
    let mut build = cargo();
    build.args(["build", "--package", "cli"]);
    if !arguments.debug {
        build.arg("--release");
    }
    checked(&mut build)?;
    let profile = if arguments.debug { "debug" } else { "release" };
    let binary = run::workspace_root()
        .join("target")
        .join(profile)
        .join("waggle");
    let mut waggle = Command::new(&binary);
    waggle.arg("dev");
    match arguments.action {
        Some(Action::Down) => {
            waggle.arg("down");
        }
        None => {
            if !arguments.no_demo {
                waggle.arg("--demo");
            }
            if arguments.detach {
                waggle.arg("--detach");
            }
        }
    }
    waggle.args(&arguments.more);
    run::step("starting");
    // Replaces this process, so that Ctrl-C and the exit code are the cluster's own.
    Err(waggle.exec()).with_context(|| format!("cannot start {}", binary.display()))
}
