//! Pods and Deployments as people use them: configuration, restarts, roll-outs, ownership.

use waggle_tests::{Cluster, IMAGE};

#[test]
fn configuration_reaches_the_container_as_environment_and_files() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: ConfigMap
metadata: {{name: settings}}
data: {{colour: blue}}
---
apiVersion: v1
kind: Secret
metadata: {{name: keys}}
stringData: {{key: sesame}}
---
apiVersion: v1
kind: Pod
metadata: {{name: reader}}
spec:
  restartPolicy: Never
  securityContext: {{runAsUser: 1000}}
  volumes:
  - {{name: settings, configMap: {{name: settings}}}}
  - {{name: keys, secret: {{secretName: keys, defaultMode: 0444}}}}
  - {{name: scratch, emptyDir: {{}}}}
  containers:
  - name: reader
    image: {IMAGE}
    workingDir: /tmp
    env:
    - {{name: COLOUR, valueFrom: {{configMapKeyRef: {{name: settings, key: colour}}}}}}
    - {{name: KEY, valueFrom: {{secretKeyRef: {{name: keys, key: key}}}}}}
    - {{name: NODE, valueFrom: {{fieldRef: {{fieldPath: spec.nodeName}}}}}}
    - {{name: BOTH, value: "$(COLOUR)-$(KEY)"}}
    volumeMounts:
    - {{name: settings, mountPath: /settings}}
    - {{name: keys, mountPath: /keys, readOnly: true}}
    - {{name: scratch, mountPath: /scratch}}
    command: ["sh", "-c", "echo $COLOUR $KEY $NODE $BOTH; cat /settings/colour; echo; cat /keys/key; echo; pwd; id -u; hostname; touch /scratch/x && echo written"]
    resources: {{requests: {{cpu: 50m, memory: 16Mi}}, limits: {{cpu: 100m, memory: 32Mi}}}}
"#
    ));
    cluster.wait_for(&["pod", "reader"], "{.status.phase}", "Succeeded");
    let log = cluster.kubectl(&["logs", "reader"]).ok();
    assert_eq!(
        log,
        "blue sesame node-1 blue-sesame\nblue\nsesame\n/tmp\n1000\nreader\nwritten\n"
    );
}

#[test]
fn a_container_that_ends_is_restarted_with_its_exit_code_on_record() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: crasher}}
spec:
  containers:
  - name: main
    image: {IMAGE}
    command: ["sh", "-c", "echo once; exit 3"]
"#
    ));
    cluster.wait_for(
        &["pod", "crasher"],
        "{.status.containerStatuses[0].lastState.terminated.exitCode}",
        "3",
    );
    cluster.wait_for(
        &["pod", "crasher"],
        "{.status.containerStatuses[0].state.waiting.reason}",
        "CrashLoopBackOff",
    );
    assert_eq!(
        cluster.kubectl(&["logs", "crasher", "--previous"]).ok(),
        "once\n"
    );
    let rows = cluster.kubectl(&["get", "pod", "crasher"]).ok();
    assert!(rows.contains("CrashLoopBackOff"), "{rows}");
}

#[test]
fn deleting_an_owner_deletes_what_it_owns_and_a_namespace_all_that_is_in_it() {
    let cluster = Cluster::start();
    cluster.kubectl(&["create", "namespace", "team"]).ok();
    let manifest = crate::services::web(2);
    let file = cluster.scratch().join("team.yaml");
    std::fs::write(&file, manifest).unwrap();
    cluster
        .kubectl(&["apply", "-n", "team", "-f", &file.to_string_lossy()])
        .ok();
    cluster
        .kubectl(&[
            "rollout",
            "status",
            "-n",
            "team",
            "deployment",
            "web",
            "--timeout=60s",
        ])
        .ok();
    cluster
        .kubectl(&["delete", "deployment", "-n", "team", "web"])
        .ok();
    cluster.wait_for(&["replicasets,pods", "-n", "team"], "{.items}", "[]");
    cluster
        .kubectl(&["delete", "namespace", "team", "--timeout=60s"])
        .ok();
    assert!(
        cluster
            .kubectl(&["get", "namespace", "team"])
            .fails()
            .contains("NotFound")
    );
    assert!(
        cluster
            .kubectl(&["get", "services", "-A", "-o", "name"])
            .ok()
            .lines()
            .all(|line| !line.ends_with("/web"))
    );
}

#[test]
fn a_pod_that_fits_nowhere_says_why() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: huge}}
spec:
  containers: [{{name: main, image: {IMAGE}, resources: {{requests: {{cpu: "1000"}}}}}}]
"#
    ));
    cluster.wait_for(
        &["pod", "huge"],
        "{.status.conditions[?(@.type==\"PodScheduled\")].reason}",
        "Unschedulable",
    );
    let events = cluster
        .kubectl(&[
            "get",
            "events",
            "--field-selector",
            "reason=FailedScheduling",
        ])
        .ok();
    assert!(
        events.contains("0/1 nodes are available: 1 Insufficient cpu"),
        "{events}"
    );
}
