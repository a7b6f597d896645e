//! `cargo xtask test`: set-up, build, every test.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

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
    /// Instead of the tests: an upgrade over a change of the eBPF maps' layout, under load. From this older `waggle`; when
    /// none is named, to one that is built as a later version would be.
    #[arg(long, value_name = "FROM", conflicts_with = "table")]
    upgrade: Option<Option<PathBuf>>,
    /// Instead of the tests: every fault of the control plane so many times, under load, with three real members. Once or
    /// twice is part of the tests.
    #[arg(long, value_name = "ROUNDS", conflicts_with = "table", num_args = 0..=1, default_missing_value = "30")]
    faults: Option<u32>,
}

pub(crate) fn run(arguments: &TestArguments) -> anyhow::Result<()> {
    setup::ensure(SetupNeed::Tests)?;
    let built = run::workspace_root().join("target/debug/waggle");
    let other = match &arguments.upgrade {
        None => None,
        Some(Some(older)) => {
            let path = older.canonicalize();
            let path = path.with_context(|| format!("--upgrade {}", older.display()))?;
            Some(("WAGGLE_UPGRADE_FROM", path))
        }
        Some(None) => Some(("WAGGLE_UPGRADE_TO", build_next(&built)?)),
    };
    run::step("building");
    checked(cargo().args(["build", "--package", "cli"]))?;
    run::step("testing");
    let mut command = cargo();
    command.arg("test");
    match &arguments.package {
        _ if other.is_some() => command.args(["--package", "tests", "--test", "upgrade"]),
        _ if arguments.faults.is_some() => command.args(["--package", "tests", "--test", "faults"]),
        _ if arguments.table => command.args(["--package", "tests", "--test", "table"]),
        _ if arguments.applications => {
            command.args(["--package", "tests", "--test", "applications"])
        }
        _ if arguments.churn => command.args(["--package", "tests", "--test", "e2e"]),
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.env("WAGGLE_BINARY", built);
    command.env("WAGGLE_OLD_KUBECTL", setup::old_kubectl());
    if let Some((variable, path)) = other {
        command.env(variable, path);
    }
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
    if let Some(rounds) = arguments.faults {
        command.env("WAGGLE_FAULT_ROUNDS", rounds.to_string());
        command.args(["--test-threads=1", "--nocapture"]);
    }
    command.args(&arguments.filter);
    checked(&mut command)
}

/// A binary whose maps have the layout after this one's, beside the one under test.
fn build_next(built: &Path) -> anyhow::Result<PathBuf> {
    run::step("building what is upgraded to");
    checked(cargo().args(["build", "--package", "cli", "--features", "next-layout"]))?;
    let next = built.with_file_name("waggle-next");
    std::fs::copy(built, &next).with_context(|| format!("write {}", next.display()))?;
    Ok(next)
}
