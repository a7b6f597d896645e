//! `cargo xtask conformance`: Kubernetes' own end-to-end suite against a lab of two nodes.
//!
//! ```text
//!   suite     the suite and the programs of its images, built from Debian's source package of Kubernetes
//!   images    the images that it uses, made of those and of this machine's programs
//!   report    a line per test, from what the suite writes (pure)
//! ```
//! Debian's package is of 1.20, the last one that builds from one source package with all that it imports; what later
//! versions of Kubernetes have changed on purpose is named in `tests/conformance.md`, with the results. Not part of
//! `cargo xtask test`: it builds for some minutes, and runs for many.

mod images;
mod report;
mod suite;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use self::report::Outcome;
use crate::run::{self, cargo, checked};
use crate::setup::{self, SetupNeed};

#[derive(Debug, clap::Args)]
pub(crate) struct ConformanceArguments {
    /// Tests whose names match this regular expression.
    #[arg(long, default_value = r"\[Conformance\]")]
    focus: String,
    /// But not these: those that want the cluster for themselves run one by one, with another call.
    #[arg(long, default_value = r"\[Serial\]|\[Disruptive\]")]
    skip: String,
    /// Tests at the same time.
    #[arg(long, default_value_t = 4)]
    parallel: u32,
    /// Name the tests and run none.
    #[arg(long)]
    list: bool,
    /// Leave the lab running, and use the one that runs.
    #[arg(long)]
    keep_lab: bool,
}

/// The lab's name.
const LAB: &str = "conformance";

pub(crate) fn run(arguments: &ConformanceArguments) -> anyhow::Result<()> {
    setup::ensure(SetupNeed::Tests)?;
    let work = run::workspace_root().join("target/conformance");
    std::fs::create_dir_all(&work)?;
    let suite = suite::ensure(&work)?;
    if arguments.list {
        return list(&suite, arguments);
    }
    let archive = images::ensure(&work, &suite)?;
    run::step("building waggle");
    let mut build = cargo();
    build.args(["build", "--release", "--package", "cli"]);
    // A test looks for the commit in the server's version.
    if let Some(commit) = commit() {
        build.env("WAGGLE_GIT_COMMIT", commit);
    }
    checked(&mut build)?;
    let lab = Lab::up(&work, &archive, arguments.keep_lab)?;
    let outcome = go(&suite, &lab, &work, arguments);
    if !arguments.keep_lab {
        lab.down()?;
    }
    outcome
}

/// What is checked out, where that is known.
fn commit() -> Option<String> {
    let mut git = Command::new("git");
    git.args(["rev-parse", "HEAD"])
        .current_dir(run::workspace_root());
    let output = git.output().ok()?;
    let commit = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !commit.is_empty()).then_some(commit)
}

fn list(suite: &suite::Suite, arguments: &ConformanceArguments) -> anyhow::Result<()> {
    checked(Command::new(&suite.tests).args([
        "--ginkgo.dryRun",
        "--ginkgo.v",
        "--ginkgo.noColor",
        &format!("--ginkgo.focus={}", arguments.focus),
        &format!("--ginkgo.skip={}", arguments.skip),
    ]))
}

fn go(
    suite: &suite::Suite,
    lab: &Lab,
    work: &Path,
    arguments: &ConformanceArguments,
) -> anyhow::Result<()> {
    run::step("running the suite");
    let reports = work.join("reports");
    let _ = std::fs::remove_dir_all(&reports);
    std::fs::create_dir_all(&reports)?;
    // From outside the nodes, as a user: node ports are reached from there, and the API as nodes reach it.
    let mut command = lab.command("exec");
    command.args(["outside", "--"]).arg(&suite.ginkgo);
    command
        .args(["-noColor", "-timeout=6h"])
        .arg(format!("-nodes={}", arguments.parallel))
        .arg(format!("-focus={}", arguments.focus))
        .arg(format!("-skip={}", arguments.skip));
    command
        .arg(&suite.tests)
        .args(["--", "--provider=skeleton", "--num-nodes=2"])
        .arg(format!("--kubeconfig={}", lab.kubeconfig().display()))
        .arg(format!("--kubectl-path={}", setup::old_kubectl().display()))
        .arg(format!("--repo-root={}", suite.sources.display()))
        .arg(format!("--report-dir={}", reports.display()));
    let log = work.join("suite.log");
    eprintln!("    its output is in {}", log.display());
    let file = std::fs::File::create(&log)?;
    // Its status says only that some test failed; the table says which.
    command
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()
        .context("start the suite")?;
    let mut rows = Vec::new();
    for entry in std::fs::read_dir(&reports)? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "xml") {
            rows.extend(report::rows(&std::fs::read_to_string(path)?));
        }
    }
    rows.sort();
    let table = work.join("results.md");
    std::fs::write(&table, report::render(&rows))?;
    let failed = rows.iter().filter(|row| row.outcome == Outcome::Failed);
    for row in failed.clone() {
        println!("failed: {}", row.name);
    }
    let passed = rows.iter().filter(|row| row.outcome == Outcome::Passed);
    let (passed, failed) = (passed.count(), failed.count());
    println!(
        "{passed} passed, {failed} failed; a line for each in {}",
        table.display()
    );
    if failed > 0 || passed == 0 {
        bail!("{failed} of {} tests failed", passed + failed);
    }
    Ok(())
}

/// A lab with the suite's images on both nodes.
struct Lab {
    data: PathBuf,
}

impl Lab {
    fn up(work: &Path, images: &Path, keep: bool) -> anyhow::Result<Self> {
        let lab = Self {
            data: work.join("lab"),
        };
        let runs = lab.command("status").output();
        if keep && runs.is_ok_and(|output| output.status.success()) {
            return Ok(lab);
        }
        let mut command = lab.command("up");
        command.args(["--nodes", "2", "--families", "v4", "--image"]);
        checked(command.arg(images))?;
        Ok(lab)
    }

    fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(run::workspace_root().join("target/release/waggle"));
        command.args(["lab", "--name", LAB, "--data-dir"]);
        command.arg(&self.data).arg(verb);
        command
    }

    fn kubeconfig(&self) -> PathBuf {
        self.data.join(LAB).join("controller-1/admin.kubeconfig")
    }

    fn down(&self) -> anyhow::Result<()> {
        checked(&mut self.command("down"))
    }
}
