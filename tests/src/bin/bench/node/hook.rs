//! What the connect hook costs, by the kernel's own BPF statistics.

use std::process::Command;

use waggle_tests::Outcome;

use super::connections::Ends;
use super::table::{Row, row};

const SWITCH: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// Turns the statistics on, and back when it is dropped.
struct Statistics {
    before: String,
}

impl Statistics {
    fn on() -> Self {
        let before = std::fs::read_to_string(SWITCH).unwrap_or_default();
        std::fs::write(SWITCH, "1").expect("turn BPF statistics on");
        Self { before }
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = std::fs::write(SWITCH, self.before.trim());
    }
}

/// (runs, nanoseconds) of all programs of this name.
fn totals(name: &str) -> (f64, f64) {
    let output = Outcome::of(Command::new("bpftool").args(["prog", "show", "--json"])).ok();
    let programs: Vec<serde_json::Value> = serde_json::from_str(&output).unwrap_or_default();
    programs
        .iter()
        .filter(|program| {
            program["name"]
                .as_str()
                .is_some_and(|found| found.contains(name))
        })
        .fold((0.0, 0.0), |(runs, time), program| {
            (
                runs + program["run_cnt"].as_f64().unwrap_or(0.0),
                time + program["run_time_ns"].as_f64().unwrap_or(0.0),
            )
        })
}

pub(crate) fn measure(ends: &mut Ends) -> Vec<Row> {
    let _statistics = Statistics::on();
    let (service, direct) = (ends.service.clone(), ends.direct.clone());
    let mut cost = |address: &str| {
        let (runs, time) = totals("connect4");
        ends.turn(address, 2.0);
        let (runs_after, time_after) = totals("connect4");
        (time_after - time) / (runs_after - runs)
    };
    let service = cost(&service);
    let direct = cost(&direct);
    vec![
        row("connect hook, destination is a ClusterIP", service, "ns"),
        row("connect hook, destination is no Service", direct, "ns"),
    ]
}
