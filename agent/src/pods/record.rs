//! What is known of one pod, and survives the agent: attempts, restart counts, back-off, deadlines.
//!
//! The worker of the pod is the only writer. A change is written before the step that it announces is taken, so that
//! after `kill -9` the next agent knows of everything that may exist.

mod journal;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus, ResourceRequirements};
use serde::{Deserialize, Serialize};

use super::backoff::Backoff;
use super::wanted::Wanted;
use crate::runtime::User;

/// Layout of a record in `state.jsonl`; one of another version is not read.
pub(crate) const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) version: u32,
    pub(crate) start_time: Timestamp,
    /// Set once anything outside the pod's directory may exist: network, supervisor, mounts.
    pub(crate) prepared: bool,
    /// All containers have ended for good and everything outside the pod's directory was released.
    pub(crate) released: bool,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) containers: BTreeMap<String, ContainerRecord>,
    pub(crate) terminating: Option<Terminating>,
    /// The pod as a whole failed (`DeadlineExceeded`…): its containers are to end.
    pub(crate) failed: Option<PodFailure>,
    /// A container ended so that all begin anew: those that run are to end first.
    #[serde(default)]
    pub(crate) restarting_all: bool,
    #[serde(default)]
    pub(crate) resize: Option<Resize>,
    /// What is asked for the pod as a whole, as its cgroup has it; the pod may ask for other by now.
    #[serde(default)]
    pub(crate) resources: Option<ResourceRequirements>,
    /// The pod has users of its own: where their ids begin outside.
    #[serde(default)]
    pub(crate) first_id: Option<u32>,
    /// As last reported: where transition times come from.
    pub(crate) reported: Option<PodStatus>,
}

/// The end of the pod was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Terminating {
    pub(crate) since: Timestamp,
    pub(crate) grace_seconds: i64,
    /// The object is gone from the store: nobody waits for a report.
    pub(crate) gone: bool,
}

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) attempt: Option<Attempt>,
    /// The number of the first attempt: not 0 once all containers have begun anew.
    #[serde(default)]
    pub(crate) first: u32,
    /// The attempt before the current one.
    pub(crate) last: Option<Ended>,
    pub(crate) image_id: String,
    pub(crate) crash: Backoff,
    /// As they are in force; the pod may ask for others by now.
    #[serde(default)]
    pub(crate) resources: Option<ResourceRequirements>,
    /// Whom the current attempt began as.
    #[serde(default)]
    pub(crate) user: Option<User>,
}

/// A pod's resources were changed and are not all in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Resize {
    /// The node cannot, or cannot yet; else it is under way.
    pub(crate) pending: bool,
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

/// One try at running a container; at most one per container exists at any time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Attempt {
    /// Also the restart count.
    pub(crate) number: u32,
    pub(crate) id: String,
    pub(crate) state: AttemptState,
    pub(crate) kill: Option<Kill>,
    pub(crate) stop_signal: Option<i32>,
    #[serde(default)]
    pub(crate) post_start: PostStart,
}

/// The reason of an attempt whose program could not be started.
pub(crate) const START_ERROR: &str = "StartError";

/// Of an attempt that is over because all containers began anew.
pub(crate) const RESTARTING_ALL: &str = "RestartingAllContainers";

/// What has become of an attempt's `postStart` hook, where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) enum PostStart {
    #[default]
    Due,
    Done,
    Failed,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) enum AttemptState {
    /// Something of it may exist; it is made or removed before anything else happens.
    Creating,
    Created,
    Running {
        started_at: Timestamp,
    },
    Ended(Ended),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) number: u32,
    pub(crate) exit_code: i32,
    pub(crate) signal: Option<i32>,
    pub(crate) reason: String,
    pub(crate) message: Option<String>,
    /// Absent when the program never ran.
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Timestamp,
    /// By the agent's clock, which does not jump: what back-off counts from.
    pub(crate) noticed_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PodFailure {
    pub(crate) reason: String,
    pub(crate) message: String,
    /// The node ended it, for the node's sake.
    #[serde(default)]
    pub(crate) disrupts: bool,
    /// It was never begun.
    #[serde(default)]
    pub(crate) refused: bool,
    /// Less than its own, where the node cannot wait.
    #[serde(default)]
    pub(crate) grace_seconds: Option<i64>,
}

/// The end of an attempt was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kill {
    pub(crate) deadline: Timestamp,
    /// The program was told; before that come its `preStop` hook and, for sidecars, the end of those that use them.
    #[serde(default = "told")]
    pub(crate) signalled: bool,
    /// When SIGKILL was sent last.
    pub(crate) forced: Option<Timestamp>,
}

/// Records of earlier versions knew nothing between being asked and being told.
fn told() -> bool {
    true
}

impl Attempt {
    pub(crate) fn is_live(&self) -> bool {
        !matches!(self.state, AttemptState::Ended(_))
    }
}

impl ContainerRecord {
    pub(crate) fn restart_count(&self) -> u32 {
        self.attempt
            .as_ref()
            .map_or(self.first, |attempt| attempt.number)
    }

    pub(crate) fn ended(&self) -> Option<&Ended> {
        match &self.attempt.as_ref()?.state {
            AttemptState::Ended(ended) => Some(ended),
            _ => None,
        }
    }

    pub(crate) fn running_since(&self) -> Option<Timestamp> {
        match self.attempt.as_ref()?.state {
            AttemptState::Running { started_at } => Some(started_at),
            _ => None,
        }
    }
}

impl Record {
    /// In nothing else: neither in what was done nor in what is to be done.
    pub(crate) fn differs_in_what_was_told(&self, other: &Self) -> bool {
        let told = Self {
            reported: other.reported.clone(),
            addresses: other.addresses.clone(),
            ..self.clone()
        };
        told == *other
    }

    pub(crate) fn new(now: Timestamp) -> Self {
        Self {
            version: VERSION,
            start_time: now,
            prepared: false,
            released: false,
            addresses: Vec::new(),
            containers: BTreeMap::new(),
            terminating: None,
            failed: None,
            restarting_all: false,
            resize: None,
            resources: None,
            first_id: None,
            reported: None,
        }
    }

    pub(crate) fn container(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.get(name)
    }

    /// Forgets how the containers stand, as if none had been begun; how often each was begun stays known. What had
    /// them begin anew waits longer the next time.
    pub(crate) fn begin_anew(&mut self, wanted: &Wanted, now: Timestamp) {
        self.restarting_all = false;
        for container in wanted.lasting() {
            let Some(known) = self.containers.get_mut(&container.name) else {
                continue;
            };
            let Some(ended) = known.ended().cloned() else {
                continue;
            };
            if container.restarts.all_after(ended.exit_code) {
                known.crash.step(now);
            }
            known.first = ended.number + 1;
            known.attempt = None;
            known.last = Some(Ended {
                exit_code: 137,
                signal: None,
                reason: RESTARTING_ALL.to_owned(),
                message: Some(
                    "The container is removed because RestartAllContainers in place".to_owned(),
                ),
                ..ended
            });
        }
    }

    pub(crate) fn attempt(&self, name: &str) -> Option<&Attempt> {
        self.containers.get(name)?.attempt.as_ref()
    }
}

/// Where a pod keeps what is its own.
#[derive(Debug, Clone)]
pub(crate) struct PodDirs {
    /// `<data_dir>/pods/<uid>`: durable.
    pub(crate) data: PathBuf,
    /// `<run_dir>/pods/<uid>`: the supervisor's.
    pub(crate) run: PathBuf,
    /// `<data_dir>/logs/<namespace>_<name>_<uid>`.
    pub(crate) logs: PathBuf,
}

impl PodDirs {
    pub(crate) fn new(
        data_dir: &Path,
        run_dir: &Path,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Self {
        Self {
            data: data_dir.join("pods").join(uid),
            run: run_dir.join("pods").join(uid),
            logs: data_dir
                .join("logs")
                .join(format!("{namespace}_{name}_{uid}")),
        }
    }

    /// Root file system, mount points and the like of one attempt.
    pub(crate) fn attempt(&self, container: &str, number: u32) -> PathBuf {
        self.data
            .join("containers")
            .join(container)
            .join(number.to_string())
    }

    /// Where parts of volumes are mounted for one attempt.
    pub(crate) fn sub_paths(&self, container: &str, number: u32) -> PathBuf {
        self.all_sub_paths()
            .join(container)
            .join(number.to_string())
    }

    pub(crate) fn all_sub_paths(&self) -> PathBuf {
        self.data.join("sub-paths")
    }

    pub(crate) fn log(&self, container: &str, number: u32) -> PathBuf {
        self.logs.join(container).join(format!("{number}.log"))
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.data.join("volumes")
    }

    /// It is in force when this returns without an error; else the one before is.
    pub(crate) fn save_record(&self, record: &Record) -> io::Result<()> {
        journal::append(&self.data, &serde_json::to_vec(record)?)
    }

    pub(crate) fn save_pod(&self, pod: &Pod) -> io::Result<()> {
        replace(&self.data, "pod.json", &serde_json::to_vec(pod)?)
    }
}

/// Writes a file so that a reader sees all of it or what was there before.
fn replace(dir: &Path, file: &str, content: &[u8]) -> io::Result<()> {
    std::fs::create_dir_all(dir)?;
    let temporary = dir.join(format!(".{file}.new"));
    // A specification may have passwords in its variables.
    let mut new = std::fs::File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    new.write_all(content)?;
    std::fs::rename(&temporary, dir.join(file))
}

/// A pod that an earlier agent had, read back.
pub(crate) fn load(dir: &Path) -> io::Result<(Pod, Record)> {
    let pod: Pod = serde_json::from_slice(&std::fs::read(dir.join("pod.json"))?)?;
    let record: Record = serde_json::from_slice(&journal::last(dir)?)?;
    if record.version != VERSION {
        return Err(io::Error::other(format!(
            "record version {} is unknown",
            record.version
        )));
    }
    Ok((pod, record))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn what_was_told_is_known_from_what_was_done() {
        let before = Record::new(Timestamp::UNIX_EPOCH);
        let mut told = before.clone();
        told.reported = Some(PodStatus::default());
        told.addresses = vec!["10.0.0.1".parse().unwrap()];
        assert!(before.differs_in_what_was_told(&told));
        let mut done = told;
        done.prepared = true;
        assert!(!before.differs_in_what_was_told(&done));
    }
}
