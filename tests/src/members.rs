//! A control plane of several members, each a real `waggle controller` in a network namespace of its own, on one
//! bridge; and the means to break it: kill -9, packets that are dropped, small disks.
//!
//! ```text
//!   m1 10.99.0.11 ──┐
//!   m2 10.99.0.12 ──┼── bridge in `hub`, where the clients are (10.99.0.1)
//!   m3 10.99.0.13 ──┘
//! ```

use std::collections::BTreeMap;
use std::future::Future;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use kube::{Client, Config};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::cluster::waggle;
use crate::process::{Outcome, wait_until};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How long anything that is waited for may take; machines that do other things as well are slow.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);
const API_PORT: u16 = 6443;
const PEER_PORT: u16 = 6444;

/// The members, numbered from 1. Dropping them ends all of it.
#[derive(Debug)]
pub struct Members {
    prefix: String,
    directory: TempDir,
    running: BTreeMap<u8, Child>,
    /// Members whose data is on a file system of its own.
    mounted: Vec<u8>,
    /// Its threads are in the namespace `hub`.
    runtime: Option<Runtime>,
}

impl Members {
    /// As many members as told, all of which vote.
    #[track_caller]
    pub fn start(count: u8) -> Self {
        let mut this = Self::found();
        for member in 2..=count {
            this.join(member, 1);
        }
        this.await_voters(count.into());
        this
    }

    /// One member, with which others may be joined.
    #[track_caller]
    pub fn found() -> Self {
        let mut this = Self::network();
        this.connect(1);
        this.boot(1, &[]);
        this.await_api(1);
        this
    }

    /// The bridge, and nobody at it.
    pub fn network() -> Self {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("wgf-{}-{number}", std::process::id());
        let directory = tempfile::Builder::new()
            .prefix("wgf")
            .tempdir()
            .expect("a temporary directory");
        let hub = format!("{prefix}-hub");
        ip(&["netns", "add", &hub]);
        for command in [
            "link set lo up",
            "link add bridge0 type bridge stp_state 0 mcast_snooping 0",
            "address add 10.99.0.1/24 dev bridge0",
            "link set bridge0 up",
        ] {
            ip_in(&hub, command);
        }
        let _ = rustls::crypto::ring::default_provider().install_default();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .on_thread_start(move || {
                let hub = std::fs::File::open(format!("/run/netns/{hub}")).expect("the namespace");
                nix::sched::setns(hub, nix::sched::CloneFlags::CLONE_NEWNET)
                    .expect("enter the namespace");
            })
            .build()
            .expect("a runtime");
        Self {
            prefix,
            directory,
            running: BTreeMap::new(),
            mounted: Vec::new(),
            runtime: Some(runtime),
        }
    }

    /// A namespace for a member, with a cable to the bridge.
    pub fn connect(&self, member: u8) {
        let (hub, own) = (self.netns("hub"), self.netns_of(member));
        ip(&["netns", "add", &own]);
        ip_in(
            &hub,
            &format!("link add m{member} type veth peer name eth0 netns {own}"),
        );
        ip_in(&hub, &format!("link set m{member} master bridge0 up"));
        ip_in(&own, "link set lo up");
        let address = address(member);
        ip_in(&own, &format!("address add {address}/24 dev eth0"));
        ip_in(&own, "link set eth0 up");
        std::fs::create_dir_all(self.data(member)).expect("a data directory");
    }

    /// Puts the member's data on a file system of so many MiB.
    pub fn limit_disk(&mut self, member: u8, mib: u32) {
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "waggle-test"]);
        Outcome::of(mount.arg(self.data(member))).ok();
        self.mounted.push(member);
    }

    fn netns(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    fn netns_of(&self, member: u8) -> String {
        self.netns(&format!("m{member}"))
    }

    pub fn data(&self, member: u8) -> PathBuf {
        self.directory.path().join(format!("m{member}"))
    }

    /// For the test's own files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    fn log_of(&self, member: u8) -> PathBuf {
        self.directory.path().join(format!("m{member}.log"))
    }

    /// What the member has logged in all its lives.
    pub fn log(&self, member: u8) -> String {
        std::fs::read_to_string(self.log_of(member)).unwrap_or_default()
    }

    /// `program`, where the clients are.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        inside(&self.netns("hub"), program)
    }

    /// `waggle cluster …`, asking this member.
    pub fn cluster(&self, member: u8, arguments: &[&str]) -> Outcome {
        let mut command = self.command(waggle());
        command.args(["cluster", "--kubeconfig"]);
        command.arg(self.kubeconfig(member));
        Outcome::of(command.args(arguments))
    }

    pub fn kubeconfig(&self, member: u8) -> PathBuf {
        self.data(member).join("admin.kubeconfig")
    }

    /// Starts the process; it may take a while until it serves.
    pub fn boot(&mut self, member: u8, further: &[String]) {
        assert!(!self.running.contains_key(&member), "m{member} runs");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_of(member))
            .expect("a log");
        let address = address(member);
        let child = inside(&self.netns_of(member), waggle())
            .args(["--log=info,openraft=warn", "controller"])
            .arg(format!("--name=m{member}"))
            .arg(format!("--listen={address}:{API_PORT}"))
            .arg(format!("--peer-listen={address}:{PEER_PORT}"))
            .arg("--data-dir")
            .arg(self.data(member))
            .args(further)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("the log again"))
            .stderr(log)
            .spawn()
            .expect("start waggle controller");
        self.running.insert(member, child);
    }

    /// Makes another machine a member, by a token that `via` has made, and waits until it serves.
    #[track_caller]
    pub fn join(&mut self, member: u8, via: u8) {
        self.connect(member);
        let line = self.cluster(via, &["add"]).ok();
        let further: Vec<String> = line.split_whitespace().skip(2).map(str::to_owned).collect();
        assert!(line.starts_with("waggle controller --join"), "{line}");
        self.boot(member, &further);
        self.await_api(member);
    }

    /// Its process.
    pub fn pid(&self, member: u8) -> Pid {
        let id = self.running[&member].id();
        Pid::from_raw(i32::try_from(id).expect("a process id"))
    }

    pub fn runs(&self, member: u8) -> bool {
        self.running.contains_key(&member)
    }

    /// kill -9.
    #[track_caller]
    pub fn kill(&mut self, member: u8) {
        let mut child = self.running.remove(&member).expect("it runs");
        child.kill().expect("kill it");
        child.wait().expect("its end");
    }

    /// Ends it as a service manager does, and waits.
    #[track_caller]
    pub fn stop(&mut self, member: u8) {
        kill(self.pid(member), Signal::SIGTERM).expect("signal it");
        assert_eq!(self.await_end(member), Some(0), "{}", self.tail(member));
    }

    /// Waits until its process has ended by itself; its exit code.
    #[track_caller]
    pub fn await_end(&mut self, member: u8) -> Option<i32> {
        let child = self.running.get_mut(&member).expect("it runs");
        let status = wait_until("the member's end", LIMIT, || {
            child.try_wait().expect("its state")
        });
        self.running.remove(&member);
        status.code()
    }

    /// Whether its process has ended by itself.
    pub fn has_ended(&mut self, member: u8) -> bool {
        let child = self.running.get_mut(&member);
        let ended = child.is_none_or(|it| it.try_wait().expect("its state").is_some());
        if ended {
            self.running.remove(&member);
        }
        ended
    }

    /// Removes what is left of a member that does not run, so that another one can have its number.
    pub fn forget(&self, member: u8) {
        assert!(!self.running.contains_key(&member), "m{member} runs");
        let name = self.netns_of(member);
        if Path::new("/run/netns").join(&name).exists() {
            ip(&["netns", "delete", &name]);
            // The kernel takes the other end of the cable away a moment later.
            let _ = Command::new("ip")
                .args([
                    "-n",
                    &self.netns("hub"),
                    "link",
                    "delete",
                    &format!("m{member}"),
                ])
                .output();
            std::fs::remove_dir_all(self.data(member)).expect("remove its data");
        }
    }

    /// What the member says of itself to Prometheus.
    pub fn metrics(&self, member: u8) -> String {
        let client = self.client(member);
        self.run(async move {
            let get = http::Request::get("/metrics").body(Vec::new());
            let answer = client.request_text(get.expect("a request")).await;
            answer.expect("metrics")
        })
    }

    /// The end of its log.
    pub fn tail(&self, member: u8) -> String {
        let log = self.log(member);
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    /// Waits until the member serves linearizable reads.
    #[track_caller]
    pub fn await_api(&mut self, member: u8) {
        let kubeconfig = self.kubeconfig(member);
        wait_until("the first kubeconfig", LIMIT, || {
            self.check_alive(member);
            kubeconfig.exists().then_some(())
        });
        let client = self.client(member);
        wait_until("the member to serve", LIMIT, || {
            self.check_alive(member);
            let client = client.clone();
            let ask = async move {
                let get = http::Request::get("/api/v1/namespaces/default").body(Vec::new());
                let ask = client.request::<Value>(get.expect("a request"));
                tokio::time::timeout(Duration::from_secs(5), ask).await
            };
            matches!(self.run(ask), Ok(Ok(_))).then_some(())
        });
    }

    #[track_caller]
    fn check_alive(&mut self, member: u8) {
        let ended = self.running.get_mut(&member).map(Child::try_wait);
        if let Some(Ok(Some(status))) = ended {
            panic!("m{member} has ended with {status}:\n{}", self.tail(member));
        }
    }

    /// Runs to the end where the clients are.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let task = self.runtime().spawn(future);
        self.runtime().block_on(task).expect("no panic")
    }

    pub fn runtime(&self) -> &Runtime {
        self.runtime.as_ref().expect("until the end")
    }

    /// An administrator's client of this member and no other, that tries nothing twice.
    pub fn client(&self, member: u8) -> Client {
        let path = self.kubeconfig(member);
        self.run(async move {
            let kubeconfig = kube::config::Kubeconfig::read_from(path).expect("a kubeconfig");
            let mut config = Config::from_custom_kubeconfig(kubeconfig, &Default::default())
                .await
                .expect("a configuration");
            config.default_retry = false;
            Client::try_from(config).expect("a client")
        })
    }

    /// The members as `via` sees them.
    pub fn status(&self, via: u8) -> Option<Vec<Value>> {
        let outcome = self.cluster(via, &["members", "--output", "json"]);
        serde_json::from_str(&outcome.stdout).ok()
    }

    /// Waits until each of those that run sees so many full members, all of them there, and the same leader.
    #[track_caller]
    pub fn await_voters(&self, count: usize) {
        for via in self.running.keys() {
            wait_until("all members to vote", LIMIT, || {
                let members = self.status(*via)?;
                let good = |it: &&Value| it["voter"] == true && it["present"] == true;
                let led = members.iter().any(|it| it["leader"] == true);
                (led && members.len() == count && members.iter().filter(good).count() == count)
                    .then_some(())
            });
        }
    }

    /// Who leads, as one of these members sees it.
    pub fn leader_seen_by(&self, via: &[u8]) -> Option<u8> {
        via.iter().find_map(|via| {
            let members = self.status(*via)?;
            let leader = members.iter().find(|it| it["leader"] == true)?;
            leader["name"].as_str()?.strip_prefix('m')?.parse().ok()
        })
    }

    /// Who leads; waits until somebody does.
    #[track_caller]
    pub fn leader(&self) -> u8 {
        let running: Vec<u8> = self.running.keys().copied().collect();
        wait_until("a leader", LIMIT, || {
            let leader = self.leader_seen_by(&running)?;
            running.contains(&leader).then_some(leader)
        })
    }

    /// What comes from `from` does not arrive at `at` any more, without a word to either; the other direction is
    /// not touched.
    pub fn drop_packets(&self, from: u8, at: u8) {
        let rules = format!(
            "add table ip cut\n\
             add chain ip cut input {{ type filter hook input priority 0; }}\n\
             add rule ip cut input ip saddr {} drop\n",
            address(from)
        );
        self.nft(at, &rules);
    }

    /// Neither hears the other.
    pub fn part(&self, one: u8, other: u8) {
        self.drop_packets(one, other);
        self.drop_packets(other, one);
    }

    /// All packets arrive again.
    pub fn heal(&self) {
        for member in self.running.keys() {
            self.nft(*member, "add table ip cut\ndelete table ip cut\n");
        }
    }

    fn nft(&self, member: u8, rules: &str) {
        let mut nft = inside(&self.netns_of(member), "nft")
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .spawn()
            .expect("start nft");
        let mut stdin = nft.stdin.take().expect("its input");
        stdin.write_all(rules.as_bytes()).expect("write rules");
        drop(stdin);
        assert!(nft.wait().expect("its end").success(), "{rules}");
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        let panicking = std::thread::panicking();
        // Clients first: what they log of a control plane that goes is of no use.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
        for (member, child) in &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
            if panicking {
                let log = self.directory.path().join(format!("m{member}.log"));
                let log = std::fs::read_to_string(log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = lines[lines.len().saturating_sub(40)..].join("\n");
                eprintln!("--- m{member}\n{tail}");
            }
        }
        for member in &self.mounted {
            let _ = Command::new("umount").arg(self.data(*member)).status();
        }
        for member in 1..=9 {
            let name = self.netns_of(member);
            if Path::new("/run/netns").join(&name).exists() {
                let _ = Command::new("ip").args(["netns", "delete", &name]).status();
            }
        }
        let hub = self.netns("hub");
        let _ = Command::new("ip").args(["netns", "delete", &hub]).status();
    }
}

/// On the bridge.
fn address(member: u8) -> String {
    format!("10.99.0.{}", 10 + member)
}

fn inside(namespace: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{namespace}"))
        .arg("--")
        .arg(program);
    command
}

#[track_caller]
fn ip(arguments: &[&str]) {
    Outcome::of(Command::new("ip").args(arguments)).ok();
}

#[track_caller]
fn ip_in(namespace: &str, command: &str) {
    let mut arguments = vec!["-n", namespace];
    arguments.extend(command.split(' '));
    ip(&arguments);
}
