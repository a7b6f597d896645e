//! `waggle dev`: a cluster of one node in one process, for trying and for tests.
//!
//! [`arguments`](DevArguments) → [`state`] (who runs on this data directory) → [`cluster`] (controller and
//! agent) → [`demo`] → [`screen`]. Ctrl-C leaves the machine as it was; the data directory stays.

mod cluster;
mod demo;
mod detach;
mod screen;
mod state;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::control_settings::ControlSettings;
use crate::logging::LogSettings;
use crate::settings::{ClusterSettings, NetworkSettings, NodeSettings};

#[derive(Debug, Clone, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct DevArguments {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    start: StartArguments,
}

#[derive(Debug, Clone, clap::Subcommand)]
enum Action {
    /// Stop the cluster that runs on a data directory, and wait until nothing of it is left.
    Down {
        #[arg(long, default_value = DATA_DIR)]
        data_dir: PathBuf,
        /// Remove the data directory as well.
        #[arg(long)]
        purge: bool,
    },
}

const DATA_DIR: &str = "/var/lib/waggle/dev";

#[derive(Debug, Clone, clap::Args)]
struct StartArguments {
    /// Everything durable: the store, certificates, images, logs, the kubeconfig.
    #[arg(long, default_value = DATA_DIR)]
    data_dir: PathBuf,
    /// Address of the API server; pods reach it where it is not loopback.
    #[arg(long, default_value = "0.0.0.0:6443")]
    listen: SocketAddr,
    /// Apply the demo (three echo servers behind a Service), call it by its name and show what happened.
    #[arg(long)]
    demo: bool,
    /// Return when the cluster is up and leave it running; `waggle dev down` ends it.
    #[arg(long)]
    detach: bool,
    /// How the closing screen is written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// busybox for the demo's image: one static executable.
    #[arg(long)]
    busybox: Option<PathBuf>,
    /// Serve the node's metrics on this address (loopback).
    #[arg(long)]
    metrics_listen: Option<SocketAddr>,
    #[command(flatten)]
    cluster: ClusterSettings,
    #[command(flatten)]
    control: ControlSettings,
    #[command(flatten)]
    node: NodeSettings,
    #[command(flatten)]
    network: NetworkSettings,
    /// Set by --detach for the process that stays: where it says that it is up.
    #[arg(long, hide = true)]
    report_to: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(arguments: DevArguments, log: &LogSettings) -> anyhow::Result<()> {
    match arguments.action {
        Some(Action::Down { data_dir, purge }) => state::down(&data_dir, purge),
        None if arguments.start.detach => detach::start(&arguments.start),
        None => cluster::run(&arguments.start, log),
    }
}
