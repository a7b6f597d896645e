//! `cargo xtask`: set-up, the development cluster, checks, tests and benchmarks.
//!
//! Nothing of the product lives here, and nothing here is needed by a built `waggle`.

mod bench;
mod check;
mod conformance;
mod dev;
mod fuzz;
mod guest;
mod kernels;
mod power_cut;
mod run;
mod setup;
mod test;
mod tidy;

use clap::{Parser, Subcommand};

/// Everything a developer of Waggle runs.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Install what is missing (eBPF tool chain, runc, test programs), saying what and why.
    Setup(setup::SetupArguments),
    /// Set up, build and run a one-node cluster with a demo; Ctrl-C leaves the machine as it was.
    Dev(dev::DevArguments),
    /// Set up, then run every test.
    Test(test::TestArguments),
    /// The read-only gate: formatting, clippy on host and eBPF targets, tidy, dependency rules.
    Check(check::CheckArguments),
    /// Run the fuzz targets for a while.
    Fuzz(fuzz::FuzzArguments),
    /// Load every eBPF program on other kernels (QEMU), and write down what their verifiers looked at.
    Kernels(kernels::KernelsArguments),
    /// Run Kubernetes' end-to-end suite against a lab of two nodes.
    Conformance(conformance::ConformanceArguments),
    /// Cut the power of a virtual machine (QEMU) in which a member takes writes, again and again, and look for every write
    /// that it had acknowledged.
    PowerCut(power_cut::PowerCutArguments),
    /// Measure the one-node cluster, the control plane beside etcd, a large cluster or pods, and print one table.
    Bench(bench::BenchArguments),
}

fn main() -> anyhow::Result<()> {
    std::env::set_current_dir(run::workspace_root())?;
    match Arguments::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::Dev(arguments) => dev::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
        Command::Check(arguments) => check::run(&arguments),
        Command::Fuzz(arguments) => fuzz::run(&arguments),
        Command::Kernels(arguments) => kernels::run(&arguments),
        Command::Conformance(arguments) => conformance::run(&arguments),
        Command::PowerCut(arguments) => power_cut::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
    }
}
