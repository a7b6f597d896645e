//! StatefulSets, DaemonSets, Jobs and CronJobs as people use them.

use waggle_tests::{Cluster, IMAGE};

/// Ends at once when it is told to.
const LOOP: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

#[test]
fn sets_with_names_and_sets_per_node_are_rolled_out_and_back() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Service
metadata: {{name: db}}
spec: {{clusterIP: None, selector: {{app: db}}, ports: [{{port: 80}}]}}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  replicas: 2
  serviceName: db
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:
      containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"]}}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: agent}}
spec:
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"]}}]
"#
    ));
    for set in ["statefulset/db", "daemonset/agent"] {
        let rolled = || {
            cluster
                .kubectl(&["rollout", "status", set, "--timeout=60s"])
                .ok()
        };
        rolled();
        cluster.kubectl(&["set", "env", set, "COLOUR=blue"]).ok();
        rolled();
        let image = "{.spec.template.spec.containers[0].env[*].value}";
        cluster.wait_for(&[set], image, "blue");
        cluster.kubectl(&["rollout", "undo", set]).ok();
        rolled();
        cluster.wait_for(&[set], image, "");
        let history = cluster.kubectl(&["rollout", "history", set]).ok();
        assert!(
            history.contains("\n2 ") && history.contains("\n3 "),
            "{history}"
        );
    }
    let names = "{.items[*].metadata.name}";
    cluster.wait_for(&["pods", "-l", "app=db"], names, "db-0 db-1");
    cluster
        .kubectl(&["scale", "statefulset", "db", "--replicas=1"])
        .ok();
    cluster.wait_for(&["pods", "-l", "app=db"], names, "db-0");
    cluster
        .kubectl(&["delete", "statefulset,daemonset", "--all"])
        .ok();
    cluster.wait_for(&["pods,controllerrevisions"], "{.items}", "[]");
}

#[test]
fn jobs_run_to_their_end_and_cron_jobs_make_them() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: batch/v1
kind: Job
metadata: {{name: indexed}}
spec:
  completions: 3
  parallelism: 3
  completionMode: Indexed
  backoffLimitPerIndex: 0
  template:
    spec:
      restartPolicy: Never
      containers:
      - name: main
        image: {IMAGE}
        command: ["sh", "-c", "echo $JOB_COMPLETION_INDEX on $(hostname); test $JOB_COMPLETION_INDEX != 1"]
---
apiVersion: batch/v1
kind: CronJob
metadata: {{name: tick}}
spec:
  schedule: "0 3 1 1 *"
  timeZone: Europe/Berlin
  jobTemplate:
    spec:
      template:
        spec:
          restartPolicy: OnFailure
          containers: [{{name: main, image: {IMAGE}, command: [echo, tick]}}]
---
apiVersion: batch/v1
kind: Job
metadata: {{name: long}}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"]}}]
"#
    ));
    cluster
        .kubectl(&["create", "job", "now", "--from=cronjob/tick"])
        .ok();
    cluster
        .kubectl(&[
            "wait",
            "job/now",
            "--for=condition=complete",
            "--timeout=60s",
        ])
        .ok();
    assert_eq!(cluster.kubectl(&["logs", "job/now"]).ok(), "tick\n");
    cluster
        .kubectl(&[
            "wait",
            "job/indexed",
            "--for=condition=failed",
            "--timeout=60s",
        ])
        .ok();
    let status =
        "{.status.completedIndexes} {.status.failedIndexes} {.status.succeeded} {.status.failed}";
    cluster.wait_for(&["job", "indexed"], status, "0,2 1 2 1");
    let chosen = "-lbatch.kubernetes.io/job-completion-index=2";
    assert_eq!(cluster.kubectl(&["logs", chosen]).ok(), "2 on indexed-2\n");
    cluster.wait_for(&["job", "long"], "{.status.ready}", "1");
    let held = r#"{"spec":{"suspend":true}}"#;
    cluster.kubectl(&["patch", "job", "long", "-p", held]).ok();
    cluster.wait_for(&["pods", "-l", "job-name=long"], "{.items}", "[]");
    cluster.kubectl(&["delete", "jobs,cronjobs", "--all"]).ok();
    cluster.wait_for(&["jobs,pods"], "{.items}", "[]");
}
