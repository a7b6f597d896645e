//! The life of a lab: what its commands do, and that nothing of it stays.

use std::collections::BTreeSet;
use std::path::Path;

use waggle_tests::{Lab, Outcome};

/// What of a lab is on the machine: mounts and files below its directories, cgroups, processes.
fn traces(lab: &Lab) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let directory = lab.scratch().to_string_lossy().into_owned();
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(&directory))
            .map(str::to_owned),
    );
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let command = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        if String::from_utf8_lossy(&command).contains(&directory) {
            found.insert(format!("process {}", process.path().display()));
        }
    }
    for part in ["d/t", "r/t"] {
        let path = lab.scratch().join(part);
        if path.exists() {
            found.insert(path.display().to_string());
        }
    }
    for group in ["nodes", "controllers"] {
        for member in lab.status[group].as_array().into_iter().flatten() {
            let cgroup = member["cgroup"].as_str().unwrap();
            if Path::new(cgroup).exists() {
                found.insert(cgroup.to_owned());
            }
        }
    }
    found
}

#[test]
fn every_command_does_what_it_says() {
    let mut lab = Lab::up(&["--nodes=2", "--families=dual"]);
    assert_eq!(lab.nodes(), ["node-1", "node-2"]);
    let ready = lab.kubectl(&[
        "wait",
        "--for=condition=Ready",
        "nodes",
        "--all",
        "--timeout=10s",
    ]);
    assert_eq!(ready.ok().lines().count(), 2);

    let words = lab
        .waggle(&[
            "exec",
            "node-1",
            "--",
            "sh",
            "-c",
            "hostname; cat /proc/self/cgroup; ip -o address",
        ])
        .ok();
    assert!(words.starts_with("node-1\n"), "{words}");
    assert!(
        words.contains("/node-1/exec") && words.contains("192.168.144.11/24"),
        "{words}"
    );
    let nodes = lab.waggle(&[
        "exec", "node-2", "--", "kubectl", "get", "nodes", "-o", "name",
    ]);
    assert_eq!(nodes.ok(), "node/node-1\nnode/node-2\n");
    let refused = lab.waggle(&["exec", "node-7", "--", "true"]).fails();
    assert!(
        refused.contains("the lab has no \"node-7\", but controller-1, node-1, node-2"),
        "{refused}"
    );

    lab.waggle(&["add-node"]).ok();
    lab.refresh();
    assert_eq!(lab.nodes(), ["node-1", "node-2", "node-3"]);
    lab.waggle(&["kill", "node-2"]).ok();
    lab.refresh();
    assert_eq!(lab.status["nodes"][1]["pid"], serde_json::Value::Null);
    assert!(
        lab.waggle(&["kill", "node-2"])
            .fails()
            .contains("does not run")
    );
    lab.waggle(&["start", "node-2"]).ok();
    lab.waggle(&["kill", "controller-1"]).ok();
    lab.refresh();
    assert_eq!(lab.status["answers"], false);
    lab.waggle(&["start", "controller-1"]).ok();
    lab.waggle(&["remove-node", "node-3"]).ok();
    lab.refresh();
    assert_eq!(lab.nodes(), ["node-1", "node-2"]);
    assert_eq!(lab.status["answers"], true);
    let gone = lab.kubectl(&["get", "node", "node-3"]).fails();
    assert!(gone.contains("NotFound"), "{gone}");
    assert!(
        lab.waggle(&["logs", "node-1"])
            .ok()
            .contains("connected to the control plane")
    );

    assert!(!traces(&lab).is_empty());
    lab.waggle(&["down"]).ok();
    assert_eq!(traces(&lab), BTreeSet::new());
}

#[test]
fn a_lab_goes_on_from_its_data() {
    let lab = Lab::up(&["--nodes=1", "--families=v4"]);
    lab.kubectl(&["create", "configmap", "kept"]).ok();
    let again = Outcome::of(&mut lab.command("up")).fails();
    assert!(again.contains("this lab runs already"), "{again}");
    lab.waggle(&["down", "--keep-data"]).ok();
    let other = lab.waggle(&["up", "--nodes=1", "--families=dual"]).fails();
    assert!(other.contains("other families"), "{other}");
    lab.waggle(&["up", "--nodes=1", "--families=v4"]).ok();
    lab.kubectl(&["get", "configmap", "kept"]).ok();
}

#[test]
fn a_lab_that_crashed_is_swept_by_the_next() {
    let mut lab = Lab::up(&["--nodes=2"]);
    // As the machine's out-of-memory killer would: every process of it, in no order.
    for group in ["nodes", "controllers"] {
        for member in lab.status[group].as_array().unwrap() {
            let pid = member["pid"].as_i64().unwrap();
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        }
    }
    std::fs::remove_file(lab.scratch().join("d/t/lab.json")).unwrap();
    lab.waggle(&["up", "--nodes=1"]).ok();
    lab.refresh();
    assert_eq!(lab.nodes(), ["node-1"]);
    lab.waggle(&["down"]).ok();
    assert_eq!(traces(&lab), BTreeSet::new());
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let up = |arguments: &[&str]| {
        let mut command = std::process::Command::new(waggle_tests::waggle());
        command
            .args(["lab", "up", "--data-dir"])
            .arg(directory.path().join("d"));
        command.arg("--run-dir").arg(directory.path().join("r"));
        Outcome::of(command.args(arguments)).fails()
    };
    assert!(up(&["--controllers=0"]).contains("a lab has 1 to"));
    assert!(up(&["--nodes=0"]).contains("0 is not in 1..=64"));
    assert!(up(&["--mtu=100"]).contains("100 is not in 1280.."));
    assert!(up(&["--image=/nowhere"]).contains("/nowhere"));
    assert!(up(&["--name=../x"]).contains("lower-case letters"));
    assert!(!directory.path().join("r").exists());
}
