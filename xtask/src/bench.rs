//! `cargo xtask bench`: builds for release, then measures the one-node cluster and prints one table.

use crate::run::{self, cargo, checked};
use crate::setup::{self, SetupNeed};

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {
    /// Whole runs, each with a cluster of its own; the table has their medians.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Pods per round.
    #[arg(long, default_value_t = 30)]
    pods: u32,
    /// Seconds of connections per round.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// JSON instead of a table.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &BenchArguments) -> anyhow::Result<()> {
    setup::ensure(SetupNeed::Tests)?;
    run::step("building for release");
    checked(cargo().args([
        "build",
        "--release",
        "--package",
        "cli",
        "--package",
        "tests",
        "--bins",
    ]))?;
    run::step("measuring");
    let target = run::workspace_root().join("target/release");
    let mut bench = std::process::Command::new(target.join("waggle-bench"));
    bench.env("WAGGLE_BINARY", target.join("waggle"));
    bench.args(["--rounds", &arguments.rounds.to_string()]);
    bench.args(["--pods", &arguments.pods.to_string()]);
    bench.args(["--seconds", &arguments.seconds.to_string()]);
    if arguments.json {
        bench.arg("--json");
    }
    checked(&mut bench)
}
