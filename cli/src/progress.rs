//! What a person sees while a cluster starts: one aligned line per step, then the closing screen. On a
//! terminal directly, or through the pipe of the process that waits for a detached cluster.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

/// First word of the line that ends a report.
pub(crate) const READY: &str = "ready";
pub(crate) const FAILED: &str = "failed ";

/// Where progress goes, and since when.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
    step: Instant,
    pipe: Option<File>,
}

impl Progress {
    pub(crate) fn new(report_to: Option<&Path>) -> anyhow::Result<Self> {
        let pipe = report_to
            .map(|path| File::options().write(true).open(path))
            .transpose()
            .context("open the report of the detached cluster")?;
        let now = Instant::now();
        Ok(Self {
            started: now,
            step: now,
            pipe,
        })
    }

    /// A step has ended: its name, and what came of it.
    pub(crate) fn done(&mut self, name: &str, result: &str) {
        let now = Instant::now();
        let took = (now - self.step).as_secs_f64();
        self.step = now;
        self.line(&format!("{name:<14} {result} ({took:.2} s)"));
    }

    /// A step has begun that may take a while.
    pub(crate) fn begin(&mut self, name: &str, what: &str) {
        self.line(&format!("{name:<14} {what} …"));
    }

    fn line(&mut self, text: &str) {
        let line = format!("[{:>6.2}s] {text}", self.started.elapsed().as_secs_f64());
        match &mut self.pipe {
            // The waiting process may have been interrupted: the cluster goes on without it.
            Some(pipe) => drop(writeln!(pipe, "{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// The closing screen; a detached cluster is on its own afterwards.
    pub(crate) fn screen(&mut self, text: &str) {
        match self.pipe.take() {
            Some(mut pipe) => {
                let mut report = String::new();
                for line in text.lines() {
                    report.push_str("screen ");
                    report.push_str(line);
                    report.push('\n');
                }
                report.push_str(READY);
                report.push('\n');
                let _ = pipe.write_all(report.as_bytes());
            }
            None => print!("{text}"),
        }
    }

    /// The start failed: the waiting process says why.
    pub(crate) fn failed(&mut self, error: &anyhow::Error) {
        if let Some(mut pipe) = self.pipe.take() {
            let reason = format!("{error:#}").replace('\n', " ");
            let _ = writeln!(pipe, "{FAILED}{reason}");
        }
    }
}
