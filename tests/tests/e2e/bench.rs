//! `waggle bench` from end to end: that it measures what it says, not how fast anything is.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use waggle_tests::{Outcome, waggle, wait_until};

fn bench(run_dir: &Path) -> Command {
    let mut command = Command::new(waggle());
    command.arg("bench").arg("--run-dir").arg(run_dir);
    command.args(["--quick", "--services", "10"]);
    command
}

/// A run is killed; the next one removes what it left, measures everything, and leaves nothing.
#[test]
fn everything_is_measured_and_nothing_is_left() {
    let scratch = tempfile::tempdir().unwrap();
    let run_dir = scratch.path().join("run");
    let cgroup = cut_off(&run_dir);

    let page = scratch.path().join("report.html");
    let outcome = Outcome::of(
        bench(&run_dir)
            .args(["--rounds", "1", "--turn-seconds", "0.2", "--output", "json"])
            .arg("--report")
            .arg(&page),
    );
    assert!(
        outcome.stderr.contains("cut off"),
        "the killed run's directory: {}",
        outcome.stderr
    );
    let report: serde_json::Value = serde_json::from_str(&outcome.ok()).unwrap();
    assert_eq!(std::fs::read_dir(&run_dir).unwrap().count(), 0);
    assert!(!cgroup.exists(), "{}", cgroup.display());

    let lines = report["lines"].as_array().unwrap();
    let median = |figure: &str, column: &str| {
        let line = lines.iter().find(|line| line["figure"] == figure);
        let line = line.unwrap_or_else(|| panic!("no {figure} in {report:#}"));
        let cells = line["cells"].as_array().unwrap();
        let cell = cells.iter().find(|cell| cell["column"] == column);
        let cell = cell.unwrap_or_else(|| panic!("no {column} in {line:#}"));
        cell["median"]
            .as_f64()
            .unwrap_or_else(|| panic!("{figure} of {column}: {cell:#}"))
    };
    for figure in [
        "connectP50",
        "connectP99",
        "connectRate",
        "connectCpu",
        "exchangeRate",
        "streamRate",
        "udpRate",
        "udpConnectedRate",
    ] {
        for column in ["direct", "pod", "waggle", "iptables", "nftables"] {
            assert!(median(figure, column) > 0.0, "{figure} of {column}");
        }
    }
    for figure in ["connectFirstRate", "changeP99", "load"] {
        for column in ["waggle", "iptables", "nftables"] {
            assert!(median(figure, column) > 0.0, "{figure} of {column}");
        }
    }
    for column in ["direct", "iptables", "nftables"] {
        assert!(median("nodePortRate", column) > 0.0, "{column}");
    }
    for figure in ["memoryUser", "memoryKernel", "hook"] {
        assert!(median(figure, "waggle") > 0.0, "{figure}");
    }
    assert_eq!(report["settings"]["services"], serde_json::json!([10]));
    assert!(
        report["command"]
            .as_str()
            .unwrap()
            .contains("bench --run-dir")
    );
    let page = std::fs::read_to_string(page).unwrap();
    assert!(page.contains("<svg") && page.ends_with("</html>\n"));
}

/// Starts a run and kills it once its first node is up; gives the cgroup that it leaves.
fn cut_off(run_dir: &Path) -> std::path::PathBuf {
    let mut run = bench(run_dir)
        .args(["--rounds", "1000"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let own = run_dir.join(format!("waggle-bench-{}", run.id()));
    wait_until(
        "the run to make its first node",
        Duration::from_secs(60),
        || own.join("plain-10").exists().then_some(()),
    );
    run.kill().unwrap();
    run.wait().unwrap();
    std::fs::read_to_string(own.join("cgroup")).unwrap().into()
}

/// What a machine lacks is said in its column; the rest is measured.
#[test]
fn without_the_programs_of_others_their_columns_say_so() {
    let scratch = tempfile::tempdir().unwrap();
    let outcome = Outcome::of(
        bench(&scratch.path().join("run"))
            .args(["--rounds", "1", "--turn-seconds", "0.05", "--family", "v6"])
            .args(["--only", "connect,udp", "--output", "json"])
            .env("PATH", scratch.path()),
    );
    let report: serde_json::Value = serde_json::from_str(&outcome.ok()).unwrap();
    let lines = report["lines"].as_array().unwrap();
    let rate = lines
        .iter()
        .find(|line| line["figure"] == "connectRate")
        .unwrap();
    for cell in rate["cells"].as_array().unwrap() {
        let column = cell["column"].as_str().unwrap();
        if ["iptables", "nftables"].contains(&column) {
            let why = cell["missing"].as_str().unwrap();
            assert!(why.ends_with("is not on this machine"), "{column}: {why}");
        } else {
            assert!(cell["median"].as_f64().unwrap() > 0.0, "{column} over IPv6");
        }
    }
    assert!(
        lines.iter().all(|line| {
            let figure = line["figure"].as_str().unwrap();
            figure.starts_with("connect") || figure.starts_with("udp")
        }),
        "only what was asked for: {lines:?}"
    );
}
