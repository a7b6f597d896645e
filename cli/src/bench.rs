//! `waggle bench`: this data plane beside plain routing, iptables and nftables, on this machine, in one run.
//!
//! ```text
//!   services chain_name iptables nftables   pure: the Services, and the rules that kube-proxy makes of them
//!   part (node server client)               the run's processes: this program, in namespaces
//!   run_directory scene processors          doing: what a run makes and removes, nodes and ends, pinning
//!   figures statistics results              what is measured; medians, ratios, who is ahead
//!   machine report table                    facts; JSON and HTML; the terminal
//! ```
//! The programs `iptables-restore` and `nft` are run here, in the run's own namespaces, to have something to
//! compare with; nothing else of Waggle runs them.

mod chain_name;
mod figures;
mod iptables;
mod machine;
mod nftables;
pub(crate) mod part;
mod processors;
mod report;
mod results;
mod run_directory;
mod scene;
mod services;
mod statistics;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::Context as _;

use self::figures::{Column, FIGURES, Figure, Node, Work};
use self::machine::Machine;
use self::part::node::{IptablesKind, Memory, Request, restore_program};
use self::processors::Processors;
use self::report::{Report, Settings};
use self::results::Measured;
use self::run_directory::RunDirectory;
use self::scene::{Setting, Stage};
use self::services::Family;
use self::statistics::percentile;

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArguments {
    /// Numbers of Services, each with three endpoints [default: 10,1000,10000,30000]
    #[arg(long, value_delimiter = ',',
          value_parser = clap::value_parser!(u32).range(i64::from(services::MINIMUM)..=i64::from(services::MAXIMUM)))]
    services: Vec<u32>,
    /// How often everything has its turn [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// How long a turn is; request-response and streams have five of half the length a round [default: 0.3]
    #[arg(long, value_parser = seconds)]
    turn_seconds: Option<f64>,
    /// Other defaults, for a look in under a minute: 10 and 1,000 Services, three rounds of turns of 0.15 s.
    #[arg(long)]
    quick: bool,
    /// Only these measurements.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Work>,
    /// Only these data planes.
    #[arg(long, value_enum, value_delimiter = ',')]
    planes: Vec<Node>,
    #[arg(long, value_enum, default_value_t = Family::V4)]
    family: Family,
    /// Which iptables: there are two, and they differ much in loading.
    #[arg(long, value_enum, default_value_t = IptablesKind::Default)]
    iptables: IptablesKind,
    /// Let the kernel choose processors, instead of one for both ends (operations) or one each (streams).
    #[arg(long)]
    unpinned: bool,
    #[arg(long, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// Also write a page of HTML with plots.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Where the run keeps what it makes; another run that was cut off is cleaned up after here.
    #[arg(long, default_value = "/run/waggle-bench")]
    run_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    Table,
    Json,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if (0.02..=60.0).contains(&value) => Ok(value),
        _ => Err("not a number of seconds from 0.02 to 60".to_owned()),
    }
}

/// What is to be done, with defaults applied.
#[derive(Debug)]
struct Plan {
    services: Vec<u32>,
    rounds: u32,
    turn_seconds: f64,
    works: Vec<Work>,
    nodes: Vec<Node>,
    family: Family,
    iptables: IptablesKind,
}

/// Changes of a turn: a data plane that is quick is not asked for more.
const CHANGES: usize = 200;
/// Seconds after which one that is slow makes no more in later rounds.
const CHANGES_BUDGET: f64 = 10.0;
const LOADS: u32 = 3;
/// Bytes; an estimate below says nothing.
const ESTIMABLE: u64 = 2 << 20;

pub(crate) fn run(arguments: &BenchArguments) -> anyhow::Result<()> {
    anyhow::ensure!(
        nix::unistd::geteuid().is_root(),
        "needs root: it makes network namespaces, and loads eBPF programs, rules and tables into them"
    );
    let plan = plan(arguments);
    let began = jiff::Timestamp::now();
    let clock = Instant::now();
    let processors = Processors::of_this_machine(!arguments.unpinned)?;
    let machine = Machine::look(restore_program(plan.iptables, plan.family));
    let directory = RunDirectory::make(&arguments.run_dir)?;
    let mut run = Run {
        plan: &plan,
        processors: &processors,
        directory: &directory,
        measured: Measured::default(),
    };
    for services in &plan.services {
        run.size(*services, &machine)?;
    }
    let lines = run.measured.lines(&plan.services);
    let report = Report {
        version: env!("CARGO_PKG_VERSION"),
        began: began.to_string(),
        seconds: clock.elapsed().as_secs_f64(),
        command: command_line(std::env::args()),
        settings: Settings {
            services: plan.services.clone(),
            rounds: plan.rounds,
            turn_seconds: plan.turn_seconds,
            family: plan.family,
            processors: processors.described(),
        },
        verdicts: results::verdicts(&lines),
        notes: report::notes(&machine),
        lines,
        machine,
    };
    if let Some(path) = &arguments.report {
        std::fs::write(path, report::page(&report))
            .with_context(|| format!("write {}", path.display()))?;
        eprintln!("wrote {}", path.display());
    }
    match arguments.output {
        Output::Table => print!("{}", table::text(&report)),
        Output::Json => println!("{}", serde_json::to_string_pretty(&report)?),
    }
    Ok(())
}

fn plan(arguments: &BenchArguments) -> Plan {
    let (sizes, rounds, turn): (&[u32], u32, f64) = if arguments.quick {
        (&[10, 1_000], 3, 0.15)
    } else {
        (&[10, 1_000, 10_000, 30_000], 5, 0.3)
    };
    let mut services = arguments.services.clone();
    if services.is_empty() {
        services = sizes.to_vec();
    }
    services.sort_unstable();
    services.dedup();
    let all = |given: &[Work]| {
        if given.is_empty() {
            Work::ALL.to_vec()
        } else {
            given.to_vec()
        }
    };
    let mut nodes = if arguments.planes.is_empty() {
        Node::ALL.to_vec()
    } else {
        arguments.planes.clone()
    };
    nodes.sort_unstable();
    nodes.dedup();
    Plan {
        services,
        rounds: arguments.rounds.unwrap_or(rounds),
        turn_seconds: arguments.turn_seconds.unwrap_or(turn),
        works: all(&arguments.only),
        nodes,
        family: arguments.family,
        iptables: arguments.iptables,
    }
}

/// As it can be typed again.
fn command_line(words: impl Iterator<Item = String>) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:".contains(c);
    let quoted: Vec<String> = words
        .enumerate()
        .map(|(number, word)| {
            if number == 0 {
                "waggle".to_owned()
            } else if !word.is_empty() && word.chars().all(plain) {
                word
            } else {
                format!("'{}'", word.replace('\'', "'\\''"))
            }
        })
        .collect();
    format!("sudo {}", quoted.join(" "))
}

struct Run<'a> {
    plan: &'a Plan,
    processors: &'a Processors,
    directory: &'a RunDirectory,
    measured: Measured,
}

impl Run<'_> {
    fn wants(&self, work: Work) -> bool {
        self.plan.works.contains(&work)
    }

    /// Everything at one number of Services, on nodes of its own.
    fn size(&mut self, services: u32, machine: &Machine) -> anyhow::Result<()> {
        let mut stages = Vec::new();
        for node in &self.plan.nodes {
            let lacking = match node {
                Node::Iptables if machine.iptables.is_none() => Some(format!(
                    "{} is not on this machine",
                    restore_program(self.plan.iptables, self.plan.family)
                )),
                Node::Nftables if machine.nftables.is_none() => {
                    Some("nft is not on this machine".to_owned())
                }
                _ => None,
            };
            if let Some(why) = lacking {
                self.miss_node(services, *node, &why);
                continue;
            }
            say(services, &format!("loading {}", node.name()));
            match self.stage(services, *node) {
                Ok(stage) => stages.push(stage),
                // Ours has to work, and what all are compared with; another may lack something in this kernel.
                Err(error) if matches!(node, Node::Iptables | Node::Nftables) => {
                    self.miss_node(services, *node, &format!("{error:#}"));
                }
                Err(error) => return Err(error),
            }
        }
        self.node_ports(services, &mut stages);
        self.rounds(services, &mut stages)?;
        self.hook(services, &mut stages)
    }

    fn miss_node(&mut self, services: u32, node: Node, why: &str) {
        eprintln!("{}: {why}", node.name());
        for figure in FIGURES {
            if !self.wants(figure.work) {
                continue;
            }
            for column in figure.work.columns() {
                if column.node() == node {
                    self.measured.miss(services, *figure, *column, why);
                }
            }
        }
    }

    /// A node, loaded and seen to do what it should.
    fn stage(&mut self, services: u32, node: Node) -> anyhow::Result<Stage> {
        let mut stage = Stage::start(
            node,
            Setting {
                directory: self.directory,
                family: self.plan.family,
                iptables: self.plan.iptables,
                services,
            },
        )?;
        stage.verify_empty()?;
        let times = if self.wants(Work::Load) { LOADS } else { 1 };
        let loads: Vec<f64> = stage.control.ask(&Request::Load { times })?;
        let memory: Memory = stage.control.ask(&Request::Memory)?;
        stage.verify()?;
        for column in Column::SERVICES
            .into_iter()
            .filter(|column| column.node() == node)
        {
            if self.wants(Work::Load) {
                for seconds in &loads {
                    self.measured
                        .add(services, figures::LOAD, column, seconds * 1e3);
                }
            }
            if self.wants(Work::Memory) {
                let mut add = |figure: Figure, bytes: Option<u64>, without: &str| match bytes {
                    Some(bytes) => {
                        let mib = bytes as f64 / f64::from(1 << 20);
                        self.measured.add(services, figure, column, mib);
                    }
                    None => self.measured.miss(services, figure, column, without),
                };
                add(
                    figures::MEMORY_USER,
                    memory.resident,
                    "kube-proxy, which would hold the table in user space, does not run here",
                );
                let told = |bytes: &u64| !memory.estimated || *bytes >= ESTIMABLE;
                add(
                    figures::MEMORY_KERNEL,
                    memory.kernel.filter(told),
                    "it takes too little kernel memory to be told from the machine's own ups and downs",
                );
            }
        }
        Ok(stage)
    }

    /// Who does not answer at the NodePort is not measured there.
    fn node_ports(&mut self, services: u32, stages: &mut [Stage]) {
        if !self.wants(Work::NorthSouth) {
            return;
        }
        for stage in stages {
            let Err(error) = stage.verify_node_port() else {
                continue;
            };
            let why = format!("the NodePort does not lead to the Service: {error:#}");
            eprintln!("{}: {why}", stage.node.name());
            for figure in figures::of_connections(Work::NorthSouth) {
                for column in Work::NorthSouth.columns() {
                    if column.node() == stage.node {
                        self.measured.miss(services, figure, *column, &why);
                    }
                }
            }
            stage.without_node_port();
        }
    }

    fn rounds(&mut self, services: u32, stages: &mut [Stage]) -> anyhow::Result<()> {
        let mut changes: BTreeMap<Column, Vec<[f64; 2]>> = BTreeMap::new();
        for round in 0..self.plan.rounds {
            say(
                services,
                &format!("round {} of {}", round + 1, self.plan.rounds),
            );
            for work in self.plan.works.clone() {
                let columns: Vec<Column> = work
                    .columns()
                    .iter()
                    .copied()
                    .filter(|column| stages.iter().any(|stage| stage.measures(*column, work)))
                    .collect();
                if columns.is_empty() || matches!(work, Work::Load | Work::Memory | Work::Hook) {
                    continue;
                }
                for pass in 0..work.passes() {
                    // Who goes first is another one each time.
                    let first = (round + pass) as usize % columns.len();
                    for column in columns[first..].iter().chain(&columns[..first]).copied() {
                        let stage = stages
                            .iter_mut()
                            .find(|stage| stage.node == column.node())
                            .context("a column without its node")?;
                        if work == Work::Change {
                            let made = changes.entry(column).or_default();
                            if made.iter().map(|[took, _]| took).sum::<f64>() < CHANGES_BUDGET {
                                made.extend(change(stage, self.plan.turn_seconds)?);
                            }
                        } else {
                            self.turn(services, stage, column, work)?;
                        }
                    }
                }
            }
        }
        for (column, made) in changes {
            let in_force: Vec<f64> = made.iter().map(|[in_force, _]| *in_force).collect();
            for (figure, fraction) in [(figures::CHANGE_P50, 0.5), (figures::CHANGE_P99, 0.99)] {
                let value = percentile(&in_force, fraction) * 1e3;
                self.measured.add(services, figure, column, value);
            }
            // Nobody else ends them.
            if column == Column::Waggle {
                let ended: Vec<f64> = made.iter().map(|[_, ended]| *ended).collect();
                let value = percentile(&ended, 0.99) * 1e3;
                self.measured
                    .add(services, figures::ENDED_P99, column, value);
            }
        }
        Ok(())
    }

    fn turn(
        &mut self,
        services: u32,
        stage: &mut Stage,
        column: Column,
        work: Work,
    ) -> anyhow::Result<()> {
        let turn = stage
            .turn(
                column,
                work,
                self.plan.turn_seconds * work.part_of_turn(),
                self.processors,
            )
            .with_context(|| format!("{} at {services} Services ({work:?})", column.name()))?;
        let rate = turn.done / turn.seconds;
        let cpu = turn.processor / turn.done * 1e6;
        let micro = |seconds: Option<f64>| seconds.unwrap_or(f64::NAN) * 1e6;
        let lost = (1.0 - turn.done / turn.sent) * 100.0;
        let values: Vec<(Figure, f64)> = match work {
            Work::Exchange => vec![
                (figures::EXCHANGE_RATE, rate),
                (figures::EXCHANGE_P99, micro(turn.p99)),
                (figures::EXCHANGE_CPU, cpu),
            ],
            Work::Stream => vec![
                (figures::STREAM_RATE, rate * 8.0 / 1e9),
                (figures::STREAM_CPU, cpu * f64::from(1 << 20)),
            ],
            Work::Udp => vec![
                (figures::UDP_RATE, rate),
                (figures::UDP_LOST, lost),
                (figures::UDP_CPU, cpu),
            ],
            Work::UdpConnected => vec![
                (figures::UDP_CONNECTED_RATE, rate),
                (figures::UDP_CONNECTED_LOST, lost),
                (figures::UDP_CONNECTED_CPU, cpu),
            ],
            _ => {
                let [p50, p99, per_second, time] = figures::of_connections(work);
                vec![
                    (p50, micro(turn.p50)),
                    (p99, micro(turn.p99)),
                    (per_second, rate),
                    (time, cpu),
                ]
            }
        };
        for (figure, value) in values {
            self.measured.add(services, figure, column, value);
        }
        Ok(())
    }

    /// In turns of its own: counting makes programs slower.
    fn hook(&mut self, services: u32, stages: &mut [Stage]) -> anyhow::Result<()> {
        let Some(stage) = stages.iter_mut().find(|stage| stage.node == Node::Waggle) else {
            return Ok(());
        };
        if !self.wants(Work::Hook) {
            return Ok(());
        }
        say(services, "the connect hook");
        let () = stage.control.ask(&Request::CountRunTime(true))?;
        for _ in 0..self.plan.rounds {
            for column in [Column::Pod, Column::Waggle] {
                let (runs, time): (u64, u64) = stage.control.ask(&Request::ConnectHook)?;
                stage.turn(
                    column,
                    Work::Connect,
                    self.plan.turn_seconds,
                    self.processors,
                )?;
                let (runs_after, time_after): (u64, u64) =
                    stage.control.ask(&Request::ConnectHook)?;
                let value = (time_after - time) as f64 / (runs_after - runs) as f64;
                self.measured.add(services, figures::HOOK, column, value);
            }
        }
        let () = stage.control.ask(&Request::CountRunTime(false))?;
        Ok(())
    }
}

/// Seconds of each change of a turn; at least one, however long it takes.
fn change(stage: &mut Stage, seconds: f64) -> anyhow::Result<Vec<[f64; 2]>> {
    stage.control.ask(&Request::Change {
        seconds,
        at_most: CHANGES,
    })
}

fn say(services: u32, what: &str) {
    eprintln!("{services:>6} Services: {what}");
}

#[cfg(test)]
mod tests {
    use super::command_line;

    #[test]
    fn a_command_line_can_be_typed_again() {
        let words = [
            "/x/waggle",
            "bench",
            "--services",
            "10,1000",
            "--report",
            "it's.html",
        ];
        assert_eq!(
            command_line(words.map(str::to_owned).into_iter()),
            "sudo waggle bench --services 10,1000 --report 'it'\\''s.html'"
        );
    }
}
