//! ClusterIP Services: balanced at the socket, for pods and for the node, TCP and UDP.

use waggle_tests::{Cluster, IMAGE, Outcome};

pub(crate) fn web(replicas: u32) -> String {
    format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: {IMAGE}
        command: ["sh", "-c", "mkdir -p /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
        ports: [{{name: http, containerPort: 8080}}]
        readinessProbe: {{httpGet: {{path: /, port: http}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec:
  selector: {{app: web}}
  ports: [{{port: 80, targetPort: http}}]
"#
    )
}

#[test]
fn a_service_is_balanced_for_pods_and_for_the_node() {
    let cluster = Cluster::start();
    cluster.apply(&web(3));
    cluster
        .kubectl(&["rollout", "status", "deployment", "web", "--timeout=60s"])
        .ok();
    let address = cluster
        .kubectl(&["get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"])
        .ok();
    // Endpoints reach the node's maps asynchronously; the Service is complete when all three answer.
    let fetch =
        format!("for i in $(seq 60); do curl -s -m 5 http://{address}/ || echo failed; done");
    let answers = Outcome::of(&mut cluster.node_command(&fetch)).ok();
    let mut names: Vec<&str> = answers.lines().collect();
    assert_eq!(names.len(), 60);
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(
        names.iter().all(|name| name.starts_with("web-")),
        "{names:?}"
    );

    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: client}}
spec:
  restartPolicy: Never
  containers:
  - name: client
    image: {IMAGE}
    command: ["sh", "-c", "for i in $(seq 30); do curl -s -m 5 http://web/ || echo failed; done"]
"#
    ));
    cluster.wait_for(&["pod", "client"], "{.status.phase}", "Succeeded");
    let answers = cluster.kubectl(&["logs", "client"]).ok();
    assert_eq!(
        answers
            .lines()
            .filter(|line| line.starts_with("web-"))
            .count(),
        30,
        "{answers}"
    );
}

#[test]
fn a_service_without_endpoints_refuses_at_once() {
    let cluster = Cluster::start();
    cluster.apply("apiVersion: v1\nkind: Service\nmetadata: {name: empty}\nspec: {selector: {app: none}, ports: [{port: 80}]}\n");
    let address = cluster
        .kubectl(&[
            "get",
            "service",
            "empty",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])
        .ok();
    // bash says which error it was; curl says the same of all of them.
    let connect = format!("bash -c 'exec 3<>/dev/tcp/{address}/80'");
    waggle_tests::wait_until("a refusal", std::time::Duration::from_secs(10), || {
        let outcome = Outcome::of(
            cluster
                .node_command(&format!("timeout 5 {connect}"))
                .env("LC_ALL", "C"),
        );
        outcome.stderr.contains("Connection refused").then_some(())
    });
}

#[test]
fn pods_reach_the_outside_with_the_address_of_the_node() {
    let cluster = Cluster::start();
    // A server in the outside world that says who called.
    let mut server = cluster
        .netns
        .outside_command("python3")
        .args([
            "-c",
            "import socket\ns=socket.create_server(('192.0.2.2',9000))\nwhile True:\n c,a=s.accept(); c.sendall(a[0].encode()+b'\\n'); c.close()",
        ])
        .spawn()
        .unwrap();
    cluster.apply(&format!(
        r#"apiVersion: v1
kind: Pod
metadata: {{name: out}}
spec:
  restartPolicy: Never
  containers:
  - name: out
    image: {IMAGE}
    command: ["sh", "-c", "for i in $(seq 5); do curl -s -m 5 telnet://192.0.2.2:9000 </dev/null; done"]
"#
    ));
    cluster.wait_for(&["pod", "out"], "{.status.phase}", "Succeeded");
    let seen = cluster.kubectl(&["logs", "out"]).ok();
    server.kill().unwrap();
    server.wait().unwrap();
    assert_eq!(seen, "192.0.2.1\n".repeat(5));
}
