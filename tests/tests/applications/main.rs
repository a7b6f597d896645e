//! Real applications from Debian's packages, and workloads on several nodes: what a team would move to the cluster.
//! `cargo xtask test --applications` runs it: some minutes, on a machine that does nothing else.
#![allow(clippy::unwrap_used)]

mod autoscaling;
mod bundle;
mod clients;
mod extending;
mod guestbook;
mod nginx;
mod nodes;
mod postgresql;
mod prometheus;
mod redis;
mod scheduling;

use std::time::{Duration, Instant};

use waggle_tests::{Application, Lab, Outcome};

/// As long as anything may take on a machine of two cores.
const LIMIT: Duration = Duration::from_secs(90);

/// A lab whose nodes have these images and the tests' own; what falls silent is noticed soon.
#[track_caller]
fn lab(nodes: u8, applications: &[&Application], more: &[&str]) -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let mut images = vec![waggle_tests::busybox_archive(directory.path())];
    images.extend(applications.iter().map(|application| application.archive()));
    let mut arguments = vec![format!("--nodes={nodes}")];
    arguments.extend(
        images
            .iter()
            .map(|image| format!("--image={}", image.display())),
    );
    // How full this machine's disk is, is no concern of the tests.
    for argument in ["--eviction-disk=0", "--image-gc-high-threshold=100"] {
        arguments.push(format!("--agent-argument={argument}"));
    }
    arguments.push("--controller-argument=--node-monitor-grace-period=15s".to_owned());
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Lab::up(&arguments)
}

/// Waits for `kubectl get OBJECT -o jsonpath` to print something that `is` accepts, and returns it.
#[track_caller]
fn until(lab: &Lab, object: &[&str], jsonpath: &str, is: impl Fn(&str) -> bool) -> String {
    let template = format!("jsonpath={jsonpath}");
    let started = Instant::now();
    loop {
        let mut arguments = vec!["get"];
        arguments.extend(object);
        arguments.extend(["-o", &template]);
        let outcome = lab.kubectl(&arguments);
        if outcome.code == Some(0) && is(&outcome.stdout) {
            return outcome.stdout;
        }
        if started.elapsed() > LIMIT {
            let mut all = vec!["get", "pods", "-A", "-o", "wide"];
            let pods = lab.kubectl(&all).stdout;
            all[1] = "events";
            all.truncate(3);
            let events = lab.kubectl(&all).stdout;
            panic!("{object:?} {jsonpath} is {outcome:?}\n{pods}\n{events}");
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[track_caller]
fn wait_for(lab: &Lab, object: &[&str], jsonpath: &str, expected: &str) {
    until(lab, object, jsonpath, |found| found == expected);
}

/// `kubectl rollout status` of a workload, to its end.
#[track_caller]
fn rolled(lab: &Lab, workload: &str) {
    let arguments = ["rollout", "status", workload, "--timeout=90s"];
    let outcome = lab.kubectl(&arguments);
    if outcome.code != Some(0) {
        let pods = lab.kubectl(&["describe", "pods"]).stdout;
        panic!("{outcome:?}\n{pods}");
    }
}

/// A command in a pod.
fn exec(lab: &Lab, pod: &str, command: &[&str]) -> Outcome {
    let mut arguments = vec!["exec", pod, "--"];
    arguments.extend(command);
    lab.kubectl(&arguments)
}

/// Repeats a command in a pod until it prints something that `is` accepts.
#[track_caller]
fn exec_until(lab: &Lab, pod: &str, command: &[&str], is: impl Fn(&str) -> bool) -> String {
    let mut last = None;
    let started = Instant::now();
    while started.elapsed() < LIMIT {
        let outcome = exec(lab, pod, command);
        if outcome.code == Some(0) && is(&outcome.stdout) {
            return outcome.stdout;
        }
        last = Some(outcome);
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("{command:?} in {pod}: {last:?}");
}
