//! Why a pod fits nowhere, and what is given up for one that matters more.

use waggle_tests::IMAGE;

use crate::{lab, until, wait_for};

fn sleeper(name: &str, more: &str, resources: &str) -> String {
    format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: {name}, labels: {{app: {name}}}}}
spec:
  terminationGracePeriodSeconds: 0
{more}  containers:
  - {{name: main, image: {IMAGE}, command: [sleep, "3600"], resources: {{requests: {{{resources}}}}}}}
---
"#
    )
}

const WHY: &str = "{.status.conditions[?(@.type==\"PodScheduled\")].message}";

#[test]
fn the_event_says_of_each_node_why_not_and_preemption_spares_what_a_budget_protects() {
    let lab = lab(3, &[], &[]);
    lab.kubectl(&["cordon", "node-1"]).ok();
    lab.kubectl(&["taint", "node", "node-2", "for=others:NoSchedule"])
        .ok();
    lab.apply(&sleeper("huge", "", "cpu: 1000"));
    let message = until(&lab, &["pod", "huge"], WHY, |it| it.starts_with("0/3"));
    assert_eq!(
        message,
        "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were \
         unschedulable. preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling."
    );
    let events = [
        "get",
        "events",
        "--field-selector",
        "reason=FailedScheduling,involvedObject.name=huge",
    ];
    let events = lab.kubectl(&events).ok();
    assert!(
        events.contains("1 Insufficient cpu, 1 node(s) had untolerated taint(s)"),
        "{events}"
    );
    lab.kubectl(&["delete", "pod", "huge"]).ok();
    lab.kubectl(&["uncordon", "node-1"]).ok();
    lab.kubectl(&["taint", "node", "node-2", "for-"]).ok();

    // What only one node has: an extended resource, a host port, a label.
    let patch = r#"[{"op":"add","path":"/status/capacity/example.com~1dongle","value":"1"}]"#;
    lab.kubectl(&[
        "patch",
        "node",
        "node-2",
        "--subresource=status",
        "--type=json",
        "-p",
        patch,
    ])
    .ok();
    let dongle = |name: &str| {
        sleeper(name, "", "cpu: 1m, example.com/dongle: 1")
            .replace("requests:", "limits: {example.com/dongle: 1}, requests:")
    };
    lab.apply(&dongle("first"));
    wait_for(&lab, &["pod", "first"], "{.spec.nodeName}", "node-2");
    lab.apply(&dongle("second"));
    until(&lab, &["pod", "second"], WHY, |it| {
        it.contains("3 Insufficient example.com/dongle")
    });
    lab.kubectl(&["delete", "pod", "first"]).ok();
    wait_for(&lab, &["pod", "second"], "{.spec.nodeName}", "node-2");
    lab.kubectl(&["delete", "pod", "second"]).ok();
    lab.apply(&sleeper(
        "gated",
        "  schedulingGates: [{name: example.com/wait}]\n",
        "cpu: 1m",
    ));
    let reason = "{.status.conditions[?(@.type==\"PodScheduled\")].reason}";
    wait_for(&lab, &["pod", "gated"], reason, "SchedulingGated");
    let open = r#"[{"op":"remove","path":"/spec/schedulingGates"}]"#;
    lab.kubectl(&["patch", "pod", "gated", "--type=json", "-p", open])
        .ok();
    wait_for(&lab, &["pod", "gated"], "{.status.phase}", "Running");
    lab.kubectl(&["delete", "pod", "gated"]).ok();

    // Every node is full; the budget protects the pods on two of them.
    lab.apply("apiVersion: scheduling.k8s.io/v1\nkind: PriorityClass\nmetadata: {name: high}\nvalue: 1000\n");
    let cpu = until(
        &lab,
        &["node", "node-1"],
        "{.status.allocatable.cpu}",
        |it| !it.is_empty(),
    );
    let all = format!("cpu: {cpu}");
    for node in lab.nodes() {
        let there = format!("  nodeSelector: {{kubernetes.io/hostname: {node}}}\n");
        lab.apply(&sleeper(&format!("on-{node}"), &there, &all));
        wait_for(
            &lab,
            &["pod", &format!("on-{node}")],
            "{.status.phase}",
            "Running",
        );
    }
    for (number, node) in [1, 3].into_iter().zip(["on-node-1", "on-node-3"]) {
        lab.apply(&format!(
            "apiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata: {{name: keep-{number}}}\nspec: \
             {{minAvailable: 1, selector: {{matchLabels: {{app: {node}}}}}}}\n"
        ));
        wait_for(
            &lab,
            &["pdb", &format!("keep-{number}")],
            "{.status.currentHealthy}",
            "1",
        );
    }
    lab.apply(&sleeper("high", "  priorityClassName: high\n", &all));
    wait_for(&lab, &["pod", "high"], "{.status.phase}", "Running");
    wait_for(&lab, &["pod", "high"], "{.spec.nodeName}", "node-2");
    lab.kubectl(&["get", "pod", "on-node-2"]).fails();
    for kept in ["on-node-1", "on-node-3"] {
        wait_for(&lab, &["pod", kept], "{.status.phase}", "Running");
    }
    let events = ["get", "events", "--field-selector", "reason=Preempted"];
    let events = lab.kubectl(&events).ok();
    assert!(events.contains("pod/on-node-2"), "{events}");
}
