//! Brings a machine to where Waggle builds, runs and passes its tests.
//!
//! Facts are read first ([`facts`]), a plan is made from them ([`plan`], pure), the plan is printed, then
//! executed. A second run finds nothing to do. What cannot be installed automatically (another
//! distribution, not root) is named with the way to get it.

mod facts;
mod plan;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use self::facts::Facts;
use self::plan::{Need, Plan, Step};
use crate::run::{self, checked};

#[derive(Debug, clap::Args)]
pub(crate) struct SetupArguments {
    /// Say what would be done and change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(arguments: &SetupArguments) -> anyhow::Result<()> {
    if arguments.dry_run {
        let plan = plan::plan(&facts::read(Need::Tests));
        print!("{plan}");
        return Ok(());
    }
    ensure(Need::Tests)
}

/// Everything that `need` asks for is there when this returns.
pub(crate) fn ensure(need: Need) -> anyhow::Result<()> {
    let mut facts = facts::read(need);
    run::step("set-up");
    if facts.ebpf_toolchain.is_none() && facts.rustup_tried.is_none() {
        if facts.root && facts.apt {
            // Which LLVM can be had decides which toolchain serves: the lists must be current.
            let _ = checked(Command::new("apt-get").args(["update", "-q"]));
        }
        facts.rustup_tried = Some(try_rustup_nightly());
        facts = Facts {
            rustup_tried: facts.rustup_tried,
            ..facts::read(need)
        };
    }
    let plan = plan::plan(&facts);
    eprint!("{plan}");
    if !plan.blocked.is_empty() {
        bail!(
            "{} thing(s) missing that cannot be installed from here: see above",
            plan.blocked.len()
        );
    }
    for step in &plan.steps {
        execute(step)?;
    }
    let after = plan::plan(&Facts {
        rustup_tried: facts.rustup_tried,
        ..facts::read(need)
    });
    if !after.steps.is_empty() {
        eprint!("{after}");
        bail!("set-up ran but the above is still missing");
    }
    Ok(())
}

/// Debian's kubectl, unpacked by set-up: the oldest client that is supported.
pub(crate) fn old_kubectl() -> PathBuf {
    run::workspace_root().join("target/tools/kubectl-1.20")
}

/// Nightly with its library source and clippy: added to the nightly that is there, else installed. False
/// where rustup cannot, or where the LLVM that such a nightly needs is not to be had.
fn try_rustup_nightly() -> bool {
    eprintln!("    asking rustup for nightly with rust-src (two minutes at most)");
    let there = run::output("rustup", &["run", "nightly", "rustc", "--version"]).is_some();
    let mut command = Command::new("timeout");
    command.args(["120", "rustup"]);
    if there {
        command.args([
            "component",
            "add",
            "--toolchain",
            "nightly",
            "rust-src",
            "clippy",
        ]);
    } else {
        command.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        command.args([
            "--component",
            "rust-src",
            "--component",
            "clippy",
            "--no-self-update",
        ]);
    }
    let status = command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status();
    let brought = status.is_ok_and(|status| status.success());
    if !brought {
        eprintln!(
            "    rustup cannot bring it here: Debian's rustc with its library source instead"
        );
    }
    brought
}

fn execute(step: &Step) -> anyhow::Result<()> {
    match step {
        Step::AptUpdate => checked(Command::new("apt-get").args(["update", "-q"])),
        Step::AptInstall(packages) => checked(
            Command::new("apt-get")
                .env("DEBIAN_FRONTEND", "noninteractive")
                .args(["install", "-q", "-y", "--no-install-recommends"])
                .args(packages),
        ),
        Step::LinkDebianToolchain => {
            checked(Command::new("rustup").args(["toolchain", "link", "debian", "/usr"]))
        }
        Step::InstallBpfLinker { llvm } => {
            let prefix = format!("/usr/lib/llvm-{llvm}");
            checked(
                run::cargo()
                    .env("LLVM_PREFIX", &prefix)
                    .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix)
                    .args([
                        "install",
                        "bpf-linker@0.13.0",
                        "--force",
                        "--no-default-features",
                    ])
                    .args(["--features", &format!("llvm-{llvm}")]),
            )
        }
        Step::InstallCargoDeny => checked(run::cargo().args(["install", "cargo-deny", "--locked"])),
        // Unpacked rather than installed: the package conflicts with other vendors' kubectl.
        Step::UnpackKubectl => unpack("kubernetes-client", "usr/bin/kubectl", &old_kubectl()),
        // Unpacked rather than installed: the package starts a service.
        Step::UnpackEtcd => unpack("etcd-server", "usr/bin/etcd", &etcd()),
    }
}

/// Copies one program of a Debian package to `target` without installing the package.
fn unpack(package: &str, program: &str, target: &Path) -> anyhow::Result<()> {
    let folder = target.parent().context("the tools folder")?;
    let scratch = folder.join(package);
    std::fs::create_dir_all(&scratch)?;
    checked(
        Command::new("apt-get")
            .current_dir(&scratch)
            .args(["download", "-q", package]),
    )?;
    let archive = std::fs::read_dir(&scratch)?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    checked(
        Command::new("dpkg")
            .arg("-x")
            .arg(&archive)
            .arg(scratch.join("root")),
    )?;
    std::fs::copy(scratch.join("root").join(program), target)?;
    std::fs::remove_dir_all(&scratch)?;
    Ok(())
}

/// Debian's etcd, unpacked by set-up: what `cargo xtask bench control` compares with.
pub(crate) fn etcd() -> PathBuf {
    run::workspace_root().join("target/tools/etcd-3.4")
}

/// A plan for the running machine, for `cargo xtask check` (which installs only its own tools).
pub(crate) fn current(need: Need) -> Plan {
    plan::plan(&facts::read(need))
}

pub(crate) use self::plan::Need as SetupNeed;
