//! Nothing is lost while pods are replaced.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use waggle_tests::{Cluster, IMAGE};

/// Three servers that die of SIGTERM at once, without a preStop hook. (The first process of a container
/// ignores a signal that it has no handler for: hence the shell.)
fn servers() -> String {
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: main
        image: {IMAGE}
        command: ["sh", "-c", "mkdir -p /tmp/w && hostname > /tmp/w/index.html ; httpd -f -p 8080 -h /tmp/w & trap 'exit 1' TERM; wait"]
        readinessProbe: {{httpGet: {{path: /, port: 8080}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{selector: {{app: web}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#
    )
}

/// A new connection per request, four at a time; every failure is printed at once, and the number of
/// requests when its standard input ends.
const CLIENT: &str = r"
import socket, sys, threading
address, stop, lock, made = sys.argv[1], threading.Event(), threading.Lock(), [0]
def work():
    while not stop.is_set():
        try:
            with socket.create_connection((address, 80), 20) as one:
                one.sendall(b'GET / HTTP/1.0\r\n\r\n')
                answer = b''.join(iter(lambda: one.recv(4096), b''))
            if not (answer.startswith(b'HTTP/1.') and b'\r\n\r\nweb-' in answer):
                print('failed: answer', answer, flush=True)
        except OSError as error:
            print('failed:', error, flush=True)
        with lock:
            made[0] += 1
workers = [threading.Thread(target=work) for _ in range(4)]
for worker in workers: worker.start()
print('started', flush=True)
sys.stdin.read()
stop.set()
for worker in workers: worker.join()
print('made', made[0], flush=True)
";

#[test]
fn a_rollout_under_load_loses_no_request() {
    let cluster = Cluster::start();
    cluster.apply(&servers());
    let status = ["rollout", "status", "deployment", "web", "--timeout=120s"];
    cluster.kubectl(&status).ok();
    let address = cluster
        .kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])
        .ok();
    let script = cluster.scratch().join("client.py");
    std::fs::write(&script, CLIENT).unwrap();
    let mut client = cluster
        .node_command(&format!("exec python3 {} {address}", script.display()))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(client.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "started");
    for _ in 0..3 {
        cluster
            .kubectl(&["rollout", "restart", "deployment", "web"])
            .ok();
        cluster.kubectl(&status).ok();
    }
    // The last of the old pods go after the roll-out counts as done.
    cluster.wait_for(
        &["pods", "-l", "app=web"],
        "{.items[*].metadata.deletionTimestamp}",
        "",
    );
    drop(client.stdin.take());
    let said: Vec<String> = lines.map(Result::unwrap).collect();
    assert!(client.wait().unwrap().success());
    let made: u32 = said.last().unwrap()["made ".len()..].parse().unwrap();
    assert_eq!(said.len(), 1, "{said:?}");
    assert!(made > 100, "only {made} requests were made");
}
