//! Nodes that are emptied for maintenance, tainted, and lost.

use std::time::{Duration, Instant};

use waggle_tests::{IMAGE, Lab};

use crate::{lab, rolled, until, wait_for};

/// Ends at once when it is told to.
const LOOP: &str = "trap 'exit 0' TERM; while :; do sleep 0.2; done";

fn names_on(lab: &Lab, node: &str) -> Vec<String> {
    let pods = lab.pods();
    let there = pods.into_iter().filter(|(_, pod)| pod.node == node);
    there.map(|(name, _)| name).collect()
}

#[test]
fn a_node_is_emptied_as_budgets_allow_and_taken_back() {
    let lab = lab(3, &[], &[]);
    lab.apply(&format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{app: web}}}}}}
      containers:
      - name: web
        image: {IMAGE}
        command: [sh, -c, "{LOOP}"]
        # Not ready at once: who is evicted next has to wait.
        readinessProbe: {{exec: {{command: ["true"]}}, initialDelaySeconds: 2, periodSeconds: 1}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: web}}
spec: {{minAvailable: 2, selector: {{matchLabels: {{app: web}}}}}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {{name: everywhere}}
spec:
  selector: {{matchLabels: {{app: everywhere}}}}
  template:
    metadata: {{labels: {{app: everywhere}}}}
    spec:
      containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"]}}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {{name: scratch}}
spec:
  selector: {{matchLabels: {{app: scratch}}}}
  template:
    metadata: {{labels: {{app: scratch}}}}
    spec:
      volumes: [{{name: scratch, emptyDir: {{}}}}]
      containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"], volumeMounts: [{{name: scratch, mountPath: /scratch}}]}}]
---
apiVersion: v1
kind: Pod
metadata: {{name: alone, labels: {{app: alone}}}}
spec:
  nodeName: node-1
  containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"]}}]
"#
    ));
    rolled(&lab, "deployment/web");
    rolled(&lab, "deployment/scratch");
    rolled(&lab, "daemonset/everywhere");
    let scratch = ["pods", "-l", "app=scratch"];
    let node = until(&lab, &scratch, "{.items[0].spec.nodeName}", |it| {
        !it.is_empty()
    });

    // What drain does not take without being told so.
    let refused = lab.kubectl(&["drain", &node, "--timeout=5s"]).fails();
    assert!(
        refused.contains("cannot delete DaemonSet-managed Pods"),
        "{refused}"
    );
    let local = "cannot delete Pods with local storage (use --delete-emptydir-data to override)";
    assert!(refused.contains(local), "{refused}");
    let shown = lab.kubectl(&["get", "node", &node]).ok();
    assert!(shown.contains("Ready,SchedulingDisabled"), "{shown}");
    lab.kubectl(&["uncordon", &node]).ok();

    // With two nodes closed all of `web` is on the third, and only one at a time may leave it.
    let nodes = lab.nodes();
    for node in &nodes[..2] {
        let drain = [
            "drain",
            node,
            "--ignore-daemonsets",
            "--delete-emptydir-data",
            "--force",
        ];
        let least = std::thread::scope(|scope| {
            let drained = scope.spawn(|| lab.kubectl(&drain).ok());
            let mut least = 3;
            while !drained.is_finished() {
                let ready = lab.kubectl(&[
                    "get",
                    "deployment",
                    "web",
                    "-o",
                    "jsonpath={.status.availableReplicas}",
                ]);
                least = least.min(ready.ok().parse().unwrap_or(0));
            }
            drained.join().unwrap();
            least
        });
        assert!(
            least >= 2,
            "{least} were available while {node} was drained"
        );
        let left = names_on(&lab, node);
        assert!(
            left.iter().all(|name| name.starts_with("everywhere-")),
            "{left:?}"
        );
        rolled(&lab, "deployment/web");
    }
    let third = [
        "drain",
        &nodes[2],
        "--ignore-daemonsets",
        "--delete-emptydir-data",
        "--timeout=8s",
    ];
    let refused = lab.kubectl(&third).fails();
    let budget = "Cannot evict pod as it would violate the pod's disruption budget.";
    assert!(refused.contains(budget), "{refused}");
    lab.kubectl(&["get", "pod", "alone"]).fails();
    // No node is open: what was evicted waits, and each node says why.
    let why = "{.items[?(@.status.phase==\"Pending\")].status.conditions[?(@.type==\"PodScheduled\")].message}";
    until(&lab, &["pods"], why, |it| {
        it.contains("0/3 nodes are available: 3 node(s) were unschedulable")
    });
    for node in &nodes {
        lab.kubectl(&["uncordon", node]).ok();
    }
    rolled(&lab, "deployment/web");
    rolled(&lab, "deployment/scratch");
    wait_for(
        &lab,
        &["daemonset", "everywhere"],
        "{.status.numberReady}",
        "3",
    );
}

#[test]
fn a_taint_drives_pods_away_when_they_tolerate_it_no_longer() {
    let lab = lab(2, &[], &[]);
    let pod = |name: &str, tolerations: &str| {
        format!(
            r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {{kubernetes.io/hostname: node-2}}
  tolerations: [{tolerations}]
  containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"]}}]
---
"#
        )
    };
    let key = "{key: work, operator: Exists, effect: NoExecute";
    lab.apply(
        &(pod("goes", "")
            + &pod("stays", &format!("{key}}}"))
            + &pod("a-while", &format!("{key}, tolerationSeconds: 5}}"))),
    );
    for name in ["goes", "stays", "a-while"] {
        wait_for(&lab, &["pod", name], "{.status.phase}", "Running");
    }
    let tainted = Instant::now();
    lab.kubectl(&["taint", "node", "node-2", "work=planned:NoExecute"])
        .ok();
    let gone = |name: &str| {
        let wait = ["wait", "--for=delete", "pod", name, "--timeout=60s"];
        lab.kubectl(&wait).ok();
        tainted.elapsed()
    };
    assert!(gone("goes") < Duration::from_secs(5));
    lab.kubectl(&["get", "pod", "a-while"]).ok();
    let stayed = gone("a-while");
    assert!(stayed >= Duration::from_secs(4), "{stayed:?}");
    assert!(stayed < Duration::from_secs(15), "{stayed:?}");
    wait_for(&lab, &["pod", "stays"], "{.status.phase}", "Running");
    let events = [
        "get",
        "events",
        "--field-selector",
        "reason=TaintManagerEviction",
        "-o",
        "name",
    ];
    assert_eq!(lab.kubectl(&events).ok().lines().count(), 2);
    // A pod that does not tolerate it is not placed there, until the taint is taken away.
    lab.apply(&pod("goes", ""));
    let why = "{.status.conditions[?(@.type==\"PodScheduled\")].message}";
    until(&lab, &["pod", "goes"], why, |it| {
        it.contains("1 node(s) didn't match Pod's node affinity/selector")
            && it.contains("1 node(s) had untolerated taint(s)")
    });
    lab.kubectl(&["taint", "node", "node-2", "work-"]).ok();
    wait_for(&lab, &["pod", "goes"], "{.status.phase}", "Running");
}

#[test]
fn pods_of_a_lost_node_are_replaced_in_time_and_those_with_a_name_not_before_it_is_back() {
    let lab = lab(3, &[], &[]);
    let spec = format!(
        r#"
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{}}}}
      tolerations:
      - {{key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 3}}
      containers: [{{name: main, image: {IMAGE}, command: [sh, -c, "{LOOP}"]}}]
"#
    );
    lab.apply(&format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:{spec}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {{name: db}}
spec:
  replicas: 3
  serviceName: db
  podManagementPolicy: Parallel
  selector: {{matchLabels: {{app: db}}}}
  template:
    metadata: {{labels: {{app: db}}}}
    spec:{}
"#,
        spec.replace(
            "labelSelector: {}",
            "labelSelector: {matchLabels: {app: db}}"
        )
    ));
    rolled(&lab, "deployment/web");
    rolled(&lab, "statefulset/db");
    let pods = lab.pods();
    let (name, member) = pods
        .iter()
        .find(|(name, _)| name.starts_with("db-"))
        .unwrap();
    let lost = member.node.clone();
    let uid = until(&lab, &["pod", name], "{.metadata.uid}", |it| !it.is_empty());
    let before = names_on(&lab, &lost);
    lab.waggle(&["crash", &lost]).ok();
    let crashed = Instant::now();
    let unknown = "{.status.conditions[?(@.type==\"Ready\")].status}";
    wait_for(&lab, &["node", &lost], unknown, "Unknown");
    // 15 s of silence, 3 s of toleration, and some to start: three are ready, none of them there.
    let deployed = "{range .items[*]}{.spec.nodeName} {.status.conditions[?(@.type==\"Ready\")].status}{\"\\n\"}{end}";
    until(&lab, &["pods", "-l", "app=web"], deployed, |it| {
        let well = it.lines().filter(|line| line.ends_with(" True"));
        well.filter(|line| !line.starts_with(&lost)).count() >= 3
    });
    let took = crashed.elapsed();
    assert!(took < Duration::from_secs(40), "replaced after {took:?}");
    assert!(took > Duration::from_secs(15), "replaced after {took:?}");
    // The member might still run there: no second one of its name, however long.
    let ended = "{.metadata.uid} {.metadata.deletionTimestamp}";
    until(&lab, &["pod", name], ended, |it| {
        it.starts_with(&uid) && it.len() > uid.len() + 1
    });
    let watched = Instant::now();
    while watched.elapsed() < Duration::from_secs(5) {
        wait_for(&lab, &["pod", name], "{.metadata.uid}", &uid);
    }
    lab.waggle(&["start", &lost]).ok();
    until(&lab, &["pod", name], "{.metadata.uid}", |it| it != uid);
    rolled(&lab, "statefulset/db");
    let now = names_on(&lab, &lost);
    let old = before.iter().filter(|it| it.starts_with("web-"));
    assert!(
        old.clone().all(|it| !now.contains(it)),
        "{before:?} {now:?}"
    );
    wait_for(&lab, &["node", &lost], unknown, "True");
    until(&lab, &["node", &lost], "{.spec.taints}", str::is_empty);
}
