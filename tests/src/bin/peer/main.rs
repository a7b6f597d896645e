//! Both ends of the traffic of lab tests: a server that says who called and who answers, and clients that say
//! what became of each call. It runs in pods, on nodes and outside.
//!
//! ```text
//!   waggle-peer serve NAME [--tcp PORT]… [--udp PORT]… [--linger SECONDS]
//!   waggle-peer call [--udp] [--count N] [--timeout MS] [--from ADDRESS:PORT] [--size BYTES]
//!                    [--whole] [--stop] [--text TEXT] [--silent] TARGET…
//!   waggle-peer hold [--connections N] TARGET        until its standard input ends
//!   waggle-peer flow TARGET                          one UDP socket, until its standard input ends
//!   waggle-peer forge SOURCE TARGET [TEXT]           one UDP packet with any source
//! ```
//! A request is a line of text (TCP) or a datagram. The answer is `NAME CLIENT LOCAL LENGTH`: who answers, the
//! caller's address and port as seen here, the address and port that were called, the length of the request. A
//! request `seen ADDRESS` asks whether a datagram has come from there.

mod call;
mod forge;
mod hold;
mod serve;

use std::collections::VecDeque;
use std::process::ExitCode;

/// What is left of the command line.
pub(crate) struct Arguments(VecDeque<String>);

impl Arguments {
    /// The value of every `--name` that comes next.
    pub(crate) fn all(&mut self, name: &str) -> Vec<String> {
        let mut found = Vec::new();
        while let Some(at) = self.0.iter().position(|word| word == name) {
            self.0.remove(at);
            found.extend(self.0.remove(at));
        }
        found
    }

    pub(crate) fn number(&mut self, name: &str, default: u64) -> u64 {
        let given = self.all(name).pop();
        given.map_or(default, |text| {
            text.parse()
                .unwrap_or_else(|_| panic!("{name} {text:?} is no number"))
        })
    }

    pub(crate) fn flag(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|word| word != name);
        self.0.len() != before
    }

    pub(crate) fn next(&mut self) -> Option<String> {
        self.0.pop_front()
    }

    pub(crate) fn required(&mut self, what: &str) -> String {
        self.next().unwrap_or_else(|| panic!("{what} is missing"))
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments(std::env::args().skip(1).collect());
    let outcome = match arguments.next().as_deref() {
        Some("serve") => serve::run(arguments),
        Some("call") => call::run(arguments),
        Some("hold") => hold::connections(arguments),
        Some("flow") => hold::flow(arguments),
        Some("forge") => forge::run(arguments),
        other => panic!("{other:?}: serve, call, hold, flow or forge"),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
