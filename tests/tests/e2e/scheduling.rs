//! Scheduling, budgets and volumes, with a real kubectl.

use waggle_tests::{Cluster, IMAGE};

fn sleeper(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  \
         terminationGracePeriodSeconds: 0\n  containers:\n  - {{name: main, image: {IMAGE}, command: [sleep, \
         \"3600\"]{more}}}\n"
    )
}

#[test]
fn important_pods_take_the_place_of_others_and_events_say_why_one_waits() {
    let cluster = Cluster::start();
    cluster.apply(
        "apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n",
    );
    let node = cluster
        .kubectl(&[
            "get",
            "node",
            "node-1",
            "-o",
            "jsonpath={.status.allocatable.cpu}",
        ])
        .ok();
    let most = format!(", resources: {{requests: {{cpu: \"{node}\"}}}}");
    cluster.apply(&sleeper("low", &most));
    cluster.wait_for(&["pod", "low"], "{.status.phase}", "Running");
    cluster.apply(&sleeper("waits", &most));
    cluster.wait_for(
        &["pod", "waits"],
        "{.status.conditions[?(@.type==\"PodScheduled\")].message}",
        "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 No preemption \
         victims found for incoming pod.",
    );
    let high = sleeper("high", &most).replace("spec:\n", "spec:\n  priorityClassName: high\n");
    cluster.apply(&high);
    cluster.wait_for(&["pod", "high"], "{.status.phase}", "Running");
    cluster.kubectl(&["get", "pod", "low"]).fails();
    let events = cluster
        .kubectl(&["get", "events", "--field-selector", "reason=Preempted"])
        .ok();
    assert!(events.contains("pod/low"), "{events}");
}

#[test]
fn a_drain_waits_for_the_budget() {
    let cluster = Cluster::start();
    cluster.apply(&sleeper("kept", ""));
    cluster.apply(
        "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {name: keep}\n\
         spec: {minAvailable: 1, selector: {matchLabels: {app: kept}}}\n",
    );
    cluster.wait_for(&["pod", "kept"], "{.status.phase}", "Running");
    cluster.wait_for(&["pdb", "keep"], "{.status.currentHealthy}", "1");
    let drain = ["drain", "node-1", "--force", "--timeout=2s"];
    let refused = cluster.kubectl(&drain).fails();
    let why = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert!(refused.contains(why), "{refused}");
    cluster.kubectl(&["delete", "pdb", "keep"]).ok();
    cluster
        .kubectl(&["drain", "node-1", "--force", "--timeout=60s"])
        .ok();
    cluster.kubectl(&["get", "pod", "kept"]).fails();
    cluster.kubectl(&["uncordon", "node-1"]).ok();
}

#[test]
fn a_claim_keeps_its_data_from_pod_to_pod_and_goes_with_it() {
    let cluster = Cluster::start();
    cluster.apply(
        "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: data}\n\
         spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}\n",
    );
    cluster.wait_for(&["pvc", "data"], "{.spec.storageClassName}", "local");
    let user = |name: &str, script: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  restartPolicy: Never\n  volumes:\n  \
             - {{name: v, persistentVolumeClaim: {{claimName: data}}}}\n  containers:\n  - {{name: main, image: \
             {IMAGE}, command: [sh, -c, \"{script}\"], volumeMounts: [{{name: v, mountPath: /data}}]}}\n"
        )
    };
    cluster.apply(&user("writer", "echo kept > /data/f"));
    cluster.wait_for(&["pod", "writer"], "{.status.phase}", "Succeeded");
    cluster.wait_for(&["pvc", "data"], "{.status.phase}", "Bound");
    cluster.kubectl(&["delete", "pod", "writer"]).ok();
    cluster.apply(&user("reader", "cat /data/f"));
    cluster.wait_for(&["pod", "reader"], "{.status.phase}", "Succeeded");
    assert_eq!(cluster.kubectl(&["logs", "reader"]).ok(), "kept\n");
    let volumes = cluster.data_dir().join("agent/local-volumes");
    assert_eq!(std::fs::read_dir(&volumes).unwrap().count(), 1);
    cluster.kubectl(&["delete", "pod", "reader"]).ok();
    cluster.kubectl(&["delete", "pvc", "data"]).ok();
    cluster
        .kubectl(&["wait", "--for=delete", "pv", "--all", "--timeout=60s"])
        .ok();
    assert_eq!(std::fs::read_dir(&volumes).unwrap().count(), 0);
}
