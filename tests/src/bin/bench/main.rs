//! Measures what the project promises: `cargo xtask bench` builds and runs it.

mod arguments;
mod control;
mod directory;
mod node;
mod pods;
mod process;
mod report;
mod rest;
mod scale;
/// One file for this and for `waggle bench`.
#[path = "../../../../cli/src/bench/statistics.rs"]
mod statistics;

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::bail;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use self::arguments::{Bench, CommonArguments, NodeArguments, Output};
use self::directory::Directory;
use self::report::{Measured, Plan, Report};

/// Measures the one-node cluster, the control plane, a large cluster, or pods.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    bench: Option<Bench>,
    #[command(flatten)]
    node: NodeArguments,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.bench {
        None => {
            node::run(&arguments.node);
            Ok(())
        }
        Some(Bench::Control(arguments)) => measure(
            &control::PLAN,
            &arguments.common,
            async |place, measured| control::run(arguments, place, measured).await,
        ),
        Some(Bench::Scale(arguments)) => {
            measure(&scale::PLAN, &arguments.common, async |place, measured| {
                scale::run(arguments, place, measured).await
            })
        }
        Some(Bench::Pods(arguments)) => {
            measure(&pods::PLAN, &arguments.common, async |place, measured| {
                pods::run(arguments, place, measured).await
            })
        }
    }
}

type Settings = BTreeMap<&'static str, String>;

/// Measures and prints. What the run has made goes also when it is interrupted: it all hangs on values that are
/// dropped then.
fn measure(
    plan: &Plan,
    common: &CommonArguments,
    work: impl AsyncFnOnce(&Directory, &mut Measured) -> anyhow::Result<Settings>,
) -> anyhow::Result<()> {
    let began = Instant::now();
    // Processes that this thread starts end with it; so it is the main thread that runs the work.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let mut measured = Measured::default();
    let settings = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let directory = Directory::make(common.dir.as_deref())?;
        tokio::select! {
            settings = work(&directory, &mut measured) => settings,
            _ = interrupt.recv() => bail!("interrupted"),
            _ = terminate.recv() => bail!("told to end"),
        }
    })?;
    let report = Report::new(plan, &measured, settings, began.elapsed().as_secs_f64());
    match common.output {
        Output::Table => print!("{}", report::text(&report)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

/// Says what is being done.
fn say(what: impl std::fmt::Display) {
    eprintln!("==> {what}");
}
