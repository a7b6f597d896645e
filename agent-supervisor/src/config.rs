//! What the agent tells a new supervisor, as a file in the pod's run directory; also what sweeping after a
//! crash knows the pod's remains by.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const FILE: &str = "sandbox.json";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    pub pod_uid: String,
    pub hostname: String,
    /// Network namespace that the containers join; the host's when absent.
    pub netns: Option<PathBuf>,
    /// Name or path of the OCI runtime.
    pub runc: PathBuf,
    /// How long one run of it may take.
    pub runc_deadline: std::time::Duration,
    /// The pod's cgroup, as a path inside each hierarchy.
    pub cgroup: String,
    /// Directories of the cgroup in which the supervisor itself lives: those in which it does not begin.
    pub own_cgroups: Vec<PathBuf>,
    #[serde(default)]
    pub sharing: Sharing,
    /// The containers' users are those of the user namespace that owns `netns`: where their ids begin outside.
    #[serde(default)]
    pub first_id: Option<u32>,
    /// A mount that the OCI runtime is not shown.
    #[serde(default)]
    pub hidden: Option<PathBuf>,
}

/// What a pod's containers have in common with each other, or with the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// One process id namespace for all containers.
    pub processes: bool,
    pub host_ipc: bool,
}

impl Config {
    pub fn read(dir: &Path) -> io::Result<Self> {
        let bytes = std::fs::read(dir.join(FILE))?;
        serde_json::from_slice(&bytes).map_err(io::Error::from)
    }

    pub fn write(&self, dir: &Path) -> io::Result<()> {
        write_atomically(&dir.join(FILE), &serde_json::to_vec(self)?)
    }

    pub fn remove(dir: &Path) -> io::Result<()> {
        std::fs::remove_file(dir.join(FILE))
    }
}

/// Replaces a file so that a reader sees the old content or the new, never a part.
pub fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = std::fs::File::create(&temporary)?;
    file.write_all(content)?;
    std::fs::rename(&temporary, path)
}

/// Held by a supervisor from before it reads its configuration until it ends, and by who sweeps.
pub fn lock_file(dir: &Path) -> PathBuf {
    dir.join("supervisor.lock")
}

/// runc's state of this pod's containers, apart from everybody else's.
pub fn runc_root(dir: &Path) -> PathBuf {
    dir.join("runc")
}

/// The bundle of one container.
pub fn bundle(dir: &Path, id: &str) -> PathBuf {
    dir.join("containers").join(id)
}

/// Pipes and files of commands that run in containers.
pub fn exec_dir(dir: &Path) -> PathBuf {
    dir.join("exec")
}

/// Container names become file names, cgroup names and arguments of runc.
pub fn valid_id(id: &str) -> bool {
    let mut bytes = id.bytes();
    id.len() <= 200
        && bytes
            .next()
            .is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'))
}
