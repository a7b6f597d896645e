//! `control`: our store and API beside etcd.

mod certificates;
mod etcd;
mod failover;
mod forwarder;
mod load;
mod session;
mod waggle;
mod watchers;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;

use self::etcd::Etcd;
use self::failover::Acknowledged;
use self::forwarder::StoreSession;
use self::load::Work;
use self::session::{Session, value};
use self::waggle::Waggle;
use self::watchers::Watchers;
use crate::arguments::{ControlArguments, ControlPart};
use crate::directory::Directory;
use crate::report::{Column, Figure, Measured, Plan, Target};
use crate::statistics::percentile;
use crate::{Settings, say};

const ETCD: Column = "etcd";
const STORE: Column = "store";
const API: Column = "api";

const fn figure(
    key: &'static str,
    what: &'static str,
    unit: &'static str,
    target: Option<Target>,
) -> Figure {
    Figure {
        key,
        what,
        unit,
        target,
    }
}

const AS_MANY: Option<Target> = Some(Target::LeastTimes(1.0, ETCD));
const AS_FAST: Option<Target> = Some(Target::MostTimes(1.0, ETCD));

pub(crate) const PLAN: Plan = Plan {
    title: "Three members each, on one machine and one disk, in turns",
    figures: &[
        figure(
            "idleMemory",
            "one member at rest: resident",
            "MiB",
            Some(Target::Most(60.0)),
        ),
        figure("idleAnonymous", "  of which anonymous", "MiB", None),
        figure("idleCpu", "  processor time", "% core", None),
        figure("writeOneP50", "write, 1 client: p50", "us", AS_FAST),
        figure("writeOneP99", "  p99", "us", AS_FAST),
        figure("writeOneRate", "  per second", "/s", AS_MANY),
        figure(
            "writeOneCpu",
            "  processor time of all members per write",
            "us",
            None,
        ),
        figure("writeManyP50", "write, many clients: p50", "us", AS_FAST),
        figure("writeManyP99", "  p99", "us", AS_FAST),
        figure("writeManyRate", "  per second", "/s", AS_MANY),
        figure(
            "writeManyCpu",
            "  processor time of all members per write",
            "us",
            None,
        ),
        figure(
            "readOneP50",
            "linearizable read, 1 client: p50",
            "us",
            AS_FAST,
        ),
        figure("readOneP99", "  p99", "us", AS_FAST),
        figure("readOneRate", "  per second", "/s", AS_MANY),
        figure(
            "readOneCpu",
            "  processor time of all members per read",
            "us",
            None,
        ),
        figure(
            "readManyP50",
            "linearizable read, many clients: p50",
            "us",
            AS_FAST,
        ),
        figure("readManyP99", "  p99", "us", AS_FAST),
        figure("readManyRate", "  per second", "/s", AS_MANY),
        figure(
            "readManyCpu",
            "  processor time of all members per read",
            "us",
            None,
        ),
        figure(
            "watchRate",
            "events delivered per second of processor time",
            "/s",
            AS_MANY,
        ),
        figure("watchSeconds", "  first write to last delivery", "s", None),
        figure(
            "failover",
            "longest gap in acknowledged writes, leader killed",
            "ms",
            Some(Target::Most(2_000.0)),
        ),
        figure("memory", "the leader at the end: resident", "MiB", None),
    ],
    columns: &[ETCD, STORE, API],
    ours: &[STORE, API],
    notes: &[
        "etcd: Put and Range over its gRPC. store: transactions proposed to the leader over the members' gRPC and its read index (an answer without a value), as a member that does not lead asks for its clients: over one connection, what waits together in one request. api: PUT and GET of a ConfigMap over HTTPS, with authentication, authorization and validation; more work than etcd's.",
        "All sides use mutual TLS and HTTP/2; each client of etcd and of the API has one connection to the leader, and every client one request at a time. Values are 256 bytes, keys 1,000.",
        "Targets compare what was measured in the same round (medians of the ratios).",
        "Watchers: 100 streams on a connection, one watcher each; of ours the API's watches, whose events are whole objects. Processor time is that of all members, with the writes.",
        "Failover: killed with SIGKILL under writes of 4 clients, which go to the next member after an error or 1 s; \"store\" has no such path.",
        "Not measured: networks (all is loopback), disks of their own for members, large values, long histories, and machines that do nothing else: the clients run on the same processors.",
    ],
};

/// What is done how often.
#[derive(Debug, Clone)]
struct Settled {
    rounds: u32,
    turn: Duration,
    clients: u32,
    watchers: u32,
    events: u64,
    failovers: u32,
    /// For how long writes go on after the leader's death.
    aftermath: Duration,
    settle: Duration,
    only: Vec<ControlPart>,
}

fn settle(arguments: &ControlArguments) -> Settled {
    let quick = arguments.common.quick;
    let pick = |given: Option<u32>, full: u32, small: u32| {
        given.unwrap_or(if quick { small } else { full })
    };
    let seconds = arguments
        .turn_seconds
        .unwrap_or(if quick { 0.3 } else { 3.0 });
    Settled {
        rounds: pick(arguments.rounds, 5, 1).max(1),
        turn: Duration::from_secs_f64(seconds.clamp(0.01, 3_600.0)),
        clients: pick(arguments.clients, 64, 8).clamp(1, load::KEYS),
        watchers: pick(arguments.watchers, 1_000, 20).max(1),
        events: if quick { 10 } else { 200 },
        failovers: pick(arguments.failovers, 3, 1),
        aftermath: Duration::from_secs(if quick { 3 } else { 6 }),
        settle: Duration::from_secs(if quick { 1 } else { 10 }),
        only: arguments.only.clone(),
    }
}

impl Settled {
    fn wants(&self, part: ControlPart) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    fn as_settings(&self) -> Settings {
        BTreeMap::from([
            ("rounds", self.rounds.to_string()),
            ("seconds a turn", self.turn.as_secs_f64().to_string()),
            ("clients", format!("1 and {}", self.clients)),
            ("watchers", self.watchers.to_string()),
            ("deaths of the leader", self.failovers.to_string()),
        ])
    }
}

pub(crate) async fn run(
    arguments: &ControlArguments,
    directory: &Directory,
    measured: &mut Measured,
) -> anyhow::Result<Settings> {
    let settled = settle(arguments);
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/etcd-3.4");
    let program = arguments.etcd.as_deref().unwrap_or(&unpacked);
    ensure!(
        program.exists(),
        "{} is not there: `cargo xtask setup` unpacks etcd, or name one with --etcd",
        program.display()
    );
    if settled.wants(ControlPart::Idle) {
        idle(program, directory, &settled, measured).await?;
    }
    say("starting three members of each");
    let etcd = Etcd::start(program, &directory.sub("etcd")?, 3).await?;
    let waggle = Waggle::start(&directory.sub("waggle")?, 3).await?;
    let mut stage = Stage {
        etcd,
        waggle,
        settled,
    };
    stage.requests(measured).await?;
    if stage.settled.wants(ControlPart::Watch) {
        for round in 1..=stage.settled.rounds {
            say(format_args!(
                "watchers, round {round} of {}",
                stage.settled.rounds
            ));
            stage.watch(measured).await?;
        }
    }
    if stage.settled.wants(ControlPart::Failover) {
        for round in 1..=stage.settled.failovers {
            say(format_args!(
                "killing leaders, {round} of {}",
                stage.settled.failovers
            ));
            stage.fail_over(measured).await?;
        }
    }
    stage.memory(measured).await?;
    Ok(stage.settled.as_settings())
}

/// One member alone, with nothing to do.
async fn idle(
    program: &Path,
    directory: &Directory,
    settled: &Settled,
    measured: &mut Measured,
) -> anyhow::Result<()> {
    say("one member of each with nothing to do");
    let etcd = Etcd::start(program, &directory.sub("idle-etcd")?, 1).await?;
    let waggle = Waggle::start(&directory.sub("idle-waggle")?, 1).await?;
    tokio::time::sleep(settled.settle).await;
    let before = (etcd.cpu_seconds(), waggle.cpu_seconds());
    tokio::time::sleep(settled.settle).await;
    let seconds = settled.settle.as_secs_f64();
    let theirs = etcd.members[0].process.as_ref().context("it runs")?;
    let ours = waggle.members[0].running()?;
    for (column, process, before) in [(ETCD, theirs, before.0), (API, ours, before.1)] {
        let memory = process.memory();
        let used = (process.cpu_seconds() - before) / seconds * 100.0;
        measured.add("idleMemory", column, memory.resident);
        measured.add("idleAnonymous", column, memory.anonymous);
        measured.add("idleCpu", column, used);
    }
    Ok(())
}

struct Stage {
    etcd: Etcd,
    waggle: Waggle,
    settled: Settled,
}

/// Clients of all sides, as many of each.
struct Sessions {
    etcd: Vec<etcd::EtcdSession>,
    store: Vec<StoreSession>,
    api: Vec<waggle::ApiSession>,
}

impl Stage {
    async fn sessions(&self, count: u32) -> anyhow::Result<Sessions> {
        let (theirs, ours) = (self.etcd.leader().await?, self.waggle.leader().await?);
        let mut sessions = Sessions {
            etcd: Vec::new(),
            store: StoreSession::many(&self.waggle.peer(ours).await?, count),
            api: Vec::new(),
        };
        for _ in 0..count {
            sessions.etcd.push(self.etcd.session(theirs).await?);
            sessions.api.push(self.waggle.api_session(ours).await?);
        }
        Ok(sessions)
    }

    /// All keys are there afterwards.
    async fn fill(&self) -> anyhow::Result<()> {
        say(format_args!("{} keys each", load::KEYS));
        let mut sessions = self.sessions(16).await?;
        load::fill(&mut sessions.etcd).await?;
        load::fill(&mut sessions.store).await?;
        let count = sessions.api.len();
        let creating = sessions.api.iter_mut().enumerate();
        let creating = creating.map(async |(first, session)| {
            for key in (first as u32..load::KEYS).step_by(count) {
                session.create(key, &value(u64::from(key))).await?;
            }
            anyhow::Ok(())
        });
        futures::future::try_join_all(creating).await?;
        Ok(())
    }

    async fn requests(&self, measured: &mut Measured) -> anyhow::Result<()> {
        self.fill().await?;
        let mut one = self.sessions(1).await?;
        let mut many = self.sessions(self.settled.clients).await?;
        for round in 0..self.settled.rounds {
            say(format_args!(
                "reads and writes, round {} of {}",
                round + 1,
                self.settled.rounds
            ));
            let works = [
                (ControlPart::Writes, Work::Write),
                (ControlPart::Reads, Work::Read),
            ];
            for (part, work) in works {
                if !self.settled.wants(part) {
                    continue;
                }
                self.turns(work, false, round, &mut one, measured).await?;
                self.turns(work, true, round, &mut many, measured).await?;
            }
        }
        Ok(())
    }

    /// A turn for each of the sides; who is first is another one each round.
    async fn turns(
        &self,
        work: Work,
        many: bool,
        round: u32,
        sessions: &mut Sessions,
        measured: &mut Measured,
    ) -> anyhow::Result<()> {
        let mut columns = [ETCD, STORE, API];
        let first = round as usize % columns.len();
        columns.rotate_left(first);
        for column in columns {
            let before = self.cpu_seconds(column);
            let turn = match column {
                ETCD => self.turn(&mut sessions.etcd, work).await,
                STORE => self.turn(&mut sessions.store, work).await,
                _ => self.turn(&mut sessions.api, work).await,
            };
            let turn = turn.with_context(|| format!("{work:?} of {column}"))?;
            let cpu = (self.cpu_seconds(column) - before) / turn.latencies.len() as f64;
            let [p50, p99, rate, per] = keys(work, many);
            measured.add(p50, column, percentile(&turn.latencies, 0.5) * 1e6);
            measured.add(p99, column, percentile(&turn.latencies, 0.99) * 1e6);
            measured.add(rate, column, turn.per_second());
            measured.add(per, column, cpu * 1e6);
        }
        Ok(())
    }

    async fn turn<S: Session>(
        &self,
        sessions: &mut Vec<S>,
        work: Work,
    ) -> anyhow::Result<load::Turn> {
        load::turn(sessions, work, self.settled.turn).await
    }

    fn cpu_seconds(&self, column: Column) -> f64 {
        match column {
            ETCD => self.etcd.cpu_seconds(),
            _ => self.waggle.cpu_seconds(),
        }
    }

    async fn watch(&self, measured: &mut Measured) -> anyhow::Result<()> {
        let count = self.settled.watchers;
        let mut sessions = self.sessions(1).await?;
        let leader = self.etcd.leader().await?;
        let watchers = Watchers::of_etcd(&self.etcd, leader, count).await?;
        let writer = &mut sessions.etcd[0];
        self.deliver(ETCD, watchers, writer, measured).await?;
        let leader = self.waggle.leader().await?;
        let watchers = Watchers::of_api(&self.waggle, leader, count).await?;
        let writer = &mut sessions.api[0];
        self.deliver(API, watchers, writer, measured).await
    }

    async fn deliver(
        &self,
        column: Column,
        mut watchers: Watchers,
        writer: &mut impl Session,
        measured: &mut Measured,
    ) -> anyhow::Result<()> {
        let events = self.settled.events;
        let before = self.cpu_seconds(column);
        let began = Instant::now();
        for number in 0..events {
            let now = std::time::UNIX_EPOCH.elapsed()?.as_nanos() as u64;
            writer
                .write(number as u32 % load::KEYS, &value(now))
                .await?;
        }
        let seconds = watchers.delivered(events, began).await?;
        let used = self.cpu_seconds(column) - before;
        let delivered = (events * u64::from(self.settled.watchers)) as f64;
        measured.add("watchSeconds", column, seconds);
        measured.add("watchRate", column, delivered / used.max(0.01));
        Ok(())
    }

    async fn fail_over(&mut self, measured: &mut Measured) -> anyhow::Result<()> {
        let leader = self.etcd.leader().await?;
        let (mut writers, acknowledged) = (JoinSet::new(), Acknowledged::default());
        for key in 0..4 {
            let mut sessions = Vec::new();
            for member in 0..self.etcd.members.len() {
                sessions.push(self.etcd.session(member).await?);
            }
            writers.spawn(failover::write(sessions, leader, key, acknowledged.clone()));
        }
        tokio::time::sleep(failover::BEFORE).await;
        let from = Instant::now();
        let process = self.etcd.members[leader].process.take();
        process.context("the leader runs")?.kill()?;
        tokio::time::sleep(self.settled.aftermath).await;
        let gap = acknowledged.longest_gap(from, Instant::now());
        measured.add("failover", ETCD, gap * 1e3);
        writers.shutdown().await;
        self.etcd.members[leader].start()?;
        self.etcd.await_member(leader).await?;

        let leader = self.waggle.leader().await?;
        let (mut writers, acknowledged) = (JoinSet::new(), Acknowledged::default());
        for key in 0..4 {
            let mut sessions = Vec::new();
            for member in 0..self.waggle.members.len() {
                sessions.push(self.waggle.api_session(member).await?);
            }
            writers.spawn(failover::write(sessions, leader, key, acknowledged.clone()));
        }
        tokio::time::sleep(failover::BEFORE).await;
        let from = Instant::now();
        let process = self.waggle.members[leader].process.take();
        process.context("the leader runs")?.kill()?;
        tokio::time::sleep(self.settled.aftermath).await;
        let gap = acknowledged.longest_gap(from, Instant::now());
        measured.add("failover", API, gap * 1e3);
        writers.shutdown().await;
        self.waggle.members[leader].start(&[])?;
        self.waggle.await_member(leader).await?;
        self.waggle.await_voters().await
    }

    async fn memory(&self, measured: &mut Measured) -> anyhow::Result<()> {
        let leader = &self.etcd.members[self.etcd.leader().await?];
        let process = leader.process.as_ref().context("it runs")?;
        measured.add("memory", ETCD, process.memory().resident);
        let leader = &self.waggle.members[self.waggle.leader().await?];
        measured.add("memory", API, leader.running()?.memory().resident);
        Ok(())
    }
}

/// The figures of a turn: p50, p99, per second, processor time.
fn keys(work: Work, many: bool) -> [&'static str; 4] {
    match (work, many) {
        (Work::Write, false) => ["writeOneP50", "writeOneP99", "writeOneRate", "writeOneCpu"],
        (Work::Write, true) => [
            "writeManyP50",
            "writeManyP99",
            "writeManyRate",
            "writeManyCpu",
        ],
        (Work::Read, false) => ["readOneP50", "readOneP99", "readOneRate", "readOneCpu"],
        (Work::Read, true) => ["readManyP50", "readManyP99", "readManyRate", "readManyCpu"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_measured_is_in_the_table() {
        let known = |key: &str| PLAN.figures.iter().any(|figure| figure.key == key);
        for work in [Work::Write, Work::Read] {
            for many in [false, true] {
                assert!(keys(work, many).into_iter().all(known), "{work:?} {many}");
            }
        }
        for key in [
            "idleMemory",
            "idleAnonymous",
            "idleCpu",
            "watchRate",
            "watchSeconds",
            "failover",
            "memory",
        ] {
            assert!(known(key), "{key}");
        }
    }
}
