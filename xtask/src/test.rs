//! `cargo xtask test`: set-up, build, every test.

use crate::run::{self, cargo, checked};
use crate::setup::{self, SetupNeed};

#[derive(Debug, clap::Args)]
pub(crate) struct TestArguments {
    /// Only tests whose name contains this.
    filter: Option<String>,
    /// Only this crate.
    #[arg(short, long)]
    package: Option<String>,
    /// Instead of the tests: the table of what must be seen of pods' networks and Services, on three nodes in each
    /// mode of the data plane. Takes some minutes, on a machine that does nothing else.
    #[arg(long)]
    table: bool,
    /// Instead of the tests: every fault of the control plane so many times, under load, with three real members. Once or
    /// twice is part of the tests.
    #[arg(long, value_name = "ROUNDS", conflicts_with = "table", num_args = 0..=1, default_missing_value = "30")]
    faults: Option<u32>,
}

pub(crate) fn run(arguments: &TestArguments) -> anyhow::Result<()> {
    setup::ensure(SetupNeed::Tests)?;
    run::step("building");
    checked(cargo().args(["build", "--package", "cli"]))?;
    run::step("testing");
    let mut command = cargo();
    command.arg("test");
    match &arguments.package {
        _ if arguments.faults.is_some() => command.args(["--package", "tests", "--test", "faults"]),
        _ if arguments.table => command.args(["--package", "tests", "--test", "table"]),
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.env(
        "WAGGLE_BINARY",
        run::workspace_root().join("target/debug/waggle"),
    );
    command.env("WAGGLE_OLD_KUBECTL", setup::old_kubectl());
    command.arg("--");
    if arguments.table {
        // One lab at a time.
        command.arg("--test-threads=1");
    }
    if let Some(rounds) = arguments.faults {
        command.env("WAGGLE_FAULT_ROUNDS", rounds.to_string());
        command.args(["--test-threads=1", "--nocapture"]);
    }
    command.args(&arguments.filter);
    checked(&mut command)
}
