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

#[test]
fn a_log_is_followed_to_the_end_of_the_container() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: counter}}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: {IMAGE}
    command: ["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do echo line $i; sleep 0.3; done"]
"#
    ));
    cluster.wait_for(
        &["pod", "counter"],
        "{.status.containerStatuses[0].started}",
        "true",
    );
    let followed = cluster.kubectl(&["logs", "-f", "counter"]).ok();
    let expected: String = (1..=8).map(|number| format!("line {number}\n")).collect();
    assert_eq!(followed, expected);
    assert_eq!(
        cluster.kubectl(&["logs", "--tail=2", "counter"]).ok(),
        "line 7\nline 8\n"
    );
    let stamped = cluster
        .old_kubectl(&["logs", "--timestamps", "--tail=1", "counter"])
        .ok();
    assert!(
        stamped.ends_with(" line 8\n") && stamped.starts_with("20"),
        "{stamped}"
    );
}

#[test]
fn a_pod_whose_readiness_fails_leaves_the_service() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: moody, labels: {{app: moody}}}}
spec:
  containers:
  - name: main
    image: {IMAGE}
    command: ["sh", "-c", "touch /tmp/ready; sleep 2; rm /tmp/ready; sleep 1000"]
    readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1, failureThreshold: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: moody}}
spec: {{selector: {{app: moody}}, ports: [{{port: 80}}]}}
"#
    ));
    let slices = ["endpointslices", "-l", "kubernetes.io/service-name=moody"];
    let ready = "{.items[*].endpoints[*].conditions.ready}";
    cluster.wait_for(&slices, ready, "true");
    cluster.wait_for(&slices, ready, "false");
    let events = cluster
        .kubectl(&["get", "events", "--field-selector", "reason=Unhealthy"])
        .ok();
    assert!(events.contains("Readiness probe failed"), "{events}");
}

#[test]
fn a_rollout_replaces_pods_step_by_step_and_the_service_follows() {
    let cluster = Cluster::start();
    cluster.apply(&crate::services::web(3));
    cluster
        .kubectl(&["rollout", "status", "deployment", "web", "--timeout=60s"])
        .ok();
    let pods = || {
        let names = cluster
            .kubectl(&[
                "get",
                "pods",
                "-l",
                "app=web",
                "-o",
                "jsonpath={.items[*].metadata.name}",
            ])
            .ok();
        names
            .split(' ')
            .map(str::to_owned)
            .collect::<std::collections::BTreeSet<String>>()
    };
    let before = pods();
    cluster
        .kubectl(&["rollout", "restart", "deployment", "web"])
        .ok();
    cluster
        .kubectl(&["rollout", "status", "deployment", "web", "--timeout=60s"])
        .ok();
    waggle_tests::wait_until(
        "the old pods to go",
        std::time::Duration::from_secs(30),
        || {
            let now = pods();
            (now.len() == 3 && now.is_disjoint(&before)).then_some(())
        },
    );
    let address = cluster
        .kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])
        .ok();
    let fetch =
        format!("for i in $(seq 30); do curl -s -m 5 http://{address}/ || echo failed; done");
    let answers = waggle_tests::Outcome::of(&mut cluster.node_command(&fetch)).ok();
    let now = pods();
    assert!(
        answers.lines().all(|name| now.contains(name)),
        "{answers} from {now:?}"
    );
}
