//! What each benchmark can be told. One file for `cargo xtask bench`, which shows the help before anything is built,
//! and for the program that measures.

use std::path::PathBuf;

/// What is measured; the one-node cluster where nothing is said.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// Store and API of three members beside three of etcd, in turns on the same disk
    ///
    /// Starts three controllers and three etcds as processes on loopback, with data directories of their own on one
    /// disk, all with mutual TLS, and lets both do the same in turns: writes and linearizable reads of 256-byte values
    /// by one client and by many, watchers on one prefix, the death of the leader.
    ///
    /// etcd's `Put` and `Range` are compared with two things. "store": transactions proposed to the leader over the
    /// members' own gRPC, and its read index, as a member asks that does not lead; this is the like of what etcd does
    /// (the answer to a read index has no value in it). "api": PUT and GET of a ConfigMap over HTTPS, which is what clients of Kubernetes do: with
    /// authentication, authorization, validation and a JSON object around the value. It is more work than etcd's.
    Control(ControlArguments),
    /// A cluster of thousands of simulated nodes on one controller
    ///
    /// Starts one controller and connects simulated agents to it over the real gRPC with certificates of their own;
    /// then makes Services and pods, and measures memory, how fast pods are bound, how long a change of an endpoint
    /// takes to all agents, and what a heart-beat costs. The agents run in this program, on the same processors.
    Scale(ScaleArguments),
    /// Pods from created to Ready beside bare runc, their memory, and their end
    ///
    /// Starts a lab of one node, and makes pods in it one at a time and many at once, in turns with bare runc on the
    /// same root file system. Then measures what the agent needs per pod, what it costs to probe them, and how long
    /// it takes to delete them.
    Pods(PodsArguments),
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeArguments {
    /// Whole runs, each with a cluster of its own; the table has their medians.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Pods per round.
    #[arg(long, default_value_t = 30)]
    pub(crate) pods: usize,
    /// Seconds of connections per round.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: usize,
    /// JSON instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Output {
    /// Aligned columns
    Table,
    /// Everything, for other programs
    Json,
}

/// The same for each of the benchmarks.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct CommonArguments {
    /// A small variant that shows that everything works; its figures say little.
    #[arg(long)]
    pub(crate) quick: bool,
    /// How the results are printed; progress goes to standard error.
    #[arg(long, short, value_enum, default_value = "table")]
    pub(crate) output: Output,
    /// Where data directories are made (and removed): the disk that is measured. The workspace's target directory by
    /// default.
    #[arg(long, value_name = "DIRECTORY")]
    pub(crate) dir: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ControlArguments {
    #[command(flatten)]
    pub(crate) common: CommonArguments,
    /// How often each of them gets its turns; the table has the medians.
    #[arg(long)]
    pub(crate) rounds: Option<u32>,
    /// Seconds of a turn of reads or writes.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) turn_seconds: Option<f64>,
    /// Clients at once in the second half of the turns; the first half has one.
    #[arg(long)]
    pub(crate) clients: Option<u32>,
    /// Watchers on the prefix.
    #[arg(long)]
    pub(crate) watchers: Option<u32>,
    /// How often the leader is killed.
    #[arg(long)]
    pub(crate) failovers: Option<u32>,
    /// Only these, with commas between them; all by default.
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    pub(crate) only: Vec<ControlPart>,
    /// etcd's server; the one that set-up unpacks by default.
    #[arg(long, value_name = "FILE", env = "WAGGLE_ETCD")]
    pub(crate) etcd: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ControlPart {
    /// Memory and processor time of one member with nothing to do
    Idle,
    /// Writes, by one client and by many
    Writes,
    /// Linearizable reads, by one client and by many
    Reads,
    /// Watchers on one prefix
    Watch,
    /// The leader is killed
    Failover,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ScaleArguments {
    #[command(flatten)]
    pub(crate) common: CommonArguments,
    /// Simulated nodes.
    #[arg(long)]
    pub(crate) nodes: Option<u32>,
    /// Services, each with an equal share of the pods.
    #[arg(long)]
    pub(crate) services: Option<u32>,
    /// Pods.
    #[arg(long)]
    pub(crate) pods: Option<u32>,
    /// How many of the pods are made while no node has room for any, to be bound at once; half of them by default.
    #[arg(long, value_name = "PODS")]
    pub(crate) waiting: Option<u32>,
    /// Changes of an endpoint whose way to all agents is timed, with the first nodes and again with all.
    #[arg(long)]
    pub(crate) changes: Option<u32>,
    /// How many nodes are the first ones.
    #[arg(long, value_name = "NODES")]
    pub(crate) first: Option<u32>,
}

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PodsArguments {
    #[command(flatten)]
    pub(crate) common: CommonArguments,
    /// Pods that are made one at a time.
    #[arg(long)]
    pub(crate) single: Option<u32>,
    /// Pods that are made at once.
    #[arg(long)]
    pub(crate) together: Option<u32>,
    /// How often that many are made at once.
    #[arg(long)]
    pub(crate) rounds: Option<u32>,
    /// Seconds for which the idle agent is watched.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) idle_seconds: Option<u64>,
}
