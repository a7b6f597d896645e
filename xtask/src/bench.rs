//! `cargo xtask bench`: builds for release, then measures and prints one table.
//!
//! What can be asked for is in a file that the program that measures reads, too, so that help and mistakes come before
//! anything is built.

/// One file for both.
#[path = "../../tests/src/bin/bench/arguments.rs"]
mod arguments;

use self::arguments::{Bench, NodeArguments};
use crate::run::{self, cargo, checked};
use crate::setup::{self, SetupNeed};

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArguments {
    #[command(subcommand)]
    bench: Option<Bench>,
    #[command(flatten)]
    node: NodeArguments,
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
    run::step(match &arguments.bench {
        None => "measuring the one-node cluster",
        Some(Bench::Control(_)) => "measuring the control plane beside etcd",
        Some(Bench::Scale(_)) => "measuring a large cluster of simulated nodes",
        Some(Bench::Pods(_)) => "measuring pods beside bare runc",
    });
    let target = run::workspace_root().join("target/release");
    let mut bench = std::process::Command::new(target.join("waggle-bench"));
    bench.env("WAGGLE_BINARY", target.join("waggle"));
    // They were understood above.
    bench.args(after_verb(std::env::args()));
    checked(&mut bench)
}

/// The arguments behind `bench`.
fn after_verb(arguments: impl Iterator<Item = String>) -> impl Iterator<Item = String> {
    arguments.skip_while(|word| word != "bench").skip(1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        bench: BenchArguments,
    }

    #[test]
    fn each_benchmark_has_its_own_arguments() {
        let parse = |line: &str| Line::try_parse_from(line.split(' '));
        let quick = parse("bench control --quick --only watch,failover --output json");
        assert!(
            matches!(quick.map(|line| line.bench.bench), Ok(Some(Bench::Control(it))) if it.common.quick)
        );
        assert!(parse("bench scale --nodes 100 --pods 1000").is_ok());
        assert!(parse("bench pods --together 10").is_ok());
        let node = parse("bench --rounds 2 --json").map(|line| line.bench);
        assert!(matches!(node, Ok(node) if node.node.rounds == 2 && node.bench.is_none()));
        for wrong in [
            "bench control --only nothing",
            "bench scale --watchers 3",
            "bench --quick",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_behind_the_verb_is_handed_on() {
        let line = ["xtask", "bench", "scale", "--nodes", "7"];
        let rest: Vec<String> = after_verb(line.map(str::to_owned).into_iter()).collect();
        assert_eq!(rest, ["scale", "--nodes", "7"]);
    }
}
