//! The autoscaler on what the nodes themselves report, up and down.

use waggle_tests::IMAGE;

use crate::{exec, lab, rolled, until, wait_for};

#[test]
fn a_deployment_grows_under_load_and_shrinks_after_it() {
    let lab = lab(2, &[], &[]);
    lab.apply(&format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: busy}}
spec:
  selector: {{matchLabels: {{app: busy}}}}
  template:
    metadata: {{labels: {{app: busy}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - name: main
        image: {IMAGE}
        command: [sh, -c, "while :; do if test -e /tmp/busy; then :; else sleep 0.5; fi; done"]
        resources: {{requests: {{cpu: 50m, memory: 16Mi}}, limits: {{cpu: 200m}}}}
---
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata: {{name: busy}}
spec:
  scaleTargetRef: {{apiVersion: apps/v1, kind: Deployment, name: busy}}
  minReplicas: 1
  maxReplicas: 3
  metrics:
  - {{type: Resource, resource: {{name: cpu, target: {{type: Utilization, averageUtilization: 60}}}}}}
  behavior: {{scaleDown: {{stabilizationWindowSeconds: 0, policies: [{{type: Percent, value: 100, periodSeconds: 15}}]}}}}
"#
    ));
    rolled(&lab, "deployment/busy");
    let first = until(
        &lab,
        &["pods", "-l", "app=busy"],
        "{.items[0].metadata.name}",
        |it| !it.is_empty(),
    );
    exec(&lab, &first, &["touch", "/tmp/busy"]).ok();
    lab.wait("the load is seen", || {
        let top = lab.kubectl(&["top", "pods", "--no-headers"]);
        let millicores = top.stdout.split_whitespace().nth(1).unwrap_or_default();
        let millicores: u32 = millicores.trim_end_matches('m').parse().unwrap_or(0);
        (millicores > 100).then_some(()).ok_or(format!("{top:?}"))
    });
    wait_for(
        &lab,
        &["deployment", "busy"],
        "{.status.readyReplicas}",
        "3",
    );
    let events = [
        "get",
        "events",
        "--field-selector",
        "reason=SuccessfulRescale",
    ];
    let events = lab.kubectl(&events).ok();
    assert!(
        events.contains("cpu resource utilization (percentage of request) above target"),
        "{events}"
    );
    exec(&lab, &first, &["rm", "/tmp/busy"]).ok();
    wait_for(&lab, &["deployment", "busy"], "{.spec.replicas}", "1");
    wait_for(&lab, &["hpa", "busy"], "{.status.currentReplicas}", "1");
}
