//! `waggle lab`: several nodes on this machine, each a network namespace with an agent of its own.
//!
//! ```text
//!   up members exec status    what the commands do
//!   sweep                     ends all of a lab, known by its cgroup and its directories
//!   spawn netns cgroups       processes, namespaces, cgroups
//!   forward                   the API server's port, on the machine's loopback
//!   record                    what a lab consists of, kept in its data directory
//!   plan                      addresses and what `ip` is told (pure)
//!   place                     names and directories
//! ```
//! No process oversees a lab: members are processes of their own sessions, so that one can be killed without
//! the others. What belongs to a lab is what is in its cgroup, and what is mounted below its directories.

mod cgroups;
mod exec;
mod forward;
mod members;
mod netns;
mod place;
mod plan;
mod record;
mod spawn;
mod status;
mod sweep;
mod up;
mod xdp;

use std::path::PathBuf;

use anyhow::Context as _;

use self::place::Place;
use self::plan::Families;
use self::record::Record;
use crate::logging::{self, LogSettings};
use crate::settings::NetworkSettings;

#[derive(Debug, clap::Args)]
pub(crate) struct LabArguments {
    #[command(subcommand)]
    action: Action,
    /// Which lab: several may run at once.
    #[arg(long, global = true, default_value = "default")]
    name: String,
    /// Everything durable: stores, images, logs, the kubeconfig; one folder a lab.
    #[arg(long, global = true, default_value = "/var/lib/waggle/lab")]
    data_dir: PathBuf,
    /// Sockets, network namespaces and BPF pins; one folder a lab.
    #[arg(long, global = true, default_value = "/run/waggle/lab")]
    run_dir: PathBuf,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Start a lab and leave it running.
    Up(Box<UpArguments>),
    /// Run a program on a node, on a controller, outside, or in a pod's network.
    Exec(ExecArguments),
    /// What the lab consists of and how it is.
    Status {
        #[arg(long, value_enum, default_value_t = Output::Text)]
        output: Output,
    },
    /// What a node's agent, or a controller, has logged.
    Logs {
        /// `node-1`, `controller-1`, `forward`
        member: String,
        /// Go on as more is logged.
        #[arg(long, short)]
        follow: bool,
        /// The last lines alone.
        #[arg(long)]
        tail: Option<usize>,
    },
    /// Add a node.
    AddNode,
    /// Take a node away, with all that runs on it, and its Node object.
    RemoveNode { node: String },
    /// kill -9 an agent or a controller; pods live on.
    Kill { member: String },
    /// Cut the power of a node or a controller: all that runs on it ends at once, its data stays.
    Crash { member: String },
    /// Start an agent or a controller that was killed, or a member that crashed.
    Start { member: String },
    /// Take everything from a node that is not on its disk, as a loss of power does, and start it again.
    Reboot { node: String },
    /// End a lab, whatever state it is in; nothing of it stays.
    Down {
        /// Keep the data: the next `up` goes on from it.
        #[arg(long)]
        keep_data: bool,
    },
    /// Set by `up` for the process that serves the API on loopback.
    #[command(hide = true)]
    Forward {
        #[arg(long)]
        netns: PathBuf,
        /// The controllers, any of which will do.
        #[arg(long = "target", required = true)]
        targets: Vec<std::net::SocketAddr>,
    },
}

#[derive(Debug, clap::Args)]
struct UpArguments {
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=64))]
    nodes: u8,
    #[arg(long, default_value_t = 1)]
    controllers: u8,
    /// Families of nodes, pods and Services.
    #[arg(long, value_enum, default_value_t = Families::Dual)]
    families: Families,
    /// Bytes of the largest packet on the fabric between the nodes.
    #[arg(long, default_value_t = 1500, value_parser = clap::value_parser!(u16).range(1280..))]
    mtu: u16,
    #[command(flatten)]
    network: NetworkSettings,
    /// Image archive or OCI layout that every node gets.
    #[arg(long = "image", value_name = "PATH")]
    images: Vec<PathBuf>,
    /// Further argument of every `waggle controller`, such as --node-monitor-grace-period=5s.
    #[arg(
        long = "controller-argument",
        value_name = "ARGUMENT",
        allow_hyphen_values = true
    )]
    controller_arguments: Vec<String>,
    /// Further argument of every `waggle agent`.
    #[arg(
        long = "agent-argument",
        value_name = "ARGUMENT",
        allow_hyphen_values = true
    )]
    agent_arguments: Vec<String>,
    /// How the closing screen is written.
    #[arg(long, value_enum, default_value_t = Output::Text)]
    output: Output,
}

#[derive(Debug, clap::Args)]
struct ExecArguments {
    /// `node-1`, `controller-1`, `outside`, or a pod's name with --pod
    member: String,
    /// The member is a pod, [NAMESPACE/]NAME: the program runs in its network and cgroup, with this machine's files.
    #[arg(long)]
    pod: bool,
    /// A shell by default.
    #[arg(last = true)]
    command: Vec<std::ffi::OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Text,
    Json,
}

pub(crate) fn run(arguments: LabArguments, log: &LogSettings) -> anyhow::Result<()> {
    if let Action::Forward { netns, targets } = &arguments.action {
        logging::start(log, None)?;
        return forward::run(netns, targets);
    }
    // A control plane that is away is part of what is tried in a lab.
    let quiet = LogSettings {
        filter: "warn,kube_client=off".to_owned(),
        ..log.clone()
    };
    logging::start(&quiet, None)?;
    let root = nix::unistd::geteuid().is_root();
    anyhow::ensure!(root, "a lab needs root: namespaces, cgroups and eBPF");
    let place = Place::new(&arguments.name, &arguments.data_dir, &arguments.run_dir)?;
    match arguments.action {
        Action::Up(up) => up::run(&place, &up, log),
        Action::Exec(exec) => exec::run(&place, exec),
        Action::Status { output } => status::show(&place, &Record::require(&place)?, output),
        Action::Logs {
            member,
            follow,
            tail,
        } => logs(&place, &member, follow, tail),
        Action::AddNode => members::add(&place),
        Action::RemoveNode { node } => members::remove(&place, &node),
        Action::Kill { member } => members::kill(&place, &member),
        Action::Crash { member } => members::crash(&place, &member),
        Action::Start { member } => members::start(&place, &member),
        Action::Reboot { node } => members::reboot(&place, &node),
        Action::Down { keep_data } => sweep::down(&place, keep_data),
        Action::Forward { .. } => unreachable!("handled above"),
    }
}

fn logs(place: &Place, member: &str, follow: bool, tail: Option<usize>) -> anyhow::Result<()> {
    use std::os::unix::process::CommandExt as _;
    let record = Record::require(place)?;
    if member != place::FORWARD {
        record.member(member)?;
    }
    let path = place.log(member);
    let mut command = std::process::Command::new("tail");
    match tail {
        Some(lines) => command.arg("-n").arg(lines.to_string()),
        None => command.args(["-n", "+1"]),
    };
    if follow {
        command.arg("-F");
    }
    Err(command.arg(&path).exec()).with_context(|| format!("show {}", path.display()))
}
