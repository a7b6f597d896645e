//! Who runs on a data directory: `dev.json` names the process, so that `down` ends exactly that one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;

/// The running cluster, as written to the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Running {
    #[serde(flatten)]
    pub(super) process: ProcessId,
    pub(super) server: String,
    pub(super) kubeconfig: PathBuf,
}

impl Running {
    pub(super) fn this_process(server: String, kubeconfig: PathBuf) -> anyhow::Result<Self> {
        let pid = i32::try_from(std::process::id())?;
        Ok(Self {
            process: ProcessId::of(pid).context("this process in /proc")?,
            server,
            kubeconfig,
        })
    }

    /// The process is there and is the one that wrote the file.
    pub(super) fn is_alive(&self) -> bool {
        self.process.is_alive()
    }
}

fn file(data_dir: &Path) -> PathBuf {
    data_dir.join("dev.json")
}

/// The cluster that runs on this data directory.
pub(super) fn read(data_dir: &Path) -> anyhow::Result<Option<Running>> {
    let path = file(data_dir);
    let text = match std::fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let running: Running =
        serde_json::from_slice(&text).with_context(|| format!("{} is damaged", path.display()))?;
    Ok(running.is_alive().then_some(running))
}

pub(super) fn write(data_dir: &Path, running: &Running) -> anyhow::Result<()> {
    let path = file(data_dir);
    let scratch = path.with_extension("json.new");
    std::fs::write(&scratch, serde_json::to_vec_pretty(running)?)
        .and_then(|()| std::fs::rename(&scratch, &path))
        .with_context(|| format!("write {}", path.display()))
}

pub(super) fn remove(data_dir: &Path) {
    // Nothing depends on it: a stale file names a process that is gone, and `read` sees that.
    let _ = std::fs::remove_file(file(data_dir));
}

/// How long `down` waits for pods to end gracefully.
const DOWN_LIMIT: Duration = Duration::from_secs(60);

pub(super) fn down(data_dir: &Path, purge: bool) -> anyhow::Result<()> {
    match read(data_dir)? {
        None => eprintln!("no cluster runs on {}", data_dir.display()),
        Some(running) => {
            kill(Pid::from_raw(running.process.pid), Signal::SIGTERM)
                .with_context(|| format!("end process {}", running.process.pid))?;
            let deadline = Instant::now() + DOWN_LIMIT;
            // A process that is not our child cannot be waited for: look until it is gone.
            while running.is_alive() {
                if Instant::now() > deadline {
                    bail!(
                        "process {} is still there after {} s; its log is {}",
                        running.process.pid,
                        DOWN_LIMIT.as_secs(),
                        data_dir.join("dev.log").display()
                    );
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            eprintln!(
                "stopped; nothing of it is left but the data in {}",
                data_dir.display()
            );
        }
    }
    if purge && data_dir.exists() {
        std::fs::remove_dir_all(data_dir)
            .with_context(|| format!("remove {}", data_dir.display()))?;
        eprintln!("removed {}", data_dir.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_stale_file_names_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut running = Running::this_process("x".to_owned(), PathBuf::new()).unwrap();
        write(dir.path(), &running).unwrap();
        assert_eq!(read(dir.path()).unwrap().as_ref(), Some(&running));
        running.process.start_ticks += 1;
        write(dir.path(), &running).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
    }
}
