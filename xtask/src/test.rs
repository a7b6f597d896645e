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
    /// Instead of the tests: an upgrade over a change of the eBPF maps' layout, under load. From this older `waggle`; when
    /// none is named, to one that is built as a later version would be.
    #[arg(long, value_name = "FROM", conflicts_with = "table")]
    upgrade: Option<Option<PathBuf>>,
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
        _ if arguments.table => command.args(["--package", "tests", "--test", "table"]),
        Some(package) => command.args(["--package", package]),
        None => command.arg("--workspace"),
    };
    command.env("WAGGLE_BINARY", built);
    command.env("WAGGLE_OLD_KUBECTL", setup::old_kubectl());
    if let Some((variable, path)) = other {
        command.env(variable, path);
    }
    command.arg("--");
    if arguments.table {
        // One lab at a time.
        command.arg("--test-threads=1");
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
