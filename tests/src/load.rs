//! Clients of a Service and of the cluster DNS that notice every fault, while something is done to the cluster.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Stdio};
use std::time::Duration;

use crate::{Cluster, IMAGE, Outcome, wait_until};

const NAME: &str = "echo.default.svc.cluster.local";
const RESOLVER: &str = "10.96.0.10";

/// A running `waggle-clients`, and the echo Service that it talks to.
#[derive(Debug)]
pub struct Load {
    clients: Child,
    output: BufReader<ChildStdout>,
    address: String,
}

impl Load {
    /// Starts the Service and then the clients: `program` is `waggle-clients`, `count` its long-lived connections.
    #[track_caller]
    pub fn start(cluster: &Cluster, program: &str, count: usize) -> Self {
        cluster.apply(&manifest());
        cluster
            .kubectl(&["rollout", "status", "deployment", "echo", "--timeout=60s"])
            .ok();
        let address = cluster
            .kubectl(&["get", "service", "echo", "-o", "jsonpath={.spec.clusterIP}"])
            .ok();
        await_name(cluster, &address);
        let mut clients = cluster
            .node_command(&format!(
                "exec {program} {address}:7 {RESOLVER}:53 {NAME} {count}"
            ))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the clients");
        let mut output = BufReader::new(clients.stdout.take().expect("their output"));
        let mut line = String::new();
        output.read_line(&mut line).expect("what they say");
        assert_eq!(line, "ready\n", "{}", cluster.log());
        Self {
            clients,
            output,
            address,
        }
    }

    /// Waits until the Service's name is answered.
    #[track_caller]
    pub fn await_name(&self, cluster: &Cluster) {
        await_name(cluster, &self.address);
    }

    /// Ends the clients: nothing must have failed, and there must have been something of everything.
    #[track_caller]
    pub fn unharmed(mut self) {
        drop(self.clients.stdin.take());
        let mut report = String::new();
        self.output
            .read_to_string(&mut report)
            .expect("their report");
        self.clients.wait().expect("their end");
        println!("{report}");
        let report: serde_json::Value = serde_json::from_str(&report).expect("their report");
        assert_eq!(report["faults"], serde_json::json!([]), "{report}");
        for what in ["echoes", "connections", "answers", "streamed"] {
            assert!(report[what].as_u64() > Some(0), "{report}");
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Ended already, or left by a test that failed.
        let _ = self.clients.kill();
        let _ = self.clients.wait();
    }
}

#[track_caller]
fn await_name(cluster: &Cluster, address: &str) {
    wait_until("the name", Duration::from_secs(20), || {
        let dig = format!("dig +short +time=2 @{RESOLVER} {NAME}");
        let outcome = Outcome::of(&mut cluster.node_command(&dig));
        outcome.stdout.contains(address).then_some(())
    });
}

fn manifest() -> String {
    format!(
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
    )
}
