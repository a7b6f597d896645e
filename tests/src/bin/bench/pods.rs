//! `pods`: pods beside bare runc.

mod bare;
mod watch;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http::Method;
use serde_json::{Value, json};
use waggle_tests::{IMAGE, Lab, busybox_archive, busybox_root};

use self::bare::Bare;
use self::watch::PodWatch;
use crate::arguments::PodsArguments;
use crate::directory::Directory;
use crate::process::{Memory, cpu_seconds, memory};
use crate::report::{Column, Figure, Measured, Plan, Target};
use crate::rest::{Connection, Identity};
use crate::statistics::percentile;
use crate::{Settings, say};

const WAGGLE: Column = "waggle";
const RUNC: Column = "runc";

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
    title: "Pods beside bare runc, on a lab of one node",
    figures: &[
        figure(
            "oneP50",
            "one at a time, created to Ready: p50",
            "ms",
            Some(Target::MostBeyond(150.0, RUNC)),
        ),
        figure("oneP99", "  p99", "ms", None),
        figure(
            "together",
            "many at once, until the last is Ready",
            "ms",
            Some(Target::MostTimes(1.3, RUNC)),
        ),
        figure("togetherP50", "  until each is Ready: p50", "ms", None),
        figure("agentMemory", "agent without pods: resident", "MiB", None),
        figure(
            "agentPerPod",
            "agent per pod, resident",
            "KiB",
            Some(Target::Most(300.0)),
        ),
        figure("agentAnonymousPerPod", "  of which anonymous", "KiB", None),
        figure(
            "supervisor",
            "supervisor of a pod: resident",
            "MiB",
            Some(Target::Most(2.0)),
        ),
        figure("supervisorAnonymous", "  of which anonymous", "MiB", None),
        figure(
            "supervisorProportional",
            "  with a share of what is mapped by others, too",
            "MiB",
            None,
        ),
        figure(
            "idleCpu",
            "agent with these pods, probed every 10 s: processor time",
            "% core",
            Some(Target::Most(3.0)),
        ),
        figure("idleSupervisors", "  of all supervisors", "% core", None),
        figure(
            "delete",
            "all of them deleted, until the last is gone",
            "ms",
            None,
        ),
    ],
    columns: &[RUNC, WAGGLE],
    ours: &[WAGGLE],
    notes: &[
        "A pod: POST to the API until a watch shows it Ready; with an address, a network, DNS, a service account's token volume left out, and a supervisor. runc: `runc run --detach` of the same program on the same root file system, in its own namespaces, with no network.",
        "One at a time, runc and pods take turns; many at once, each round is one of runc and one of pods, all started at the same moment.",
        "Probes are HTTP GETs of each pod's own server, every 10 s. Memory per pod is what the agent has grown by, divided by the pods.",
        "Deletion: with a grace period of 1 s, which the program lets pass, until the API has no pod; of runc `runc delete --force`, all at the same moment.",
        "The agent's run directory and runc's state are in memory, as below /run; the data directory is not.",
        "Not measured: pulling of images (they are there), volumes, init containers, several nodes.",
    ],
};

/// As `/run` is: for what a start of the machine takes away, which are most of the files of a container.
const MEMORY: &str = "/dev/shm";
const NAMESPACE: &str = "default";
const PORT: u16 = 8080;
/// What containers run: a server that answers probes.
const COMMAND: [&str; 6] = ["httpd", "-f", "-p", "8080", "-h", "/"];

#[derive(Debug, Clone, Copy)]
struct Size {
    single: u32,
    together: u32,
    rounds: u32,
    idle: Duration,
}

fn size(arguments: &PodsArguments) -> Size {
    let quick = arguments.common.quick;
    let pick = |given: Option<u32>, full: u32, small: u32| {
        given.unwrap_or(if quick { small } else { full }).max(1)
    };
    let idle = arguments.idle_seconds.unwrap_or(if quick { 2 } else { 30 });
    Size {
        single: pick(arguments.single, 30, 2),
        together: pick(arguments.together, 100, 3),
        rounds: pick(arguments.rounds, 3, 1),
        idle: Duration::from_secs(idle.max(1)),
    }
}

pub(crate) async fn run(
    arguments: &PodsArguments,
    directory: &Directory,
    measured: &mut Measured,
) -> anyhow::Result<Settings> {
    let size = size(arguments);
    let directory = directory.sub("pods")?;
    let memory = Directory::make(Some(Path::new(MEMORY)))?;
    let run = memory.sub("r")?;
    say("starting a lab of one node");
    let archive = busybox_archive(&directory);
    let image = archive.to_string_lossy().into_owned();
    let mut lab = tokio::task::block_in_place(|| {
        Lab::up_with_run(&run, &["--nodes", "1", "--image", &image])
    });
    lab.refresh();
    let bench = Bench {
        bare: Bare::new(&directory, &memory.sub("runc")?, &busybox_root(&directory))?,
        watch: watch(&lab).await?,
        connection: connect(&lab).await?,
        agent: agent(&lab)?,
        next: 0,
    };
    let outcome = bench.measure(size, measured).await;
    // It takes some seconds, and nobody else needs the thread.
    tokio::task::block_in_place(|| drop(lab));
    outcome?;
    Ok(BTreeMap::from([
        ("one at a time", size.single.to_string()),
        (
            "at once",
            format!("{}, {} times", size.together, size.rounds),
        ),
        ("idle seconds", size.idle.as_secs().to_string()),
    ]))
}

async fn connect(lab: &Lab) -> anyhow::Result<Connection> {
    let text = |name: &str| lab.status[name].as_str().context("the lab's status");
    let identity = Identity::of_kubeconfig(text("kubeconfig")?.as_ref())?;
    let port = text("server")?.rsplit(':').next().context("a port")?;
    Connection::open(port.parse()?, &identity).await
}

async fn watch(lab: &Lab) -> anyhow::Result<PodWatch> {
    PodWatch::start(connect(lab).await?, NAMESPACE).await
}

fn agent(lab: &Lab) -> anyhow::Result<u32> {
    let pid = lab.status["nodes"][0]["pid"].as_u64();
    Ok(u32::try_from(pid.context("the agent runs")?)?)
}

struct Bench {
    bare: Bare,
    watch: PodWatch,
    connection: Connection,
    /// The agent's process.
    agent: u32,
    next: u32,
}

impl Bench {
    async fn measure(mut self, size: Size, measured: &mut Measured) -> anyhow::Result<()> {
        // The first pod of a node finds nothing in any cache.
        self.pod_alone().await?;
        self.bare.start(1)?;
        self.bare.delete()?;
        let before = settled(self.agent).await;
        measured.add("agentMemory", WAGGLE, before.resident);

        say(format_args!(
            "{} pods one at a time, each beside runc",
            size.single
        ));
        let mut times = (Vec::new(), Vec::new());
        for _ in 0..size.single {
            times.0.push(self.bare.start(1)?);
            self.bare.delete()?;
            times.1.push(self.pod_alone().await?);
        }
        for (column, times) in [(RUNC, &times.0), (WAGGLE, &times.1)] {
            measured.add("oneP50", column, percentile(times, 0.5));
            measured.add("oneP99", column, percentile(times, 0.99));
        }
        for round in 1..=size.rounds {
            say(format_args!(
                "{} at once, round {round} of {}",
                size.together, size.rounds
            ));
            measured.add("together", RUNC, self.bare.start(size.together)?);
            measured.add("delete", RUNC, self.bare.delete()?);
            let before = settled(self.agent).await;
            let each = self.pods(size.together).await?;
            measured.add("together", WAGGLE, each.iter().copied().fold(0.0, f64::max));
            measured.add("togetherP50", WAGGLE, percentile(&each, 0.5));
            self.running(size, before, round == size.rounds, measured)
                .await?;
            say(format_args!("deleting {} pods", size.together));
            measured.add("delete", WAGGLE, self.delete().await?);
        }
        Ok(())
    }

    /// What the pods cost while they run.
    async fn running(
        &self,
        size: Size,
        before: Memory,
        watch: bool,
        measured: &mut Measured,
    ) -> anyhow::Result<()> {
        let now = settled(self.agent).await;
        let per_pod = |more: f64| more * 1024.0 / f64::from(size.together);
        measured.add(
            "agentPerPod",
            WAGGLE,
            per_pod(now.resident - before.resident),
        );
        let anonymous = per_pod(now.anonymous - before.anonymous);
        measured.add("agentAnonymousPerPod", WAGGLE, anonymous);
        let supervisors = supervisors(self.agent);
        ensure!(!supervisors.is_empty(), "no supervisor is found");
        for pid in &supervisors {
            let memory = memory(*pid);
            measured.add("supervisor", WAGGLE, memory.resident);
            measured.add("supervisorAnonymous", WAGGLE, memory.anonymous);
            measured.add("supervisorProportional", WAGGLE, memory.proportional);
        }
        if watch {
            say(format_args!(
                "watching the agent for {} s",
                size.idle.as_secs()
            ));
            let all = || supervisors.iter().map(|pid| cpu_seconds(*pid)).sum::<f64>();
            let used = (cpu_seconds(self.agent), all());
            tokio::time::sleep(size.idle).await;
            let percent = |used: f64| used / size.idle.as_secs_f64() * 100.0;
            measured.add("idleCpu", WAGGLE, percent(cpu_seconds(self.agent) - used.0));
            measured.add("idleSupervisors", WAGGLE, percent(all() - used.1));
        }
        Ok(())
    }

    /// Milliseconds until it is Ready; it is gone when this returns.
    async fn pod_alone(&mut self) -> anyhow::Result<f64> {
        let times = self.pods(1).await?;
        self.delete().await?;
        times.first().copied().context("one pod")
    }

    /// Makes so many at once; milliseconds until each is Ready, from before the first request.
    async fn pods(&mut self, count: u32) -> anyhow::Result<Vec<f64>> {
        let numbers = self.next..self.next + count;
        self.next += count;
        let names: Vec<String> = numbers.map(|number| format!("bench-{number}")).collect();
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let began = Instant::now();
        let making = names.iter().map(|name| {
            let mut connection = self.connection.clone();
            let (path, body) = (&path, manifest(name).to_string());
            async move { connection.ask(Method::POST, path, body).await }
        });
        futures::future::try_join_all(making).await?;
        let ready = self.watch.ready(&names).await?;
        let since = |time: Instant| time.duration_since(began).as_secs_f64() * 1e3;
        Ok(ready.into_iter().map(since).collect())
    }

    /// Milliseconds until all pods are gone.
    async fn delete(&mut self) -> anyhow::Result<f64> {
        let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 1});
        let began = Instant::now();
        self.connection
            .ask(Method::DELETE, &path, options.to_string())
            .await?;
        self.watch.gone().await?;
        Ok(began.elapsed().as_secs_f64() * 1e3)
    }
}

fn manifest(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"bench": "pod"}},
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main", "image": IMAGE, "command": COMMAND,
                "livenessProbe": {"httpGet": {"path": "/etc/passwd", "port": PORT}, "periodSeconds": 10},
            }],
        },
    })
}

/// The agent's memory once it has not grown for a moment.
async fn settled(pid: u32) -> Memory {
    let mut last = memory(pid);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        let now = memory(pid);
        if (now.resident - last.resident).abs() < 0.1 {
            return now;
        }
        last = now;
    }
    last
}

/// Processes with the program that the agent has put into its data directory, which is one of its arguments.
fn supervisors(agent: u32) -> Vec<u32> {
    let arguments = std::fs::read(format!("/proc/{agent}/cmdline")).unwrap_or_default();
    let programs = supervisor_programs(&arguments);
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let program = std::fs::read_link(entry.path().join("exe"));
        if program.is_ok_and(|program| programs.contains(&program)) {
            found.push(pid);
        }
    }
    found
}

fn supervisor_programs(arguments: &[u8]) -> Vec<PathBuf> {
    let arguments = String::from_utf8_lossy(arguments);
    let arguments = arguments.split('\0');
    let values = arguments.map(|argument| argument.rsplit('=').next().unwrap_or_default());
    let directories = values.filter(|value| value.starts_with('/'));
    directories
        .map(|directory| Path::new(directory).join("waggle-supervisor"))
        .collect()
}
