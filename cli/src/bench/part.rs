//! The benchmark's own processes: this program again, told what to do in lines of JSON on its standard input.
//!
//! A node with its data plane, a server, a client: each a process of its own, so that memory and processor time
//! of one can be told from the others'. A part ends when its standard input does, that is, with the run.

pub(super) mod client;
pub(super) mod node;
pub(super) mod server;
mod topology;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context as _;
use nix::sched::{CloneFlags, setns};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[derive(Debug, clap::Args)]
pub(crate) struct PartArguments {
    #[command(subcommand)]
    part: Part,
}

#[derive(Debug, clap::Subcommand)]
enum Part {
    /// A node in a network namespace of its own.
    Node(node::NodeArguments),
    /// Where requests arrive.
    Server(Place),
    /// Where they come from.
    Client(Place),
}

/// Where an end of the connections lives.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Place {
    /// Network namespace.
    #[arg(long)]
    pub(super) netns: PathBuf,
    /// cgroup v2 directory.
    #[arg(long)]
    pub(super) cgroup: PathBuf,
}

impl Place {
    /// Moves this process there, which has one thread yet.
    fn enter(&self) -> anyhow::Result<()> {
        enter_cgroup(&self.cgroup)?;
        let file = std::fs::File::open(&self.netns)
            .with_context(|| format!("open {}", self.netns.display()))?;
        setns(file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("enter {}", self.netns.display()))
    }
}

/// Moves this process to a cgroup v2 directory.
fn enter_cgroup(path: &Path) -> anyhow::Result<()> {
    std::fs::write(path.join("cgroup.procs"), "0")
        .with_context(|| format!("enter {}", path.display()))
}

/// The hidden command.
pub(crate) fn main(arguments: PartArguments) -> anyhow::Result<()> {
    match arguments.part {
        Part::Node(arguments) => node::main(&arguments),
        Part::Server(place) => {
            place.enter()?;
            serve(server::answer)
        }
        Part::Client(place) => {
            place.enter()?;
            serve(client::answer)
        }
    }
}

/// Answers requests until there are no more.
fn serve<R: DeserializeOwned>(
    mut answer: impl FnMut(R) -> anyhow::Result<serde_json::Value>,
) -> anyhow::Result<()> {
    for line in std::io::stdin().lock().lines() {
        let result = serde_json::from_str(&line?)
            .map_err(anyhow::Error::from)
            .and_then(&mut answer)
            .map_err(|error| format!("{error:#}"));
        let mut out = std::io::stdout().lock();
        serde_json::to_writer(&mut out, &result)?;
        out.write_all(b"\n")?;
        out.flush()?;
    }
    Ok(())
}

/// A part, from the side that asks. Dropping it ends it and waits for that.
#[derive(Debug)]
pub(super) struct Handle {
    what: String,
    child: Child,
    /// `None` once it was told to end.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Handle {
    pub(super) fn start(what: &str, arguments: &[&std::ffi::OsStr]) -> anyhow::Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .arg("bench-part")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("start the {what}"))?;
        let requests = child.stdin.take();
        let answers = child.stdout.take().context("a pipe from the part")?;
        Ok(Self {
            what: what.to_owned(),
            child,
            requests,
            answers: BufReader::new(answers),
        })
    }

    pub(super) fn start_end(what: &str, kind: &str, place: &Place) -> anyhow::Result<Self> {
        let flag = std::ffi::OsStr::new;
        Self::start(
            what,
            &[
                flag(kind),
                flag("--netns"),
                place.netns.as_os_str(),
                flag("--cgroup"),
                place.cgroup.as_os_str(),
            ],
        )
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn ask<T: DeserializeOwned>(
        &mut self,
        request: &impl Serialize,
    ) -> anyhow::Result<T> {
        let what = &self.what;
        let requests = self.requests.as_mut().context("the part was told to end")?;
        let mut line = serde_json::to_string(request)?;
        line.push('\n');
        requests
            .write_all(line.as_bytes())
            .with_context(|| format!("the {what} is gone"))?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        anyhow::ensure!(
            !answer.is_empty(),
            "the {what} ended while it was asked: {}",
            line.trim()
        );
        let answer: Result<T, String> = serde_json::from_str(&answer)
            .with_context(|| format!("the {what} answered {}", answer.trim()))?;
        answer.map_err(|error| anyhow::anyhow!("{what}: {error}"))
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.requests = None;
        let _ = self.child.wait();
    }
}

/// Processor time of this process so far, all threads, seconds.
fn processor_time() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is ours and outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// A file's whole content, naming it when it cannot be read.
fn read(path: impl AsRef<Path>) -> anyhow::Result<String> {
    let path = path.as_ref();
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}
