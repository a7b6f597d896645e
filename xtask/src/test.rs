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
    /// Instead of the tests: real applications from Debian's packages, and workloads on several nodes. Takes some
    /// minutes, on a machine that does nothing else.
    #[arg(long, conflicts_with = "table")]
    applications: bool,
    /// Instead of the tests: a thousand pods of all kinds come and go while the agent is killed now and then, and nothing of
    /// them is left. Takes some minutes.
    #[arg(long, conflicts_with = "table")]
    churn: bool,
}

pub(crate) fn run(arguments: &TestArguments) -> anyhow::Result<()> {
    setup::ensure(SetupNeed::Tests)?;
    run::step("building");
    checked(cargo().args(["build", "--package", "cli"]))?;
    run::step("testing");
    let mut command = cargo();
    command.arg("test");
    match &arguments.package {
        _ if arguments.table => command.args(["--package", "tests", "--test", "table"]),
        _ if arguments.applications => {
            command.args(["--package", "tests", "--test", "applications"])
        }
        _ if arguments.churn => command.args(["--package", "tests", "--test", "e2e"]),
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.env(
        "WAGGLE_BINARY",
        run::workspace_root().join("target/debug/waggle"),
    );
    command.env("WAGGLE_OLD_KUBECTL", setup::old_kubectl());
    command.arg("--");
    if arguments.table || arguments.applications {
        // One lab at a time.
        command.arg("--test-threads=1");
    }
    if arguments.churn {
        if std::env::var_os("WAGGLE_CHURN_PODS").is_none() {
            command.env("WAGGLE_CHURN_PODS", "1000");
        }
        command.arg("churn::");
    }
    command.args(&arguments.filter);
    checked(&mut command)
}
