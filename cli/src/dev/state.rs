//! Who runs on a data directory: `dev.json` names the process, so that `down` ends exactly that one.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// The running cluster, as written to the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Running {
    pub(super) pid: i32,
    /// Start time of the process in clock ticks since boot: tells it from a later process with its id.
    pub(super) start_ticks: u64,
    pub(super) server: String,
    pub(super) kubeconfig: PathBuf,
}

impl Running {
    pub(super) fn this_process(server: String, kubeconfig: PathBuf) -> anyhow::Result<Self> {
        let pid = i32::try_from(std::process::id())?;
        let start_ticks = start_ticks(pid).context("this process in /proc")?;
        Ok(Self {
            pid,
            start_ticks,
            server,
            kubeconfig,
        })
    }

    /// The process is there and is the one that wrote the file.
    pub(super) fn is_alive(&self) -> bool {
        start_ticks(self.pid) == Some(self.start_ticks)
    }
}

fn start_ticks(pid: i32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    parse_start_ticks(&stat)
}

/// Field 22 of `/proc/PID/stat`; the second field (the command) may contain anything, brackets included.
/// A zombie counts as gone.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let after_command = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_command.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
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
            kill(Pid::from_raw(running.pid), Signal::SIGTERM)
                .with_context(|| format!("end process {}", running.pid))?;
            let deadline = Instant::now() + DOWN_LIMIT;
            // A process that is not our child cannot be waited for: look until it is gone.
            while running.is_alive() {
                if Instant::now() > deadline {
                    bail!(
                        "process {} is still there after {} s; its log is {}",
                        running.pid,
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
        running.start_ticks += 1;
        write(dir.path(), &running).unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
    }

    #[test]
    fn a_command_with_brackets_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!(parse_start_ticks(stat), Some(4711));
        assert_eq!(parse_start_ticks(&stat.replace(" S ", " Z ")), None);
        assert_eq!(parse_start_ticks("7 (x"), None);
    }
}
