//! A `waggle lab` of the test's own, driven by the binary as people drive it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tempfile::TempDir;

use crate::cluster::waggle;
use crate::process::Outcome;

/// A running lab; dropping it ends it.
#[derive(Debug)]
pub struct Lab {
    directory: TempDir,
    run: PathBuf,
    /// What `waggle lab up --output json` printed.
    pub status: Value,
}

/// Where a process runs: a network namespace, and the cgroup by which the socket hooks know it.
#[derive(Debug, Clone)]
pub struct Spot {
    pub netns: PathBuf,
    pub cgroup: PathBuf,
}

/// What a test wants to know of a pod.
#[derive(Debug, Clone)]
pub struct PodFacts {
    pub node: String,
    pub addresses: Vec<IpAddr>,
    pub spot: Spot,
}

impl Spot {
    /// A command that runs there, with this machine's files.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = File::open(&self.netns)
            .unwrap_or_else(|error| panic!("{}: {error}", self.netns.display()));
        std::fs::create_dir_all(&self.cgroup).expect("a cgroup");
        let door = File::options()
            .write(true)
            .open(self.cgroup.join("cgroup.procs"))
            .expect("the cgroup's processes");
        let mut command = Command::new(program);
        // SAFETY: a write and a system call on open descriptors; nothing of the parent is touched.
        unsafe {
            command.pre_exec(move || {
                (&door).write_all(b"0")?;
                setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
            });
        }
        command
    }
}

/// How long anything that is waited for may take.
const LIMIT: Duration = Duration::from_secs(60);

fn temporary() -> TempDir {
    let made = tempfile::Builder::new().prefix("wgl").tempdir();
    made.expect("a temporary directory")
}

impl Lab {
    /// Starts a lab with further arguments of `waggle lab up`.
    #[track_caller]
    pub fn up(arguments: &[&str]) -> Self {
        let directory = temporary();
        let run = directory.path().join("r");
        Self::up_in(directory, run, arguments)
    }

    /// The same, with what a start of the machine takes away in a directory elsewhere.
    #[track_caller]
    pub fn up_with_run(run: &Path, arguments: &[&str]) -> Self {
        Self::up_in(temporary(), run.to_owned(), arguments)
    }

    #[track_caller]
    fn up_in(directory: TempDir, run: PathBuf, arguments: &[&str]) -> Self {
        let mut this = Self {
            directory,
            run,
            status: Value::Null,
        };
        let outcome = Outcome::of(
            this.command("up")
                .args(["--output", "json"])
                .args(arguments),
        );
        this.status = serde_json::from_str(&outcome.ok()).expect("the lab's status");
        this
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// `waggle lab VERB` with the options that mean this lab.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(waggle());
        command
            .args(["lab", "--name", "t"])
            .arg("--data-dir")
            .arg(self.directory.path().join("d"))
            .arg("--run-dir")
            .arg(&self.run)
            .arg(verb);
        command
    }

    pub fn waggle(&self, arguments: &[&str]) -> Outcome {
        let (verb, rest) = arguments.split_first().expect("a verb");
        Outcome::of(self.command(verb).args(rest))
    }

    /// Reads the status again.
    #[track_caller]
    pub fn refresh(&mut self) {
        let text = self.waggle(&["status", "--output", "json"]).ok();
        self.status = serde_json::from_str(&text).expect("the lab's status");
    }

    pub fn nodes(&self) -> Vec<String> {
        let nodes = self.status["nodes"].as_array().expect("nodes");
        nodes.iter().map(|node| text(&node["name"])).collect()
    }

    #[track_caller]
    fn node(&self, name: &str) -> &Value {
        let mut nodes = self.status["nodes"].as_array().into_iter().flatten();
        nodes
            .find(|node| node["name"] == name)
            .unwrap_or_else(|| panic!("no node {name} in {}", self.status))
    }

    #[track_caller]
    pub fn node_addresses(&self, name: &str) -> Vec<IpAddr> {
        addresses(&self.node(name)["addresses"])
    }

    /// Of the client that is in none of the nodes' networks.
    pub fn client_addresses(&self) -> Vec<IpAddr> {
        addresses(&self.status["outside"]["client"])
    }

    /// As a process on the node itself.
    #[track_caller]
    pub fn on_node(&self, name: &str) -> Spot {
        let node = self.node(name);
        Spot {
            netns: text(&node["netns"]).into(),
            cgroup: Path::new(&text(&node["cgroup"])).join("exec"),
        }
    }

    pub fn outside(&self) -> Spot {
        let outside = &self.status["outside"];
        Spot {
            netns: text(&outside["netns"]).into(),
            cgroup: Path::new(&text(&outside["cgroup"])).join("exec"),
        }
    }

    pub fn kubectl_command(&self) -> Command {
        let mut command = Command::new("kubectl");
        command.env("KUBECONFIG", text(&self.status["kubeconfig"]));
        command.env("HOME", self.directory.path());
        command
    }

    pub fn kubectl(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.kubectl_command().args(arguments))
    }

    /// Applies a manifest given as text.
    #[track_caller]
    pub fn apply(&self, manifest: &str) {
        let path = self
            .directory
            .path()
            .join(format!("{:?}.yaml", std::thread::current().id()));
        std::fs::write(&path, manifest).expect("write the manifest");
        self.kubectl(&["apply", "-f", &path.to_string_lossy()]).ok();
    }

    #[track_caller]
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = vec!["get"];
        all.extend(arguments);
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.kubectl(&all).ok()).expect("JSON of kubectl")
    }

    /// All pods of the namespace `default`, by name.
    #[track_caller]
    pub fn pods(&self) -> BTreeMap<String, PodFacts> {
        let list = self.json(&["pods"]);
        let items = list["items"].as_array().expect("a list").iter();
        items
            .filter_map(|pod| {
                let node = pod["spec"]["nodeName"].as_str()?;
                let addresses = pod["status"]["podIPs"].as_array()?;
                let addresses = addresses
                    .iter()
                    .filter_map(|it| it["ip"].as_str()?.parse().ok());
                let facts = PodFacts {
                    node: node.to_owned(),
                    addresses: addresses.collect(),
                    spot: self.spot_of(pod, node),
                };
                Some((text(&pod["metadata"]["name"]), facts))
            })
            .collect()
    }

    fn spot_of(&self, pod: &Value, node: &str) -> Spot {
        let uid = text(&pod["metadata"]["uid"]);
        let place = self.node(node);
        let netns = if pod["spec"]["hostNetwork"] == true {
            text(&place["netns"]).into()
        } else {
            Path::new(&text(&place["run_dir"])).join("netns").join(&uid)
        };
        let cgroup = Path::new(&text(&place["cgroup"])).join(format!("pods/pod{uid}/exec"));
        Spot { netns, cgroup }
    }

    /// Waits until all pods are as they should be, every Service has its endpoints, and every node whose agent
    /// runs has all of that in force.
    #[track_caller]
    pub fn settle(&self) {
        self.wait("the cluster to settle", || {
            let pods = self.json(&["pods"]);
            unsettled_pod(&pods).map_or(Ok(()), Err)?;
            let services = self.json(&["services"]);
            let slices = self.json(&["endpointslices"]);
            for service in items(&services) {
                missing_endpoint(service, &pods, &slices).map_or(Ok(()), Err)?;
            }
            let wanted = newest(&services).max(newest(&slices));
            for node in self.status["nodes"].as_array().into_iter().flatten() {
                let socket = Path::new(&text(&node["run_dir"])).join("agent.sock");
                match agent_status(&socket) {
                    Some(status) if status["applied_revision"].as_u64() < Some(wanted) => {
                        return Err(format!("{} is not at {wanted}: {status}", node["name"]));
                    }
                    _ => {}
                }
            }
            Ok(())
        });
    }

    /// Looks every 50 ms until `probe` is content.
    #[track_caller]
    pub fn wait<T>(&self, what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
        let started = Instant::now();
        loop {
            match probe() {
                Ok(value) => return value,
                Err(why) => assert!(
                    started.elapsed() < LIMIT,
                    "not within {LIMIT:?}: {what}: {why}"
                ),
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The agent's `/metrics`.
    #[track_caller]
    pub fn metrics(&self, node: &str) -> String {
        let socket = Path::new(&text(&self.node(node)["run_dir"])).join("agent.sock");
        get(&socket, "/metrics").unwrap_or_else(|| panic!("the agent of {node} does not answer"))
    }

    /// The end of what everybody has logged.
    pub fn logs(&self) -> String {
        let mut all = String::new();
        for group in ["controllers", "nodes"] {
            for member in self.status[group].as_array().into_iter().flatten() {
                let log = std::fs::read_to_string(text(&member["log"])).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(30)..].join("\n");
                all.push_str(&format!("--- {}\n{tail}\n", member["name"]));
            }
        }
        all
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        let outcome = Outcome::of(&mut self.command("down"));
        if outcome.code != Some(0) {
            eprintln!("the lab was not ended: {outcome:?}");
        }
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn addresses(list: &Value) -> Vec<IpAddr> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|address| address.as_str()?.parse().ok())
        .collect()
}

fn newest(list: &Value) -> u64 {
    items(list)
        .filter_map(|item| item["metadata"]["resourceVersion"].as_str()?.parse().ok())
        .max()
        .unwrap_or(0)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|it| it["type"] == "Ready" && it["status"] == "True")
}

/// A pod that is not Ready though it should be; one labelled `ready=never` should only run.
fn unsettled_pod(pods: &Value) -> Option<String> {
    let settled = |pod: &&Value| {
        let never = pod["metadata"]["labels"]["ready"] == "never";
        let leaving = pod["metadata"]["deletionTimestamp"].is_string();
        leaving || is_ready(pod) || (never && pod["status"]["phase"] == "Running")
    };
    items(pods)
        .find(|pod| !settled(pod))
        .map(|pod| format!("{} {}", pod["metadata"]["name"], pod["status"]))
}

/// Whether the slices of a Service with a selector name exactly the pods that it selects and that are ready.
fn missing_endpoint(service: &Value, pods: &Value, slices: &Value) -> Option<String> {
    let selector = service["spec"]["selector"].as_object()?;
    let name = &service["metadata"]["name"];
    let unready_too = service["spec"]["publishNotReadyAddresses"] == true;
    let wanted: BTreeSet<&str> = items(pods)
        .filter(|pod| {
            let labels = &pod["metadata"]["labels"];
            let chosen = selector.iter().all(|(key, value)| labels[key] == *value);
            let leaving = pod["metadata"]["deletionTimestamp"].is_string();
            chosen && !leaving && (unready_too || is_ready(pod))
        })
        .filter_map(|pod| pod["metadata"]["name"].as_str())
        .collect();
    let of_service = items(slices)
        .filter(|slice| slice["metadata"]["labels"]["kubernetes.io/service-name"] == *name);
    // Endpoints with other port numbers are in other slices.
    let mut families = BTreeMap::<String, BTreeSet<&str>>::new();
    for slice in of_service {
        let endpoints = slice["endpoints"].as_array().into_iter().flatten();
        let found = endpoints
            .filter(|endpoint| endpoint["conditions"]["ready"] == true)
            .filter_map(|endpoint| endpoint["targetRef"]["name"].as_str());
        let family = families.entry(text(&slice["addressType"])).or_default();
        family.extend(found);
    }
    if let Some(found) = families.values().find(|found| **found != wanted) {
        return Some(format!("{name} has {found:?}, not {wanted:?}"));
    }
    let expected = service["spec"]["ipFamilies"].as_array().map_or(1, Vec::len);
    (families.len() < expected).then(|| format!("{name} has slices of {families:?}"))
}

fn agent_status(socket: &Path) -> Option<Value> {
    serde_json::from_str(&get(socket, "/status")?).ok()
}

fn get(socket: &Path, path: &str) -> Option<String> {
    use std::io::Read as _;
    let mut stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n"
    )
    .ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_owned())
}
