//! From `kubectl apply` to Ready, beside bare `runc run` of the same root file system.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use waggle_tests::{Cluster, IMAGE, Outcome, busybox_root};

use super::table::{Row, row};
use crate::statistics::{median, percentile};

pub(crate) fn measure(cluster: &Cluster, count: usize) -> Vec<Row> {
    let bundle = bundle(cluster);
    let (mut pods, mut bare) = (Vec::new(), Vec::new());
    for index in 0..count {
        pods.push(pod(cluster, index));
        bare.push(runc(&bundle, index));
    }
    let client = kubectl_alone(cluster);
    vec![
        row("kubectl apply to pod Ready, p50", median(&pods), "ms"),
        row(
            "kubectl apply to pod Ready, p99",
            percentile(&pods, 0.99),
            "ms",
        ),
        row("bare runc run to first output, p50", median(&bare), "ms"),
        row(
            "bare runc run to first output, p99",
            percentile(&bare, 0.99),
            "ms",
        ),
        row(
            "pod Ready beyond bare runc, p50",
            median(&pods) - median(&bare),
            "ms",
        )
        .at_most(300.0),
        row(
            "of which kubectl itself (kubectl get --raw /version)",
            client,
            "ms",
        ),
    ]
}

/// One pod: the watch is open before the pod is applied, so that its Ready is seen when it happens.
fn pod(cluster: &Cluster, index: usize) -> f64 {
    let name = format!("bench-{index}");
    let manifest = cluster.scratch().join("pod.yaml");
    std::fs::write(
        &manifest,
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{bench: pod}}}}\nspec:\n  terminationGracePeriodSeconds: 0\n  containers: [{{name: main, image: {IMAGE}, command: [sleep, '1000']}}]\n"
        ),
    )
    .expect("a manifest");
    let ready = "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}";
    let mut watch = cluster
        .kubectl_command("kubectl".as_ref())
        .args([
            "get",
            "pods",
            "--watch",
            "--field-selector",
            &format!("metadata.name={name}"),
            "-o",
            ready,
        ])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("kubectl");
    let lines = BufReader::new(watch.stdout.take().expect("its output")).lines();
    // The watch is open when kubectl sleeps in poll; a moment of idleness shows it.
    wait_until_idle(watch.id());
    let started = Instant::now();
    Outcome::of(cluster.kubectl_command("kubectl".as_ref()).args([
        "apply",
        "-f",
        &manifest.to_string_lossy(),
    ]))
    .ok();
    for line in lines {
        if line.expect("a line") == "True" {
            break;
        }
    }
    let took = started.elapsed().as_secs_f64() * 1000.0;
    watch.kill().expect("end the watch");
    watch.wait().expect("its end");
    cluster
        .kubectl(&["delete", "pod", &name, "--grace-period=0", "--force"])
        .ok();
    cluster.wait_for(&["pods", "-l", "bench=pod"], "{.items}", "[]");
    took
}

/// Waits until a process used no processor time for 100 ms.
fn wait_until_idle(pid: u32) {
    let used = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap_or_default();
        stat.split(' ')
            .next()
            .and_then(|text| text.parse::<u64>().ok())
            .unwrap_or(0)
    };
    let mut last = used();
    let mut quiet = 0;
    while quiet < 4 {
        std::thread::sleep(std::time::Duration::from_millis(50));
        let now = used();
        quiet = if now == last && now > 0 { quiet + 1 } else { 0 };
        last = now;
    }
}

/// A runc bundle of the same root file system that says when it runs.
fn bundle(cluster: &Cluster) -> std::path::PathBuf {
    let bundle = cluster.scratch().join("bundle");
    std::fs::create_dir_all(&bundle).expect("a bundle");
    let root = busybox_root(&bundle);
    Outcome::of(Command::new("runc").arg("spec").current_dir(&bundle)).ok();
    let path = bundle.join("config.json");
    let text = std::fs::read_to_string(&path).expect("runc wrote it");
    let mut config: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["echo", "runs"]);
    config["root"]["path"] = root.to_string_lossy().into_owned().into();
    std::fs::write(&path, config.to_string()).expect("write it back");
    bundle
}

fn runc(bundle: &Path, index: usize) -> f64 {
    let started = Instant::now();
    let mut child = Command::new("runc")
        .args(["run", &format!("wgb-{}-{index}", std::process::id())])
        .current_dir(bundle)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("runc");
    let mut byte = [0];
    child
        .stdout
        .as_mut()
        .expect("its output")
        .read_exact(&mut byte)
        .expect("it runs");
    let took = started.elapsed().as_secs_f64() * 1000.0;
    child.wait().expect("its end");
    took
}

/// What kubectl itself costs: a request that does nothing on the server.
fn kubectl_alone(cluster: &Cluster) -> f64 {
    let samples: Vec<f64> = (0..10)
        .map(|_| {
            let started = Instant::now();
            cluster.kubectl(&["get", "--raw", "/version"]).ok();
            started.elapsed().as_secs_f64() * 1000.0
        })
        .collect();
    median(&samples)
}
