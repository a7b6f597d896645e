//! A real `waggle dev` in a network namespace, with its own cgroups and directories.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::leftovers::{self, Leftovers};
use crate::netns::Netns;
use crate::process::{Outcome, wait_until};

/// How a cluster is started; the default is right for most tests.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further arguments of `waggle dev`.
    pub arguments: Vec<String>,
    /// Do not import the test image.
    pub without_image: bool,
    /// The `waggle` that is started; the binary under test when absent.
    pub program: Option<PathBuf>,
    /// Keep the data directory on a file system of this many MiB.
    pub disk_mib: Option<u32>,
}

/// One running cluster; dropping it ends it and removes what it was given.
#[derive(Debug)]
pub struct Cluster {
    pub netns: Netns,
    options: Options,
    child: Option<Child>,
    /// What `waggle dev` printed when it was up.
    pub screen: Value,
    directory: TempDir,
    cgroup: String,
}

/// The binary under test: what `cargo xtask test` built, or the one next to this test.
pub fn waggle() -> PathBuf {
    if let Some(path) = std::env::var_os("WAGGLE_BINARY") {
        return path.into();
    }
    let mut path = std::env::current_exe().expect("this executable");
    path.pop();
    path.pop();
    path.join("waggle")
}

impl Cluster {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let netns = Netns::new();
        let directory = tempfile::Builder::new()
            .prefix("wgt")
            .tempdir()
            .expect("a temporary directory");
        let cgroup = format!("/{}", netns.name());
        let mut this = Self {
            netns,
            options,
            child: None,
            screen: Value::Null,
            directory,
            cgroup,
        };
        if let Some(size) = this.options.disk_mib {
            std::fs::create_dir_all(this.data_dir()).expect("the data directory");
            let size = format!("size={size}m");
            let mut mount = Command::new("mount");
            mount
                .args(["-t", "tmpfs", "-o", &size, "waggle-test"])
                .arg(this.data_dir());
            Outcome::of(&mut mount).ok();
        }
        if !this.options.without_image {
            let archive = crate::busybox_archive(this.directory.path());
            this.waggle(
                &["image", "import", &archive.to_string_lossy(), "--data-dir"],
                &this.data_dir().join("agent"),
            )
            .ok();
        }
        this.boot();
        this
    }

    fn waggle(&self, arguments: &[&str], path: &Path) -> Outcome {
        Outcome::of(self.netns.command(self.program()).args(arguments).arg(path))
    }

    fn program(&self) -> PathBuf {
        self.options.program.clone().unwrap_or_else(waggle)
    }

    /// From the next start on another binary runs.
    pub fn replace_program(&mut self, program: PathBuf) {
        self.options.program = Some(program);
    }

    /// The command that starts this cluster, not yet started.
    pub fn dev_command(&self) -> Command {
        let unified = leftovers::unified_cgroup().join(self.cgroup.trim_start_matches('/'));
        std::fs::create_dir_all(&unified).expect("a cgroup for the cluster");
        let mut command = self.netns.command(self.program());
        command
            .args([
                "dev",
                "--output",
                "json",
                "--node-name",
                "node-1",
                "--uplink",
                "uplink",
            ])
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--run-dir")
            .arg(self.run_dir())
            .arg("--cgroup-parent")
            .arg(format!("{}/pods", self.cgroup))
            .arg("--cgroup-attach")
            .arg(&unified)
            .args(&self.options.arguments);
        if self.options.disk_mib.is_none() {
            // How full this machine's disk is, is no concern of the tests.
            command.args(["--eviction-disk", "0", "--image-gc-high-threshold", "100"]);
        }
        if !self
            .options
            .arguments
            .iter()
            .any(|argument| argument == "--upstream-dns")
        {
            command
                .arg("--upstream-dns")
                .arg(format!("{}:53", Netns::OUTSIDE));
        }
        command
    }

    /// Starts (again) on the same data directory and waits until it is up.
    #[track_caller]
    pub fn boot(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let log = std::fs::File::create(self.directory.path().join("stderr")).expect("a log");
        let mut child = self
            .dev_command()
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("start waggle dev");
        let stdout = child.stdout.take().expect("its standard output");
        let screen = serde_json::Deserializer::from_reader(stdout)
            .into_iter::<Value>()
            .next();
        self.child = Some(child);
        match screen {
            Some(Ok(screen)) => self.screen = screen,
            other => panic!("waggle dev did not come up ({other:?}):\n{}", self.log()),
        }
    }

    /// What the cluster logged and printed to standard error.
    pub fn log(&self) -> String {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        let all = read(self.data_dir().join("dev.log"));
        let tail: Vec<&str> = all.lines().rev().take(80).collect();
        let tail: Vec<&str> = tail.into_iter().rev().collect();
        format!(
            "{}\n{}",
            tail.join("\n"),
            read(self.directory.path().join("stderr"))
        )
    }

    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.directory.path().join("run")
    }

    /// A folder for the test's own files.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("kubeconfig")
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.as_ref().expect("it runs").id()).expect("a process id")
    }

    /// A process on the node: in its network namespace and below the cgroup that the socket hooks see.
    pub fn node_command(&self, shell: &str) -> Command {
        let procs = leftovers::unified_cgroup()
            .join(self.cgroup.trim_start_matches('/'))
            .join("cgroup.procs");
        let mut command = self.netns.command("sh");
        command
            .arg("-c")
            .arg(format!("echo $$ > {} && {shell}", procs.display()));
        command
    }

    /// The machine's own kubectl (current).
    pub fn kubectl(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.kubectl_command("kubectl".as_ref()).args(arguments))
    }

    /// Debian's kubectl 1.20.
    pub fn old_kubectl(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.kubectl_command(&old_kubectl()).args(arguments))
    }

    pub fn kubectl_command(&self, program: &Path) -> Command {
        let mut command = self.netns.command(program);
        command.env("KUBECONFIG", self.kubeconfig());
        command.env("HOME", self.directory.path());
        command
    }

    /// Applies a manifest given as text.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.apply_outcome(manifest).ok()
    }

    pub fn apply_outcome(&self, manifest: &str) -> Outcome {
        let path = tempfile::Builder::new()
            .suffix(".yaml")
            .tempfile_in(self.directory.path())
            .expect("a manifest file");
        std::fs::write(path.path(), manifest).expect("write the manifest");
        self.kubectl(&["apply", "-f", &path.path().to_string_lossy()])
    }

    /// Waits for `kubectl get … -o jsonpath` to print `expected`.
    #[track_caller]
    pub fn wait_for(&self, object: &[&str], jsonpath: &str, expected: &str) {
        let template = format!("jsonpath={jsonpath}");
        let mut last = String::new();
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_secs(60) {
            let mut arguments = vec!["get"];
            arguments.extend(object);
            arguments.extend(["-o", &template]);
            let outcome = self.kubectl(&arguments);
            if outcome.code == Some(0) && outcome.stdout == expected {
                return;
            }
            last = outcome.stdout + &outcome.stderr;
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!(
            "{object:?} {jsonpath} is {last:?}, not {expected:?}:\n{}",
            self.log()
        );
    }

    /// Process id of a pod's first container: what runs in the cgroup that runc made for it.
    pub fn container_pid(&self, pod: &str) -> String {
        let path = "jsonpath={.status.containerStatuses[0].containerID}";
        let id = self.kubectl(&["get", "pod", pod, "-o", path]).ok();
        let id = id.trim_start_matches("runc://");
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if !id.is_empty() && cgroup.contains(id) {
                return entry.file_name().to_string_lossy().into_owned();
            }
        }
        panic!("no process of container {id:?} of pod {pod}");
    }

    /// Whether the process has ended by itself; it is reaped then.
    pub fn has_ended(&mut self) -> bool {
        let ended = self
            .child
            .as_mut()
            .is_some_and(|child| child.try_wait().expect("its state").is_some());
        if ended {
            self.child = None;
        }
        ended
    }

    /// kill -9: nothing is said goodbye to.
    pub fn crash(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("kill it");
        child.wait().expect("its end");
    }

    /// Ends it as Ctrl-C does and waits; panics when it does not end well.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut child = self.child.take().expect("it runs");
        kill(
            Pid::from_raw(i32::try_from(child.id()).expect("a process id")),
            Signal::SIGINT,
        )
        .expect("signal it");
        let status = wait_until("waggle dev to end", Duration::from_secs(60), || {
            child.try_wait().expect("its state")
        });
        assert!(status.success(), "ended with {status}:\n{}", self.log());
    }

    pub fn leftovers(&self) -> Leftovers {
        Leftovers::look(
            &self.run_dir(),
            &format!("{}/pods", self.cgroup),
            &self.netns,
        )
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the cluster's log:\n{}", self.log());
        }
        if self.child.is_none() && !self.leftovers_empty() {
            // Crashed by the test: the next start sweeps what was left, then ends like any other.
            self.child = self
                .dev_command()
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .ok();
            if let Some(stdout) = self.child.as_mut().and_then(|child| child.stdout.take()) {
                let _ = serde_json::Deserializer::from_reader(stdout)
                    .into_iter::<Value>()
                    .next();
            }
        }
        if let Some(mut child) = self.child.take() {
            let _ = kill(
                Pid::from_raw(i32::try_from(child.id()).unwrap_or(i32::MAX)),
                Signal::SIGTERM,
            );
            let deadline = std::time::Instant::now() + Duration::from_secs(30);
            while let Ok(None) = child.try_wait() {
                if std::time::Instant::now() > deadline {
                    let _ = child.kill();
                    let _ = child.wait();
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        if self.options.disk_mib.is_some() {
            let _ = Command::new("umount").arg(self.data_dir()).status();
        }
        leftovers::remove_cgroup(&self.cgroup);
    }
}

impl Cluster {
    fn leftovers_empty(&self) -> bool {
        self.leftovers().processes.is_empty() && self.leftovers().mounts.is_empty()
    }
}

/// Debian's kubectl 1.20, unpacked by set-up.
pub fn old_kubectl() -> PathBuf {
    std::env::var_os("WAGGLE_OLD_KUBECTL").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/tools/kubectl-1.20"),
        PathBuf::from,
    )
}
