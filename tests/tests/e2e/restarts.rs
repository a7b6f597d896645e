//! kill -9 and a new start, under load: nobody who talks through a Service or asks for a name notices.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Stdio;

use waggle_tests::{Cluster, IMAGE};

#[test]
fn kill_9_and_a_new_start_break_no_connection_and_lose_no_answer() {
    let mut cluster = Cluster::start();
    cluster.apply(&format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: echo}}
spec:
  replicas: 2
  selector: {{matchLabels: {{app: echo}}}}
  template:
    metadata: {{labels: {{app: echo}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: echo
        image: {IMAGE}
        command: ["nc", "-ll", "-p", "7", "-e", "/bin/cat"]
        readinessProbe: {{tcpSocket: {{port: 7}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: echo}}
spec:
  selector: {{app: echo}}
  ports: [{{port: 7}}]
"#
    ));
    cluster
        .kubectl(&["rollout", "status", "deployment", "echo", "--timeout=60s"])
        .ok();
    let address = cluster
        .kubectl(&["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"])
        .ok();
    let resolved = |cluster: &Cluster| {
        waggle_tests::wait_until("the name", std::time::Duration::from_secs(20), || {
            let dig = "dig +short +time=2 @10.96.0.10 echo.default.svc.cluster.local";
            let outcome = waggle_tests::Outcome::of(&mut cluster.node_command(dig));
            outcome.stdout.contains(&address).then_some(())
        });
    };
    resolved(&cluster);
    let program = env!("CARGO_BIN_EXE_waggle-clients");
    let name = "echo.default.svc.cluster.local";
    let mut clients = cluster
        .node_command(&format!(
            "exec {program} {address}:7 10.96.0.10:53 {name} 1000"
        ))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(clients.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n", "{}", cluster.log());
    for _ in 0..3 {
        cluster.crash();
        cluster.boot();
        resolved(&cluster);
    }
    drop(clients.stdin.take());
    let mut report = String::new();
    output.read_to_string(&mut report).unwrap();
    clients.wait().unwrap();
    println!("{report}");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    assert_eq!(report["faults"], serde_json::json!([]), "{report}");
    for what in ["echoes", "connections", "answers"] {
        assert!(report[what].as_u64() > Some(0), "{report}");
    }
}
