//! Commands in a running container: the supervisor runs them (it is the parent of all that the pod's processes
//! leave), their output comes through a named pipe.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::stat::Mode;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::client::Client;
use super::{ExecOutcome, RuntimeError};
use crate::supervisor::config;
use crate::supervisor::protocol::{Answer, Call, Exec};

/// How much longer than the command's own time an answer may take: killing, and runc.
const AFTERMATH: Duration = Duration::from_secs(10);

/// A name for the files of one command.
pub(super) fn next_name() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

pub(super) async fn run(
    dir: &Path,
    client: &Client,
    id: &str,
    args: &[String],
    timeout: Duration,
    max_output: usize,
) -> Result<ExecOutcome, RuntimeError> {
    let mut output = Output::new(dir, max_output)?;
    let call = Call::Exec(Exec {
        id: id.to_owned(),
        args: args.to_vec(),
        output: output.path.clone(),
        errors: None,
        input: None,
        console: None,
        size: None,
        timeout,
    });
    let limit = timeout.saturating_add(AFTERMATH);
    let answer = client.call_within(limit, "exec", call);
    let answer = output.collect_until(answer).await;
    let (exit_code, timed_out) = match answer {
        Ok(Answer::Ended { code, timed_out }) => (code, timed_out),
        Ok(Answer::Failed(failure)) => return Err(RuntimeError::from_failure(failure, dir, id)),
        Ok(other) => {
            return Err(RuntimeError::supervisor(
                dir,
                format!("unexpected answer {other:?}"),
            ));
        }
        Err(error) => return Err(error),
    };
    output.collect_rest();
    Ok(ExecOutcome {
        exit_code,
        timed_out,
        output: std::mem::take(&mut output.bytes),
    })
}

/// What a command writes; beyond the bound it is read and forgotten, so that the command goes on.
struct Output {
    path: PathBuf,
    pipe: pipe::Receiver,
    max: usize,
    bytes: Vec<u8>,
}

impl Output {
    fn new(dir: &Path, max: usize) -> Result<Self, RuntimeError> {
        let files = config::exec_dir(dir);
        std::fs::create_dir_all(&files)
            .map_err(|error| RuntimeError::io("make directory", &files, error))?;
        let path = files.join(format!("{}.out", next_name()));
        let failed = |error| RuntimeError::io("make pipe", &path, error);
        nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)
            .map_err(|error| failed(error.into()))?;
        // Also for writing, so that the pipe does not end before the command opens it.
        let pipe = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(&path)
            .map_err(failed)?;
        Ok(Self {
            path,
            pipe,
            max,
            bytes: Vec::new(),
        })
    }

    fn take(&mut self, bytes: &[u8]) {
        let room = self.max - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// Reads until the command ends: whoever else holds the pipe is not waited for.
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

impl Drop for Output {
    fn drop(&mut self) {
        // Whoever still has it open keeps it; the name is not needed any more.
        let _ = std::fs::remove_file(&self.path);
    }
}
