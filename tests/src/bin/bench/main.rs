//! Measures the one-node cluster against what the machine can do: `cargo xtask bench` builds and runs it.
//!
//! Each round starts a cluster of its own; within a round the two sides of a comparison take turns, so that
//! a machine whose speed drifts does not favour one. What is printed is the median over the rounds.

mod connections;
mod hook;
mod idle;
mod pods;
/// One file for both benchmarks.
#[path = "../../../../cli/src/bench/statistics.rs"]
mod statistics;
mod table;

use std::process::ExitCode;

use waggle_tests::Cluster;

use self::table::Row;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    measure(&arguments)
}

fn measure(arguments: &[&str]) -> ExitCode {
    let value = |name: &str| {
        arguments
            .iter()
            .position(|argument| *argument == name)
            .and_then(|at| arguments.get(at + 1))
            .copied()
    };
    let number = |name: &str, default: usize| {
        value(name)
            .and_then(|text| text.parse().ok())
            .unwrap_or(default)
    };
    let rounds = number("--rounds", 3);
    let pods = number("--pods", 30);
    let seconds = number("--seconds", 10);
    let mut all: Vec<Vec<Row>> = Vec::new();
    for round in 1..=rounds {
        let say = |what: &str| eprintln!("round {round} of {rounds}: {what}");
        say("starting a cluster");
        let cluster = Cluster::start();
        let mut rows = Vec::new();
        say("memory at rest");
        rows.extend(idle::measure(&cluster));
        say(&format!("{pods} pods, each beside bare runc"));
        rows.extend(pods::measure(&cluster, pods));
        say(&format!(
            "connections for {seconds} s, Service and pod address in turn"
        ));
        let mut ends = connections::Ends::start(&cluster);
        rows.extend(connections::measure(&mut ends, seconds));
        say("cost of the connect hook");
        rows.extend(hook::measure(&mut ends));
        all.push(rows);
    }
    let rows = table::medians(&all);
    if arguments.contains(&"--json") {
        println!("{}", table::json(&rows));
    } else {
        print!("{}", table::text(&rows, rounds));
    }
    ExitCode::SUCCESS
}
