//! Roll-outs that are held, go wrong, go one part at a time; Jobs that end as their policies say.

use waggle_tests::{Cluster, IMAGE};

/// Ends at once when it is told to.
const LOOP: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

fn rolled(cluster: &Cluster, workload: &str) {
    let status = ["rollout", "status", workload, "--timeout=60s"];
    cluster.kubectl(&status).ok();
}

#[test]
fn a_deployment_is_held_goes_wrong_and_goes_back() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"]}}]
"#
    ));
    let web = "deployment/web";
    rolled(&cluster, web);
    // Held: what changes meanwhile is rolled out once, afterwards.
    cluster.kubectl(&["rollout", "pause", web]).ok();
    for colour in ["COLOUR=blue", "COLOUR=green"] {
        cluster.kubectl(&["set", "env", web, colour]).ok();
    }
    let generation = "{.status.observedGeneration} {.status.updatedReplicas}";
    cluster.wait_for(
        &[web],
        "{.status.conditions[?(@.type==\"Progressing\")].reason}",
        "DeploymentPaused",
    );
    cluster.wait_for(&[web], generation, "4 ");
    cluster.kubectl(&["rollout", "resume", web]).ok();
    rolled(&cluster, web);
    let sets = cluster.kubectl(&["get", "replicasets", "-o", "name"]).ok();
    assert_eq!(sets.lines().count(), 2, "{sets}");
    // Wrong: it says so after the deadline, and two pods go on.
    let deadline = |seconds: u32| {
        let patch = format!(r#"{{"spec":{{"progressDeadlineSeconds":{seconds}}}}}"#);
        cluster.kubectl(&["patch", web, "-p", &patch]).ok();
    };
    deadline(2);
    cluster
        .kubectl(&["set", "image", web, "main=waggle.test/missing:1"])
        .ok();
    let status = ["rollout", "status", web, "--timeout=60s"];
    let failed = cluster.kubectl(&status).fails();
    assert!(
        failed.contains("exceeded its progress deadline"),
        "{failed}"
    );
    cluster.wait_for(&[web], "{.status.availableReplicas}", "2");
    deadline(600);
    // Back, also to the first of all.
    cluster.kubectl(&["rollout", "undo", web]).ok();
    rolled(&cluster, web);
    let colour = "{.spec.template.spec.containers[0].env[*].value}";
    cluster.wait_for(&[web], colour, "green");
    cluster
        .kubectl(&["rollout", "undo", web, "--to-revision=1"])
        .ok();
    rolled(&cluster, web);
    cluster.wait_for(&[web], colour, "");
}

#[test]
fn sets_are_rolled_out_from_a_partition_on_and_with_a_pod_more_per_node() {
    let cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  replicas: 3
  serviceName: db
  podManagementPolicy: Parallel
  updateStrategy: {{rollingUpdate: {{partition: 2}}}}
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
  updateStrategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  selector: {{matchLabels: {{app: agent}}}}
  template:
    metadata: {{labels: {{app: agent}}}}
    spec:
      containers:
      - name: main
        image: {IMAGE}
        command: [sh, -c, "{LOOP}"]
        readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1}}
        lifecycle: {{postStart: {{exec: {{command: [touch, /tmp/ready]}}}}}}
"#
    ));
    rolled(&cluster, "statefulset/db");
    rolled(&cluster, "daemonset/agent");
    cluster
        .kubectl(&["set", "env", "statefulset/db", "COLOUR=blue"])
        .ok();
    let colours = "{range .items[*]}{.spec.containers[0].env[*].value},{end}";
    cluster.wait_for(&["pods", "-l", "app=db"], colours, ",,blue,");
    rolled(&cluster, "statefulset/db");
    cluster.wait_for(
        &["statefulset", "db"],
        "{.status.updatedReplicas} {.status.readyReplicas}",
        "1 3",
    );
    let whole = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}"#;
    cluster
        .kubectl(&["patch", "statefulset", "db", "-p", whole])
        .ok();
    cluster.wait_for(&["pods", "-l", "app=db"], colours, "blue,blue,blue,");

    // The new pod is there before the old one goes: one that never gets ready leaves the old one alone.
    let old = cluster
        .kubectl(&["get", "pods", "-l", "app=agent", "-o", "name"])
        .ok();
    let never = r#"[{"op":"replace","path":"/spec/template/spec/containers/0/lifecycle/postStart/exec/command","value":["true"]}]"#;
    cluster
        .kubectl(&["patch", "daemonset", "agent", "--type=json", "-p", never])
        .ok();
    let phases = "{.items[*].status.phase}";
    cluster.wait_for(&["pods", "-l", "app=agent"], phases, "Running Running");
    cluster.wait_for(
        &["daemonset", "agent"],
        "{.status.numberReady} {.status.updatedNumberScheduled}",
        "1 1",
    );
    cluster
        .kubectl(&["wait", old.trim(), "--for=condition=Ready", "--timeout=1s"])
        .ok();
    cluster
        .kubectl(&["rollout", "undo", "daemonset/agent"])
        .ok();
    rolled(&cluster, "daemonset/agent");
    cluster.wait_for(
        &["pods", "-l", "app=agent"],
        "{.items[*].status.containerStatuses[0].ready}",
        "true",
    );
}

#[test]
fn jobs_end_as_their_policies_say_and_go_when_their_time_is_over() {
    let cluster = Cluster::start();
    let job = |name: &str, spec: &str, script: &str| {
        format!(
            r#"apiVersion: batch/v1
kind: Job
metadata: {{name: {name}}}
spec:
  {spec}
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 0
      containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{script}"]}}]
---
"#
        )
    };
    cluster.apply(
        &(job(
            "fails",
            "podFailurePolicy: {rules: [{action: FailJob, onExitCodes: {operator: In, values: [42]}}]}",
            "exit 42",
        ) + &job(
            "again",
            "backoffLimit: 0\n  podFailurePolicy: {rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]}",
            "sleep 1000",
        ) + &job("late", "activeDeadlineSeconds: 2", "sleep 1000")
            + &job("short", "ttlSecondsAfterFinished: 2", "true")),
    );
    let failed = "{.status.conditions[?(@.type==\"Failed\")].reason}";
    cluster.wait_for(&["job", "fails"], failed, "PodFailurePolicy");
    cluster.wait_for(&["job", "fails"], "{.status.failed}", "1");
    cluster.wait_for(&["job", "late"], failed, "DeadlineExceeded");
    // Evicted is not failed.
    cluster.wait_for(&["job", "again"], "{.status.ready}", "1");
    let name = "jsonpath={.items[0].metadata.name}";
    let first = cluster
        .kubectl(&["get", "pods", "-l", "job-name=again", "-o", name])
        .ok();
    let eviction = format!(
        r#"{{"apiVersion":"policy/v1","kind":"Eviction","metadata":{{"name":"{first}","namespace":"default"}}}}"#
    );
    let file = cluster.scratch().join("eviction.json");
    std::fs::write(&file, eviction).unwrap();
    let path = format!("/api/v1/namespaces/default/pods/{first}/eviction");
    cluster
        .kubectl(&["create", "--raw", &path, "-f", &file.to_string_lossy()])
        .ok();
    cluster
        .kubectl(&["wait", "pod", &first, "--for=delete", "--timeout=30s"])
        .ok();
    cluster.wait_for(&["job", "again"], "{.status.ready} {.status.failed}", "1 ");
    cluster
        .kubectl(&["wait", "job/short", "--for=delete", "--timeout=30s"])
        .ok();
}
