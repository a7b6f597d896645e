//! A node: a network namespace with two pods, an uplink, and one data plane (or none).
//!
//! What a data plane is asked for is the same for each: load the table, change endpoints, say what it takes.

mod maps;
mod netfilter;
mod waggle;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

pub(crate) use self::netfilter::restore_program;
use self::netfilter::{Iptables, Nftables};
use self::waggle::Waggle;
use crate::bench::figures::Node;
use crate::bench::services::{Family, Table};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct NodeArguments {
    #[arg(long, value_enum)]
    node: Node,
    #[arg(long, value_enum)]
    family: Family,
    /// Of this node alone, and empty.
    #[arg(long)]
    directory: PathBuf,
    /// That the node's process is in, so that it is found if the run is killed.
    #[arg(long)]
    cgroup: PathBuf,
    /// That the socket hooks are attached to.
    #[arg(long)]
    hooked: PathBuf,
    /// How many Services.
    #[arg(long)]
    services: u32,
    /// Which iptables programs.
    #[arg(long, value_enum)]
    iptables: IptablesKind,
}

/// There are two implementations of iptables; which one a node has is up to its distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum IptablesKind {
    /// What the machine calls iptables.
    Default,
    Nft,
    Legacy,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Request {
    Places,
    /// Loads the whole table from nothing, up to `times` times while it is quick.
    Load {
        times: u32,
    },
    /// Makes changes, one after the other, for as long.
    Change {
        seconds: f64,
        at_most: usize,
    },
    Memory,
    /// Whether the kernel tracks connections here, and translates any to this backend.
    Tracked,
    /// Turns the kernel's run-time statistics of BPF programs on or off.
    CountRunTime(bool),
    /// Runs and nanoseconds of the connect hook since it was loaded.
    ConnectHook,
}

/// Where things are.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Places {
    pub(crate) client: PathBuf,
    pub(crate) server: PathBuf,
    pub(crate) outside: PathBuf,
    /// Of the server.
    pub(crate) address: std::net::IpAddr,
}

/// Bytes.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    /// Resident set of the process that holds the tables.
    pub(crate) resident: Option<u64>,
    /// Largest that it was.
    pub(crate) peak: Option<u64>,
    /// Of the kernel.
    pub(crate) kernel: Option<u64>,
    /// The kernel's figure is the growth of the machine's, not a count of what is ours.
    pub(crate) estimated: bool,
}

/// What `/proc` shows of connection tracking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Tracked {
    pub(crate) connections: usize,
    /// From the last Service's address to one of its backends.
    pub(crate) translated: usize,
}

enum Plane {
    /// The kernel routes; nothing else.
    Plain,
    Waggle(Box<Waggle>),
    Iptables(Iptables),
    Nftables(Nftables),
}

struct Running {
    table: Table,
    places: Places,
    plane: Plane,
    /// How many changes were made since the table was loaded.
    step: u32,
    kernel_before: u64,
    kernel_after: u64,
}

/// Loads that take longer than this together are not repeated.
const QUICK: Duration = Duration::from_secs(3);

pub(super) fn main(arguments: &NodeArguments) -> anyhow::Result<()> {
    super::enter_cgroup(&arguments.cgroup)?;
    // One thread yet: every later one is in the node's namespace, too.
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut running = runtime.block_on(Running::start(arguments))?;
    super::serve(|request| runtime.block_on(running.answer(request)))?;
    runtime.block_on(running.end())
}

impl Running {
    async fn start(arguments: &NodeArguments) -> anyhow::Result<Self> {
        let programs = arguments.node == Node::Waggle;
        let topology = super::topology::make(&arguments.directory, !programs).await?;
        let address = *topology
            .server
            .addresses
            .iter()
            .find(|address| arguments.family.matches(address))
            .context("the server has no address of the family")?;
        let table = Table {
            family: arguments.family,
            count: arguments.services,
            server: address,
        };
        let directory = &arguments.directory;
        let plane = match arguments.node {
            Node::Plain => Plane::Plain,
            Node::Waggle => {
                let waggle = Waggle::start(directory, &arguments.hooked, &topology).await?;
                Plane::Waggle(Box::new(waggle))
            }
            Node::Iptables => Plane::Iptables(Iptables::new(directory, arguments.iptables, &table)),
            Node::Nftables => Plane::Nftables(Nftables::new(directory)),
        };
        Ok(Self {
            table,
            places: Places {
                client: topology.client.netns,
                server: topology.server.netns,
                outside: topology.outside,
                address,
            },
            plane,
            step: 0,
            kernel_before: 0,
            kernel_after: 0,
        })
    }

    async fn answer(&mut self, request: Request) -> anyhow::Result<serde_json::Value> {
        Ok(match request {
            Request::Places => serde_json::to_value(&self.places)?,
            Request::Load { times } => serde_json::to_value(self.load(times).await?)?,
            Request::Change { seconds, at_most } => {
                serde_json::to_value(self.change(seconds, at_most).await?)?
            }
            Request::Memory => serde_json::to_value(self.memory()?)?,
            Request::Tracked => serde_json::to_value(self.tracked())?,
            Request::CountRunTime(on) => {
                if let Plane::Waggle(waggle) = &mut self.plane {
                    waggle.count_run_time(on)?;
                }
                serde_json::Value::Null
            }
            Request::ConnectHook => match &self.plane {
                Plane::Waggle(waggle) => {
                    serde_json::to_value(waggle.connect_hook(self.table.family))?
                }
                _ => serde_json::Value::Null,
            },
        })
    }

    /// Seconds of each load.
    async fn load(&mut self, times: u32) -> anyhow::Result<Vec<f64>> {
        let begun = Instant::now();
        let mut seconds = Vec::new();
        for number in 0..times {
            if number > 0 {
                if begun.elapsed() > QUICK {
                    break;
                }
                self.clear().await?;
            }
            self.kernel_before = maps::kernel_memory()?;
            let took = match &mut self.plane {
                Plane::Plain => Duration::ZERO,
                Plane::Waggle(waggle) => waggle.load(&self.table).await?,
                Plane::Iptables(iptables) => iptables.load(&self.table)?,
                Plane::Nftables(nftables) => nftables.load(&self.table)?,
            };
            self.kernel_after = maps::kernel_memory()?;
            seconds.push(took.as_secs_f64());
        }
        self.step = 0;
        Ok(seconds)
    }

    async fn clear(&mut self) -> anyhow::Result<()> {
        match &mut self.plane {
            Plane::Plain => Ok(()),
            Plane::Waggle(waggle) => waggle.clear().await,
            Plane::Iptables(iptables) => iptables.clear(),
            Plane::Nftables(nftables) => nftables.clear(&self.table),
        }
    }

    /// Seconds of each change: until it is in force, and until old sockets are ended, where somebody ends them.
    async fn change(&mut self, seconds: f64, at_most: usize) -> anyhow::Result<Vec<[f64; 2]>> {
        let begun = Instant::now();
        let mut taken = Vec::new();
        while taken.len() < at_most && begun.elapsed().as_secs_f64() < seconds {
            let change = self.table.change(self.step);
            let previous = self.step.checked_sub(1).map(|step| self.table.change(step));
            let took = match &mut self.plane {
                Plane::Plain => break,
                Plane::Waggle(waggle) => waggle.change(&change).await?,
                Plane::Iptables(iptables) => [iptables.change(&self.table, &change)?; 2],
                Plane::Nftables(nftables) => {
                    [nftables.change(&self.table, &change, previous.as_ref())?; 2]
                }
            };
            self.step += 1;
            taken.push(took.map(|took| took.as_secs_f64()));
        }
        Ok(taken)
    }

    fn memory(&self) -> anyhow::Result<Memory> {
        match &self.plane {
            Plane::Plain => Ok(Memory::default()),
            Plane::Waggle(_) => maps::own(),
            Plane::Iptables(_) | Plane::Nftables(_) => Ok(Memory {
                kernel: Some(self.kernel_after.saturating_sub(self.kernel_before)),
                estimated: true,
                ..Memory::default()
            }),
        }
    }

    /// `None` when the kernel does not show its table.
    fn tracked(&self) -> Option<Tracked> {
        let text = std::fs::read_to_string("/proc/thread-self/net/nf_conntrack").ok()?;
        let (from, to) = (self.table.last().ip(), self.table.server);
        Some(netfilter::tracked(&text, from, to))
    }

    async fn end(self) -> anyhow::Result<()> {
        match self.plane {
            Plane::Waggle(waggle) => waggle.end().await,
            _ => Ok(()),
        }
    }
}

/// What a change costs is told by the time until the program that makes it returns.
fn timed<T>(work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    work()?;
    Ok(begun.elapsed())
}
