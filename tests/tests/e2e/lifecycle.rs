//! Start, stop, start again, and kill -9: what stays and what goes.

use waggle_tests::{Cluster, IMAGE, Leftovers, Outcome};

#[test]
fn a_stop_leaves_the_machine_as_it_was_and_a_start_finds_everything() {
    let mut cluster = Cluster::start();
    cluster.apply(&crate::services::web(2));
    cluster
        .kubectl(&["rollout", "status", "deployment", "web", "--timeout=60s"])
        .ok();
    let before = cluster
        .kubectl(&[
            "get",
            "service",
            "web",
            "-o",
            "jsonpath={.metadata.uid} {.spec.clusterIP}",
        ])
        .ok();
    cluster.stop();
    assert_eq!(cluster.leftovers(), Leftovers::default());

    cluster.boot();
    let after = cluster
        .kubectl(&[
            "get",
            "service",
            "web",
            "-o",
            "jsonpath={.metadata.uid} {.spec.clusterIP}",
        ])
        .ok();
    assert_eq!(after, before);
    cluster
        .kubectl(&["rollout", "status", "deployment", "web", "--timeout=60s"])
        .ok();
    let address = before.split(' ').nth(1).unwrap();
    waggle_tests::wait_until(
        "the Service to answer",
        std::time::Duration::from_secs(20),
        || {
            let outcome =
                Outcome::of(&mut cluster.node_command(&format!("curl -s -m 2 http://{address}/")));
            outcome.stdout.starts_with("web-").then_some(())
        },
    );
}

#[test]
fn pods_live_on_through_kill_9_and_nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: steady}}
spec:
  containers:
  - name: main
    image: {IMAGE}
    command: ["sh", "-c", "echo started; sleep 1000"]
"#
    ));
    cluster.wait_for(&["pod", "steady"], "{.status.phase}", "Running");
    let identity = "{.metadata.uid} {.status.podIP} {.status.containerStatuses[0].containerID} {.status.containerStatuses[0].restartCount}";
    let before = cluster
        .kubectl(&[
            "get",
            "pod",
            "steady",
            "-o",
            &format!("jsonpath={identity}"),
        ])
        .ok();
    for round in 0..3 {
        for index in 0..5 {
            cluster
                .kubectl(&["create", "configmap", &format!("kept-{round}-{index}")])
                .ok();
        }
        cluster.crash();
        cluster.boot();
    }
    let kept = cluster.kubectl(&["get", "configmaps", "-o", "name"]).ok();
    assert_eq!(
        kept.lines().filter(|line| line.contains("/kept-")).count(),
        15,
        "{kept}"
    );
    cluster.wait_for(&["pod", "steady"], identity, &before);
    assert_eq!(cluster.kubectl(&["logs", "steady"]).ok(), "started\n");
}

#[test]
fn the_service_of_the_api_comes_back_when_it_is_deleted() {
    let cluster = Cluster::with(waggle_tests::Options {
        without_image: true,
        ..waggle_tests::Options::default()
    });
    cluster
        .kubectl(&["delete", "service", "kubernetes", "--wait=false"])
        .ok();
    cluster.wait_for(
        &["service", "kubernetes", "--ignore-not-found"],
        "{.spec.clusterIP}",
        "10.96.0.1",
    );
}
