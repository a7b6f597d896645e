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
}

pub(crate) fn run(arguments: &TestArguments) -> anyhow::Result<()> {
    setup::ensure(SetupNeed::Tests)?;
    run::step("building");
    checked(cargo().args(["build", "--package", "cli"]))?;
    run::step("testing");
    let mut command = cargo();
    command.arg("test");
    match &arguments.package {
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.env(
        "WAGGLE_BINARY",
        run::workspace_root().join("target/debug/waggle"),
    );
    command.env("WAGGLE_OLD_KUBECTL", setup::old_kubectl());
    if let Some(filter) = &arguments.filter {
        command.arg("--").arg(filter);
    }
    checked(&mut command)
}
