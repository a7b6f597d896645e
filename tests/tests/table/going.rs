//! Something that goes on while a row changes the cluster, until its standard input is closed.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use crate::call::From;
use crate::world::{PEER, World};

/// How long a line may be waited for.
const LIMIT: Duration = Duration::from_secs(30);

pub(crate) struct Going {
    child: Child,
    lines: Receiver<String>,
}

impl Going {
    pub(crate) fn start(world: &World, from: From, arguments: &[&str]) -> Self {
        let mut child = from
            .spot(world)
            .command(PEER)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line that it prints.
    pub(crate) fn line(&mut self) -> Result<String, String> {
        let line = self.lines.recv_timeout(LIMIT);
        line.map_err(|error| format!("no further line: {error}"))
    }

    /// Ends it and returns the last line that it prints.
    pub(crate) fn end(mut self) -> Result<String, String> {
        drop(self.child.stdin.take());
        let mut last = self.line()?;
        while let Ok(line) = self.line() {
            last = line;
        }
        Ok(last)
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        // Ended already, or left by a row that failed half-way.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
