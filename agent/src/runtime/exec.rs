//! Commands in a running container, by `runc exec`. The agent runs them itself: their output is for a caller
//! that ends with the agent, so nothing of them needs to outlive it.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::{ExecOutcome, RuntimeError};
use crate::supervisor::config::{self, Config};
use crate::supervisor::runc::{self, Runc};

/// How long runc may take to notice that the command has been killed.
const AFTERMATH: Duration = Duration::from_secs(2);

static NEXT: AtomicU64 = AtomicU64::new(0);

/// Kills the command, and runc, when it is dropped before the end was seen.
struct Running {
    child: Child,
    pid_file: PathBuf,
    log: PathBuf,
    finished: bool,
}

impl Running {
    /// The command's whole process group: runc makes each command the leader of a session.
    fn kill_command(&self) {
        let text = std::fs::read_to_string(&self.pid_file).unwrap_or_default();
        let Ok(pid) = text.trim().parse() else {
            return;
        };
        // runc has not ended, so it has not reaped the command: the id is still that of the command.
        kill_group(pid);
    }

    fn kill_runc(&self) {
        if let Some(pid) = self.child.id() {
            kill_group(pid);
        }
    }

    async fn wait(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        self.finished = true;
        Ok(status)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.finished {
            self.kill_command();
            self.kill_runc();
        }
        for path in [&self.pid_file, &self.log] {
            let _ = std::fs::remove_file(path);
        }
    }
}

fn kill_group(pid: u32) {
    if let Ok(pid) = libc::pid_t::try_from(pid)
        && pid > 1
    {
        // SAFETY: kill takes numbers only and touches no memory of this process.
        unsafe { libc::kill(-pid, libc::SIGKILL) };
    }
}

pub(super) async fn run(
    dir: &Path,
    config: &Config,
    id: &str,
    args: &[String],
    timeout: Duration,
    max_output: usize,
) -> Result<ExecOutcome, RuntimeError> {
    let failed = |message: String| RuntimeError::Runc {
        verb: "exec",
        container: id.to_owned(),
        message,
    };
    if !config::valid_id(id) || args.is_empty() {
        return Err(failed("no such container, or no command".to_owned()));
    }
    let spawned = spawn(dir, config, id, args);
    let (mut running, output) = spawned.map_err(|error| failed(error.to_string()))?;
    let mut output = Output {
        pipe: output,
        max: max_output,
        bytes: Vec::new(),
    };
    let deadline = tokio::time::sleep(timeout);
    let status = tokio::select! {
        status = output.collect_until(running.wait()) => Some(status),
        () = deadline => None,
    };
    let timed_out = status.is_none();
    let status = match status {
        Some(status) => status,
        None => {
            running.kill_command();
            let ended = output.collect_until(running.wait());
            match tokio::time::timeout(AFTERMATH, ended).await {
                Ok(status) => status,
                Err(_) => {
                    running.kill_runc();
                    running.wait().await
                }
            }
        }
    };
    let status = status.map_err(|error| failed(error.to_string()))?;
    output.collect_rest();
    let log = std::fs::read(&running.log).unwrap_or_default();
    if !status.success()
        && !timed_out
        && let Some(message) = runc::last_error(&log)
    {
        return Err(failed(message));
    }
    Ok(ExecOutcome {
        exit_code: exit_code(status),
        timed_out,
        output: output.bytes,
    })
}

fn exit_code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    let signal = status.signal().map(|signal| 128 + signal);
    status.code().or(signal).unwrap_or(-1)
}

fn spawn(
    dir: &Path,
    config: &Config,
    id: &str,
    args: &[String],
) -> io::Result<(Running, pipe::Receiver)> {
    let files = dir.join("exec");
    std::fs::create_dir_all(&files)?;
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("{}-{number}", std::process::id());
    let pid_file = files.join(format!("{name}.pid"));
    let log = files.join(format!("{name}.log"));
    let (reader, writer) = io::pipe()?;
    let mut command = Runc::new(dir, config).command(Some(&log));
    command
        .arg("exec")
        .arg("--pid-file")
        .arg(&pid_file)
        .arg(id)
        .args(args)
        // One pipe for both, so that the output has the order in which it was written.
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let child = Command::from(command).spawn()?;
    let running = Running {
        child,
        pid_file,
        log,
        finished: false,
    };
    Ok((
        running,
        pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?,
    ))
}

/// What a command writes; beyond the bound it is read and forgotten, so that the command goes on.
struct Output {
    pipe: pipe::Receiver,
    max: usize,
    bytes: Vec<u8>,
}

impl Output {
    fn take(&mut self, bytes: &[u8]) {
        let room = self.max - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Reads until runc ends: whoever else holds the pipe is not waited for.
    async fn collect_until<T>(&mut self, end: impl Future<Output = T>) -> T {
        let mut buffer = [0; 4096];
        let mut open = true;
        tokio::pin!(end);
        loop {
            tokio::select! {
                result = &mut end => return result,
                read = self.pipe.read(&mut buffer), if open => match read {
                    Ok(length @ 1..) => self.take(&buffer[..length]),
                    _ => open = false,
                },
            }
        }
    }

    /// What the pipe still holds, up to the bound.
    fn collect_rest(&mut self) {
        let mut buffer = [0; 4096];
        while self.bytes.len() < self.max
            && let Ok(length @ 1..) = self.pipe.try_read(&mut buffer)
        {
            self.take(&buffer[..length]);
        }
    }
}
