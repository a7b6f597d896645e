//! What a lab consists of: `lab.json` in its data directory. It is for people and commands; what must be
//! ended and removed is found without it.

use std::fs::File;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use super::place::Place;
use super::plan::{Families, Host};
use crate::process::ProcessId;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) families: Families,
    pub(super) mtu: u16,
    /// Arguments of `waggle agent` that choose how packets move.
    pub(super) network: Vec<String>,
    /// Further arguments of every `waggle controller`.
    #[serde(default)]
    pub(super) controller_arguments: Vec<String>,
    /// Further arguments of every `waggle agent`.
    #[serde(default)]
    pub(super) agent_arguments: Vec<String>,
    /// Archives that every node gets, also those that are added later.
    pub(super) images: Vec<std::path::PathBuf>,
    /// The log filter that members are started with.
    pub(super) log: String,
    pub(super) members: Vec<Member>,
    pub(super) forward: Option<Forward>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Member {
    pub(super) host: Host,
    /// As it was last started.
    pub(super) process: Option<ProcessId>,
}

/// The API on this machine's loopback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Forward {
    pub(super) port: u16,
    pub(super) process: ProcessId,
}

impl Record {
    pub(super) fn read(place: &Place) -> anyhow::Result<Option<Self>> {
        let path = file(place);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("{} is damaged", path.display()))
                .map(Some),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }

    /// Of a lab that is there.
    pub(super) fn require(place: &Place) -> anyhow::Result<Self> {
        Self::read(place)?.ok_or_else(|| {
            anyhow!(
                "there is no lab in {}: `waggle lab up{}` starts one",
                place.data.display(),
                place.options()
            )
        })
    }

    pub(super) fn write(&self, place: &Place) -> anyhow::Result<()> {
        crate::files::write_private(&file(place), &serde_json::to_vec_pretty(self)?)
    }

    pub(super) fn member(&self, name: &str) -> anyhow::Result<&Member> {
        let found = self
            .members
            .iter()
            .find(|member| member.host.name() == name);
        found.ok_or_else(|| {
            let names: Vec<String> = self.members.iter().map(|it| it.host.name()).collect();
            anyhow!("the lab has no {name:?}, but {}", names.join(", "))
        })
    }

    pub(super) fn set_process(&mut self, host: Host, process: Option<ProcessId>) {
        for member in &mut self.members {
            if member.host == host {
                member.process = process;
            }
        }
    }

    pub(super) fn nodes(&self) -> Vec<Host> {
        self.members
            .iter()
            .map(|member| member.host)
            .filter(|host| matches!(host, Host::Node(_)))
            .collect()
    }
}

fn file(place: &Place) -> std::path::PathBuf {
    place.data.join("lab.json")
}

/// How long a command waits for another one that works on the same lab.
const PATIENCE: Duration = Duration::from_secs(60);

/// One command at a time changes a lab; the lock is on its data directory and ends with the process.
pub(super) fn lock(place: &Place) -> anyhow::Result<Flock<File>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        std::fs::create_dir_all(&place.data)
            .with_context(|| format!("create {}", place.data.display()))?;
        let directory = File::open(&place.data)?;
        let identity = same(&directory.metadata()?);
        if let Ok(lock) = Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
            // `down` may have removed the directory between the two.
            if std::fs::metadata(&place.data).is_ok_and(|now| same(&now) == identity) {
                return Ok(lock);
            }
            continue;
        }
        if Instant::now() > deadline {
            bail!(
                "another `waggle lab` command works on {}",
                show(&place.data)
            );
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn same(metadata: &std::fs::Metadata) -> (u64, u64) {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

fn show(path: &Path) -> std::path::Display<'_> {
    path.display()
}
