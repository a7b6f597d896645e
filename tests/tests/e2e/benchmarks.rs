//! The small variants of `cargo xtask bench control`, `scale` and `pods`: that they measure what they say and leave
//! nothing, not how fast anything is.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use waggle_tests::{Outcome, waggle, wait_until};

fn bench(which: &str, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_waggle-bench"));
    command.args([which, "--quick", "--output", "json", "--dir"]);
    command.arg(directory).args(arguments);
    command.env("WAGGLE_BINARY", waggle());
    command
}

/// What it measured; it has left nothing in its directory.
fn measured(which: &str, arguments: &[&str]) -> Value {
    let directory = tempfile::tempdir().unwrap();
    let report = Outcome::of(&mut bench(which, directory.path(), arguments)).ok();
    let left = std::fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 0, "{which} has left something");
    serde_json::from_str(&report).unwrap()
}

#[track_caller]
fn median(report: &Value, figure: &str, column: &str) -> f64 {
    let cell = report["lines"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|line| line["figure"] == figure)
        .flat_map(|line| line["cells"].as_array().into_iter().flatten())
        .find(|cell| cell["column"] == column);
    let value = cell.and_then(|cell| cell["median"].as_f64());
    value.unwrap_or_else(|| panic!("no {figure} of {column} in {report:#}"))
}

#[test]
fn the_control_plane_is_measured_beside_etcd() {
    let report = measured("control", &[]);
    for figure in ["writeOneRate", "writeManyP99", "readOneRate", "readManyP99"] {
        for column in ["etcd", "store", "api"] {
            assert!(
                median(&report, figure, column) > 0.0,
                "{figure} of {column}"
            );
        }
    }
    for figure in ["idleMemory", "watchRate", "failover", "memory"] {
        for column in ["etcd", "api"] {
            assert!(
                median(&report, figure, column) > 0.0,
                "{figure} of {column}"
            );
        }
    }
}

#[test]
fn a_large_cluster_is_measured_with_simulated_nodes() {
    let report = measured("scale", &["--nodes", "12", "--first", "6"]);
    for figure in [
        "memoryEmpty",
        "memoryAll",
        "connectAll",
        "servicesRate",
        "changeFirstP99",
        "changeAllP99",
        "givenWaiting",
        "decisionWaiting",
        "boundRate",
        "readyRate",
        "heartbeatCpu",
    ] {
        assert!(median(&report, figure, "waggle") > 0.0, "{figure}");
    }
}

#[test]
fn pods_are_measured_beside_bare_runc() {
    let report = measured("pods", &["--single", "1", "--together", "2"]);
    for column in ["runc", "waggle"] {
        for figure in ["oneP50", "together", "delete"] {
            assert!(
                median(&report, figure, column) > 0.0,
                "{figure} of {column}"
            );
        }
    }
    for figure in ["agentMemory", "supervisor"] {
        assert!(median(&report, figure, "waggle") > 0.0, "{figure}");
    }
}

/// Ctrl-C in the middle: the processes that it has started are gone, and so are their data.
#[test]
fn a_benchmark_that_is_interrupted_cleans_up() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = bench("scale", directory.path(), &["--nodes", "500"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let mut lines = lines.map(Result::unwrap);
    lines
        .find(|line| line.ends_with("10 nodes"))
        .expect("it begins");
    assert_ne!(processes_below(directory.path()), 0);
    let pid = i32::try_from(child.id()).unwrap();
    kill(Pid::from_raw(pid), Signal::SIGINT).unwrap();
    let status = wait_until("its end", Duration::from_secs(30), || {
        child.try_wait().unwrap()
    });
    assert!(!status.success());
    let rest: Vec<String> = lines.collect();
    assert!(
        rest.iter().any(|line| line.contains("interrupted")),
        "{rest:?}"
    );
    assert_eq!(processes_below(directory.path()), 0);
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// How many processes name the directory in their arguments, but for the benchmark itself.
fn processes_below(directory: &Path) -> usize {
    let directory = directory.to_string_lossy();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let commands = processes.map(|it| std::fs::read(it.path().join("cmdline")).unwrap_or_default());
    let commands = commands.map(|command| String::from_utf8_lossy(&command).into_owned());
    let ours = commands.filter(|command| command.contains("controller\0"));
    ours.filter(|command| command.contains(&*directory)).count()
}
