//! What manifests ask of pods beyond running: hooks, sidecars, confinement, containers added later, other resources.

use std::time::Duration;

use waggle_tests::{Cluster, IMAGE, Options, wait_until};

fn log(cluster: &Cluster, pod: &str, container: &str) -> String {
    cluster.kubectl(&["logs", pod, "-c", container]).ok()
}

#[test]
fn hooks_sidecars_and_confinement_are_as_in_kubernetes() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: many}}
spec:
  restartPolicy: Never
  shareProcessNamespace: true
  terminationGracePeriodSeconds: 10
  securityContext:
    seccompProfile: {{type: RuntimeDefault}}
    sysctls: [{{name: net.ipv4.ip_unprivileged_port_start, value: "80"}}]
    fsGroup: 1234
  volumes:
  - {{name: shared, emptyDir: {{}}}}
  - {{name: image, image: {{reference: "{IMAGE}"}}}}
  initContainers:
  - name: side
    image: {IMAGE}
    restartPolicy: Always
    command: ["sh", "-c", "echo begun > /shared/side; exec sleep 1000"]
    startupProbe: {{exec: {{command: ["ls", "/shared/side"]}}, periodSeconds: 1}}
    volumeMounts: [{{name: shared, mountPath: /shared}}]
  containers:
  - name: main
    image: {IMAGE}
    command:
    - sh
    - -c
    - |
      until [ -e /shared/hooked ]; do sleep 0.05; done
      cat /shared/side /shared/hooked
      grep Seccomp: /proc/self/status
      cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/1/comm
      ls -nd /shared | tr -s ' ' | cut -d' ' -f4
      ls -d /image/bin && echo lost > /image/x || echo read-only
      exit 3
    lifecycle: {{postStart: {{exec: {{command: ["sh", "-c", "echo hooked > /shared/hooked"]}}}}}}
    terminationMessagePolicy: FallbackToLogsOnError
    volumeMounts:
    - {{name: shared, mountPath: /shared}}
    - {{name: image, mountPath: /image}}
"#
    ));
    cluster.wait_for(&["pod", "many"], "{.status.phase}", "Failed");
    let said = log(&cluster, "many", "main");
    let words: Vec<&str> = said.split_whitespace().collect();
    assert_eq!(
        words[..8],
        [
            "begun",
            "hooked",
            "Seccomp:",
            "2",
            "80",
            "pause",
            "1234",
            "/image/bin"
        ],
        "{said}"
    );
    assert!(said.contains("read-only"), "{said}");
    let ended = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode} \
                 {.status.initContainerStatuses[0].state.terminated.reason}|\
                 {.status.containerStatuses[0].state.terminated.message}";
    let ended = cluster.kubectl(&["get", "pod", "many", "-o", ended]).ok();
    assert!(
        ended.starts_with("3 Error|") && ended.contains("read-only"),
        "{ended}"
    );
}

#[test]
fn a_running_pod_is_looked_into_and_resized() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  containers:
  - name: main
    image: {IMAGE}
    command: ["sleep", "1000"]
    resources: {{requests: {{cpu: 100m, memory: 16Mi}}, limits: {{cpu: 200m, memory: 32Mi}}}}
"#
    ));
    cluster.wait_for(&["pod", "web"], "{.status.phase}", "Running");
    cluster
        .kubectl(&[
            "debug",
            "web",
            &format!("--image={IMAGE}"),
            "-c",
            "look",
            "--target=main",
            "--attach=false",
            "--",
            "sh",
            "-c",
            "cat /proc/1/cmdline",
        ])
        .ok();
    wait_until("the container that looks", Duration::from_secs(30), || {
        log_or_nothing(&cluster).contains("sleep").then_some(())
    });
    let patch = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"150m"},"limits":{"cpu":"300m","memory":"64Mi"}}}]}}"#;
    cluster
        .kubectl(&[
            "patch",
            "pod",
            "web",
            "--subresource",
            "resize",
            "--patch",
            patch,
        ])
        .ok();
    cluster.wait_for(
        &["pod", "web"],
        "{.status.containerStatuses[0].resources.limits.memory} {.status.containerStatuses[0].restartCount}",
        "64Mi 0",
    );
    let wrong = r#"{"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"300m","memory":"64Mi"}}}]}}"#;
    let refused = cluster.kubectl(&[
        "patch",
        "pod",
        "web",
        "--subresource",
        "resize",
        "--patch",
        wrong,
    ]);
    assert!(
        refused.stderr.contains("Pod QOS Class may not change"),
        "{}",
        refused.stderr
    );
}

#[test]
fn static_pods_run_from_a_folder_and_greedy_ones_are_evicted() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("fixed.yaml");
    let manifest = format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: fixed}}
spec:
  containers: [{{name: main, image: {IMAGE}, command: ["sleep", "1000"]}}]
"#
    );
    std::fs::write(&file, manifest).unwrap();
    let path = folder.path().to_str().unwrap().to_owned();
    let cluster = Cluster::with(Options {
        arguments: vec!["--pod-manifest-path".to_owned(), path],
        ..Options::default()
    });
    cluster.wait_for(&["pod", "fixed-node-1"], "{.status.phase}", "Running");
    let identity =
        "jsonpath={.metadata.ownerReferences[0].kind} {.status.containerStatuses[0].containerID}";
    let before = cluster
        .kubectl(&["get", "pod", "fixed-node-1", "-o", identity])
        .ok();
    assert!(before.starts_with("Node runc://"), "{before}");
    cluster.kubectl(&["delete", "pod", "fixed-node-1"]).ok();
    wait_until(
        "the mirror pod to come back",
        Duration::from_secs(30),
        || {
            let after = cluster
                .kubectl(&["get", "pod", "fixed-node-1", "-o", identity])
                .stdout;
            (after == before).then_some(())
        },
    );

    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: greedy}}
spec:
  volumes: [{{name: scratch, emptyDir: {{sizeLimit: 1Mi}}}}]
  containers:
  - name: main
    image: {IMAGE}
    command: ["sh", "-c", "dd if=/dev/zero of=/scratch/x bs=1M count=3; exec sleep 1000"]
    volumeMounts: [{{name: scratch, mountPath: /scratch}}]
"#
    ));
    cluster.wait_for(&["pod", "greedy"], "{.status.reason}", "Evicted");

    std::fs::remove_file(&file).unwrap();
    wait_until("the static pod to go", Duration::from_secs(30), || {
        let pods = cluster.kubectl(&["get", "pods", "-o", "name"]).ok();
        (!pods.contains("fixed")).then_some(())
    });
}

fn log_or_nothing(cluster: &Cluster) -> String {
    cluster.kubectl(&["logs", "web", "-c", "look"]).stdout
}
