//! Running programs to their end, and waiting for conditions with a bound.

use std::process::{Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A program that takes longer hangs: it is ended, and what it printed is in the message of the test that fails.
const LONGEST: Duration = Duration::from_secs(600);

/// What a finished program left.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub command: String,
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Runs to the end; panics when the program cannot be started, or has not ended after [`LONGEST`].
    #[track_caller]
    pub fn of(command: &mut Command) -> Self {
        let line = format!("{command:?}");
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {line}: {error}"));
        let (ended, end) = mpsc::channel::<()>();
        let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        let (output, overdue) = std::thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let overdue = end.recv_timeout(LONGEST) == Err(RecvTimeoutError::Timeout);
                if overdue {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                overdue
            });
            let output = child.wait_with_output();
            drop(ended);
            (output, watch.join().expect("the watch"))
        });
        let output = output.unwrap_or_else(|error| panic!("no output of {line}: {error}"));
        assert!(
            !overdue,
            "{line} did not end within {LONGEST:?}:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            command: line,
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Standard output of a program that had to succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(
            self.code == Some(0),
            "{} failed ({:?}):\n{}{}",
            self.command,
            self.code,
            self.stdout,
            self.stderr
        );
        self.stdout
    }

    /// Standard error of a program that had to fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(
            self.code != Some(0),
            "{} succeeded:\n{}",
            self.command,
            self.stdout
        );
        self.stderr
    }
}

/// Looks every 50 ms until `probe` gives a value; panics with `what` at the limit.
#[track_caller]
pub fn wait_until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(started.elapsed() < limit, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
