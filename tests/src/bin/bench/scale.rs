//! `scale`: one controller with thousands of simulated nodes.

mod agents;
mod bindings;
mod certificates;
mod objects;
mod slim;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::{Value, json};

use self::agents::Fleet;
use self::bindings::{Decisions, Watcher};
use self::certificates::Authority;
use self::objects::NAMESPACE;
use crate::arguments::ScaleArguments;
use crate::directory::Directory;
use crate::process::{Process, free_port};
use crate::report::{Column, Figure, Measured, Plan, Target};
use crate::rest::{Connection, Identity};
use crate::statistics::percentile;
use crate::{Settings, say};

const WAGGLE: Column = "waggle";

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

pub(crate) const PLAN: Plan = Plan {
    title: "One controller and simulated nodes, on one machine",
    figures: &[
        figure(
            "memoryEmpty",
            "resident memory of the controller, empty",
            "MiB",
            None,
        ),
        figure(
            "connectFirst",
            "first nodes: connected with the full state, per second",
            "/s",
            None,
        ),
        figure(
            "memoryFirst",
            "  resident with the first nodes",
            "MiB",
            None,
        ),
        figure("servicesRate", "Services made per second", "/s", None),
        figure(
            "memoryServices",
            "  resident with the Services, too",
            "MiB",
            None,
        ),
        figure(
            "changeFirstP50",
            "change of an endpoint to an agent, first nodes: p50",
            "ms",
            None,
        ),
        figure("changeFirstP99", "  p99", "ms", Some(Target::Most(1_000.0))),
        figure(
            "changeFirstAll",
            "  to the last agent, p99 of the changes",
            "ms",
            Some(Target::Most(1_000.0)),
        ),
        figure(
            "connectAll",
            "all nodes: connected with the full state, per second",
            "/s",
            None,
        ),
        figure("memoryNodes", "  resident with all nodes", "MiB", None),
        figure(
            "waitingRate",
            "pods made through the API per second, while no node has room",
            "/s",
            None,
        ),
        figure("memoryWaiting", "  resident with them", "MiB", None),
        figure(
            "boundWaiting",
            "these pods bound per second, from the first to the last that a watcher sees",
            "/s",
            Some(Target::Least(3_000.0)),
        ),
        figure(
            "givenWaiting",
            "  from the first node's word to the last pod at its node",
            "/s",
            None,
        ),
        figure(
            "decisionWaiting",
            "  the scheduler's decision for one of them",
            "us",
            None,
        ),
        figure(
            "cpuWaiting",
            "  processor time of the controller for one of them",
            "us",
            None,
        ),
        figure(
            "createdRate",
            "further pods made through the API per second, while they are bound",
            "/s",
            None,
        ),
        figure(
            "boundRate",
            "  bound and given to their nodes per second, from first to last",
            "/s",
            None,
        ),
        figure("memoryBound", "  resident with all pods bound", "MiB", None),
        figure(
            "readyRate",
            "pods reported Ready and in the endpoints of an agent, per second",
            "/s",
            None,
        ),
        figure(
            "memoryAll",
            "  resident with everything",
            "MiB",
            Some(Target::Most(1_536.0)),
        ),
        figure("memoryPeak", "  highest until then", "MiB", None),
        figure(
            "changeAllP50",
            "change of an endpoint to an agent, all nodes: p50",
            "ms",
            None,
        ),
        figure("changeAllP99", "  p99", "ms", None),
        figure(
            "changeAllAll",
            "  to the last agent, p99 of the changes",
            "ms",
            None,
        ),
        figure(
            "heartbeatCpu",
            "a heart-beat (lease) of a node: processor time",
            "us",
            None,
        ),
        figure(
            "heartbeats",
            "  heart-beats per second in 10 % of a core",
            "/s",
            None,
        ),
    ],
    columns: &[WAGGLE],
    ours: &[WAGGLE],
    notes: &[
        "Agents are simulated in the benchmark's process: real gRPC streams with certificates of their own; they acknowledge, renew leases every 10 s and report pods, but run no pod and write no kernel map.",
        "The agents' work, TLS included, is done on the same processors as the controller's: rates are of both together. The processor time of a heart-beat is the controller's alone, with everything else that it does at rest.",
        "What the scheduler can do is seen with pods that wait: the first ones are made while all nodes say that they have room for none, each is tried and refused once, and then all nodes say at once that they have room. The further pods are made one request each over 16 connections while the scheduler binds, which is as fast as they are made.",
        "Not measured: several controllers, real networks, what agents do with what they get.",
    ],
};

/// Connections over which objects are made.
const MAKERS: u32 = 16;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy)]
struct Size {
    first: u32,
    nodes: u32,
    services: u32,
    pods: u32,
    /// How many of the pods are made before any node has room.
    waiting: u32,
    changes: u32,
    rest: Duration,
}

fn size(arguments: &ScaleArguments) -> Size {
    let quick = arguments.common.quick;
    let pick = |given: Option<u32>, full: u32, small: u32| {
        given.unwrap_or(if quick { small } else { full })
    };
    let nodes = pick(arguments.nodes, 5_000, 20).max(1);
    let pods = pick(arguments.pods, 50_000, 100).max(1);
    let waiting = arguments.waiting.unwrap_or(pods / 2);
    Size {
        nodes,
        first: pick(arguments.first, 1_000, 10).clamp(1, nodes),
        services: pick(arguments.services, 10_000, 20).max(1),
        pods,
        waiting: waiting.clamp(1, pods),
        changes: pick(arguments.changes, 50, 3).max(1),
        rest: Duration::from_secs(if quick { 2 } else { 20 }),
    }
}

pub(crate) async fn run(
    arguments: &ScaleArguments,
    directory: &Directory,
    measured: &mut Measured,
) -> anyhow::Result<Settings> {
    let size = size(arguments);
    raise_descriptors()?;
    let directory = directory.sub("scale")?;
    say("starting a controller");
    let mut controller = Controller::start(&directory).await?;
    let authority = Authority::read(&controller.data)?;
    let mut add = |figure, value| measured.add(figure, WAGGLE, value);
    add("memoryEmpty", controller.resident());
    controller.prepare().await?;

    let mut fleet = Fleet::new(authority, controller.port);
    say(format_args!("{} nodes", size.first));
    let rate = connect(&mut fleet, size.first).await?;
    add("connectFirst", rate);
    add("memoryFirst", controller.resident());

    say(format_args!("{} Services", size.services));
    let services = |number| ("services", objects::service(number));
    let seconds = controller.make(0..size.services, services).await?;
    add("servicesRate", f64::from(size.services) / seconds);
    fleet.check()?;
    add("memoryServices", controller.resident());

    say(format_args!("{} changes of an endpoint", size.changes));
    let mut change = 0;
    let changes = changes(&mut controller, &mut fleet, size.changes, &mut change).await?;
    add("changeFirstP50", percentile(&changes.each, 0.5) * 1e3);
    add("changeFirstP99", percentile(&changes.each, 0.99) * 1e3);
    add("changeFirstAll", percentile(&changes.last, 0.99) * 1e3);

    if size.nodes > size.first {
        say(format_args!("{} nodes", size.nodes));
        let rate = connect(&mut fleet, size.nodes).await?;
        add("connectAll", rate);
        add("memoryNodes", controller.resident());
    }
    say(format_args!("{} pods, and no room", size.waiting));
    let pods = |number| ("pods", objects::pod(number, size.services));
    let seconds = controller.make(0..size.waiting, pods).await?;
    add("waitingRate", f64::from(size.waiting) / seconds);
    add("memoryWaiting", controller.resident());
    say("room for them");
    let released = release(&mut controller, &mut fleet, size).await?;
    add("givenWaiting", released.given_rate);
    // Of a handful it can be one moment.
    if let Some(rate) = released.bound_rate {
        add("boundWaiting", rate);
    }
    if let Some(seconds) = released.decision {
        add("decisionWaiting", seconds * 1e6);
    }
    add("cpuWaiting", released.cpu * 1e6);
    if size.waiting < size.pods {
        let more = size.pods - size.waiting;
        say(format_args!("{more} further pods"));
        let began = Instant::now();
        let seconds = controller.make(size.waiting..size.pods, pods).await?;
        await_bound(&mut controller, &mut fleet, size.pods).await?;
        add("createdRate", f64::from(more) / seconds);
        add("boundRate", f64::from(more) / began.elapsed().as_secs_f64());
    }
    add("memoryBound", controller.resident());

    say("pods become Ready");
    let began = Instant::now();
    fleet.report_pods();
    let pods = u64::from(size.pods);
    await_count(&mut controller, &mut fleet, pods, |fleet| {
        fleet.ledger.endpoints.load(Ordering::Relaxed)
    })
    .await?;
    add(
        "readyRate",
        f64::from(size.pods) / began.elapsed().as_secs_f64(),
    );
    add("memoryAll", controller.resident());
    add("memoryPeak", controller.peak());

    say(format_args!("{} changes of an endpoint", size.changes));
    let changes = self::changes(&mut controller, &mut fleet, size.changes, &mut change).await?;
    add("changeAllP50", percentile(&changes.each, 0.5) * 1e3);
    add("changeAllP99", percentile(&changes.each, 0.99) * 1e3);
    add("changeAllAll", percentile(&changes.last, 0.99) * 1e3);

    say("heart-beats");
    let beats = |fleet: &Fleet| fleet.ledger.heartbeats.load(Ordering::Relaxed);
    let (before, used) = (beats(&fleet), controller.process.cpu_seconds());
    // Whole periods, so that each node's lease is in it equally often.
    tokio::time::sleep(size.rest.max(agents::HEARTBEAT)).await;
    let beats = (beats(&fleet) - before).max(1) as f64;
    let each = (controller.process.cpu_seconds() - used) / beats;
    add("heartbeatCpu", each * 1e6);
    add("heartbeats", 0.1 / each);
    fleet.check()?;
    Ok(BTreeMap::from([
        ("nodes", format!("{}, first {}", size.nodes, size.first)),
        ("services", size.services.to_string()),
        (
            "pods",
            format!("{}, of which {} waited", size.pods, size.waiting),
        ),
        ("changes", size.changes.to_string()),
    ]))
}

/// Both ends of all streams are on this machine; the controller inherits the limit.
fn raise_descriptors() -> anyhow::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: it writes one structure to the address given, which is valid.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(std::io::Error::last_os_error()).context("read the limit of descriptors");
    }
    let wanted = limit.rlim_max.min(65_536);
    if limit.rlim_cur < wanted {
        limit.rlim_cur = wanted;
        // SAFETY: it reads one structure at the address given, which is valid.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } != 0 {
            return Err(std::io::Error::last_os_error()).context("raise the limit of descriptors");
        }
    }
    Ok(())
}

struct Controller {
    process: Process,
    port: u16,
    data: PathBuf,
    admin: Identity,
}

impl Controller {
    async fn start(directory: &Path) -> anyhow::Result<Self> {
        let (port, peer_port) = (free_port()?, free_port()?);
        let data = directory.join("controller");
        let mut command = Command::new(waggle_tests::waggle());
        command
            .arg("controller")
            .arg("--data-dir")
            .arg(&data)
            .args(["--name", "controller"])
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--peer-listen", &format!("127.0.0.1:{peer_port}")])
            .args(["--advertise-address", &format!("127.0.0.1:{port}")])
            // Room for a range for each of the nodes, and an address for each of the Services.
            .args([
                "--pod-cidr",
                "10.0.0.0/10",
                "--service-cidr",
                "10.128.0.0/16",
            ]);
        let mut process = Process::start("controller", &mut command, directory)?;
        let kubeconfig = data.join("admin.kubeconfig");
        let began = Instant::now();
        while !kubeconfig.exists() {
            process.check()?;
            ensure!(began.elapsed() < PATIENCE, "the controller does not serve");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Self {
            process,
            port,
            admin: Identity::of_kubeconfig(&kubeconfig)?,
            data,
        })
    }

    async fn connect(&self) -> anyhow::Result<Connection> {
        Connection::open(self.port, &self.admin).await
    }

    /// What all else stands on.
    async fn prepare(&self) -> anyhow::Result<()> {
        let mut connection = self.connect().await?;
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        connection.post("/api/v1/namespaces", &namespace).await?;
        let account = format!("/api/v1/namespaces/{NAMESPACE}/serviceaccounts/default");
        let began = Instant::now();
        while connection.get(&account).await.is_err() {
            ensure!(began.elapsed() < PATIENCE, "the namespace has no account");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let services = format!("/api/v1/namespaces/{NAMESPACE}/services");
        connection
            .post(&services, &objects::marker_service())
            .await?;
        let slices = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices");
        connection.post(&slices, &objects::marker(0)).await?;
        Ok(())
    }

    /// Makes the objects of these numbers over several connections. Returns how many seconds it took.
    async fn make(
        &self,
        numbers: Range<u32>,
        object: impl Fn(u32) -> (&'static str, Value) + Copy,
    ) -> anyhow::Result<f64> {
        let mut connections = Vec::new();
        for _ in 0..MAKERS {
            connections.push(self.connect().await?);
        }
        let began = Instant::now();
        let makers =
            connections
                .iter_mut()
                .zip(numbers.start..)
                .map(async |(connection, first)| {
                    for number in (first..numbers.end).step_by(MAKERS as usize) {
                        let (resource, object) = object(number);
                        let path = format!("/api/v1/namespaces/{NAMESPACE}/{resource}");
                        connection
                            .ask(Method::POST, &path, object.to_string())
                            .await?;
                    }
                    anyhow::Ok(())
                });
        futures::future::try_join_all(makers).await?;
        Ok(began.elapsed().as_secs_f64())
    }

    fn resident(&self) -> f64 {
        self.process.memory().resident
    }

    /// Highest resident size so far, MiB.
    fn peak(&self) -> f64 {
        let path = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")?.parse::<f64>().ok());
        kib.unwrap_or(0.0) / 1024.0
    }
}

/// Agents per second.
async fn connect(fleet: &mut Fleet, to: u32) -> anyhow::Result<f64> {
    let more = to - fleet.count();
    let began = Instant::now();
    fleet.grow(to).await?;
    Ok(f64::from(more) / began.elapsed().as_secs_f64())
}

#[derive(Debug, Default)]
struct Changes {
    /// Seconds of each change to each agent.
    each: Vec<f64>,
    /// Seconds of each change to the agent that was last.
    last: Vec<f64>,
}

/// From before the request is sent until the agent has it.
async fn changes(
    controller: &mut Controller,
    fleet: &mut Fleet,
    count: u32,
    change: &mut u32,
) -> anyhow::Result<Changes> {
    let mut connection = controller.connect().await?;
    let path = format!("/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices/marker");
    let mut found = Changes::default();
    for _ in 0..count {
        *change += 1;
        let body = objects::marker_patch(*change).to_string();
        let began = Instant::now();
        connection.ask(Method::PATCH, &path, body).await?;
        let mut arrived = fleet.arrivals(*change, began, PATIENCE).await?;
        fleet.check()?;
        found.last.push(arrived.iter().copied().fold(0.0, f64::max));
        found.each.append(&mut arrived);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(found)
}

#[derive(Debug)]
struct Released {
    bound_rate: Option<f64>,
    given_rate: f64,
    /// Seconds for each pod.
    decision: Option<f64>,
    cpu: f64,
}

/// All nodes say that they have room for the pods that wait.
async fn release(
    controller: &mut Controller,
    fleet: &mut Fleet,
    size: Size,
) -> anyhow::Result<Released> {
    let mut metrics = controller.connect().await?;
    let mut watcher = Watcher::start(controller.connect().await?).await?;
    let before = Decisions::read(&mut metrics).await?;
    let used = controller.process.cpu_seconds();
    let began = Instant::now();
    fleet.make_room();
    await_bound(controller, fleet, size.waiting).await?;
    let given = began.elapsed().as_secs_f64();
    let mut seen = watcher.seen().await?;
    while seen.count < u64::from(size.waiting) {
        ensure!(
            began.elapsed().as_secs_f64() < given + PATIENCE.as_secs_f64(),
            "the watcher has seen {} of {} bindings",
            seen.count,
            size.waiting
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
        seen = watcher.seen().await?;
    }
    let used = controller.process.cpu_seconds() - used;
    let decisions = Decisions::read(&mut metrics).await?;
    Ok(Released {
        bound_rate: seen.per_second(),
        given_rate: f64::from(size.waiting) / given,
        decision: decisions.mean_since(&before),
        cpu: used / f64::from(size.waiting),
    })
}

async fn await_bound(
    controller: &mut Controller,
    fleet: &mut Fleet,
    wanted: u32,
) -> anyhow::Result<()> {
    let bound = |fleet: &Fleet| fleet.ledger.bound.load(Ordering::Relaxed);
    await_count(controller, fleet, u64::from(wanted), bound)
        .await
        .context("pods that are bound")
}

/// Until the count is there, however slowly, as long as it moves.
async fn await_count(
    controller: &mut Controller,
    fleet: &mut Fleet,
    wanted: u64,
    count: impl Fn(&Fleet) -> u64,
) -> anyhow::Result<()> {
    let mut last = (0, Instant::now());
    loop {
        let there = count(fleet);
        if there >= wanted {
            return Ok(());
        }
        if there > last.0 {
            last = (there, Instant::now());
        }
        ensure!(
            last.1.elapsed() < PATIENCE,
            "{there} of {wanted}, and no more"
        );
        fleet.check()?;
        controller.process.check().context("the controller")?;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
