//! The one-node cluster against what the machine can do.
//!
//! Each round starts a cluster of its own; within a round the two sides of a comparison take turns, so that
//! a machine whose speed drifts does not favour one. What is printed is the median over the rounds.

mod connections;
mod hook;
mod idle;
mod pods;
mod table;

use waggle_tests::Cluster;

use self::table::Row;
use crate::arguments::NodeArguments;

pub(crate) fn run(arguments: &NodeArguments) {
    let (rounds, pods, seconds) = (arguments.rounds, arguments.pods, arguments.seconds);
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
    if arguments.json {
        println!("{}", table::json(&rows));
    } else {
        print!("{}", table::text(&rows, rounds));
    }
}
